package api

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"time"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/trail"
)

// Trail is where a decision is.
type Trail struct {
	DecisionID         string       `json:"decision_id"`
	State              trail.State  `json:"state"`
	Message            string       `json:"message"`
	Stored             []Stored     `json:"stored"`
	Waiting            []Waiting    `json:"waiting"`
	Dead               []DeadLetter `json:"dead"`
	Searched           []Searched   `json:"searched"`
	LastUpload         *LastUpload  `json:"last_upload"`
	QuarantinedUploads int64        `json:"quarantined_uploads"`
	LostRecords        int64        `json:"lost_records"`
	// NextCursor goes on with the search where more waits than was looked at.
	NextCursor Text `json:"next_cursor"`
}

// Stored is a row.
type Stored struct {
	Tenant      string         `json:"tenant"`
	Time        Instant        `json:"time"`
	Timestamp   Instant        `json:"timestamp"`
	ReceivedAt  Instant        `json:"received_at"`
	SavedAt     Instant        `json:"saved_at"`
	LateSeconds float64        `json:"late_seconds"`
	Outcome     domain.Outcome `json:"outcome"`
}

// Waiting is a record in the log.
type Waiting struct {
	Stage         string  `json:"stage"`
	Topic         string  `json:"topic"`
	Partition     int32   `json:"partition"`
	Offset        int64   `json:"offset"`
	Tenant        string  `json:"tenant"`
	ReceivedAt    Instant `json:"received_at"`
	WrittenAt     Instant `json:"written_at"`
	Attempt       int     `json:"attempt"`
	NotBefore     Instant `json:"not_before"`
	FirstFailedAt Instant `json:"first_failed_at"`
	ErrorClass    Text    `json:"error_class"`
	ErrorCode     Text    `json:"error_code"`
	Error         Text    `json:"error"`
	Replay        Text    `json:"replay"`
}

// Searched is how far a stage was looked at.
type Searched struct {
	Stage     string  `json:"stage"`
	Topic     string  `json:"topic"`
	Partition int32   `json:"partition"`
	LookedAt  int64   `json:"looked_at"`
	Left      int64   `json:"left"`
	OldestAt  Instant `json:"oldest_at"`
	Complete  bool    `json:"complete"`
	Error     Text    `json:"error"`
}

// LastUpload is when anything last came.
type LastUpload struct {
	Tenant string  `json:"tenant"`
	OPA    string  `json:"opa"`
	At     Instant `json:"at"`
}

// ParseTrailCursor reads a next_cursor: by topic, where the look before stopped.
func ParseTrailCursor(s string) (from map[string]int64, err error) {
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err == nil {
		err = json.Unmarshal(b, &from)
	}
	if err != nil {
		return nil, fmt.Errorf("%.40q is not one of docket's: pass on next_cursor unchanged", s)
	}
	return from, nil
}

// TrailOf is a report.
func TrailOf(r trail.Report) Trail {
	out := Trail{
		DecisionID: r.ID, State: r.State, Message: wordTrail(&r), QuarantinedUploads: r.QuarantinedUploads,
		LostRecords: r.LostRecords(),
		Stored:      ItemsOf(r.Rows, storedOf).Items, Waiting: ItemsOf(r.Waiting, waitingOf).Items,
		Dead: ItemsOf(r.Dead, DeadLetterOf).Items, Searched: ItemsOf(r.Search, searchedOf).Items,
	}
	if r.State == trail.Unknown && r.StoreErr == nil {
		next := map[string]int64{}
		for _, s := range r.Search {
			next[s.Topic] = s.Next
		}
		out.NextCursor = Text(base64.RawURLEncoding.EncodeToString(Marshal(next)))
	}
	if o := r.LastUpload; o != nil {
		out.LastUpload = &LastUpload{Tenant: o.Tenant, OPA: o.OPA, At: At(o.Last)}
	}
	return out
}

func storedOf(d domain.Decision) Stored {
	return Stored{
		Tenant: d.Tenant, Time: At(d.Time()), Timestamp: At(d.Timestamp), ReceivedAt: At(d.ReceivedAt),
		SavedAt: At(d.SavedAt), LateSeconds: late(&d).Seconds(), Outcome: d.Outcome,
	}
}

func waitingOf(f trail.Found) Waiting {
	h := f.Headers
	return Waiting{
		Stage: f.Stage, Topic: f.Topic, Partition: f.Partition, Offset: f.Offset, Tenant: h.Tenant,
		ReceivedAt: At(h.ReceivedAt), WrittenAt: At(f.WrittenAt), Attempt: h.Attempt, NotBefore: At(h.NotBefore),
		FirstFailedAt: At(h.FirstFailedAt), ErrorClass: Text(h.ErrorClass), ErrorCode: Text(h.ErrorCode),
		Error: Text(h.Error), Replay: Text(h.Replay),
	}
}

