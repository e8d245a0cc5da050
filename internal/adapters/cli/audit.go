package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"strconv"

	"github.com/docket-project/docket/internal/adapters/api"
)

// Audit is `docket audit`.
type Audit struct {
	Console `embed:""`
	Form    `embed:""`
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
	t := newTable(
		out.Stdout, "AT", "CALLER", "WHAT", "TARGET", "MATCHED", "DONE", "FAILED", "COMMENT", "FILTER", "CAME OF IT",
	)
	for _, i := range items {
		e, err := read[api.AuditEntry](i)
		if err != nil {
			return err
		}
		values, err := url.ParseQuery(e.Filter)
		if err != nil {
			values = url.Values{"filter": {e.Filter}}
		}
		t.row(
			t.when(e.At), e.Caller, e.Action, e.Target, count(e.Matched), count(e.Done), count(e.Failed), cut(t, e.Comment, 60),
			cut(t, filterText(values), 60), cut(t, e.Outcome, 80),
		)
	}
	return t.flush()
}
