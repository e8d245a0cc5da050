package cli

import (
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

	"github.com/docket-project/docket/internal/adapters/api"
	"github.com/docket-project/docket/internal/domain"
)

// DLQ is `docket dlq`.
type DLQ struct {
	List    DLQList    `cmd:"" help:"List dead letters, the newest first."`
	Groups  DLQGroups  `cmd:"" help:"Group dead letters by their failure: begin here."`
	Show    DLQShow    `cmd:"" help:"Show one dead letter: why it died, its history and its bytes; -o raw prints only these."`
	Replay  DLQReplay  `cmd:"" help:"Replay dead letters. Without --yes, only report what would happen."`
	Discard DLQDiscard `cmd:"" help:"Discard dead letters; their bytes stay in the log. Without --yes, only report which."`
	Reindex DLQReindex `cmd:"" help:"Read the dead-letter topics into the index again."`
	Guard   Guard      `cmd:"" help:"Show what the store rejects, and accept that it is dead-lettered."`
}

// DeadFilter chooses dead letters. Like every filter: repeat for or, ! in front for not, * behind for a prefix.
type DeadFilter struct {
	State       []string `help:"open, replayed, discarded or stored; '*' for any." default:"open" sep:"none"`
	Class       []string `help:"Class of the failure: invalid or unknown." sep:"none"`
	Code        []string `help:"SQLSTATE or Kafka's code." sep:"none"`
	Fingerprint []string `help:"As docket dlq groups prints it." sep:"none"`
	Path        []string `help:"Policy path, such as 'http/authz/*'." sep:"none"`
	Tenant      []string `help:"Tenant." sep:"none"`
	Topic       []string `help:"Dead-letter topic." sep:"none"`
	Cause       []string `help:"Why they are dead letters: rejected, attempts_exhausted, conflict, expired, bad_gzip, too_deep, …" sep:"none"`
	Since       string   `help:"Died since: RFC 3339, or a duration back such as 15m or 7d. Of groups, those that were seen since."`
	Until       string   `help:"Died before: as --since. Of groups, those that were seen before."`
}

// set adds a filter, if it says something.
func set(values url.Values, name string, texts []string) {
	if len(texts) > 0 {
		values[name] = texts
	}
}

// chosen reports that the filter says more than a state.
func (f DeadFilter) chosen() bool {
	f.State = nil
	return len(f.values()) > 0
}

// values spells the filter as the API names it.
func (f DeadFilter) values() url.Values {
	values := url.Values{}
	for name, v := range map[string][]string{
		"state": f.State, "class": f.Class, "code": f.Code, "fingerprint": f.Fingerprint, "path": f.Path, "tenant": f.Tenant,
		"topic": f.Topic, "cause": f.Cause,
	} {
		set(values, name, v)
	}
	for name, v := range map[string]string{"since": f.Since, "until": f.Until} {
		if v != "" {
			values.Set(name, v)
		}
	}
	return values
}

// DLQList is `docket dlq list`.
type DLQList struct {
	Console    `embed:""`
	DeadFilter `embed:""`
	DecisionID []string `name:"decision-id" help:"The decision_id." sep:"none"`
	Replay     []string `help:"The last job that took it up." sep:"none"`
	Form       `embed:""`
	Limit      int `help:"The most dead letters to print." default:"100"`
}

// Run lists, page by page.
func (l *DLQList) Run(ctx context.Context, out Out) error {
	query := l.values()
	set(query, "decision_id", l.DecisionID)
	set(query, "replay", l.Replay)
	items, more, err := l.pages(ctx, "/api/v1/dead-letters", query, l.Limit, nil)
	if err != nil {
		return err
	}
	if more {
		defer fmt.Fprintf(out.Stderr, "There are more dead letters: docket dlq groups counts them; or use a --limit above "+
			"%d.\n", l.Limit)
	}
	if l.Output != "table" {
		return printItems(out.Stdout, items, l.Output)
	}
	if len(items) == 0 {
		fmt.Fprintln(
			out.Stderr,
			"No dead letter matches. --state '*' also lists those that are replayed, discarded or stored by now.",
		)
		return nil
	}
	t := newTable(
		out.Stdout, "ID", "STATE", "CAUSE", "CLASS", "CODE", "FINGERPRINT", "DIED", "PATH", "DECISION ID", "ERROR",
	)
	for _, i := range items {
		d, err := read[api.DeadLetter](i)
		if err != nil {
			return err
		}
		t.row(d.ID, string(d.State), string(d.Cause), string(d.Class), string(d.Code), d.Fingerprint, t.when(d.DiedAt),
			string(d.Path), string(d.DecisionID), cut(t, string(d.Error), 60))
	}
	return t.flush()
}

