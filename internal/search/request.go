package search

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/docket-project/docket/internal/domain"
)

// Request is a search for a page.
type Request struct {
	domain.Query
	// Dated says that a time was named.
	Dated bool
	// Otherwise is what to look for where nothing fits; see Query.Otherwise.
	Otherwise *domain.Filter
}

// ParseRequest reads the query string of a search: q in the language, and the parameters of domain.ParseQuery, which
// have to fit as well. now is where durations back are counted from.
func ParseRequest(raw string, now time.Time) (Request, error) {
	params, err := url.ParseQuery(raw)
	if err != nil {
		return Request{}, fmt.Errorf("the query string: %w", err)
	}
	texts := params["q"]
	params.Del("q")
	asked, err := domain.ParseQuery(params, now)
	if err != nil {
		return Request{}, err
	}
	if !params.Has("since") && asksForIDs(asked.Where) {
		asked.Since = time.Time{}
	}
	dated := params.Has("since") || params.Has("until")
	if len(texts) == 0 {
		return Request{Query: asked, Dated: dated}, nil
	}
	if len(texts) > 1 {
		return Request{}, errors.New("q: there is more than one query; join them by AND")
	}
	q, err := Parse(texts[0], now)
	if err != nil {
		return Request{}, err
	}
	if dated && q.Dated {
		return Request{}, errors.New("q names a time, and so does since or until beside it: name it once")
	}
	out := Request{Query: asked, Dated: dated || q.Dated}
	both := func(f domain.Filter) domain.Filter {
		merged := domain.Filter{Since: f.Since, Until: f.Until, Where: domain.AllOf(f.Where, asked.Where)}
		if params.Has("since") || !q.Dated && asked.Since.IsZero() {
			merged.Since = asked.Since
		}
		if params.Has("until") {
			merged.Until = asked.Until
		}
		return merged
	}
	out.Filter = both(q.Filter)
	if q.Otherwise != nil {
		otherwise := both(*q.Otherwise)
		out.Otherwise = &otherwise
	}
	return out, nil
}

// Either is what fits one of two readings of a query, where there are two.
func Either(first domain.Filter, otherwise *domain.Filter) domain.Expr {
	if otherwise == nil {
		return first.Where
	}
	return domain.AnyOf(first.Where, otherwise.Where)
}

// Reader is the store as Find sees it.
type Reader interface {
	Search(ctx context.Context, scope domain.Scope, q domain.Query) (domain.Page, error)
}

// EventReader is a store that reads rows with their events.
type EventReader interface {
	StoredEvents(ctx context.Context, scope domain.Scope, q domain.Query) (domain.Page, error)
}

// WithEvents has Find read rows with their events.
func WithEvents(in EventReader) Reader { return withEvents{in} }

type withEvents struct{ EventReader }

// Search implements Reader.
func (e withEvents) Search(ctx context.Context, scope domain.Scope, q domain.Query) (domain.Page, error) {
	return e.StoredEvents(ctx, scope, q)
}

// Find returns a page of a search; see ports.DecisionReader. Where a query has two readings, the second is looked for
// once the first has come to its end without finding anything, on whatever page. On the way back a page is of the
// reading that the page behind it is of.
func Find(ctx context.Context, in Reader, scope domain.Scope, asked Request) (domain.Page, error) {
	if asked.Otherwise == nil {
		return in.Search(ctx, scope, asked.Query)
	}
	at := domain.Cursor{Reading: domain.FirstReadingSoFar}
	if asked.After != nil {
		at = *asked.After
	}
	looked := 0
	if at.Reading != domain.OtherReading {
		page, err := in.Search(ctx, scope, asked.Query)
		switch {
		case err != nil:
			return page, err
		case at.Back, at.Reading == domain.FirstReading, len(page.Items) > 0:
			return readAs(page, at.Reading, len(page.Items) > 0), nil
		case page.Next != nil:
			return readAs(page, domain.FirstReadingSoFar, false), nil
		}
		looked, asked.After = page.LookedAt, nil
	}
	asked.Filter = *asked.Otherwise
	page, err := in.Search(ctx, scope, asked.Query)
	page.LookedAt += looked
	return readAs(page, domain.OtherReading, false), err
}

// readAs has the ways on and back of a page be of a reading, which is the first one where that has found something.
func readAs(page domain.Page, reading domain.Reading, found bool) domain.Page {
	if found {
		reading = domain.FirstReading
	}
	for _, c := range []*domain.Cursor{page.Next, page.Prev} {
		if c != nil {
			c.Reading = reading
		}
	}
	return page
}
