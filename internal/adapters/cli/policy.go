package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/policy"
)

// PolicyTest is `docket policy test FILE…`. It asks no server: the configuration has the policies.
type PolicyTest struct {
	Form   `embed:""`
	Tenant string   `help:"The tenant that uploads." default:"default" placeholder:"NAME"`
	Files  []string `arg:"" name:"FILE" help:"Files of events as OPA uploads them: an array, one object, or NDJSON; gzip or not; - is standard input."`
}

// policed is an event with what policies make of it.
type policed struct {
	DecisionID string `json:"decision_id"`
	// Result is kept, dropped, or quarantined with Reason.
	Result string       `json:"result"`
	Reason domain.Cause `json:"reason,omitempty"`
	// Outcome is that of the event as it came, which samples go by, and Stored that of what is kept.
	Outcome domain.Outcome `json:"outcome,omitempty"`
	Stored  domain.Outcome `json:"stored_outcome,omitempty"`
	// Policies say what was done, as POLICY: ACTION.
	Policies []string `json:"policies"`
	// Event is what is kept, and Erased and Masked its lists of those names.
	Erased []string        `json:"erased"`
	Masked []string        `json:"masked"`
	Event  json.RawMessage `json:"event"`
}

// Policies are what the configuration says of uploads.
type Policies struct {
	// Content is nil without policies.
	Content   *policy.Content
	Projector *domain.Projector
	Limits    domain.Limits
}

// Test prints what is kept of every event of every file.
func (p PolicyTest) Test(out Out, by Policies) error {
	if by.Content.Upload(p.Tenant, 0, false) == nil {
		fmt.Fprintf(
			out.Stderr, "docket: no policy of the configuration says anything of events of the tenant %s (--tenant)\n",
			printable(p.Tenant),
		)
	}
	return tryEvents(out, p.Output, p.Files, p.print, func(_ int, event []byte) (policed, error) {
		return p.try(by, event)
	})
}

// try has one event split and judged as an upload of it would be.
func (p PolicyTest) try(by Policies, event []byte) (one policed, err error) {
	body := append(append([]byte{'['}, event...), ']')
	batch, err := domain.ParseBatch(context.Background(), bytes.NewReader(body), len(body), by.Limits)
	if err != nil {
		return one, err
	}
	one = policed{Result: "kept", Policies: []string{}, Erased: []string{}, Masked: []string{}}
	kept, keep := policy.Kept{Raw: event}, true
	upload := by.Content.Upload(p.Tenant, batch.Bytes, false)
	switch {
	case len(batch.Quarantined) > 0:
		one.Result, one.Reason = "quarantined", batch.Quarantined[0].Cause
		if raw := batch.Quarantined[0].Raw; upload != nil && raw == nil {
			keep = upload.Body()
		} else if upload != nil {
			kept, keep = upload.Quarantined(raw)
		}
	case upload != nil:
		one.DecisionID = batch.Events[0].ID
		kept, keep = upload.Event(batch.Events[0])
	default:
		one.DecisionID = batch.Events[0].ID
	}
	if one.Reason == "" {
		one.Outcome = by.Projector.Project(domain.Record{Value: event}).Outcome
	}
	if one.Reason == "" && keep {
		one.Stored = by.Projector.Project(domain.Record{Value: kept.Raw}).Outcome
	}
	if !keep {
		one.Result = "dropped"
	}
	if upload != nil {
		for done := range maps.Keys(upload.Tally) {
			one.Policies = append(one.Policies, done.Policy+": "+string(done.Action))
		}
		slices.Sort(one.Policies)
	}
	if !keep {
		return one, nil
	}
	if kept.Masked && one.DecisionID != "" && !batch.Events[0].Named {
		one.DecisionID = domain.HashID(kept.Raw)
	}
	if json.Valid(kept.Raw) {
		one.Event = kept.Raw
		var lists struct{ Erased, Masked []string }
		if json.Unmarshal(kept.Raw, &lists) == nil {
			one.Erased, one.Masked = append(one.Erased, lists.Erased...), append(one.Masked, lists.Masked...)
		}
	}
	return one, nil
}

func (p PolicyTest) print(w io.Writer, one policed) error {
	verdict := strings.ToUpper(one.Result)
	if one.Reason != "" {
		verdict += "  " + string(one.Reason)
	}
	fmt.Fprintln(w, verdict)
	t := newTable(w)
	outcome := string(one.Outcome)
	if one.Stored != "" && one.Stored != one.Outcome {
		outcome = fmt.Sprintf("%s, before the masks %s", one.Stored, one.Outcome)
	}
	t.pair("  outcome", outcome)
	t.pair("  policies", strings.Join(one.Policies, ", "))
	t.pair("  erased", strings.Join(one.Erased, ", "))
	t.pair("  masked", strings.Join(one.Masked, ", "))
	t.pair("  decision", one.DecisionID)
	if err := t.flush(); err != nil {
		return err
	}
	if one.Event != nil {
		fmt.Fprintf(w, "  %s\n", printable(string(one.Event)))
	}
	return nil
}
