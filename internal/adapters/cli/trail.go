package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/docket-project/docket/internal/adapters/api"
	"github.com/docket-project/docket/internal/trail"
)

// Trail is `docket trail ID`.
type Trail struct {
	Console `embed:""`
	Form    `embed:""`
	OPA     string `name:"opa" help:"The OPA instance (labels.id) that made it, to learn when anything last came from there."`
	Scan    bool   `help:"Go on where more waits in the log than docket looks at in three seconds."`
	ID      string `arg:"" name:"ID" help:"The decision_id."`
}

// Run follows one decision.
func (t *Trail) Run(ctx context.Context, out Out) error {
	query := url.Values{}
	if t.OPA != "" {
		query.Set("opa", t.OPA)
	}
	var body []byte
	var answer api.Trail
	for looked := int64(0); ; {
		var err error
		if body, err = t.get(ctx, "/api/v1/decisions/"+url.PathEscape(t.ID)+"/trail", query); err != nil {
			return err
		}
		if answer, err = read[api.Trail](body); err != nil {
			return err
		}
		left, read := int64(0), int64(0)
		for _, s := range answer.Searched {
			left, read = left+s.Left, read+s.LookedAt
		}
		looked += read
		if !t.Scan || answer.NextCursor == "" || read == 0 {
			break
		}
		if out.Terminal {
			fmt.Fprintf(out.Stderr, "%d records looked at, %d left\n", looked, left)
		}
		query.Set("cursor", string(answer.NextCursor))
	}
	var err error
	if t.Output != "table" {
		err = printJSON(out.Stdout, json.RawMessage(body), t.Output)
	} else {
		err = printTrail(out.Stdout, answer)
	}
	switch {
	case err != nil:
		return err
	case answer.State == trail.NotFound:
		return fail(ExitNotFound, "decision %s was not found", t.ID)
	case answer.State == trail.Unknown && answer.NextCursor != "" && !t.Scan:
		return fail(ExitUnavailable, "decision %s was not found yet, and more records wait: --scan goes on", t.ID)
	case answer.State == trail.Unknown:
		return fail(
			ExitUnavailable, "decision %s cannot be looked for now: try again when docket status shows nothing wrong",
			t.ID,
		)
	}
	return nil
}

func printTrail(w io.Writer, a api.Trail) error {
	fmt.Fprintf(
		w, "%s: %s\n", strings.ToUpper(strings.ReplaceAll(printable(string(a.State)), "_", " ")), printable(a.Message),
	)
	if len(a.Stored)+len(a.Waiting)+len(a.Dead)+len(a.Searched) == 0 {
		return nil
	}
	fmt.Fprintln(w)
	t := newTable(w, "WHERE", "TENANT", "SINCE", "WHAT")
	for _, s := range a.Stored {
		late := time.Duration(s.LateSeconds * float64(time.Second)).Round(time.Millisecond)
		t.row(
			"stored", s.Tenant, stamp(s.SavedAt),
			fmt.Sprintf("%s; received %s, saved %s later", s.Outcome, stamp(s.ReceivedAt), late),
		)
	}
	for _, f := range a.Waiting {
		what := "waits for the " + f.Stage
		if f.Attempt > 0 {
			what += fmt.Sprintf(", after %d failed attempts", f.Attempt)
		}
		if !f.NotBefore.IsZero() {
			what += ", not before " + stamp(f.NotBefore)
		}
		if f.Error != "" {
			what += ": " + string(f.Error)
		}
		t.row(fmt.Sprintf("%s/%d/%d", f.Topic, f.Partition, f.Offset), f.Tenant, stamp(f.WrittenAt), short(what, 160))
	}
	for _, d := range a.Dead {
		t.row(
			d.ID, d.Tenant, stamp(d.DiedAt),
			fmt.Sprintf("dead letter, %s: %s", d.State, short(cmp.Or(string(d.Error), string(d.Cause)), 120)),
		)
	}
	for _, s := range a.Searched {
		if s.LookedAt+s.Left == 0 && s.Error == "" && a.State != trail.NotFound {
			continue
		}
		what := strconv.FormatInt(s.LookedAt, 10) + " records looked at"
		if s.Left > 0 {
			what += fmt.Sprintf(", %d were not", s.Left)
		}
		if s.Error != "" {
			what += "; docket cannot read it: " + string(s.Error)
		}
		t.row(fmt.Sprintf("%s/%d", s.Topic, s.Partition), "", "", what)
	}
	return t.flush()
}
