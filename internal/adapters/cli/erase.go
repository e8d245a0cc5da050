package cli

import (
	"context"
	"fmt"
	"io"

	"github.com/docket-project/docket/internal/adapters/api"
	"github.com/docket-project/docket/internal/domain"
)

// Erase is `docket erase`.
type Erase struct {
	Console   `embed:""`
	Form      `embed:""`
	Principal []string `help:"Whom to erase, as docket find shows it; several may be given." required:"" sep:"none"`
	Tenant    []string `help:"In which tenant; without it, in all that you may see." sep:"none"`
	Consent   `embed:""`
}

// Help tells what it is for.
func (*Erase) Help() string {
	return "Removes every decision about somebody, and their dead letters, up to now, and stores nothing of it that " +
		"comes out of the log later: what is parked or held, a replay, a rewind. The log itself forgets in its own time, " +
		"which is told. Later decisions about them are kept. The audit has a keyed hash, and no name: do not write one " +
		"into --comment. It needs the role admin."
}

// Run makes a job and watches it.
func (e *Erase) Run(ctx context.Context, out Out) error {
	if err := e.check(); err != nil {
		return err
	}
	dry := !e.Yes
	wanted := api.JobRequest{Filter: map[string]api.Texts{}, DryRun: &dry, Comment: e.Comment}
	for _, name := range e.Principal { // uploaders choose names: some begin with ! or end with *
		wanted.Filter["principal"] = append(wanted.Filter["principal"], domain.Literal(name))
	}
	for _, name := range e.Tenant {
		wanted.Filter["tenant"] = append(wanted.Filter["tenant"], domain.Literal(name))
	}
	return create(ctx, out, e.Console, "decisions/erasures", wanted, e.Output, e.Detach)
}

// printErasure prints what an erasure leaves in the log, and how to go on.
func printErasure(w io.Writer, j api.Job) error {
	if len(j.Report.Expiries) > 0 {
		fmt.Fprintln(w)
		t := newTable(w, "TOPIC", "FORGETS WHAT IT HAS BY")
		for _, e := range j.Report.Expiries {
			at := stamp(e.At)
			if e.At.IsZero() {
				at = "never"
			}
			t.row(e.Topic, at)
		}
		if err := t.flush(); err != nil {
			return err
		}
	}
	if j.DryRun {
		fmt.Fprintln(w, "\nTo erase them: repeat with --yes --comment WHY. It cannot be undone")
	}
	return nil
}
