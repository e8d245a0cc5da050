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
	if err != nil || len(texts) == 0 {
		return Request{Query: asked}, err
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
		if dated {
			merged.Since, merged.Until = asked.Since, asked.Until
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

// Find returns a page of a search; see ports.DecisionReader.
func Find(ctx context.Context, in Reader, scope domain.Scope, asked Request) (domain.Page, error) {
	page, err := in.Search(ctx, scope, asked.Query)
	if err != nil || asked.Otherwise == nil || len(page.Items) > 0 || !page.Complete {
		return page, err
	}
	looked := page.LookedAt
	asked.Filter = *asked.Otherwise
	page, err = in.Search(ctx, scope, asked.Query)
	page.LookedAt += looked
	return page, err
}
