package cli

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docket-project/docket/internal/adapters/api"
	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/search"
)

// why is the reason of a decision, or what stands in for one.
func why(d api.Decision) string { return cmp.Or(string(d.Error), string(d.Reason)) }

// Wanted are the query and the flags that choose decisions.
type Wanted struct {
	Query     []string `arg:"" optional:"" help:"What to look for, such as: outcome:denied 'path:rbac/*' input.method:DELETE. docs/search.md has all of it. Put -- in front of a query with a dash in front of a term."`
	Since     string   `help:"From when: RFC 3339, or a duration back such as 15m or 7d; 24h unless the query says."`
	Until     string   `help:"Up to when, not inclusive."`
	Denied    bool     `help:"Denied decisions only; short for --outcome denied."`
	Outcome   []string `help:"allowed, denied, undefined, error or unknown. Like every filter: repeat for or, ! in front for not, * behind for a prefix." sep:"none"`
	Path      []string `help:"Policy path, such as 'http/authz/*'." sep:"none"`
	Tenant    []string `help:"Tenant." sep:"none"`
	Principal []string `help:"Who asked." sep:"none"`
	Action    []string `help:"What they wanted to do." sep:"none"`
	Resource  []string `help:"To what." sep:"none"`
	OPA       []string `name:"opa" help:"OPA instance (labels.id)." sep:"none"`
	App       []string `help:"Application (labels.app)." sep:"none"`
	Revision  []string `help:"Revision of any bundle." sep:"none"`
	TraceID   []string `name:"trace-id" help:"The application's trace." sep:"none"`
	BatchID   []string `name:"batch-decision-id" help:"What was asked for at once." sep:"none"`

	RequestedBy []string `help:"The address that asked." sep:"none"`
	Error       []string `help:"Error text; '*' for any error." sep:"none"`
}

// Find is `docket find`.
type Find struct {
	Console   `embed:""`
	Form      `embed:"" set:"forms=table,json,ndjson,csv"`
	Wanted    `embed:""`
	Follow    bool `short:"f" help:"Print decisions as docket acknowledges them, from now on, until Ctrl-C."`
	Explain   bool `help:"Print what is looked for, in the query language, and look for nothing."`
	Limit     int  `help:"The most decisions to print; 0 for all that fit, as ndjson or csv." default:"100"`
	WithEvent bool `help:"Print the events as well, as json, ndjson or csv; ndjson has each as OPA sent it, on one line."`
}

// parameters are the flags and the query as the API takes them.
func (f *Wanted) parameters() url.Values {
	query := url.Values{}
	if len(f.Query) > 0 {
		query.Set("q", strings.Join(f.Query, " "))
	}
	if f.Since != "" {
		query.Set("since", f.Since)
	}
	if f.Until != "" {
		query.Set("until", f.Until)
	}
	if f.Denied {
		f.Outcome = append(f.Outcome, string(domain.OutcomeDenied))
	}
	for name, values := range map[string][]string{
		"outcome": f.Outcome, "path": f.Path, "tenant": f.Tenant, "principal": f.Principal, "action": f.Action,
		"resource": f.Resource,
		"opa":      f.OPA, "app": f.App, "revision": f.Revision, "trace_id": f.TraceID,
		"batch_decision_id": f.BatchID, "requested_by": f.RequestedBy, "error": f.Error,
	} {
		for _, v := range values {
			query.Add(name, v)
		}
	}
	return query
}

// Run searches and prints, page by page.
func (f *Find) Run(ctx context.Context, out Out) error {
	query := f.parameters()
	asked, err := search.ParseRequest(query.Encode(), time.Now())
	switch {
	case err != nil && (f.Explain || len(f.Query) > 0):
		return fail(ExitUsage, "%s", pointAt(strings.Join(f.Query, " "), err))
	case f.Explain:
		fmt.Fprintln(out.Stdout, printable(search.String(asked.Filter)))
		return nil
	}
	if f.Follow {
		if asked.Dated {
			return fail(ExitUsage, "--follow shows what comes from now on: leave since and until out")
		}
		return f.follow(ctx, out, query)
	}
	switch streamed := f.Output == "ndjson" || f.Output == "csv"; {
	case f.Limit < 0, f.Limit == 0 && !streamed:
		return fail(
			ExitUsage, "--limit %d: at least 1; 0 prints everything, which needs -o ndjson or -o csv", f.Limit,
		)
	case f.WithEvent && f.Output == "table":
		return fail(ExitUsage, "--with-event: a table has no room for events; print json, ndjson or csv (-o)")
	case f.Output == "csv", f.Limit == 0, f.WithEvent:
		return f.export(ctx, out, query)
	}
	items, more, err := f.pages(ctx, "/api/v1/decisions", query, f.Limit, out.goesOn)
	if err != nil {
		return err
	}
	if f.Output != "table" {
		return printItems(out.Stdout, items, f.Output)
	}
	if len(items) == 0 {
		since := ""
		if !asked.Since.IsZero() {
			since = " since " + cmp.Or(f.Since, asked.Since.Format(time.RFC3339))
		}
		fmt.Fprintf(out.Stderr, "No decision matches%s. `docket status` tells whether anything arrives.\n", since)
		for _, h := range f.hints() {
			fmt.Fprintln(out.Stderr, h)
		}
		return nil
	}
	if err := printDecisions(out.Stdout, items); err != nil {
		return err
	}
	if more {
		fmt.Fprintf(out.Stderr, "There are more decisions: use a narrower search, or a --limit above %d.\n", f.Limit)
	}
	return nil
}

