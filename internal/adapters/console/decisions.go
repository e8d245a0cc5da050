package console

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/labstack/echo/v4"

	"github.com/docket-project/docket/internal/adapters/api"
	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/search"
)

// ranges are the times that people look at most.
var ranges = []struct{ name, since string }{
	{"15 min", "15m"}, {"1 h", "1h"}, {"24 h", "24h"}, {"7 d", "7d"}, {"30 d", "30d"},
}

// facetFields are those whose values stand beside a search.
var facetFields = []struct{ name, field string }{
	{"Outcome", "outcome"},
	{"Policy path", "path"},
	{"Principal", "principal"},
	{"Action", "action"},
	{"Resource", "resource"},
	{"Application", "app"},
	{"OPA", "opa"},
	{"Bundle revision", "revision"},
	{"Tenant", "tenant"},
}

// facet is the values of a field that decisions have most often.
type facet struct {
	name, field string
	search.Stats
}

// found is what the page of decisions shows.
type found struct {
	asked
	page   func() (domain.Page, error)
	chart  func() (chart, error) // nil where the time has no bound
	facets func() ([]facet, error)
}

// facetValues is how many values of a field stand beside a search.
const facetValues = "8"

// pageLength is how many decisions a page has.
const pageLength = 50

// decisions answers GET /decisions.
func (r *routes) decisions(c echo.Context, v *view) error {
	a, err := parseAsked(c.Request().URL.RawQuery, r.now())
	if err != nil {
		return v.render(c, http.StatusBadRequest, v.decisionsPage(found{asked: a}, err))
	}
	if spelled, others := a.spelled(); others {
		return c.Redirect(http.StatusSeeOther, v.link(with("/decisions", spelled)))
	}
	if !a.params.Has("limit") {
		a.Limit = pageLength
	}
	f := found{asked: a}
	f.page = later(v, func(ctx context.Context) (page domain.Page, err error) {
		err = r.Searches.Ask(ctx, v.caller, "page", func() error {
			page, err = search.Find(ctx, r.Decisions, v.caller.Tenants, a.Request)
			return err
		})
		return page, err
	})
	// What counts decisions one by one does not take the time of what people wait for.
	if !a.Since.IsZero() {
		f.chart = later(v, func(ctx context.Context) (chart, error) {
			_, _ = f.page()
			return v.chart(ctx, &a)
		})
	}
	f.facets = later(v, func(ctx context.Context) ([]facet, error) {
		_, _ = f.page()
		return v.facets(ctx, &a)
	})
	return v.render(c, http.StatusOK, v.decisionsPage(f, nil))
}

// ask asks for statistics.
func (v *view) ask(ctx context.Context, kind string, q search.Question) (out search.Counted, err error) {
	err = v.Searches.Timed(kind, func() error {
		out, err = v.Statistics.Count(ctx, q, false, v.Searches.Admit(v.caller))
		return err
	})
	return out, err
}

// facets are the most frequent values of fields among what a search finds.
func (v *view) facets(ctx context.Context, a *asked) (out []facet, err error) {
	var names []string
	for _, f := range facetFields {
		if f.field != string(domain.FieldTenant) || len(v.caller.Tenants.Names()) != 1 {
			names = append(names, f.field)
			out = append(out, facet{name: f.name, field: f.field})
		}
	}
	q, err := v.Statistics.Facets(v.caller.Tenants, names, a.question("limit", facetValues))
	if err != nil {
		return nil, err
	}
	counted, err := v.ask(ctx, "values", q)
	if err != nil {
		return nil, err
	}
	for i := range out {
		out[i].Stats = counted.Facets[i]
	}
	return out, nil
}

// countedSince is from when on fields were counted for which there was no time for more, and why.
func countedSince(all []facet) (since time.Time, why string) {
	for _, f := range all {
		if f.Why != "" {
			since, why = f.Since, f.Why
		}
	}
	return since, why
}

// change is a bundle revision that came up while what a chart shows was decided.
type change struct {
	revision string
	at       time.Time
	x        float64
}

// changesOf are the revisions that came up since decisions were looked at, at most the newest four. Those that were
// there from the beginning are no change, and neither is the first one of all.
func changesOf(a *asked, all []facet) (out []change) {
	until := a.Until
	if until.IsZero() {
		until = a.now
	}
	since := a.Since.Truncate(barLength(until.Sub(a.Since)))
	for _, f := range all {
		if f.field != string(domain.FieldRevision) || len(f.Items) == 0 {
			continue
		}
		revisions := slices.SortedFunc(slices.Values(f.Items), func(a, b search.Stat) int { return a.First.Compare(b.First) })
		for _, s := range revisions[1:] {
			// Whatever is used at all is used within a fiftieth of the time.
			const margin = 50
			if s.First.After(f.Since.Add(until.Sub(f.Since) / margin)) {
				x := chartWidth * float64(s.First.Sub(since)) / float64(until.Sub(since))
				out = append(out, change{s.Values[0].Text, s.First, x})
			}
		}
	}
	const newest = 4
	return out[max(0, len(out)-newest):]
}

