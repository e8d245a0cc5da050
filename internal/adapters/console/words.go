package console

import (
	"cmp"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/docket-project/docket/internal/adapters/api"
	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/search"
)

// spelled is a term as a query says it.
func spelled(term domain.Expr) string { return search.String(domain.Filter{Where: term}) }

// only is a search for one term.
func only(term domain.Expr) url.Values { return url.Values{"q": {spelled(term)}} }

// first are at most n of a list.
func first[T any](all []T, n int) []T { return all[:min(len(all), n)] }

// capital has a sentence begin with a capital letter.
func capital(text string) string {
	if text == "" {
		return ""
	}
	r, size := utf8.DecodeRuneInString(text)
	return string(unicode.ToUpper(r)) + text[size:]
}

// attribute is a number as an attribute.
func attribute(n int64) string { return strconv.FormatInt(max(n, 0), 10) }

// valuesOf are the values of a facet, those without one at the end.
func valuesOf(stats *search.Stats) []search.Stat {
	out := slices.Clone(stats.Items)
	if stats.Absent > 0 {
		out = append(out, search.Stat{Count: stats.Absent})
	}
	return out
}

// revisionTerm asks for a bundle revision.
func revisionTerm(revision string) domain.Expr {
	return domain.Expr{Op: domain.OpEqual, Field: domain.FieldRevision, Value: revision}
}

// fieldNames are what a query may ask for, for completion.
var fieldNames = func() string {
	names := []string{"id", "since", "until", "input.", "result.", "label.", "bundle.", "event."}
	for _, f := range domain.DecisionFields {
		names = append(names, string(f.Name))
	}
	slices.Sort(names)
	return strings.Join(slices.Compact(names), " ")
}()

// soleID is the id that a search asks for and nothing else.
func soleID(a *asked) (string, bool) {
	if a.Otherwise != nil {
		return strings.TrimSpace(a.get("q")), true
	}
	all := a.Where.Conjuncts()
	if len(all) == 1 && all[0].Op == domain.OpEqual && all[0].Field == domain.FieldDecisionID {
		return all[0].Value, true
	}
	return "", false
}

// onlyValue is a search for a value of a field.
func onlyValue(field, value string) url.Values {
	given := &value
	if value == "" {
		given = nil
	}
	term, ok := valueTerm(field, given)
	if !ok {
		return url.Values{}
	}
	return only(term)
}

func orNone(text string) string { return cmp.Or(text, "(none)") }

// unescaped is a query string as people read it.
func unescaped(query string) string {
	text, err := url.QueryUnescape(query)
	if err != nil {
		return query
	}
	return text
}

// jobName is what a job does.
func jobName(j *api.Job) string {
	name, article := string(j.Kind), "a "
	if j.Kind == domain.Erase {
		name, article = "erasure", "an "
	}
	if j.DryRun {
		return "dry run of " + article + name
	}
	return name
}

// jobIsAbout is what a job deals with. Nobody is told whom an erasure is about.
func jobIsAbout(j *api.Job) string {
	switch {
	case j.Kind != domain.Erase:
		return filterOf(j.Filter)
	case j.Tenants == nil:
		return "somebody, in all tenants but docket-system"
	}
	return "somebody, in " + strings.Join(j.Tenants, ", ")
}

// reportText tells what a dry run found.
func reportText(j *api.Job) string {
	r := j.Report
	switch j.Kind {
	case domain.Reproject:
		return number(r.Changed) + " of " + number(r.Rows) + " rows would change."
	case domain.Erase:
		return number(r.Rows) + " rows and " + number(r.Letters) + " dead letters are about them."
	case domain.Replay, domain.Discard, domain.Reindex:
	}
	text := "Of " + number(r.Of) + " dead letters " + number(int64(r.Tried)) + " were tried"
	for _, status := range slices.Sorted(maps.Keys(r.Statuses)) {
		text += ", " + number(int64(r.Statuses[status])) + " " + status
	}
	if r.Gone > 0 {
		text += "; the bytes of " + number(int64(r.Gone)) + " are not in the log any more"
	}
	return text + "."
}

// withCursor is a list's address from a place on.
func withCursor(params url.Values, cursor string) url.Values {
	out := maps.Clone(params)
	out.Set("cursor", cursor)
	return out
}
