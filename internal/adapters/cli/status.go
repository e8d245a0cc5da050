package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/docket-project/docket/internal/adapters/api"
)

// Status is `docket status`.
type Status struct {
	Console `embed:""`
	Form    `embed:""`
}

// Run answers "is anything arriving?".
func (s *Status) Run(ctx context.Context, out Out) error {
	pipe, err := s.get(ctx, "/api/v1/pipeline", nil)
	if err != nil {
		return err
	}
	seen, err := s.get(ctx, "/api/v1/opas", nil)
	if code := ExitCode(err); code == ExitUnavailable || code == ExitMisconfigured { // then is when this is asked
		fmt.Fprintf(out.Stderr, "The OPAs that were seen are not listed: %s\n", PrintableLines(err.Error()))
		seen, err = []byte("null"), nil
	}
	if err != nil {
		return err
	}
	if s.Output != "table" {
		return printJSON(out.Stdout, map[string]json.RawMessage{"pipeline": pipe, "opas": seen}, s.Output)
	}
	p, err := read[api.Pipeline](pipe)
	if err != nil {
		return err
	}
	o, err := read[*api.Items[api.OPA]](seen)
	if err != nil {
		return err
	}
	return printStatus(out.Stdout, p, o, time.Now())
}

// maxOPALines is how many OPAs a screen lists. Those that came more than once stand first.
const maxOPALines = 40

// printStatus prints a screen; o is nil where the store, which knows the OPAs, does not answer.
func printStatus(w io.Writer, p api.Pipeline, o *api.Items[api.OPA], now time.Time) error {
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
		fmt.Fprintf(
			w, "\nThe store is away (breaker %s): decisions are kept in the log and parked until it is back.\n", p.Breaker,
		)
	}
	if p.Guard {
		fmt.Fprintln(
			w,
			"\nThe dead-letter guard is on: the store rejects so many rows that docket holds them instead of dead-lettering "+
				"them. docket dlq guard lists them.",
		)
	}
	if p.Held > 0 {
		fmt.Fprintf(
			w, "\n%d records are held: the store takes others, and not these. /readyz?verbose of a saver or parking role "+
				"says what they wait for.\n", p.Held,
		)
	}
	for _, d := range p.DeadLetters {
		if d.Waiting > 0 {
			fmt.Fprintf(
				w,
				"\n%d records of %s wait to be indexed: until then docket dlq does not know them. A parking role indexes them.\n",
				d.Waiting, d.Topic,
			)
		}
	}
	if p.DeadLettersOpen > 0 {
		fmt.Fprintf(w, "\n%d dead letters are open: docket dlq groups shows why.\n", p.DeadLettersOpen)
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
	shown := o.Items[:min(len(o.Items), maxOPALines)]
	for _, i := range shown {
		every := "-"
		if i.IntervalSeconds != nil {
			every = time.Duration(*i.IntervalSeconds * float64(time.Second)).Round(10 * time.Millisecond).String()
		}
		t.row(
			cmp.Or(i.OPA, "(no labels.id)"), string(i.Version), i.Tenant, ago(i.LastUpload, now), ago(i.FirstUpload, now),
			every, strconv.FormatInt(i.Uploads, 10), strconv.FormatInt(i.Events, 10),
		)
	}
	if err := t.flush(); err != nil {
		return err
	}
	if more := len(o.Items) - len(shown); more > 0 {
		fmt.Fprintf(w, "\nand %d more: docket status -o json lists them\n", more)
	}
	for _, i := range shown {
		if i.Hint != "" {
			fmt.Fprintf(w, "\n%s: %s\n", cmp.Or(printable(i.OPA), "(no labels.id)"), printable(string(i.Hint)))
		}
	}
	return nil
}

func rate(f float64) string { return strconv.FormatFloat(f, 'f', 1, 64) }

func ago(t api.Instant, now time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return max(now.Sub(t.Time), 0).Round(time.Second).String() + " ago"
}
