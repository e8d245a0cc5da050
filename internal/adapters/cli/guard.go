package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"time"

	"github.com/docket-project/docket/internal/adapters/api"
	"github.com/docket-project/docket/internal/domain"
)

// Guard is `docket dlq guard`.
type Guard struct {
	Show   GuardShow   `cmd:"" default:"withargs" help:"Show the rows that the store rejected within ten minutes, and whether the guard is on."`
	Accept GuardAccept `cmd:"" help:"Accept that rows with a fingerprint are dead-lettered, for 24 h: you have looked, and the rows are wrong."`
	Revoke GuardRevoke `cmd:"" help:"End an acceptance early."`
}

// GuardShow is `docket dlq guard show`.
type GuardShow struct {
	Console
	Form
}

// GuardAccept is `docket dlq guard accept`.
type GuardAccept struct {
	Console
	Form
	Comment     string `help:"Why, for the audit." required:""`
	Fingerprint string `arg:"" help:"As docket dlq guard prints it."`
}

// GuardRevoke is `docket dlq guard revoke`.
type GuardRevoke struct {
	Console
	Form
	Fingerprint string `arg:"" help:"As docket dlq guard prints it."`
}

const guardPath = "/api/v1/dead-letters/guard"

// Run lists what the store rejected.
func (g *GuardShow) Run(ctx context.Context, out Out) error {
	answer, err := g.get(ctx, guardPath, nil)
	if err != nil {
		return err
	}
	return printGuard(out.Stdout, answer, g.Output)
}

// Run accepts a fingerprint and lists what there is then.
func (g *GuardAccept) Run(ctx context.Context, out Out) error {
	body, err := json.Marshal(api.AcceptRequest{Fingerprint: g.Fingerprint, Comment: g.Comment})
	if err != nil {
		return err
	}
	answer, err := g.post(ctx, guardPath+"/acceptances", body)
	if err != nil {
		return err
	}
	hours := int(domain.AcceptanceTerm / time.Hour)
	fmt.Fprintf(
		out.Stderr, "%s is accepted for %d hours: docket dead-letters such rows. To end that: docket dlq guard revoke %s\n",
		printable(g.Fingerprint), hours, printable(g.Fingerprint),
	)
	return printGuard(out.Stdout, answer, g.Output)
}

// Run ends an acceptance and lists what there is then.
func (g *GuardRevoke) Run(ctx context.Context, out Out) error {
	answer, err := g.remove(ctx, guardPath+"/acceptances/"+url.PathEscape(g.Fingerprint))
	if err != nil {
		return err
	}
	fmt.Fprintf(out.Stderr, "%s is no longer accepted.\n", printable(g.Fingerprint))
	return printGuard(out.Stdout, answer, g.Output)
}

func printGuard(w io.Writer, answer []byte, output string) error {
	if output != "table" {
		return printJSON(w, json.RawMessage(answer), output)
	}
	g, err := read[api.Guard](answer)
	if err != nil {
		return err
	}
	state := "The dead-letter guard is off: rejected rows are dead-lettered."
	if g.On {
		state = "The dead-letter guard is on: rejected rows are held instead of dead-lettered,\nuntil their cause is fixed " +
			"or their fingerprints are accepted."
	}
	fmt.Fprintf(
		w,
		"%s\nWithin ten minutes the store judged %d rows. It rejected %d of them\nwith fingerprints that nobody has "+
			"accepted.\n",
		state,
		g.Judged,
		g.Rejected,
	)
	if len(g.Items) == 0 {
		return nil
	}
	fmt.Fprintln(w)
	t := newTable(w, "FINGERPRINT", "ROWS", "TENANT", "CLASS", "CODE", "PATH", "ACCEPTED", "ERROR")
	for _, i := range g.Items {
		accepted := "no"
		if !i.AcceptedUntil.IsZero() {
			accepted = "by " + cmp.Or(string(i.AcceptedBy), "somebody") + ": " + string(i.AcceptedComment)
		}
		t.row(i.Fingerprint, count(i.Rows), i.Tenant, string(i.Class), string(i.Code), string(i.Path), short(accepted, 40),
			short(i.Error, 100))
	}
	return t.flush()
}
