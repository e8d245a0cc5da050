package api

import (
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/docket-project/docket/internal/domain"
)

// Words are those of the API that stand where the id of a decision does. They match the path as it is escaped: an id
// that is one of them is asked for with one of its letters percent-encoded.
var Words = []string{"compare", "contrast", "export", "fields", "stats", "tail"}

// Found is what a page of decisions says of the search: where the page in front of it is, how many it has looked at,
// and whether there was time for all that it had to look at up to the end of the page. Where there was not, NextCursor
// goes on (PrevCursor, on the way back).
type Found struct {
	PrevCursor Text `json:"prev_cursor"`
	LookedAt   int  `json:"looked_at"`
	Complete   bool `json:"complete"`
}

// SpellDecisions makes the JSON of a page of decisions, which is a Page and a Found.
func SpellDecisions(page domain.Page) []byte {
	spelled := SpellPage(page.Items, page.Next, domain.CursorOf, DecisionOf)
	out := Found{LookedAt: page.LookedAt, Complete: page.Complete}
	if page.Prev != nil {
		out.PrevCursor = Text(page.Prev.String())
	}
	found := Marshal(out)
	return slices.Concat(spelled[:len(spelled)-1], []byte(","), found[1:])
}

// Decision is a decision.
type Decision struct {
	DecisionID  string            `json:"decision_id"`
	Time        Instant           `json:"time"`
	Timestamp   Instant           `json:"timestamp"`
	ReceivedAt  Instant           `json:"received_at"`
	SavedAt     Instant           `json:"saved_at"`
	Tenant      string            `json:"tenant"`
	Path        Text              `json:"path"`
	Outcome     domain.Outcome    `json:"outcome"`
	Reason      Text              `json:"reason"`
	Principal   Text              `json:"principal"`
	Action      Text              `json:"action"`
	Resource    Text              `json:"resource"`
	OPA         Text              `json:"opa"`
	App         Text              `json:"app"`
	Bundles     map[string]Bundle `json:"bundles"`
	TraceID     Text              `json:"trace_id"`
	BatchID     Text              `json:"batch_decision_id"`
	RequestedBy Text              `json:"requested_by"`
	Error       Text              `json:"error"`
	// Masked names the columns that a mask of OPA's replaced.
	Masked []string `json:"masked,omitempty"`
}

// Bundle has the shape of a bundle in OPA's own events.
type Bundle struct {
	Revision string `json:"revision"`
}

// DecisionOf is a decision without its event.
func DecisionOf(d domain.Decision) Decision {
	out := Decision{
		DecisionID: d.ID, Time: At(d.Time()), Timestamp: At(d.Timestamp), ReceivedAt: At(d.ReceivedAt),
		SavedAt: At(d.SavedAt), Tenant: d.Tenant, Path: Text(d.Path), Outcome: d.Outcome, Reason: Text(d.Reason),
		Principal: Text(d.Principal), Action: Text(d.Action), Resource: Text(d.Resource), OPA: Text(d.OPA),
		App: Text(d.App), Bundles: map[string]Bundle{}, TraceID: Text(d.TraceID), BatchID: Text(d.BatchID),
		RequestedBy: Text(d.RequestedBy),
		Error:       Text(d.Error),
	}
	if d.Masked != "" {
		out.Masked = strings.Split(d.Masked, ", ")
	}
	for _, b := range d.Bundles {
		out.Bundles[b.Name] = Bundle{b.Revision}
	}
	return out
}

// DecisionWithEvent is what is read of a decision with its event and of others with the same id.
type DecisionWithEvent struct {
	Decision
	Event json.RawMessage `json:"event"`
	Also  []Decision      `json:"also"`
}

// SpellDecision spells a decision, its event with every byte as sent, and others of the same id.
func SpellDecision(d domain.Decision, also []domain.Decision) []byte {
	out := With(Marshal(DecisionOf(d)), "event", d.Event)
	if len(also) > 0 {
		out = With(out, "also", Marshal(ItemsOf(also, DecisionOf).Items))
	}
	return out
}

// OPA is an OPA of the inventory.
type OPA struct {
	Tenant          string          `json:"tenant"`
	OPA             string          `json:"opa"`
	State           domain.OPAState `json:"state"`
	App             Text            `json:"app"`
	Version         Text            `json:"version"`
	FirstUpload     Instant         `json:"first_upload"`
	LastUpload      Instant         `json:"last_upload"`
	IntervalSeconds *float64        `json:"interval_seconds"`
	Uploads         int64           `json:"uploads"`
	Events          int64           `json:"events"`
	StatusAt        Instant         `json:"status_at"`
	Status          json.RawMessage `json:"status"`
	// StatusLeftOut says that there is a status for which this answer had no room.
	StatusLeftOut bool `json:"status_left_out,omitempty"`
	Hint          Text `json:"hint"`
	// Revisions are those of its bundles, Errors what it could not do, and Dropped how many decisions it dropped, all as
	// its newest status report says; null without.
	Revisions map[string]string `json:"revisions"`
	Errors    []string          `json:"errors"`
	Dropped   *int64            `json:"dropped"`
}

// slowHint explains the most frequent cause of decisions that seem to be missing.
const slowHint = "uploads are minutes apart, as with OPA's default delays of 300 to 600 s: " +
	"set decision_logs.reporting.min_delay_seconds to 1 and max_delay_seconds to 5"

// OPAOf is an OPA, and a hint where it seems to upload rarely for no reason.
func OPAOf(o domain.OPA, now time.Time) OPA {
	out := OPA{
		Tenant: o.Tenant, OPA: o.OPA, State: o.State(now), App: Text(o.App), Version: Text(o.Version),
		FirstUpload: At(o.First), LastUpload: At(o.Last),
		Uploads: o.Uploads, Events: o.Events, StatusAt: At(o.StatusAt),
	}
	if o.Interval > 0 {
		s := o.Interval.Seconds()
		out.IntervalSeconds = &s
	}
	if json.Valid(o.Status) {
		out.Status = o.Status
		out.Revisions, out.Errors, out.Dropped = readStatus(o.Status)
	}
	out.StatusLeftOut = o.Status == nil && !o.StatusAt.IsZero()
	if o.Slow() {
		out.Hint = slowHint
	}
	return out
}
