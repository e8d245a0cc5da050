package cli

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
)

// decision is what the commands print of the API's decision.
type decision struct {
	DecisionID  string                       `json:"decision_id"`
	Time        time.Time                    `json:"time"`
	Timestamp   *time.Time                   `json:"timestamp"`
	ReceivedAt  *time.Time                   `json:"received_at"`
	SavedAt     *time.Time                   `json:"saved_at"`
	Tenant      string                       `json:"tenant"`
	Path        string                       `json:"path"`
	Outcome     string                       `json:"outcome"`
	Reason      string                       `json:"reason"`
	Principal   string                       `json:"principal"`
	Action      string                       `json:"action"`
	Resource    string                       `json:"resource"`
	OPA         string                       `json:"opa"`
	App         string                       `json:"app"`
	Bundles     map[string]map[string]string `json:"bundles"`
	TraceID     string                       `json:"trace_id"`
	RequestedBy string                       `json:"requested_by"`
	Error       string                       `json:"error"`
	Event       json.RawMessage              `json:"event"`
	Also        []decision                   `json:"also"`
}

// why is the reason, or what stands in for one.
func (d decision) why() string { return cmp.Or(d.Error, d.Reason, "-") }

// Find is `docket find`.
type Find struct {
	Console   `embed:""`
	Output    string   `short:"o" help:"How to print: table, json or ndjson." enum:"table,json,ndjson" default:"table"`
	Since     string   `help:"From when: RFC 3339, or a duration back such as 15m or 7d." default:"24h"`
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
	Error     []string `help:"Error text; '*' for any error." sep:"none"`
	Limit     int      `help:"The most decisions to print." default:"100"`
}

// Run searches and prints, page by page.
func (f *Find) Run(ctx context.Context, out Out) error {
	query := url.Values{"since": {f.Since}}
	if f.Until != "" {
		query.Set("until", f.Until)
	}
	if f.Denied {
		f.Outcome = append(f.Outcome, "denied")
	}
	for name, values := range map[string][]string{
		"outcome": f.Outcome, "path": f.Path, "tenant": f.Tenant, "principal": f.Principal, "action": f.Action, "resource": f.Resource,
		"opa": f.OPA, "app": f.App, "revision": f.Revision, "trace_id": f.TraceID, "error": f.Error,
	} {
		for _, v := range values {
			query.Add(name, v)
		}
	}
	items, more, err := f.pages(ctx, "/api/v1/decisions", query, f.Limit)
	if err != nil {
		return err
	}
	if f.Output != "table" {
		return printItems(out.Stdout, items, f.Output)
	}
	if len(items) == 0 {
		fmt.Fprintf(out.Stderr, "No decision matches since %s. `docket status` tells whether anything arrives.\n", f.Since)
		return nil
	}
	if err := printDecisions(out.Stdout, items); err != nil {
		return err
	}
	if more {
		fmt.Fprintf(out.Stderr, "There are more: narrow the search, or raise --limit above %d.\n", f.Limit)
	}
	return nil
}

// pages reads until limit items or the end.
func (s Console) pages(ctx context.Context, path string, query url.Values, limit int) (items []json.RawMessage, more bool, err error) {
	if limit < 1 {
		return nil, false, fail(ExitUsage, "--limit %d: at least 1", limit)
	}
	const page = 1000
	for {
		query.Set("limit", strconv.Itoa(min(page, limit-len(items))))
		body, err := s.get(ctx, path, query)
		if err != nil {
			return nil, false, err
		}
		answer, err := read[struct {
			Items      []json.RawMessage `json:"items"`
			NextCursor *string           `json:"next_cursor"`
		}](body)
		if err != nil {
			return nil, false, err
		}
		items = append(items, answer.Items...)
		if answer.NextCursor == nil || len(items) >= limit {
			return items, answer.NextCursor != nil, nil
		}
		query.Set("cursor", *answer.NextCursor)
	}
}

func printDecisions(w io.Writer, items []json.RawMessage) error {
	t := newTable(w, "OUTCOME", "REASON", "TIME", "PATH", "PRINCIPAL", "ACTION", "RESOURCE", "DECISION ID")
	for _, i := range items {
		d, err := read[decision](i)
		if err != nil {
			return err
		}
		t.row(d.Outcome, short(d.why(), 60), d.Time.UTC().Format("2006-01-02T15:04:05.000Z"), d.Path, d.Principal, d.Action, short(d.Resource, 40), d.DecisionID)
	}
	return t.flush()
}

