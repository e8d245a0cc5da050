package search

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"time"

	"github.com/docket-project/docket/internal/domain"
)

// facetTime is how long decisions are counted one by one for the values of several fields, which a person waits for
// beside what was searched.
const facetTime = 500 * time.Millisecond

// maxTold is how many values of a field are told apart where several are counted at once. Beyond it those are counted
// on that came up first, which are the newest.
const maxTold = 10_000

// FacetsRequest asks for the most frequent values of several fields at once.
type FacetsRequest struct {
	Request
	Fields []domain.Expr
	// Top is how many values of each there are at most.
	Top int
}

// ParseFacets reads the query string of the values of several fields: that of a search, with limit.
func ParseFacets(fields []string, raw string, now time.Time) (out FacetsRequest, err error) {
	params, err := url.ParseQuery(raw)
	if err != nil {
		return out, fmt.Errorf("the query string: %w", err)
	}
	if params.Has("cursor") {
		return out, errors.New("cursor: values have none; name a time by since and until")
	}
	top := params["limit"]
	params.Del("limit")
	if out.Top, err = parseTop(top, DefaultTop); err != nil {
		return out, err
	}
	for _, name := range fields {
		f, err := parseGroup(name)
		if err != nil {
			return out, err
		}
		out.Fields = append(out.Fields, f)
	}
	out.Request, err = ParseRequest(params.Encode(), now)
	return out, err
}

// Facets finds the most frequent values of each field. Those that the store counts by are of all that fits, where the
// query is about nothing else; the others are counted decision by decision, in one go and for half a second:
// Stats.Since says from when on.
func Facets(
	ctx context.Context, in Counter, scope domain.Scope, asked FacetsRequest, now time.Time,
) ([]Stats, error) {
	out, some, err := facets(ctx, in, scope, asked, now)
	cut := func(s Stats) bool { return s.Why != "" }
	if err != nil || some || asked.Otherwise == nil || slices.ContainsFunc(out, cut) {
		return out, err
	}
	asked.Filter = *asked.Otherwise
	out, _, err = facets(ctx, in, scope, asked, now)
	return out, err
}

func facets(
	ctx context.Context, in Counter, scope domain.Scope, asked FacetsRequest, now time.Time,
) (out []Stats, some bool, err error) {
	out = make([]Stats, len(asked.Fields))
	of := func(f domain.Expr) StatsRequest {
		return StatsRequest{Request: asked.Request, By: []domain.Expr{f}, Top: asked.Top, apart: true}
	}
	var rest []int
	for i, f := range asked.Fields {
		if _, counted := countedBy(of(f)); !counted {
			rest = append(rest, i)
			continue
		}
		if out[i], err = count(ctx, in, scope, of(f), now); err != nil {
			return nil, false, err
		}
		some = some || out[i].Total > 0
	}
	if len(rest) == 0 {
		return out, some, nil
	}
	c := &counter{
		in: in, scope: scope, asked: StatsRequest{Request: asked.Request}, now: now, began: time.Now(), patience: facetTime,
		separately: true, groups: groups{}, firsts: groups{}, reached: asked.Since, some: true,
	}
	for _, i := range rest {
		c.asked.By = append(c.asked.By, asked.Fields[i])
	}
	c.told = make([]int, len(rest))
	if err := c.rows(ctx, asked.Filter); err != nil {
		return nil, false, err
	}
	for n, i := range rest {
		one := *c
		one.asked, one.groups, one.firsts = of(asked.Fields[i]), groups{}, groups{}
		for g, count := range c.groups {
			if g.field == n {
				g.field = 0
				one.groups[g], one.firsts[g] = count, c.firsts[group{values: g.values, field: n}]
			}
		}
		out[i] = one.stats()
		if c.told[n] == maxTold && out[i].Why == "" {
			out[i].Why = fmt.Sprintf("there are more than %d values: those that came up last are counted", maxTold)
		}
	}
	return out, some || c.total > 0, nil
}