// chart draws what a search finds.
func (v *view) chart(ctx context.Context, a *asked) (chart, error) {
	until := a.Until
	if until.IsZero() {
		until = a.now
	}
	every := barLength(until.Sub(a.Since))
	q, err := v.Statistics.Question(v.caller.Tenants, "", a.question("by", "outcome", "every", every.String()))
	if err != nil {
		return chart{}, err
	}
	counted, err := v.ask(ctx, "stats", q)
	if err != nil {
		return chart{}, err
	}
	out := newChart(counted, a.Since, until, !a.Until.IsZero(), a.between)
	out.rest = with("/decisions", a.timed("", ""))
	return out, nil
}

// shownValue is a value of a facet as people see it.
func shownValue(s search.Stat) string {
	if !s.Values[0].There {
		return "(none)"
	}
	return s.Values[0].Text
}

// valueOf is a value for a term.
func valueOf(v search.Value) *string {
	if !v.There {
		return nil
	}
	return &v.Text
}

// decisionPath is the address of one decision's page: several may have its id.
func decisionPath(d *api.Decision) string {
	if d.DecisionID == "." || d.DecisionID == ".." { // which browsers take out of a path
		params := addressOf(d)
		params.Set("id", d.DecisionID)
		return with("/decision", params)
	}
	return with("/decisions/"+pathOf(d.DecisionID), addressOf(d))
}

// pathOf is an id as a step of a path. Words that mean something to the API are escaped more than they need.
func pathOf(id string) string {
	if slices.Contains(api.Words, id) {
		return fmt.Sprintf("%%%02x", id[0]) + id[1:]
	}
	return url.PathEscape(id)
}

// addressOf tells a decision from others with its id.
func addressOf(d *api.Decision) url.Values {
	return url.Values{"tenant": {d.Tenant}, "timestamp": {d.Time.UTC().Format(time.RFC3339Nano)}}
}

// pick names a decision in one value, for a page that compares two.
func pick(d *api.Decision) string {
	return url.Values{
		"id": {d.DecisionID}, "tenant": {d.Tenant}, "timestamp": {d.Time.UTC().Format(time.RFC3339Nano)},
	}.Encode()
}

// apiLink is an address of the API with the same search.
func (v *view) apiLink(path string, a *asked, pairs ...string) string {
	params := a.edited(pairs...)
	params.Del("limit")
	return v.link("/api/v1/decisions" + with(path, params))
}

// tailLink is where the API shows new decisions of a search.
func (v *view) tailLink(a *asked) string {
	params := a.timed("", "")
	params.Del("limit")
	return v.link("/api/v1/decisions" + with("/tail", params))
}

// findCommand is how docket find asks the same.
func (v *view) findCommand(a *asked) string {
	parts := []string{"docket find"}
	for _, name := range slices.Sorted(maps.Keys(a.params)) {
		if name == "q" || name == "cursor" || name == "limit" {
			continue
		}
		for _, value := range a.params[name] {
			parts = append(parts, "--"+strings.ReplaceAll(name, "_", "-"), quoted(value))
		}
	}
	if q := a.get("q"); q != "" {
		parts = append(parts, "--", quoted(q))
	}
	return strings.Join(parts, " ")
}

// curl is how curl asks for something. A token, where one is needed, is left to the reader.
func (v *view) curl(link string) string {
	token := ""
	if v.Sessions != nil {
		token = `-H "Authorization: Bearer $TOKEN" `
	}
	return "curl -sS " + token + quoted(v.origin+link)
}

// quoted is a word for a shell. A character that a terminal would take for a command of its own is spelled out, as
// bash, ksh and zsh read it.
func quoted(text string) string {
	if !strings.ContainsFunc(text, unicode.IsControl) {
		return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
	}
	var b strings.Builder
	for _, c := range []byte(text) {
		switch {
		case c == '\\' || c == '\'':
			b.WriteByte('\\')
			b.WriteByte(c)
		case c < ' ' || c >= utf8.RuneSelf || c == 0x7f:
			fmt.Fprintf(&b, `\x%02x`, c)
		default:
			b.WriteByte(c)
		}
	}
	return "$'" + b.String() + "'"
}

// lookedAt tells of a page that has not looked at everything.
func lookedAt(page *domain.Page) string {
	return fmt.Sprintf(
		"There was no time to look at everything: %s decisions were looked at for this page. Go on with the older ones, or "+
			"narrow the search by a field or a time.", number(int64(page.LookedAt)),
	)
}
