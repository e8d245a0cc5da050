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
)

// Trail is `docket trail ID`.
type Trail struct {
	Console `embed:""`
	Output  string `short:"o" help:"How to print: table, json or ndjson." enum:"table,json,ndjson" default:"table"`
	OPA     string `name:"opa" help:"The OPA instance (labels.id) that made it, to learn when anything last came from there."`
	Scan    bool   `help:"Go on where more waits in the log than is looked at in three seconds."`
	ID      string `arg:"" name:"ID" help:"The decision_id."`
}

type trail struct {
	DecisionID string `json:"decision_id"`
	State      string `json:"state"`
	Message    string `json:"message"`
	Stored     []struct {
		Tenant      string     `json:"tenant"`
		ReceivedAt  *time.Time `json:"received_at"`
		SavedAt     *time.Time `json:"saved_at"`
		LateSeconds float64    `json:"late_seconds"`
		Outcome     string     `json:"outcome"`
	} `json:"stored"`
	Waiting []struct {
		Stage     string     `json:"stage"`
		Topic     string     `json:"topic"`
		Partition int32      `json:"partition"`
		Offset    int64      `json:"offset"`
		Tenant    string     `json:"tenant"`
		WrittenAt *time.Time `json:"written_at"`
		Attempt   int        `json:"attempt"`
		NotBefore *time.Time `json:"not_before"`
		Error     string     `json:"error"`
	} `json:"waiting"`
	Dead     []dead `json:"dead"`
	Searched []struct {
		Stage     string `json:"stage"`
		Topic     string `json:"topic"`
		Partition int32  `json:"partition"`
		LookedAt  int64  `json:"looked_at"`
		Left      int64  `json:"left"`
		Error     string `json:"error"`
	} `json:"searched"`
	NextCursor *string `json:"next_cursor"`
}

// Run follows one decision.
func (t *Trail) Run(ctx context.Context, out Out) error {
	query := url.Values{}
	if t.OPA != "" {
		query.Set("opa", t.OPA)
	}
	var body []byte
	var answer trail
	for looked := int64(0); ; {
		var err error
		if body, err = t.get(ctx, "/api/v1/decisions/"+url.PathEscape(t.ID)+"/trail", query); err != nil {
			return err
		}
		if answer, err = read[trail](body); err != nil {
			return err
		}
		left, read := int64(0), int64(0)
		for _, s := range answer.Searched {
			left, read = left+s.Left, read+s.LookedAt
		}
		looked += read
		if !t.Scan || answer.NextCursor == nil || read == 0 {
			break
		}
		if out.Terminal {
			fmt.Fprintf(out.Stderr, "%d records looked at, %d left\n", looked, left)
		}
		query.Set("cursor", *answer.NextCursor)
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
	case answer.State == "not_found":
		return fail(ExitNotFound, "decision %s was not found", t.ID)
	case answer.State == "unknown" && answer.NextCursor != nil && !t.Scan:
		return fail(ExitUnavailable, "where decision %s is cannot be told for now; --scan looks on", t.ID)
	case answer.State == "unknown":
		return fail(ExitUnavailable, "where decision %s is cannot be told for now: try again once docket status shows nothing wrong", t.ID)
	}
	return nil
}

