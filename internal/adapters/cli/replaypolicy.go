package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docket-project/docket/internal/adapters/api"
	"github.com/docket-project/docket/internal/adapters/replaypolicy"
	"github.com/docket-project/docket/internal/search"
)

// ReplayPolicy is `docket replay-policy`.
type ReplayPolicy struct {
	Console `embed:""`
	Form    `embed:"" set:"forms=table,json,ndjson"`
	Wanted  `embed:""`
	Policy  string               `help:"What to decide by: a directory, a file of Rego, or a bundle as opa build makes it." type:"path" placeholder:"PATH"`
	Limit   int                  `help:"The most decisions to replay, the newest first." default:"1000"`
	Check   bool                 `help:"End with exit code 1 where a decision has another outcome or result, or cannot be decided, and with 4 where none fits: for a pipeline that tests a policy."`
	Stdin   bool                 `hidden:"" help:"Be the process that decides: it reads an order and an export."`
	Program replaypolicy.Program `kong:"-"`
}

// Run replays. decide is nil in programs that cannot.
func (r *ReplayPolicy) Run(ctx context.Context, out Out, decide replaypolicy.Decider) error {
	switch {
	case decide == nil:
		return fail(ExitUsage, "%w", replaypolicy.ErrNoDecider)
	case r.Stdin:
		return decide(ctx, os.Stdin, out.Raw)
	case r.Policy == "":
		return fail(ExitUsage, "say by --policy what to decide by: a directory, a file of Rego, or a bundle")
	case r.Limit < 1:
		return fail(ExitUsage, "--limit %d: at least 1", r.Limit)
	}
	query := r.parameters()
	if _, err := search.ParseRequest(query.Encode(), time.Now()); err != nil {
		return fail(ExitUsage, "%s", pointAt(strings.Join(r.Query, " "), err))
	}
	policy, err := filepath.Abs(r.Policy)
	if err == nil {
		_, err = os.Stat(policy)
	}
	if err != nil {
		return fail(ExitUsage, "the policy: %w", err)
	}
	found := api.NewReplay()
	f := exportFeed{ReplayPolicy: r}
	err = r.Program.Decide(ctx, replaypolicy.Order{Policy: policy}, f.feed, func(a *api.Replayed) error {
		found.Add(a)
		if r.Output == "ndjson" {
			return printJSON(out.Stdout, a, r.Output)
		}
		return nil
	})
	fault := (*replaypolicy.FaultError)(nil)
	switch {
	case ctx.Err() != nil:
		return fail(ExitFailed, "interrupted")
	case errors.As(err, &fault):
		err = fail(ExitFailed, "%w", err)
	}
	if err != nil && found.Decisions == 0 {
		return err
	}
	found.Sort()
	if err != nil && f.why == "" {
		f.why = err.Error()
	}
	found.Complete, found.Why = f.why == "", api.Text(f.why)
	if printed := r.print(out, found); err == nil {
		err = printed
	}
	if err == nil && f.cut {
		err = fail(ExitUnavailable, "this is not everything: %s", printable(f.why))
	}
	if err == nil && r.Check {
		err = check(found)
	}
	if err == nil && f.why != "" {
		fmt.Fprintln(out.Stderr, printable(f.why))
	}
	return err
}

// check is what a pipeline fails by.
func check(found *api.Replay) error {
	switch {
	case found.Decisions == 0:
		return fail(ExitNotFound, "no decision fits, so that nothing was checked")
	case found.Changed+found.Flipped+found.Failed > 0:
		return fail(ExitFailed, "%s", found.Sentence())
	}
	return nil
}

// exportFeed feeds the process that decides with what docket exports.
type exportFeed struct {
	*ReplayPolicy
	// why is what was left out, and cut that it was not asked to be.
	why string
	cut bool
}

func (f *exportFeed) feed(ctx context.Context, to io.Writer) error {
	asked := f.parameters()
	asked.Set("format", "ndjson")
	asked.Set("with_event", "true")
	left, damaged := f.Limit, 0
	var end *api.ExportEnd
	err := f.lines(ctx, "/api/v1/decisions/export", asked, func(line []byte) (more bool, err error) {
		var d api.Exported
		if d, end, err = exportLine(line); err != nil || end != nil {
			return false, err
		}
		if left == 0 {
			f.why = fmt.Sprintf("There are more decisions than the newest %d: use a higher --limit.", f.Limit)
			return false, nil
		}
		if d.Damaged {
			damaged++
			return true, nil
		}
		left--
		return true, replaypolicy.Feed(to, append(line, '\n'))
	})
	switch {
	case err != nil:
		return err
	case f.why != "":
	case end == nil:
		f.why, f.cut = "the export broke off", true
	case !end.Complete:
		f.why, f.cut = end.String(), true
	case damaged > 0:
		f.why, f.cut = fmt.Sprintf("%d events are damaged in the store; docket verify names them", damaged), true
	}
	return nil
}

func (r *ReplayPolicy) print(out Out, found *api.Replay) error {
	switch {
	case r.Output == "json":
		return printJSON(out.Stdout, found, r.Output)
	case r.Output == "ndjson":
		return nil // each as it came
	case found.Decisions == 0:
		_, err := fmt.Fprintln(out.Stdout, "no decision fits")
		return err
	case found.Decisions == 1:
		return r.printOne(out, found.First)
	}
	fmt.Fprintln(out.Stdout, found.Sentence())
	if len(found.Groups) == 0 {
		return nil
	}
	fmt.Fprintln(out.Stdout)
	t := newTable(out.Stdout, "DECISIONS", "EXACT", "WAS", "NOW", "PATH", "BY", "WHY NOT EXACT", "SAMPLE")
	for _, g := range found.Groups {
		doubts := make([]string, 0, len(g.Doubts))
		for d, n := range g.Doubts {
			doubts = append(doubts, fmt.Sprintf("%s %d", d, n))
		}
		slices.Sort(doubts)
		now := cmp.Or(string(g.Now), string(g.Error))
		if g.Was == now {
			now = "another result"
		}
		t.row(strconv.Itoa(g.Count), strconv.Itoa(g.Exact), g.Was, now, string(g.Path),
			strings.Join(g.Rules, ", "), strings.Join(doubts, ", "), g.Samples[0].DecisionID)
	}
	return t.flush()
}

// printOne tells of a single decision what the policy says, and why.
func (r *ReplayPolicy) printOne(out Out, a *api.Replayed) error {
	t := newTable(out.Stdout)
	t.row("decision", a.DecisionID)
	t.row("was", a.Was)
	if a.Error != "" {
		t.row("now", "cannot be decided: "+string(a.Error))
		return t.flush()
	}
	t.row("now", string(a.Now))
	t.pair("reason", string(a.Reason))
	t.row("asked for", string(a.Asked))
	t.pair("by", strings.Join(a.Rules, ", "))
	if !a.Same {
		t.pair("result was", string(a.Stored))
	}
	t.pair("result", string(a.Result))
	exact := "yes"
	if !a.Exact {
		because := make([]string, 0, len(a.Doubts))
		for _, d := range a.Doubts {
			because = append(because, api.DoubtText(d, a.Missing...))
		}
		exact = "no: " + strings.Join(because, "; ")
	}
	t.row("exact", exact)
	if err := t.flush(); err != nil || len(a.Failed) == 0 {
		return err
	}
	fmt.Fprintln(out.Stdout, "\nConditions that did not hold:")
	conditions := newTable(out.Stdout)
	for _, f := range a.Failed {
		conditions.row("  "+f.At, f.Rule, f.Condition)
	}
	return conditions.flush()
}
