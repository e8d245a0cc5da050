package cli

import (
	"context"
	"fmt"
	"io"

	"github.com/docket-project/docket/internal/adapters/api"
	"github.com/docket-project/docket/internal/domain"
)

// Reproject is `docket reproject`.
type Reproject struct {
	Console `embed:""`
	Form    `embed:""`
	Since   string   `help:"From when: RFC 3339, or a duration back such as 30d." required:""`
	Until   string   `help:"Up to when, not inclusive."`
	Outcome []string `help:"Only decisions that have this outcome now." sep:"none"`
	Path    []string `help:"Policy path, such as 'http/authz/*'." sep:"none"`
	Tenant  []string `help:"Tenant." sep:"none"`
	Rate    *float64 `help:"Decisions a second; without it, as fast as it goes."`
	Consent `embed:""`
}

// Help tells what it is for.
func (*Reproject) Help() string {
	return "Columns of stored decisions (outcome, reason, principal, action, resource, …) are what the mappings said " +
		"when they were saved. This computes them anew with the mappings of the parking role, which have to be the " +
		"savers'. Bytes and times of decisions never change."
}

// Run makes a job and watches it.
func (r *Reproject) Run(ctx context.Context, out Out) error {
	if err := r.check(); err != nil {
		return err
	}
	dry := !r.Yes
	wanted := api.JobRequest{
		Filter: map[string]api.Texts{"since": {r.Since}}, DryRun: &dry, Rate: r.Rate, Comment: r.Comment,
	}
	if r.Until != "" {
		wanted.Filter["until"] = api.Texts{r.Until}
	}
	for name, values := range map[string][]string{"outcome": r.Outcome, "path": r.Path, "tenant": r.Tenant} {
		if len(values) > 0 {
			wanted.Filter[name] = values
		}
	}
	return create(ctx, out, r.Console, "decisions/reprojections", wanted, r.Output, r.Detach)
}

// printChanges prints what a reprojection changed, or would.
func printChanges(w io.Writer, j api.Job) error {
	if len(j.Report.Changes) > 0 {
		fmt.Fprintln(w)
		t := newTable(w, "DECISIONS", "PATH", "COLUMN", "CHANGE", "SAMPLE")
		for _, c := range j.Report.Changes {
			change := ""
			if c.Column == string(domain.FieldOutcome) {
				change = c.From + " -> " + c.To
			}
			t.row(count(c.Rows), c.Path, c.Column, change, c.Sample)
		}
		if err := t.flush(); err != nil {
			return err
		}
	}
	if j.DryRun && j.Report.Changed > 0 {
		fmt.Fprintln(w, "\nTo change them: repeat with --yes --comment WHY (and --rate to go gently)")
	}
	return nil
}
