package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"strings"
	"time"

	"github.com/docket-project/docket/internal/adapters/api"
	"github.com/docket-project/docket/internal/domain"
)

// Diff is `docket diff A [B]`.
type Diff struct {
	Console `embed:""`
	Form    `embed:""`
	A       string `arg:"" name:"A" help:"The decision_id."`
	B       string `arg:"" optional:"" name:"B" help:"That of another one. Without it, the last decision like A that was allowed before."`
}

// Run compares.
func (d *Diff) Run(ctx context.Context, out Out) error {
	query := url.Values{"a": {d.A}, "b": {d.B}}
	if d.B == "" {
		allowed, err := d.lastAllowed(ctx, out)
		if err != nil {
			return err
		}
		query.Set("b", allowed.DecisionID)
		query.Set("b_tenant", allowed.Tenant)
		if !allowed.Timestamp.IsZero() {
			query.Set("b_timestamp", allowed.Timestamp.Format(time.RFC3339Nano))
		}
	}
	body, err := d.get(ctx, "/api/v1/decisions/compare", query)
	if err != nil {
		return err
	}
	return printAnswer(out, body, d.Output, printDiff)
}

// lastAllowed finds what to compare with, and tells how like it is.
func (d *Diff) lastAllowed(ctx context.Context, out Out) (*api.Decision, error) {
	body, err := d.get(ctx, "/api/v1/decisions/"+url.PathEscape(d.A)+"/last-allowed", nil)
	if err != nil {
		return nil, err
	}
	answer, err := read[api.LastAllowed](body)
	switch {
	case err != nil:
		return nil, err
	case answer.Decision == nil && !answer.Complete:
		return nil, fail(ExitUnavailable, "docket had no time to find one that was allowed before %s; try again", d.A)
	case answer.Decision == nil:
		return nil, fail(
			ExitNotFound, "nothing was allowed before %s that is still stored: there is nothing to compare it with",
			printable(d.A),
		)
	case len(answer.Relaxed) > 0:
		fmt.Fprintf(
			out.Stderr, "No decision with the same %s was allowed before: this is the last one without regard to that.\n",
			fieldNames(answer.Relaxed),
		)
	}
	return answer.Decision, nil
}

func fieldNames(fields []domain.Field) string {
	names := make([]string, len(fields))
	for i, f := range fields {
		names[i] = string(f)
	}
	return printable(strings.Join(names, ", "))
}

// printDiff prints what both are, and then what differs.
func printDiff(w io.Writer, c api.Comparison) error {
	t := newTable(w, append([]string{""}, decisionColumns...)...)
	t.row(append([]string{"A"}, decisionCells(t, c.A)...)...)
	t.row(append([]string{"B"}, decisionCells(t, c.B)...)...)
	if err := t.flush(); err != nil {
		return err
	}
	if len(c.Differences) == 0 {
		_, err := fmt.Fprintln(w, "\nInput, result and bundles are the same.")
		return err
	}
	fmt.Fprintln(w)
	t = newTable(w, "FIELD", "A", "B")
	for _, d := range c.Differences {
		t.row(d.Field, valueCell(t, d.A), valueCell(t, d.B))
	}
	if err := t.flush(); err != nil {
		return err
	}
	if !c.Complete {
		_, err := fmt.Fprintf(w, "There are more differences than these %d.\n", len(c.Differences))
		return err
	}
	return nil
}

// valueCell spells a value as JSON, a dash for none.
func valueCell(t *table, v json.RawMessage) string {
	if v == nil {
		return "-"
	}
	return cut(t, string(v), 80)
}
