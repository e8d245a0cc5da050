package sqlstore

import (
	"cmp"
	"slices"
	"time"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/search"
)

// SearchTime is how long a search looks at rows before it hands over what it has found so far.
const SearchTime = 8 * time.Second

// How many rows are looked at by one statement where they have to be judged: few at first, so that a page of what many
// rows have is there at once, and then more and more.
const (
	firstLook = 500
	lookGrows = 4
	lastLook  = 20_000
)

// DecisionPage gathers the rows of a page, in the order of Order: those that fit the rest of its plan, of which it
// takes so many, and no more than domain.MaxPageBytes of them.
type DecisionPage struct {
	limit, weight int
	after         *domain.Cursor
	back          bool
	plan          search.Plan
	time          time.Duration
	items         []domain.Decision
	looked        int
	last          domain.Cursor
	full          bool
	began         time.Time
	late          bool
}

// NewDecisionPage begins the page of a query, which has so much time; 0 is SearchTime.
func NewDecisionPage(q domain.Query, plan search.Plan, patience time.Duration) *DecisionPage {
	return &DecisionPage{
		limit: q.Limit, after: q.After, back: q.After != nil && q.After.Back, plan: plan,
		time: cmp.Or(patience, SearchTime), began: time.Now(),
	}
}

// Late reports that the search has no more time.
func (p *DecisionPage) Late() bool { return p.late || time.Since(p.began) > p.time }

// TimeIsUp says so before the time is over.
func (p *DecisionPage) TimeIsUp() { p.late = true }

// Judge looks at a row, and says whether it belongs on the page. It may have no more than its key and what the plan
// reads.
func (p *DecisionPage) Judge(d *domain.Decision) bool {
	return p.Looks(d, p.plan.Rest == nil || p.plan.Rest.Fits(d))
}

// Looks looks at a row that was judged, and says whether it belongs on the page.
func (p *DecisionPage) Looks(d *domain.Decision, fits bool) bool {
	p.looked++
	p.last = domain.Cursor{Time: d.Time(), Tenant: d.Tenant, ID: d.ID, Back: p.back}
	return fits
}

// Add takes a row that belongs on the page, and says whether there are room and time for another.
func (p *DecisionPage) Add(d domain.Decision) bool {
	p.weight += d.Weight() + len(d.Event)
	p.items = append(p.items, d)
	p.full = p.weight > domain.MaxPageBytes
	return !p.Full() && !p.Late()
}

// Room is how many rows there is room for: one more than the page shows tells that there are more.
func (p *DecisionPage) Room() int { return p.limit + 1 - len(p.items) }

// Ask is how many rows to ask for.
func (p *DecisionPage) Ask() int {
	if p.plan.Rest != nil {
		return min(max(firstLook, lookGrows*p.looked), lastLook)
	}
	return p.Room()
}

// Looked is how many rows were looked at.
func (p *DecisionPage) Looked() int { return p.looked }

// Last lies behind the last row that was looked at.
func (p *DecisionPage) Last() *domain.Cursor {
	last := p.last
	return &last
}

// Full reports that the page has all its rows, and knows whether there are more.
func (p *DecisionPage) Full() bool { return p.full || p.Room() <= 0 }

// Page is what was gathered, by a search that has looked at all it had to.
func (p *DecisionPage) Page() domain.Page {
	items, more := p.items, p.full
	if len(items) > p.limit {
		items, more = items[:p.limit], true
	}
	if p.back {
		slices.Reverse(items)
	}
	page := domain.Page{Items: items, LookedAt: p.looked, Complete: true}
	// Where nothing was found, the ways on and back lead to all that has the time of the cursor.
	switch {
	case len(items) > 0:
		page.Prev, page.Next = domain.CursorOf(&items[0]).Backward(true), domain.CursorOf(&items[len(items)-1])
	case p.back:
		page.Next = domain.CursorBefore(p.after.Time.Add(time.Microsecond))
	case p.after != nil:
		page.Prev = domain.CursorBefore(p.after.Time).Backward(true)
	}
	switch {
	case p.back && !more:
		page.Prev = nil
	case !p.back && !more:
		page.Next = nil
	}
	if p.after == nil {
		page.Prev = nil
	}
	return page
}

// Stopped is what was gathered by a search that had no more time. It has not looked at what lies behind the cursor or,
// on the way back, in front of it.
func (p *DecisionPage) Stopped(at *domain.Cursor) domain.Page {
	page := p.Page()
	on := &page.Next
	if at.Back = p.back; p.back {
		on = &page.Prev
	}
	if *on == nil {
		*on, page.Complete = at, false
	}
	return page
}