// DLQGroups is `docket dlq groups`.
type DLQGroups struct {
	Console    `embed:""`
	DeadFilter `embed:""`
	Form       `embed:""`
	By         string `help:"Add up the groups of a ${enum}." enum:"fingerprint,cause,class,code,path" default:"fingerprint"`
}

// Run prints the groups, and what to read about them.
func (g *DLQGroups) Run(ctx context.Context, out Out) error {
	answer, err := g.get(ctx, "/api/v1/dead-letters/groups", g.values())
	if err != nil {
		return err
	}
	items, err := read[struct{ Items []json.RawMessage }](answer)
	if err != nil {
		return err
	}
	if g.Output != "table" {
		return printItems(out.Stdout, items.Items, g.Output)
	}
	if len(items.Items) == 0 {
		fmt.Fprintln(
			out.Stderr,
			"No dead letter matches. --state '*' also groups those that are replayed, discarded or stored by now.",
		)
		return nil
	}
	if g.By != "fingerprint" && g.By != "" {
		return g.added(out, items.Items)
	}
	t := newTable(out.Stdout, "FINGERPRINT", "OPEN", "REPLAYED", "DISCARDED", "STORED", "CAUSE", "CLASS", "CODE", "PATH",
		"FIRST SEEN", "LAST SEEN", "SAMPLE", "ERROR")
	runbook := map[domain.Cause]string{}
	for _, i := range items.Items {
		d, err := read[api.DeadGroup](i)
		if err != nil {
			return err
		}
		runbook[d.Cause] = d.Runbook
		t.row(d.Fingerprint, count(d.Open), count(d.Replayed), count(d.Discarded), count(d.Stored), string(d.Cause),
			string(d.Class), string(d.Code), string(d.Path), t.when(d.FirstSeen), t.when(d.LastSeen), d.Sample,
			cut(t, string(d.Error), 100))
	}
	if err := t.flush(); err != nil {
		return err
	}
	printRunbook(out, runbook)
	fmt.Fprintln(out.Stderr, "Can they be replayed? docket dlq replay --fingerprint FINGERPRINT")
	return nil
}

// printRunbook tells where to read about causes.
func printRunbook(out Out, runbook map[domain.Cause]string) {
	fmt.Fprintln(out.Stderr, "\nWhat they mean, and what to do (docket help CAUSE, offline):")
	for _, cause := range slices.Sorted(maps.Keys(runbook)) {
		fmt.Fprintf(out.Stderr, "  %s: %s\n", printable(string(cause)), printable(runbook[cause]))
	}
}

