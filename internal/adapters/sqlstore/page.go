package sqlstore

import "github.com/docket-project/docket/internal/domain"

// DecisionPage gathers the rows of a page, of which it takes so many, and no more than domain.MaxPageBytes of them.
type DecisionPage struct {
	limit, weight int
	items         []domain.Decision
	full          bool
}

// NewDecisionPage begins a page; the query has to ask for one row more than limit.
func NewDecisionPage(limit int) *DecisionPage { return &DecisionPage{limit: limit} }

// Add takes a row, and says whether there is room for another.
func (p *DecisionPage) Add(d domain.Decision) bool {
	p.weight += d.Weight() + len(d.Event)
	p.items = append(p.items, d)
	p.full = p.weight > domain.MaxPageBytes
	return !p.full
}

// Room is how many rows more a query has to ask for.
func (p *DecisionPage) Room() int { return p.limit + 1 - len(p.items) }

// Full reports that the page has all its rows, and knows whether there are more.
func (p *DecisionPage) Full() bool { return p.full || p.Room() <= 0 }

// Page is what was gathered.
func (p *DecisionPage) Page() (page domain.Page) {
	page.Items, page.Next = Page(p.items, p.limit, domain.CursorOf)
	if p.full && page.Next == nil {
		page.Next = domain.CursorOf(&p.items[len(p.items)-1])
	}
	return page
}
