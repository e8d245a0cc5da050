package domain

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Position is where a record stands in the log.
type Position struct {
	Topic     string
	Partition int32
	Offset    int64
}

// Position is where the record came from.
func (r Record) Position() Position { return Position{r.Topic, r.Partition, r.Offset} }

// String spells the position as dead letters are known by: topic:partition:offset.
func (p Position) String() string { return fmt.Sprintf("%s:%d:%d", p.Topic, p.Partition, p.Offset) }

// ParsePosition reads what String wrote.
func ParsePosition(s string) (Position, error) {
	if fields := strings.Split(s, ":"); len(fields) == 3 && fields[0] != "" {
		partition, err := strconv.ParseInt(fields[1], 10, 32)
		offset, offsetErr := strconv.ParseInt(fields[2], 10, 64)
		if err == nil && offsetErr == nil && partition >= 0 && offset >= 0 {
			return Position{fields[0], int32(partition), offset}, nil
		}
	}
	return Position{}, fmt.Errorf("%.100q is no id of a dead letter: they look like docket.dlq:3:1207", s)
}

// Compare orders positions as a log is read: by topic, partition and offset.
func (p Position) Compare(o Position) int {
	return cmp.Or(cmp.Compare(p.Topic, o.Topic), cmp.Compare(p.Partition, o.Partition), cmp.Compare(p.Offset, o.Offset))
}

// DeadState is what has become of a dead letter.
type DeadState string

// The states of a dead letter. Only the first asks something of a person.
const (
	// DeadOpen is a dead letter that no operator has dealt with, or that failed again after a replay.
	DeadOpen DeadState = "open"
	// DeadReplayed is one that was sent on its way again, and has neither come back nor been seen as a row.
	DeadReplayed DeadState = "replayed"
	// DeadDiscarded is one that an operator has discarded. Its bytes stay in the log until the topic's retention.
	DeadDiscarded DeadState = "discarded"
	// DeadStored is one whose bytes stand in a row.
	DeadStored DeadState = "stored"
)

// DeadStates lists every state.
var DeadStates = []DeadState{DeadOpen, DeadReplayed, DeadDiscarded, DeadStored}

// DeadLetter is a dead record as the index knows it. Copies, by tenant, hash of the bytes and class, are one.
type DeadLetter struct {
	// ID is the position of the first copy, and Position that of the newest, where the bytes are read.
	ID string
	Position
	State DeadState
	// Class, Code and Error tell the failure; Text is the error without what differs from row to row. Cause is why the
	// bytes were quarantined; Rejected or AttemptsExhausted for a row that the store did not take.
	Class Class
	Code  string
	Cause Cause
	Error string
	Text  string
	// Fingerprint is that of class, code, text and path.
	Fingerprint string
	// Attempts counts the failures that were the row's own.
	Attempts int
	Tenant   string
	// DecisionID is "" where the bytes name none, and Path the decision's.
	DecisionID string
	Path       string
	// Timestamp is the decision's, and with tenant and id the key of its row; zero where the bytes are no decision.
	Timestamp time.Time
	// Decision says that the bytes are one decision, and Whole that they are an upload as it came.
	Decision, Whole bool
	SHA256          [sha256.Size]byte
	Bytes           int
	// Upload is the hex hash of the upload, and Origin the record's first home.
	Upload, Origin string
	// DiedAt is when the newest copy was written to its topic, and ChangedAt when the state last changed.
	ReceivedAt, FirstFailedAt, DiedAt, IndexedAt, ChangedAt time.Time
	// Copies counts the records, at least.
	Copies int
	// Replay is the last job that took it up, and Replays how often one did.
	Replay  string
	Replays int
}

// maxDeadText bounds what is indexed of a text that another program may have written, in bytes.
const maxDeadText = maxErrorText

// DeadLetter reads a record of a dead-letter topic. It cannot fail, whoever wrote the record.
func (p *Projector) DeadLetter(r Record, topics Topics) DeadLetter {
	r = r.Unpacked()
	h := r.Headers
	clean := func(s string) string {
		s, _ = cleanText(s, maxDeadText)
		return s
	}
	l := DeadLetter{
		ID: r.Position().String(), Position: r.Position(), State: DeadOpen,
		Class: h.ErrorClass, Code: clean(h.ErrorCode), Cause: Cause(clean(string(h.Reason))), Error: clean(h.Error),
		Attempts: h.Attempt, Tenant: cmp.Or(clean(h.Tenant), DefaultTenant), SHA256: sha256.Sum256(r.Value),
		Bytes: len(r.Value), Upload: clean(h.Upload), Origin: clean(h.Origin), ReceivedAt: h.ReceivedAt,
		FirstFailedAt: h.FirstFailedAt, DiedAt: r.WrittenAt.UTC().Truncate(time.Microsecond),
		Copies: 1, Replay: clean(h.Replay), Replays: h.ReplayCount,
	}
	if !slices.Contains(Classes, l.Class) {
		l.Class = Unknown
	}
	l.Decision = l.Cause.OfDecision()
	l.Whole = !l.Decision && hex.EncodeToString(l.SHA256[:]) == h.Upload
	if !l.Whole {
		d := p.Project(r)
		l.Path, l.DecisionID = d.Path, clean(d.ID)
		switch {
		case l.Decision:
			l.Timestamp = d.Timestamp
		case d.ID == spellHash(d.SHA256): // nobody can ask for an element without an id of its own
			l.DecisionID = ""
		}
	}
	if l.Cause == "" {
		if l.Cause = Rejected; r.Topic == topics.ParkingDLQ {
			l.Cause = AttemptsExhausted
		}
	}
	failure := &Error{Class: l.Class, Code: l.Code, Text: cmp.Or(l.Error, string(l.Cause))}
	rejection := RejectionOf(failure, l.Tenant, l.Path)
	l.Text, l.Fingerprint = rejection.Text, rejection.Fingerprint
	if l.Error == "" {
		l.Text = string(l.Cause) // with its digits
	}
	return l
}

// FoldDeadLetters makes one of the copies in a batch, which is in the log's order: the first one's id, the last one's
// failure.
func FoldDeadLetters(letters []DeadLetter) []DeadLetter {
	type identity struct {
		tenant string
		sum    [sha256.Size]byte
		class  Class
	}
	at := make(map[identity]int, len(letters))
	out := make([]DeadLetter, 0, len(letters))
	for _, l := range letters {
		k := identity{l.Tenant, l.SHA256, l.Class}
		i, ok := at[k]
		if !ok {
			at[k] = len(out)
			out = append(out, l)
			continue
		}
		l.ID, l.Copies = out[i].ID, out[i].Copies+l.Copies
		l.Replay, l.Replays = cmp.Or(l.Replay, out[i].Replay), max(l.Replays, out[i].Replays)
		out[i] = l
	}
	return out
}

// DeadPage is one page of dead letters.
type DeadPage struct {
	Items []DeadLetter
	// Next is where the next page begins, or nil at the end.
	Next *Cursor
}

// DeadGroup is what failed in one way: the dead letters with a fingerprint.
type DeadGroup struct {
	Fingerprint string
	Class       Class
	Code        string
	Cause       Cause
	Text        string
	Path        string
	// Letters counts them by state.
	Letters map[DeadState]int64
	// First and Last are when the first and the newest of them died.
	First, Last time.Time
	// Sample is the id of the newest.
	Sample string
}

// MaxGroups is the most groups that are listed.
const MaxGroups = 1000