// added adds up groups that have something in common, those with the most open dead letters first.
func (g *DLQGroups) added(out Out, items []json.RawMessage) error {
	sums := map[string]*api.DeadGroup{}
	groups := map[string]int64{}
	runbook := map[domain.Cause]string{}
	for _, i := range items {
		d, err := read[api.DeadGroup](i)
		if err != nil {
			return err
		}
		runbook[d.Cause] = d.Runbook
		key := map[string]string{
			"cause": string(d.Cause), "class": string(d.Class), "code": string(d.Code), "path": string(d.Path),
		}[g.By]
		groups[key]++
		sum := sums[key]
		if sum == nil {
			sums[key] = &d
			continue
		}
		sum.Open, sum.Replayed = sum.Open+d.Open, sum.Replayed+d.Replayed
		sum.Discarded, sum.Stored = sum.Discarded+d.Discarded, sum.Stored+d.Stored
		if d.LastSeen.After(sum.LastSeen.Time) {
			sum.LastSeen, sum.Error = d.LastSeen, d.Error
		}
	}
	keys := slices.SortedFunc(maps.Keys(sums), func(a, b string) int {
		return cmp.Or(cmp.Compare(sums[b].Open, sums[a].Open), cmp.Compare(a, b))
	})
	t := newTable(
		out.Stdout, strings.ToUpper(g.By), "OPEN", "REPLAYED", "DISCARDED", "STORED", "GROUPS", "LAST SEEN", "NEWEST ERROR",
	)
	for _, key := range keys {
		d := sums[key]
		t.row(key, count(d.Open), count(d.Replayed), count(d.Discarded), count(d.Stored), count(groups[key]),
			t.when(d.LastSeen), cut(t, string(d.Error), 60))
	}
	if err := t.flush(); err != nil {
		return err
	}
	printRunbook(out, runbook)
	return nil
}

// DLQShow is `docket dlq show ID`.
type DLQShow struct {
	Console `embed:""`
	Form    `embed:"" set:"forms=table,json,ndjson,raw"`
	ID      string `arg:"" name:"ID" help:"As docket dlq list prints it, such as docket.dlq:3:1207."`
}

// Run prints one dead letter.
func (s *DLQShow) Run(ctx context.Context, out Out) error {
	return show(ctx, s.Console, out, "/api/v1/dead-letters/"+url.PathEscape(s.ID), s.Output, printDead)
}

func printDead(w io.Writer, d api.DeadLetterWithEvent) error {
	why := cmp.Or(string(d.Error), string(d.Cause))
	fmt.Fprintf(w, "%s: %s\n\n", strings.ToUpper(printable(string(d.State))), printable(why))
	t := newTable(w)
	t.pair("dead letter", d.ID)
	t.pair("cause", string(d.Cause))
	t.pair("class", strings.TrimSpace(string(d.Class)+" "+string(d.Code)))
	t.pair("fingerprint", d.Fingerprint)
	t.pair("decision", string(d.DecisionID))
	t.pair("path", string(d.Path))
	t.pair("tenant", d.Tenant)
	t.pair("time", stamp(d.Timestamp))
	t.pair("received", stamp(d.ReceivedAt))
	t.pair("first failed", stamp(d.FirstFailedAt))
	t.pair("died", stamp(d.DiedAt))
	t.pair("attempts", strconv.Itoa(d.Attempts))
	t.pair("copies", strconv.Itoa(d.Copies))
	if d.Replays > 0 {
		t.pair("replays", fmt.Sprintf("%d, the last by job %s", d.Replays, d.Replay))
	}
	t.pair("first position", string(d.Origin))
	t.pair("upload", string(d.Upload))
	t.pair("uploaded to", d.Headers["docket-opa-partition"])
	t.pair("bytes", fmt.Sprintf("%d, SHA-256 %s", d.Bytes, d.SHA256))
	t.pair("runbook", d.Runbook)
	if err := t.flush(); err != nil {
		return err
	}
	switch {
	case d.ReadError != "":
		_, err := fmt.Fprintf(w, "\nIts bytes cannot be read for now: %s\n", printable(string(d.ReadError)))
		return err
	case !d.Available:
		_, err := fmt.Fprintln(w, "\nIts bytes are no longer in the log: the topic's retention has passed.")
		return err
	case len(d.Event) > 0 && string(d.Event) != "null":
		return printEvent(w, d.Event)
	default:
		_, err := fmt.Fprintf(w, "\nIt begins with: %s\n", printable(string(d.Preview)))
		return err
	}
}

// printItems prints a list as one array, or as a line each.
func printItems(w io.Writer, items []json.RawMessage, form string) error {
	if form == "json" {
		if items == nil {
			items = []json.RawMessage{}
		}
		return printJSON(w, items, form)
	}
	for _, i := range items {
		if err := printJSON(w, i, form); err != nil {
			return err
		}
	}
	return nil
}

func count(n int64) string { return strconv.FormatInt(n, 10) }