// Show is `docket show ID`.
type Show struct {
	Console `embed:""`
	Output  string `short:"o" help:"How to print: table, json, ndjson, or raw for the event's exact bytes." enum:"table,json,ndjson,raw" default:"table"`
	ID      string `arg:"" name:"ID" help:"The decision_id."`
}

// Run prints one decision, outcome and reason first.
func (s *Show) Run(ctx context.Context, out Out) error {
	body, err := s.show(ctx, out, "/api/v1/decisions/"+url.PathEscape(s.ID), s.Output)
	if err != nil || body == nil {
		return err
	}
	d, err := read[decision](body)
	if err != nil {
		return err
	}
	return printDecision(out.Stdout, d)
}

func printDecision(w io.Writer, d decision) error {
	fmt.Fprintf(w, "%s: %s\n\n", strings.ToUpper(printable(d.Outcome)), printable(cmp.Or(d.Error, d.Reason, "no reason given")))
	t := newTable(w)
	t.pair("decision", d.DecisionID)
	t.pair("path", d.Path)
	t.pair("principal", d.Principal)
	t.pair("action", d.Action)
	t.pair("resource", d.Resource)
	t.pair("time", stamp(&d.Time))
	t.pair("received", stamp(d.ReceivedAt))
	t.pair("saved", stamp(d.SavedAt))
	t.pair("tenant", d.Tenant)
	t.pair("app", d.App)
	t.pair("opa", d.OPA)
	for _, name := range slices.Sorted(maps.Keys(d.Bundles)) {
		t.pair("bundle", strings.TrimSpace(name+" "+d.Bundles[name]["revision"]))
	}
	t.pair("trace", d.TraceID)
	t.pair("requested by", d.RequestedBy)
	for _, a := range d.Also {
		t.pair("also", "tenant "+a.Tenant+" at "+stamp(&a.Time))
	}
	if err := t.flush(); err != nil {
		return err
	}
	return printEvent(w, d.Event)
}

// printEvent prints an event over several lines.
func printEvent(w io.Writer, event []byte) error {
	var pretty bytes.Buffer
	if err := json.Indent(&pretty, event, "", "  "); err != nil {
		return fail(ExitFailed, "the event is not JSON: %w", err)
	}
	_, err := fmt.Fprintf(w, "\n%s\n", printableLines(pretty.String()))
	return err
}

// Status is `docket status`.
type Status struct {
	Console `embed:""`
	Output  string `short:"o" help:"How to print: table, json or ndjson." enum:"table,json,ndjson" default:"table"`
}

type pipeline struct {
	Stages []struct {
		Name          string  `json:"name"`
		Topic         string  `json:"topic"`
		InPerSecond   float64 `json:"in_per_second"`
		OutPerSecond  float64 `json:"out_per_second"`
		Waiting       int64   `json:"waiting"`
		OldestSeconds float64 `json:"oldest_seconds"`
	} `json:"stages"`
	Breaker         string `json:"breaker"`
	FloodStop       bool   `json:"flood_stop"`
	DeadLettersOpen int64  `json:"dead_letters_open"`
	DeadLetters     []struct {
		Topic   string `json:"topic"`
		Waiting int64  `json:"waiting"`
	} `json:"dead_letters"`
}

type opas struct {
	Items []struct {
		Tenant          string     `json:"tenant"`
		OPA             string     `json:"opa"`
		Version         string     `json:"version"`
		FirstUpload     *time.Time `json:"first_upload"`
		LastUpload      *time.Time `json:"last_upload"`
		IntervalSeconds *float64   `json:"interval_seconds"`
		Uploads         int64      `json:"uploads"`
		Events          int64      `json:"events"`
		Hint            string     `json:"hint"`
	} `json:"items"`
}

// Run answers "is anything arriving?".
func (s *Status) Run(ctx context.Context, out Out) error {
	pipe, err := s.get(ctx, "/api/v1/pipeline", nil)
	if err != nil {
		return err
	}
	seen, err := s.get(ctx, "/api/v1/opas", nil)
	if code := ExitCode(err); code == ExitUnavailable || code == ExitMisconfigured { // then is when this is asked
		fmt.Fprintf(out.Stderr, "The OPAs that were seen are not listed: %v\n", err)
		seen, err = []byte("null"), nil
	}
	if err != nil {
		return err
	}
	if s.Output != "table" {
		return printJSON(out.Stdout, map[string]json.RawMessage{"pipeline": pipe, "opas": seen}, s.Output)
	}
	p, err := read[pipeline](pipe)
	if err != nil {
		return err
	}
	o, err := read[*opas](seen)
	if err != nil {
		return err
	}
	return printStatus(out.Stdout, p, o, time.Now())
}