// pointAt shows where in a query something is wrong.
func pointAt(query string, err error) string {
	var wrong *search.Error
	if !errors.As(err, &wrong) || len(query) > 200 {
		return printable(err.Error())
	}
	shown := printable(query)
	if shown != query { // what is shown has other columns
		return printable(err.Error())
	}
	return fmt.Sprintf("%s\n  %s\n  %s^", printable(err.Error()), query, strings.Repeat(" ", wrong.Column-1))
}

// hints are what may be wrong with a search that finds nothing.
func (f *Find) hints() (out []string) {
	for _, p := range f.Path {
		if rule, ok := strings.CutPrefix(strings.TrimLeft(p, "!"), "data."); ok {
			out = append(out, "A path has no data. in front, and slashes: --path "+strings.ReplaceAll(rule, ".", "/"))
		}
	}
	if len(f.App) > 0 {
		out = append(out, "Do your OPAs set labels.app? docket opas lists those that do (docs/connect-opa.md).")
	}
	if len(f.TraceID) > 0 {
		out = append(out, "OPA logs a trace_id only with distributed_tracing in its configuration (docs/connect-opa.md).")
	}
	return out
}

// goesOn tells a person what a search has looked at so far, and up to when.
func (o Out) goesOn(looked int, cursor string) {
	upTo := ""
	if c, err := domain.ParseCursor(cursor); err == nil {
		upTo = " back to " + c.Time.UTC().Format(time.RFC3339)
	}
	fmt.Fprintf(
		o.Stderr, "Looked at %d decisions%s, and going on. Name a time, an outcome, a path or a principal to have fewer "+
			"looked at, or press Ctrl-C.\n", looked, upTo,
	)
}

// pages reads until limit items or the end. It tells late, which may be nil, of every page that ended because docket
// had looked at rows for long enough: how many there were so far, and where the next page begins.
func (s Console) pages(
	ctx context.Context, path string, query url.Values, limit int, late func(looked int, cursor string),
) (items []json.RawMessage, more bool, err error) {
	if limit < 1 {
		return nil, false, fail(ExitUsage, "--limit %d: at least 1", limit)
	}
	const page = 1000
	looked := 0
	for {
		query.Set("limit", strconv.Itoa(min(page, limit-len(items))))
		body, err := s.get(ctx, path, query)
		if err != nil {
			return nil, false, err
		}
		answer, err := read[struct {
			api.Page[json.RawMessage]
			api.Found
		}](body)
		if err != nil {
			return nil, false, err
		}
		items = append(items, answer.Items...)
		looked += answer.LookedAt
		goesOn := answer.NextCursor != "" && len(items) < limit
		if late != nil && goesOn && answer.LookedAt > 0 && !answer.Complete {
			late(looked, string(answer.NextCursor))
		}
		if answer.NextCursor == "" || len(items) >= limit {
			return items, answer.NextCursor != "", nil
		}
		query.Set("cursor", string(answer.NextCursor))
	}
}

// decisionColumns are what a line shows of a decision.
var decisionColumns = []string{
	"OUTCOME", "REASON", "TIME", "PATH", "PRINCIPAL", "ACTION", "RESOURCE", "DECISION ID",
}

func decisionCells(t *table, d api.Decision) []string {
	return []string{
		string(d.Outcome), cut(t, why(d), 60), decidedAt(t, d.Time), string(d.Path), string(d.Principal), string(d.Action),
		cut(t, string(d.Resource), 40), d.DecisionID,
	}
}

func printDecisions(w io.Writer, items []json.RawMessage) error {
	t := newTable(w, decisionColumns...)
	for _, i := range items {
		d, err := read[api.Decision](i)
		if err != nil {
			return err
		}
		t.row(decisionCells(t, d)...)
	}
	return t.flush()
}

// decidedAt spells a decision's time: to the millisecond where it is not relative.
func decidedAt(t *table, at api.Instant) string {
	if t.look.local {
		return t.when(at)
	}
	return at.UTC().Format("2006-01-02T15:04:05.000Z")
}

