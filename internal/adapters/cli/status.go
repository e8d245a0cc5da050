package cli

import (
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
	Check   bool          `help:"Print the verdict only, for scripts: exit code 0 is OK, 1 DEGRADED, and 3 DOWN or no answer."`
	Watch   bool          `help:"Print again and again, until it is interrupted."`
	Every   time.Duration `help:"How often, with --watch." default:"2s" hidden:""`
}

// Run answers "is everything well, and is anything arriving?", the verdict first.
func (s *Status) Run(ctx context.Context, out Out) error {
	for {
		code, err := s.look(ctx, out)
		if err != nil && (!s.Watch || ctx.Err() != nil) {
			return err
		}
		if !s.Watch {
			if code != ExitDone && s.Check {
				return &Failure{Code: code}
			}
			return nil
		}
		if err != nil {
			fmt.Fprintf(out.Stderr, "%s\n", PrintableLines(err.Error()))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(s.Every):
		}
		if s.Output == "table" && !s.Check {
			fmt.Fprintln(out.Stdout)
		}
	}
}

// look asks once. code is what --check ends with.
func (s *Status) look(ctx context.Context, out Out) (code int, err error) {
	answer, err := s.get(ctx, "/api/v1/status", nil)
	if err != nil {
		return ExitUnavailable, err
	}
	st, err := read[api.Status](answer)
	if err != nil {
		return ExitFailed, err
	}
	code = map[string]int{"OK": ExitDone, "DEGRADED": ExitFailed}[string(st.Verdict)]
	if st.Verdict != "OK" && st.Verdict != "DEGRADED" {
		code = ExitUnavailable
	}
	switch {
	case s.Output != "table":
		return code, printJSON(out.Stdout, json.RawMessage(answer), s.Output)
	case s.Check:
		return code, printVerdict(out.Stdout, st)
	}
	return code, printStatus(out.Stdout, st, time.Now())
}

func printVerdict(w io.Writer, s api.Status) error {
	if s.Verdict == "OK" {
		return verdictLine(w, "OK", "")
	}
	return verdictLine(w, string(s.Verdict), ": "+s.Message)
}

func printStatus(w io.Writer, s api.Status, now time.Time) error {
	if err := printVerdict(w, s); err != nil {
		return err
	}
	if len(s.Reasons) > 1 {
		for _, r := range s.Reasons {
			fmt.Fprintf(w, "- %s (%s)\n", printable(r.Message), since(r.Since, now))
		}
	} else if len(s.Reasons) == 1 && since(s.Reasons[0].Since, now) != "new" {
		fmt.Fprintf(w, "(%s)\n", since(s.Reasons[0].Since, now))
	}
	fmt.Fprintln(w)
	t := newTable(w, "STAGE", "WAITING", "OLDEST", "IN/S", "OUT/S")
	for _, g := range s.Stages {
		oldest := "-"
		if g.Waiting > 0 {
			oldest = time.Duration(g.OldestSeconds * float64(time.Second)).Round(time.Second).String()
		}
		t.row(g.Name, strconv.FormatInt(g.Waiting, 10), oldest, rate(g.InPerSecond), rate(g.OutPerSecond))
	}
	if err := t.flush(); err != nil {
		return err
	}
	if s.Stale {
		fmt.Fprintf(w, "These figures are from %s: the log does not answer.\n", ago(s.SampledAt, now))
	}
	for _, d := range s.Unindexed {
		if d.Waiting > 0 {
			fmt.Fprintf(
				w,
				"\n%d records of %s wait to be indexed: until then docket dlq does not know them. A parking role indexes them.\n",
				d.Waiting, d.Topic,
			)
		}
	}
	printProcesses(w, s)
	switch o := s.OPAs; {
	case o == nil:
		fmt.Fprintln(w, "OPAs:      not known while the store is away")
	case o.Live+o.Silent+o.Gone == 0:
		fmt.Fprintln(w, "\nNo OPA has uploaded anything yet. OPA's own defaults wait 300 to 600 s before the first upload:\n"+
			"set decision_logs.reporting.min_delay_seconds to 1 and max_delay_seconds to 5 (see deploy/opa/config.yaml).")
	default:
		fmt.Fprintf(w, "OPAs:      %d live, %d silent, %d gone (docket opas lists them)\n", o.Live, o.Silent, o.Gone)
	}
	if s.Disk != nil {
		fmt.Fprintf(w, "disk:      %.0f %% free\n", 100*s.Disk.FreeRatio)
	}
	return nil
}

// printProcesses counts the processes of each role.
func printProcesses(w io.Writer, s api.Status) {
	fmt.Fprint(w, "\nprocesses:")
	comma := ""
	for _, role := range []string{"ingest", "saver", "parking", "console"} {
		for name, r := range s.Roles {
			if string(name) == role {
				fmt.Fprintf(w, "%s %d %s", comma, r.Live, role)
				comma = ","
			}
		}
	}
	if s.OPAs == nil {
		fmt.Fprint(w, "; others are not known while the store is away")
	}
	fmt.Fprintln(w)
}

// since spells how long something is so.
func since(t api.Instant, now time.Time) string {
	if t.IsZero() || now.Sub(t.Time) < time.Second {
		return "new"
	}
	return "for " + now.Sub(t.Time).Round(time.Second).String()
}

func rate(f float64) string { return strconv.FormatFloat(f, 'f', 1, 64) }

func ago(t api.Instant, now time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return max(now.Sub(t.Time), 0).Round(time.Second).String() + " ago"
}