// printStatus prints a screen; o is nil where the store, which knows the OPAs, does not answer.
func printStatus(w io.Writer, p pipeline, o *opas, now time.Time) error {
	t := newTable(w, "STAGE", "WAITING", "OLDEST", "IN/S", "OUT/S")
	for _, s := range p.Stages {
		oldest := "-"
		if s.Waiting > 0 {
			oldest = time.Duration(s.OldestSeconds * float64(time.Second)).Round(time.Second).String()
		}
		t.row(s.Name, strconv.FormatInt(s.Waiting, 10), oldest, rate(s.InPerSecond), rate(s.OutPerSecond))
	}
	if err := t.flush(); err != nil {
		return err
	}
	if p.Breaker == "open" || p.Breaker == "half-open" {
		fmt.Fprintf(w, "\nThe store is away (breaker %s): decisions are kept in the log and parked until it is back.\n", p.Breaker)
	}
	if p.FloodStop {
		fmt.Fprintln(w, "\nFlood stop: the store refuses so many rows that they are parked instead of dead-lettered. `docket flood` tells which.")
	}
	for _, d := range p.DeadLetters {
		if d.Waiting > 0 {
			fmt.Fprintf(w, "\n%d records of %s wait to be indexed: until then docket dlq does not know them. A parking role does that.\n", d.Waiting, d.Topic)
		}
	}
	if p.DeadLettersOpen > 0 {
		fmt.Fprintf(w, "\n%d dead letters are open: docket dlq groups tells why they died.\n", p.DeadLettersOpen)
	}
	if o == nil {
		return nil
	}
	if len(o.Items) == 0 {
		fmt.Fprintln(w, "\nNo OPA has uploaded anything yet. OPA's own defaults wait 300 to 600 s before the first upload:\n"+
			"set decision_logs.reporting.min_delay_seconds to 1 and max_delay_seconds to 5 (see deploy/opa/config.yaml).")
		return nil
	}
	fmt.Fprintln(w)
	t = newTable(w, "OPA", "VERSION", "TENANT", "LAST UPLOAD", "FIRST UPLOAD", "EVERY", "UPLOADS", "EVENTS")
	for _, i := range o.Items {
		every := "-"
		if i.IntervalSeconds != nil {
			every = time.Duration(*i.IntervalSeconds * float64(time.Second)).Round(10 * time.Millisecond).String()
		}
		t.row(cmp.Or(i.OPA, "(no labels.id)"), cmp.Or(i.Version, "-"), i.Tenant, ago(i.LastUpload, now), ago(i.FirstUpload, now), every,
			strconv.FormatInt(i.Uploads, 10), strconv.FormatInt(i.Events, 10))
	}
	if err := t.flush(); err != nil {
		return err
	}
	for _, i := range o.Items {
		if i.Hint != "" {
			fmt.Fprintf(w, "\n%s: %s\n", cmp.Or(printable(i.OPA), "(no labels.id)"), i.Hint)
		}
	}
	return nil
}

func rate(f float64) string { return strconv.FormatFloat(f, 'f', 1, 64) }

func ago(t *time.Time, now time.Time) string {
	if t == nil {
		return "never"
	}
	return max(now.Sub(*t), 0).Round(time.Second).String() + " ago"
}

func stamp(t *time.Time) string {
	if t == nil {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

// table prints columns.
type table struct{ w *tabwriter.Writer }

func newTable(w io.Writer, columns ...string) table {
	t := table{tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)}
	if len(columns) > 0 {
		fmt.Fprintln(t.w, strings.Join(columns, "\t"))
	}
	return t
}

func (t table) row(cells ...string) {
	for i, c := range cells {
		cells[i] = cmp.Or(printable(c), "-")
	}
	fmt.Fprintln(t.w, strings.Join(cells, "\t"))
}

// pair prints what has a value, by its name.
func (t table) pair(name, value string) {
	if value != "" {
		t.row(name, value)
	}
}

func (t table) flush() error { return t.w.Flush() }

// printable keeps what somebody else wrote from moving the cursor, colouring the screen or breaking a table.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp) {
			return '\uFFFD'
		}
		return r
	}, s)
}

func printableLines(s string) string {
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		lines[i] = printable(l)
	}
	return strings.Join(lines, "\n")
}

func short(s string, limit int) string {
	if r := []rune(s); len(r) > limit {
		return string(r[:limit-1]) + "…"
	}
	return s
}

// printJSON prints a value over several lines, or as one line of NDJSON.
func printJSON(w io.Writer, v any, form string) error {
	e := json.NewEncoder(w)
	if form == "json" {
		e.SetIndent("", "  ")
	}
	e.SetEscapeHTML(false)
	return e.Encode(v)
}