// cut shortens a text where nobody asked for all of it, and there is no screen that does.
func cut(t *table, s string, limit int) string {
	if t.look.wide || t.look.width > 0 {
		return s
	}
	return short(s, limit)
}

// Show is `docket show ID…`.
type Show struct {
	Console `embed:""`
	Form    `embed:"" set:"forms=table,json,ndjson,raw"`
	Since   string   `help:"How far back to look for an ID of which only the beginning is given." default:"7d"`
	IDs     []string `arg:"" name:"ID" help:"The decision_id, or its beginning as docket find prints it."`
}

// Run prints decisions, outcome and reason first.
func (s *Show) Run(ctx context.Context, out Out) error {
	for i, id := range s.IDs {
		if id == "" {
			return fail(ExitUsage, "an ID is empty")
		}
		if i > 0 && s.Output == "table" {
			fmt.Fprintf(out.Stdout, "\n%s\n\n", strings.Repeat("-", 40))
		}
		err := s.one(ctx, out, id)
		if ExitCode(err) == ExitNotFound {
			if id, err = s.begins(ctx, id, err); err == nil {
				err = s.one(ctx, out, id)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *Show) one(ctx context.Context, out Out, id string) error {
	return show(ctx, s.Console, out, decisionPath(id), s.Output, printDecision)
}

// decisionPath is where a decision is. An id that is a word of the API is told from it by an escape that is not needed.
func decisionPath(id string) string {
	escaped := url.PathEscape(id)
	if slices.Contains(api.Words, id) {
		escaped = fmt.Sprintf("%%%02X", id[0]) + id[1:]
	}
	return "/api/v1/decisions/" + escaped
}

// begins finds the only decision whose id begins so. Where there is none, notFound stands.
func (s *Show) begins(ctx context.Context, prefix string, notFound error) (id string, err error) {
	const most = 10
	query := url.Values{"since": {s.Since}, "decision_id": {prefix + "*"}}
	items, more, err := s.pages(ctx, "/api/v1/decisions", query, most, nil)
	if code := ExitCode(err); code == ExitNotFound || code == ExitUsage { // it cannot be asked so
		return "", notFound
	}
	if err != nil {
		return "", err
	}
	var ids []string
	for _, item := range items {
		d, err := read[api.Decision](item)
		if err != nil {
			return "", err
		}
		if !slices.Contains(ids, d.DecisionID) {
			ids = append(ids, d.DecisionID)
		}
	}
	switch {
	case len(ids) == 0:
		return "", notFound
	case len(ids) == 1 && !more:
		return ids[0], nil
	}
	return "", fail(ExitUsage, "%s is the beginning of several decisions; give more of it:\n%s", prefix,
		strings.Join(ids, "\n"))
}

func printDecision(w io.Writer, d api.DecisionWithEvent) error {
	verdict, reason := strings.ToUpper(string(d.Outcome)), ": "+cmp.Or(why(d.Decision), "no reason given")
	if err := verdictLine(w, verdict, reason); err != nil {
		return err
	}
	fmt.Fprintln(w)
	t := newTable(w)
	t.pair("decision", d.DecisionID)
	t.pair("path", string(d.Path))
	t.pair("principal", string(d.Principal))
	t.pair("action", string(d.Action))
	t.pair("resource", string(d.Resource))
	t.pair("time", t.look.moment(d.Time))
	t.pair("received", stamp(d.ReceivedAt))
	t.pair("saved", stamp(d.SavedAt))
	t.pair("tenant", d.Tenant)
	t.pair("app", string(d.App))
	t.pair("opa", string(d.OPA))
	for _, name := range slices.Sorted(maps.Keys(d.Bundles)) {
		t.pair("bundle", strings.TrimSpace(name+" "+d.Bundles[name].Revision))
	}
	t.pair("trace", string(d.TraceID))
	t.pair("batch", string(d.BatchID))
	t.pair("requested by", string(d.RequestedBy))
	t.pair("masked", strings.Join(d.Masked, ", "))
	for _, a := range d.Also {
		t.pair("also", "tenant "+a.Tenant+" at "+stamp(a.Time))
	}
	if err := t.flush(); err != nil {
		return err
	}
	if err := printEvent(w, d.Event); err != nil {
		return err
	}
	fmt.Fprintln(w)
	return verdictLine(w, verdict, reason) // once more: the first may have left the screen
}

// printEvent prints an event over several lines.
func printEvent(w io.Writer, event []byte) error {
	var pretty bytes.Buffer
	if err := json.Indent(&pretty, event, "", "  "); err != nil {
		return fail(ExitFailed, "the event is not JSON: %w", err)
	}
	_, err := fmt.Fprintf(w, "\n%s\n", PrintableLines(pretty.String()))
	return err
}
