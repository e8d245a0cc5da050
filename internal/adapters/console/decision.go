package console

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/labstack/echo/v4"

	"github.com/docket-project/docket/internal/adapters/api"
	"github.com/docket-project/docket/internal/adapters/web"
	"github.com/docket-project/docket/internal/compare"
	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/search"
	"github.com/docket-project/docket/internal/trail"
)

// shown is what the page of a decision shows.
type shown struct {
	api.Decision
	row   *domain.Decision
	also  []api.Decision
	event []byte
	tree  *tree
	// allowed is how the last one like it was allowed; nil for one that is allowed itself.
	allowed func() (lastAllowed, error)
}

// lastAllowed is the last decision like another one that was allowed, and in what they differ.
type lastAllowed struct {
	compare.Allowed
	differences []compare.Difference
	complete    bool
}

// decision answers GET /decisions/{decision_id}. An id may be anything, a percent-encoded slash included.
func (r *routes) decision(c echo.Context, v *view) error {
	if err := knows(c, "id", "tenant", "timestamp"); err != nil {
		return err
	}
	escaped, inPath := strings.CutPrefix(c.Request().URL.EscapedPath(), "/decisions/")
	id, err := url.PathUnescape(escaped)
	if err != nil {
		return web.Problem(http.StatusBadRequest, "the decision id in the path is not percent-encoded: "+err.Error())
	}
	if !inPath {
		id = c.QueryParam("id")
	}
	rows, err := v.lookup(id, c.QueryParam("tenant"), c.QueryParam("timestamp"))
	if err != nil {
		return err
	}
	if len(rows) == 0 {
		return v.absent(c, id)
	}
	d := &rows[0]
	page := shown{
		Decision: api.DecisionOf(*d), row: d, event: d.Event, tree: newTree(d.Event),
		also: api.ItemsOf(rows[1:], api.DecisionOf).Items,
	}
	if d.Outcome != domain.OutcomeAllowed {
		page.allowed = later(v, func(ctx context.Context) (lastAllowed, error) { return v.lastAllowed(ctx, d) })
	}
	return v.render(c, http.StatusOK, v.decisionPage(&page))
}

// lookup finds the decisions with an id or, with a tenant, a timestamp or both, one of them.
func (v *view) lookup(id, tenant, timestamp string) (rows []domain.Decision, err error) {
	within, at := v.caller.Tenants, time.Time{}
	if tenant != "" {
		if !within.Includes(tenant) {
			return nil, nil
		}
		within = domain.Tenants(tenant)
	}
	if timestamp != "" {
		if at, err = domain.ParseInstant(timestamp, v.now()); err != nil {
			return nil, web.Problem(http.StatusBadRequest, "timestamp: "+err.Error())
		}
	}
	err = v.Searches.Timed("decision", func() error {
		rows, err = search.Lookup(v.ctx, v.Decisions, within, id, at)
		return err
	})
	return rows, err
}

// absent tells where a decision is that is not stored, or of another tenant or time than was asked for.
func (v *view) absent(c echo.Context, id string) error {
	if c.QueryParam("tenant") != "" || c.QueryParam("timestamp") != "" {
		others, err := v.lookup(id, "", "")
		if err != nil {
			return err
		}
		if len(others) > 0 {
			return v.render(c, http.StatusNotFound, v.otherPage(id, api.ItemsOf(others, api.DecisionOf).Items))
		}
	}
	report, err := v.Trail.Follow(v.ctx, v.caller.Tenants, trail.Question{ID: id})
	if err != nil {
		return err
	}
	return v.render(c, http.StatusNotFound, v.absentPage(api.TrailOf(report)))
}

// lastAllowed finds the last decision like one that was allowed.
func (v *view) lastAllowed(ctx context.Context, d *domain.Decision) (out lastAllowed, err error) {
	err = v.Searches.Ask(ctx, v.caller, "last_allowed", func() error {
		out.Allowed, err = compare.LastAllowed(ctx, v.Decisions, v.caller.Tenants, d)
		return err
	})
	if err != nil || out.Decision == nil {
		return out, err
	}
	if slices.Contains(out.Relaxed, domain.FieldPath) { // it has nothing in common with this one
		return lastAllowed{Allowed: compare.Allowed{Complete: out.Complete}}, nil
	}
	rows, err := search.Lookup(ctx, v.Decisions, domain.Tenants(out.Decision.Tenant), out.Decision.ID, out.Decision.Time())
	if err != nil {
		return out, err
	}
	if len(rows) == 0 { // it was dropped meanwhile
		return lastAllowed{}, nil
	}
	out.differences, out.complete = compare.Events(d.Event, rows[0].Event)
	compare.Rank(out.differences)
	return out, nil
}

