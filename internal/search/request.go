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
	if len(texts) == 0 {
		return Request{Query: asked}, nil
	}
	if len(texts) > 1 {
		return Request{}, errors.New("q: there is more than one query; join them by AND")
	}
	q, err := Parse(texts[0], now)
	if err != nil {
		return Request{}, err
	}
	dated := params.Has("since") || params.Has("until")
	if dated && q.Dated {
		return Request{}, errors.New("q names a time, and so does since or until beside it: name it once")
	}
	out := Request{Query: asked}
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

// Reader is the store as Find sees it.
type Reader interface {
	Search(ctx context.Context, scope domain.Scope, q domain.Query) (domain.Page, error)
}

// Find returns a page of a search; see ports.DecisionReader. Where a query has two readings, the second is looked for
// once the first has come to its end without finding anything, on whatever page.
func Find(ctx context.Context, in Reader, scope domain.Scope, asked Request) (domain.Page, error) {
	if asked.Otherwise == nil {
		return in.Search(ctx, scope, asked.Query)
	}
	looked, found := 0, asked.After != nil && asked.After.Reading == domain.FirstReading
	if asked.After == nil || asked.After.Reading != domain.OtherReading {
		page, err := in.Search(ctx, scope, asked.Query)
		if err != nil || found || len(page.Items) > 0 {
			return page, err
		}
		if page.Next != nil {
			page.Next.Reading = domain.FirstReadingSoFar
			return page, nil
		}
		looked, asked.After = page.LookedAt, nil
	}
	asked.Filter = *asked.Otherwise
	page, err := in.Search(ctx, scope, asked.Query)
	page.LookedAt += looked
	if page.Next != nil {
		page.Next.Reading = domain.OtherReading
	}
	return page, err
}
