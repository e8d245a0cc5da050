package console

import (
	"net/url"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/search"
)

// asked is what the address of a page asks for: all of its state.
type asked struct {
	params url.Values
	search.Request
	now time.Time
}

// parseAsked reads the address of a page about decisions, whose parameters are those of the API. A form sends fields
// that are empty; they are as good as not there.
func parseAsked(raw string, now time.Time) (asked, error) {
	a := asked{now: now}
	var err error
	if a.params, err = url.ParseQuery(raw); err != nil {
		return a, err
	}
	a.params.Del("live") // which scripts read
	for name, values := range a.params {
		if !slices.ContainsFunc(values, func(v string) bool { return v != "" }) {
			delete(a.params, name)
		}
	}
	a.Request, err = search.ParseRequest(a.params.Encode(), now)
	return a, err
}

// get is a parameter as it stands in the address.
func (a *asked) get(name string) string { return a.params.Get(name) }

// edited is the state with other parameters, from its first page on; "" takes one away.
func (a *asked) edited(pairs ...string) url.Values {
	out := url.Values{}
	for name, values := range a.params {
		if name != "cursor" {
			out[name] = values
		}
	}
	for i := 0; i < len(pairs); i += 2 {
		out.Set(pairs[i], pairs[i+1])
		if pairs[i+1] == "" {
			out.Del(pairs[i])
		}
	}
	return out
}

// timed is the state with another time: one that the query itself names is taken out of it.
func (a *asked) timed(since, until string) url.Values {
	out := a.edited("since", since, "until", until)
	read, err := search.Parse(a.get("q"), a.now)
	if err == nil && read.Dated {
		out.Set("q", spelled(search.Either(read.Filter, read.Otherwise)))
	}
	return out
}

// spelled is the state with everything that parameters say in its query, where people see it; false where they say
// nothing.
func (a *asked) spelled() (url.Values, bool) {
	out := url.Values{}
	others := false
	for name, values := range a.params {
		switch name {
		case "q", "since", "until", "limit", "cursor":
			out[name] = values
		default:
			others = true
		}
	}
	if !others {
		return out, false
	}
	out.Set("q", spelled(search.Either(a.Filter, a.Otherwise)))
	if read, err := search.Parse(a.get("q"), a.now); err == nil && read.Dated {
		for i, pairs := 0, times(read.Filter); i < len(pairs); i += 2 {
			out.Set(pairs[i], pairs[i+1])
		}
	}
	return out, true
}

// question is the query string of a search without its pages.
func (a *asked) question(pairs ...string) string {
	return a.edited(append([]string{"limit", ""}, pairs...)...).Encode()
}

// narrowed is the state with another term.
func (a *asked) narrowed(term domain.Expr) url.Values {
	text := spelled(term)
	q := strings.TrimSpace(a.get("q"))
	if q == "" {
		return a.edited("q", text)
	}
	// A query whose terms are joined by OR goes into parentheses, which a time may not stand in: it becomes a parameter.
	read, err := search.Parse(q, a.now)
	switch {
	case err != nil || read.Where.Op != domain.OpOr:
		return a.edited("q", q+" "+text)
	case !read.Dated:
		return a.edited("q", "("+q+") "+text)
	default:
		both := domain.AllOf(search.Either(read.Filter, read.Otherwise), term)
		return a.edited(append(times(read.Filter), "q", spelled(both))...)
	}
}

// widened is the state without a term, which is one of those that all have to hold.
func (a *asked) widened(term domain.Expr) url.Values {
	read, err := search.Parse(a.get("q"), a.now)
	if err != nil {
		return a.edited()
	}
	rest := slices.DeleteFunc(read.Where.Conjuncts(), func(e domain.Expr) bool { return reflect.DeepEqual(e, term) })
	edits := []string{"q", spelled(domain.AllOf(rest...))}
	if read.Dated {
		edits = append(edits, times(read.Filter)...)
	}
	return a.edited(edits...)
}

// holds reports whether a term is one of those that all have to hold.
func (a *asked) holds(term domain.Expr) bool {
	return slices.ContainsFunc(a.Where.Conjuncts(), func(e domain.Expr) bool { return reflect.DeepEqual(e, term) })
}

// times are those of a filter as parameters.
func times(f domain.Filter) (pairs []string) {
	for name, at := range map[string]time.Time{"since": f.Since, "until": f.Until} {
		if !at.IsZero() {
			pairs = append(pairs, name, at.Format(time.RFC3339Nano))
		}
	}
	return pairs
}

// valueTerm asks for a value of a field, as the API names it; nil asks for decisions that have none.
func valueTerm(field string, value *string) (domain.Expr, bool) {
	f, err := search.ParseField(field)
	if err != nil {
		return f, false
	}
	if value == nil {
		return domain.Not(f), true
	}
	f.Op, f.Value = domain.OpEqual, *value
	return f, true
}

// looksBack reports that the time is so long, up to now; without a word that is a day.
func (a *asked) looksBack(since string) bool {
	return a.get("until") == "" && (a.get("since") == since || !a.Dated && !a.Since.IsZero() && since == "24h")
}