func printTrail(w io.Writer, a trail) error {
	fmt.Fprintf(w, "%s: %s\n", strings.ToUpper(strings.ReplaceAll(printable(a.State), "_", " ")), printable(a.Message))
	if len(a.Stored)+len(a.Waiting)+len(a.Dead)+len(a.Searched) == 0 {
		return nil
	}
	fmt.Fprintln(w)
	t := newTable(w, "WHERE", "TENANT", "SINCE", "WHAT")
	for _, s := range a.Stored {
		late := time.Duration(s.LateSeconds * float64(time.Second)).Round(time.Millisecond)
		t.row("stored", s.Tenant, stamp(s.SavedAt), fmt.Sprintf("%s; received %s, saved %s later", s.Outcome, stamp(s.ReceivedAt), late))
	}
	for _, f := range a.Waiting {
		what := "waits for the " + f.Stage
		if f.Attempt > 0 {
			what += fmt.Sprintf(", after %d failed attempts", f.Attempt)
		}
		if f.NotBefore != nil {
			what += ", not before " + stamp(f.NotBefore)
		}
		if f.Error != "" {
			what += ": " + f.Error
		}
		t.row(fmt.Sprintf("%s/%d/%d", f.Topic, f.Partition, f.Offset), f.Tenant, stamp(f.WrittenAt), short(what, 160))
	}
	for _, d := range a.Dead {
		t.row(d.ID, d.Tenant, stamp(d.DiedAt), fmt.Sprintf("dead letter, %s: %s", d.State, short(cmp.Or(d.Error, d.Reason), 120)))
	}
	for _, s := range a.Searched {
		if s.LookedAt+s.Left == 0 && s.Error == "" && a.State != "not_found" {
			continue
		}
		what := strconv.FormatInt(s.LookedAt, 10) + " records looked at"
		if s.Left > 0 {
			what += fmt.Sprintf(", %d were not", s.Left)
		}
		if s.Error != "" {
			what += "; it cannot be read: " + s.Error
		}
		t.row(fmt.Sprintf("%s/%d", s.Topic, s.Partition), "", "", what)
	}
	return t.flush()
}

// Audit is `docket audit`.
type Audit struct {
	Console `embed:""`
	Output  string `short:"o" help:"How to print: table, json or ndjson." enum:"table,json,ndjson" default:"table"`
	Until   string `help:"Only what happened before: RFC 3339, or a duration back."`
	Limit   int    `help:"The most entries to print." default:"100"`
}

// Run prints what operators did, page by page.
func (a *Audit) Run(ctx context.Context, out Out) error {
	if a.Limit < 1 {
		return fail(ExitUsage, "--limit %d: at least 1", a.Limit)
	}
	const page = 1000
	var items []json.RawMessage
	query := url.Values{}
	if a.Until != "" {
		query.Set("until", a.Until)
	}
	for more := true; more && len(items) < a.Limit; {
		want := min(page, a.Limit-len(items))
		query.Set("limit", strconv.Itoa(want))
		answer, err := a.get(ctx, "/api/v1/audit", query)
		if err != nil {
			return err
		}
		got, err := read[struct{ Items []json.RawMessage }](answer)
		if err != nil {
			return err
		}
		items = append(items, got.Items...)
		if more = len(got.Items) == want; more {
			last, err := read[struct{ At string }](got.Items[want-1])
			if err != nil {
				return err
			}
			query.Set("until", last.At)
		}
	}
	if len(items) == a.Limit {
		defer fmt.Fprintf(out.Stderr, "There may be more: raise --limit above %d.\n", a.Limit)
	}
	if a.Output != "table" {
		return printItems(out.Stdout, items, a.Output)
	}
	if len(items) == 0 {
		fmt.Fprintln(out.Stderr, "No operator has changed anything yet.")
		return nil
	}
	t := newTable(out.Stdout, "AT", "WHO", "ACTION", "TARGET", "MATCHED", "DONE", "FAILED", "REASON", "FILTER", "OUTCOME")
	for _, i := range items {
		e, err := read[struct {
			At                          *time.Time
			Who, Action, Target, Filter string
			Matched, Done, Failed       int64
			Reason, Outcome             string
		}](i)
		if err != nil {
			return err
		}
		values, err := url.ParseQuery(e.Filter)
		if err != nil {
			values = url.Values{"filter": {e.Filter}}
		}
		t.row(stamp(e.At), e.Who, e.Action, e.Target, count(e.Matched), count(e.Done), count(e.Failed), short(e.Reason, 60), short(filterText(values), 60), short(e.Outcome, 80))
	}
	return t.flush()
}