// comparePath is the address of a comparison.
func comparePath(a, b *api.Decision) string {
	params := url.Values{}
	for side, d := range map[string]*api.Decision{"a": a, "b": b} {
		params.Set(side, d.DecisionID)
		for name, value := range addressOf(d) {
			params[side+"_"+name] = value
		}
	}
	return with("/compare", params)
}

// relaxedText says in what fields the last allowed decision may differ.
func relaxedText(a *lastAllowed) string {
	if len(a.Relaxed) == 0 {
		return "It has the same principal, action, resource and policy."
	}
	names := make([]string, len(a.Relaxed))
	for i, f := range a.Relaxed {
		names[i] = string(f)
	}
	return "None was allowed with the same " + strings.Join(names, " and ") + ", so that this one may differ in that."
}

// timer is how long a part of the decision took, as OPA measured it.
type timer struct {
	name  string
	nanos int64
	// part is its length on the page, from 0 to 100.
	part float64
}

// timersOf are those of an event, the longest first.
func timersOf(event []byte) (out []timer) {
	domain.Members(domain.ValueAt(event, []string{"metrics"}), func(key string, value jsontext.Value) bool {
		name, is := strings.CutPrefix(key, "timer_")
		name, inNanos := strings.CutSuffix(name, "_ns")
		n, err := strconv.ParseInt(string(value), 10, 64)
		if is && inNanos && err == nil && n >= 0 {
			out = append(out, timer{name: strings.ReplaceAll(name, "_", " "), nanos: n})
		}
		return len(out) < maxMembers
	})
	slices.SortStableFunc(out, func(a, b timer) int { return cmp.Compare(b.nanos, a.nanos) })
	for i := range out {
		const whole = 100
		out[i].part = whole * float64(out[i].nanos) / float64(max(out[0].nanos, 1))
	}
	return out
}

// duration spells nanoseconds.
func duration(nanos int64) string {
	d := time.Duration(nanos)
	switch {
	case d < time.Millisecond:
		return fmt.Sprintf("%.1f µs", float64(d)/float64(time.Microsecond))
	case d < time.Second:
		return fmt.Sprintf("%.2f ms", float64(d)/float64(time.Millisecond))
	}
	return fmt.Sprintf("%.2f s", d.Seconds())
}

// proof is a part of an event that tells why, and what it tells.
type proof struct{ name, title, note string }

// proofs are those that an event may have.
var proofs = []proof{
	{
		"rule_labels", "Labels of rules that held",
		"From the metadata of rules that were evaluated and held, helpers and defaults included: that a rule is here does " +
			"not say that it decided.",
	},
	{"custom", "What the program that asked has added", "The field custom, which docket does not read."},
	{"mapped_result", "Mapped result", "What the program that embeds OPA has made of the result."},
	{
		"intermediate_results", "Intermediate results",
		"What rules had come to on the way, as far as the program that embeds OPA records them.",
	},
	{"error", "Error", "Why OPA could not decide."},
}

// call is a call of a builtin whose answer another time may be another one.
type call struct{ builtin, arguments, answer string }

// callsOf reads nd_builtin_cache: builtin → arguments → answer
// (https://www.openpolicyagent.org/docs/management-decision-logs).
func callsOf(event []byte) (out []call, more int) {
	domain.Members(domain.ValueAt(event, []string{"nd_builtin_cache"}), func(builtin string, calls jsontext.Value) bool {
		domain.Members(calls, func(arguments string, answer jsontext.Value) bool {
			if len(out) == maxMembers {
				more++
				return true
			}
			out = append(out, call{builtin, jsonText([]byte(arguments)), jsonText(answer)})
			return true
		})
		return true
	})
	return out, more
}

// ruleOf is a decision's policy as OPA's commands name it.
func ruleOf(d *api.Decision) string {
	if d.Path == "" {
		return "data"
	}
	rule := "data"
	for step := range strings.SplitSeq(string(d.Path), "/") {
		if regoName.MatchString(step) {
			rule += "." + step
		} else {
			rule += "[" + strconv.Quote(step) + "]"
		}
	}
	return rule
}

// regoName is what a reference of Rego may have behind a dot.
var regoName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// evalCommand decides again, with a bundle of the reader's.
func (v *view) evalCommand(d *api.Decision) string {
	raw := v.link("/api/v1/decisions/" + pathOf(d.DecisionID) + "/raw?" + addressOf(d).Encode())
	return v.curl(raw) + " | jq .input | opa eval --bundle BUNDLE --stdin-input " + quoted(ruleOf(d))
}

// revisionsOf lists the bundles of a decision with their revisions.
func revisionsOf(d *api.Decision) (out []string) {
	for name, b := range d.Bundles {
		out = append(out, strings.TrimSpace(name+" "+b.Revision))
	}
	slices.Sort(out)
	return out
}

// reasonOf is why, in the decision's own words.
func reasonOf(d *api.Decision) string { return cmp.Or(string(d.Reason), string(d.Error)) }
