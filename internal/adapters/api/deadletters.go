package api

import (
	"encoding/hex"
	"encoding/json"
	"strings"

	"github.com/docket-project/docket/internal/domain"
)

// Runbook is where people read what to do.
const Runbook = "https://github.com/docket-project/docket/blob/main/docs/runbook.md"

// runbookOf is the part of the runbook about a cause.
func runbookOf(c domain.Cause) string { return Runbook + "#" + string(c) }

// DeadLetter is a dead letter.
type DeadLetter struct {
	ID            string           `json:"id"`
	State         domain.DeadState `json:"state"`
	Class         domain.Class     `json:"class"`
	Code          Text             `json:"code"`
	Cause         domain.Cause     `json:"cause"`
	Error         Text             `json:"error"`
	Fingerprint   string           `json:"fingerprint"`
	Attempts      int              `json:"attempts"`
	Tenant        string           `json:"tenant"`
	DecisionID    Text             `json:"decision_id"`
	Path          Text             `json:"path"`
	Timestamp     Instant          `json:"timestamp"`
	ReceivedAt    Instant          `json:"received_at"`
	FirstFailedAt Instant          `json:"first_failed_at"`
	DiedAt        Instant          `json:"died_at"`
	ChangedAt     Instant          `json:"changed_at"`
	Topic         string           `json:"topic"`
	Partition     int32            `json:"partition"`
	Offset        int64            `json:"offset"`
	Copies        int              `json:"copies"`
	Bytes         int              `json:"bytes"`
	SHA256        string           `json:"sha256"`
	Upload        Text             `json:"upload"`
	Origin        Text             `json:"origin"`
	Replay        Text             `json:"replay"`
	Replays       int              `json:"replays"`
	Runbook       string           `json:"runbook"`
}

// DeadLetterOf is a dead letter as the index knows it.
func DeadLetterOf(l domain.DeadLetter) DeadLetter {
	return DeadLetter{
		ID:            l.ID,
		State:         l.State,
		Class:         l.Class,
		Code:          Text(l.Code),
		Cause:         l.Cause,
		Error:         Text(l.Error),
		Fingerprint:   l.Fingerprint,
		Attempts:      l.Attempts,
		Tenant:        l.Tenant,
		DecisionID:    Text(l.DecisionID),
		Path:          Text(l.Path),
		Timestamp:     At(l.Timestamp),
		ReceivedAt:    At(l.ReceivedAt),
		FirstFailedAt: At(l.FirstFailedAt),
		DiedAt:        At(l.DiedAt),
		ChangedAt:     At(l.ChangedAt),
		Topic:         l.Topic,
		Partition:     l.Partition,
		Offset:        l.Offset,
		Copies:        l.Copies,
		Bytes:         l.Bytes,
		SHA256:        hex.EncodeToString(l.SHA256[:]),
		Upload:        Text(l.Upload),
		Origin:        Text(l.Origin),
		Replay:        Text(l.Replay),
		Replays:       l.Replays,
		Runbook:       runbookOf(l.Cause),
	}
}

// DeadLetterWithBytes is a dead letter with its newest copy's headers, and its event or the beginning of its bytes.
type DeadLetterWithBytes struct {
	DeadLetter
	Available bool              `json:"available"`
	ReadError Text              `json:"read_error"`
	Headers   map[string]string `json:"headers"`
	Preview   Text              `json:"preview"`
}

// DeadLetterWithEvent is what is read of one.
type DeadLetterWithEvent struct {
	DeadLetterWithBytes
	Event json.RawMessage `json:"event"`
}

// HeadersOf spells a record's headers by name.
func HeadersOf(h domain.Headers) map[string]string {
	out := map[string]string{}
	for _, header := range h.Encode() {
		out[header.Name] = strings.ToValidUTF8(header.Value, "\uFFFD")
	}
	return out
}

// DeadGroup is a group of dead letters: what failed in one way.
type DeadGroup struct {
	Fingerprint string       `json:"fingerprint"`
	Count       int64        `json:"count"`
	Open        int64        `json:"open"`
	Replayed    int64        `json:"replayed"`
	Discarded   int64        `json:"discarded"`
	Stored      int64        `json:"stored"`
	Class       domain.Class `json:"class"`
	Code        Text         `json:"code"`
	Cause       domain.Cause `json:"cause"`
	Error       Text         `json:"error"`
	Path        Text         `json:"path"`
	FirstSeen   Instant      `json:"first_seen"`
	LastSeen    Instant      `json:"last_seen"`
	Sample      string       `json:"sample"`
	Runbook     string       `json:"runbook"`
}

// DeadGroupOf is a group.
func DeadGroupOf(g domain.DeadGroup) DeadGroup {
	out := DeadGroup{
		Fingerprint: g.Fingerprint, Open: g.Letters[domain.DeadOpen], Replayed: g.Letters[domain.DeadReplayed],
		Discarded: g.Letters[domain.DeadDiscarded], Stored: g.Letters[domain.DeadStored], Class: g.Class,
		Code: Text(g.Code), Cause: g.Cause, Error: Text(g.Text), Path: Text(g.Path), FirstSeen: At(g.First),
		LastSeen: At(g.Last), Sample: g.Sample, Runbook: runbookOf(g.Cause),
	}
	out.Count = out.Open + out.Replayed + out.Discarded + out.Stored
	return out
}

// Guard is the dead-letter guard, and what the store rejected lately.
type Guard struct {
	On            bool        `json:"on"`
	Judged        int64       `json:"judged"`
	Rejected      int64       `json:"rejected"`
	WithinSeconds float64     `json:"within_seconds"`
	Items         []Rejection `json:"items"`
}

// Rejection is one way in which the store rejected rows.
type Rejection struct {
	Fingerprint     string       `json:"fingerprint"`
	Tenant          string       `json:"tenant"`
	Class           domain.Class `json:"class"`
	Code            Text         `json:"code"`
	Error           string       `json:"error"`
	Path            Text         `json:"path"`
	Rows            int64        `json:"rows"`
	AcceptedAt      Instant      `json:"accepted_at"`
	AcceptedUntil   Instant      `json:"accepted_until"`
	AcceptedBy      Text         `json:"accepted_by"`
	AcceptedComment Text         `json:"accepted_comment"`
}

// AcceptRequest asks to accept a fingerprint.
type AcceptRequest struct {
	Fingerprint string `json:"fingerprint"`
	Comment     string `json:"comment"`
}

// maxGuardItems is the most rejections that are listed; the sums are of all.
const maxGuardItems = 1000

// GuardOf is a report.
func GuardOf(r domain.RejectionReport) Guard {
	out := Guard{
		On: r.On, Judged: r.Judged, Rejected: r.Rejected(), WithinSeconds: domain.GuardSpan.Seconds(),
		Items: make([]Rejection, 0, len(r.Rejections)),
	}
	for _, b := range r.Rejections[:min(len(r.Rejections), maxGuardItems)] {
		item := Rejection{
			Fingerprint: b.Fingerprint, Tenant: b.Tenant, Class: b.Class, Code: Text(b.Code), Error: b.Text, Path: Text(b.Path),
			Rows: b.Rows,
		}
		if a, ok := r.Acceptance(b); ok {
			item.AcceptedAt, item.AcceptedUntil = At(a.At), At(a.Until)
			item.AcceptedBy, item.AcceptedComment = Text(a.Caller), Text(a.Comment)
		}
		out.Items = append(out.Items, item)
	}
	return out
}