func searchedOf(s trail.Search) Searched {
	out := Searched{
		Stage: s.Stage, Topic: s.Topic, Partition: s.Partition, LookedAt: s.LookedAt, Left: s.Left(), OldestAt: At(s.Oldest),
		Complete: s.Left() == 0 && s.Err == nil,
	}
	if s.Err != nil {
		out.Error = Text(s.Err.Error())
	}
	return out
}

func late(d *domain.Decision) time.Duration { return max(d.SavedAt.Sub(d.ReceivedAt), 0) }

// wordTrail says what a report amounts to.
func wordTrail(r *trail.Report) string {
	sentence := wordState(r)
	if !r.Explained {
		return sentence
	}
	clauses := []string{sentence}
	switch {
	case r.LastUpload != nil:
		clauses = append(
			clauses,
			fmt.Sprintf("The last upload of %s came at %s", nameOf(r.LastUpload.OPA), stamp(r.LastUpload.Last)),
		)
	case r.OPA != "":
		clauses = append(
			clauses,
			fmt.Sprintf("Nothing has ever come from an OPA with the id %q (docket status lists those that are known)", r.OPA),
		)
	default:
		clauses = append(clauses, "Nothing has ever come from any OPA")
	}
	if r.QuarantinedUploads > 0 {
		clauses = append(
			clauses,
			fmt.Sprintf("%d uploads were quarantined because they could not be read to their end, and may have had it "+
				"(docket dlq groups)", r.QuarantinedUploads),
		)
	}
	return joined(clauses...)
}

func wordState(r *trail.Report) string {
	switch r.State {
	case trail.Stored:
		row := &r.Rows[0]
		return fmt.Sprintf(
			"it is stored: received %s, saved %s later", stamp(row.ReceivedAt), late(row).Round(time.Millisecond),
		)
	case trail.Waiting:
		f := r.Waiting[0]
		sentence := fmt.Sprintf("it waits in %s for the %s, since %s", f.Topic, f.Stage, stamp(f.WrittenAt))
		if f.Headers.ErrorClass != "" {
			sentence += fmt.Sprintf("; it was parked because: %s", f.Headers.Error)
		}
		return sentence
	case trail.Dead:
		if len(r.Waiting) > 0 {
			f := r.Waiting[0]
			return fmt.Sprintf("it is a dead letter, %s, that is not indexed yet: %s", f.Position(),
				cmp.Or(f.Headers.Error, string(f.Headers.Reason)))
		}
		l := r.DeadIn(domain.DeadOpen)
		return fmt.Sprintf("it is a dead letter, %s: %s (%s)", l.ID, l.Cause,
			cmp.Or(l.Error, "the upload had no such decision that could be taken"))
	case trail.Replayed:
		l := r.DeadIn(domain.DeadReplayed)
		return fmt.Sprintf(
			"it was a dead letter, %s, and is on its way again: job %s replayed it at %s", l.ID, l.Replay, stamp(l.ChangedAt),
		)
	case trail.Discarded:
		l := r.DeadIn(domain.DeadDiscarded)
		return fmt.Sprintf("it is a dead letter, %s, that job %s discarded at %s", l.ID, l.Replay, stamp(l.ChangedAt))
	case trail.NotFound:
		if n := r.LostRecords(); n > 0 {
			return fmt.Sprintf(
				"it is not stored, does not wait, and is no dead letter. It may be among the %d records that the log has lost of "+
					"the partitions that it would have been in, the last of them as of %s; or docket has never received it, or its "+
					"record has passed the retention", n, stamp(r.Lost[0].At),
			)
		}
		return "docket has never received it, a policy has left it out, an operator has erased it, or its record has " +
			"passed the retention: it is not stored, does not wait, and is no dead letter"
	case trail.Unknown:
	}
	left, broken := r.Left()
	switch {
	case r.StoreErr != nil && !r.Explained:
		return "docket cannot say whether it is stored, because the store does not answer; it does not wait in the log, as " +
			"far as that was read: " +
			r.StoreErr.Error()
	case broken != nil:
		return "it is not stored, and docket cannot read what waits in the log: " + broken.Error()
	default:
		return fmt.Sprintf(
			"it is not stored and no dead letter; it may be among %d records that wait and were not looked at%s", left,
			oldest(r.Search),
		)
	}
}

func nameOf(opa string) string {
	if opa == "" {
		return "an OPA without labels.id"
	}
	return fmt.Sprintf("OPA %q", opa)
}

func oldest(searches []trail.Search) string {
	var first time.Time
	for _, s := range searches {
		if s.Left() > 0 && !s.Oldest.IsZero() && (first.IsZero() || s.Oldest.Before(first)) {
			first = s.Oldest
		}
	}
	if first.IsZero() {
		return ""
	}
	return ", the oldest of them of " + stamp(first)
}
