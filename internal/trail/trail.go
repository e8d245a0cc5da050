// Package trail answers "where is my decision?": in a row, on its way there, among the dead letters, or never received. It looks
// at the store, at the index of dead letters and, where those do not know, at what waits in the log; it changes nothing, and
// leaves reading either to its ports.
package trail

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/ports"
)

const (
	// lookFor and lookAt bound how long, and at how many records of each stage, one call looks.
	lookFor = 3 * time.Second
	lookAt  = 200_000
	// storeTimeout is how long the store may take to say that it knows nothing, and answerWithin bounds all of it.
	storeTimeout = 2 * time.Second
	answerWithin = 3400 * time.Millisecond
)

// Stage is a topic that records wait in, and the group that takes them out. What waits in one that is Dead are dead letters, to be
// indexed.
type Stage struct {
	Name, Topic, Group string
	Dead               bool
}

// State is where a decision is.
type State string

// The states, the most certain first.
const (
	Stored    State = "stored"
	Waiting   State = "waiting"
	Dead      State = "dead"
	Replayed  State = "replayed"
	Discarded State = "discarded"
	// Unknown is that more waits than was looked at, or that the store is away.
	Unknown  State = "unknown"
	NotFound State = "not_found"
)

// Trail follows decisions. It is safe for concurrent use.
type Trail struct {
	store interface {
		ports.DecisionReader
		ports.DeadLetterIndex
		ports.OPARegistry
	}
	log interface {
		ports.LogReader
		Backlog(ctx context.Context, group string, topics ...string) ([]ports.Backlog, error)
	}
	stages []Stage
}

// New makes a Trail over the stages in which a record may wait.
func New(store ports.Store, log ports.Log, stages []Stage) *Trail {
	return &Trail{store: store, log: log, stages: stages}
}

// Found is a record that waits.
type Found struct {
	Stage string
	Dead  bool
	domain.Record
}

// Search is how far one stage was looked at: the partition that the key is in, from the first record that waits.
type Search struct {
	Stage, Topic string
	Partition    int32
	// Next is where a further look would begin, and End where the records end that were there.
	Next, End int64
	// LookedAt counts the records of this call, and Oldest is when the oldest that waits was written.
	LookedAt int64
	Oldest   time.Time
	// Err is why the stage could not be read.
	Err error
}

// Left counts the records that nobody has looked at.
func (s Search) Left() int64 { return max(s.End-s.Next, 0) }

// Report is what is known of a decision.
type Report struct {
	ID      string
	State   State
	Message string
	// Rows, newest first; Dead likewise.
	Rows    []domain.Decision
	Waiting []Found
	Dead    []domain.DeadLetter
	Search  []Search
	// LastUpload is the newest of the OPA that was asked about, or of any.
	LastUpload *domain.OPA
	// PutAside counts whole uploads that could not be read to their end: what they held of this decision nobody knows.
	PutAside int64
	// StoreErr is why the store could not be asked.
	StoreErr error
}

// Follow finds a decision. opa, unless empty, is the instance that made it. from says, by topic, where an earlier call stopped.
// Its errors are the caller's own: ctx that ended.
func (t *Trail) Follow(caller context.Context, id, opa string, from map[string]int64) (Report, error) {
	ctx, cancel := context.WithTimeout(caller, answerWithin)
	defer cancel()
	r := Report{ID: id}
	scan, stop := context.WithTimeout(ctx, lookFor)
	defer stop()
	var looking sync.WaitGroup
	r.Search = make([]Search, len(t.stages))
	found := make([][]Found, len(t.stages))
	for i, stage := range t.stages {
		looking.Go(func() { r.Search[i], found[i] = t.look(scan, stage, id, from) })
	}
	t.ask(ctx, &r)
	if len(r.Rows) > 0 { // nobody needs to know what else is on its way
		stop()
	}
	looking.Wait()
	if len(r.Rows) == 0 {
		r.Waiting = slices.Concat(found...)
	} else {
		r.Search = nil
	}
	if len(r.Rows) == 0 && len(r.Waiting) == 0 && r.StoreErr == nil {
		again := Report{ID: id} // it may have passed from the log to the store meanwhile
		if t.ask(ctx, &again); again.StoreErr == nil {
			r.Rows, r.Dead = again.Rows, again.Dead
		} else if len(r.Dead) == 0 {
			r.StoreErr = again.StoreErr
		}
	}
	if err := caller.Err(); err != nil {
		return r, domain.Errorf(domain.ClassOf(err), "follow a decision: %w", err)
	}
	t.conclude(ctx, &r, opa)
	return r, nil
}

// ask asks the store.
func (t *Trail) ask(ctx context.Context, r *Report) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	if r.Rows, r.StoreErr = t.store.Decisions(ctx, r.ID); r.StoreErr == nil {
		r.Dead, r.StoreErr = t.store.DeadLettersOf(ctx, r.ID)
	}
}

// look reads what waits in the partition of a stage that the key is in.
func (t *Trail) look(ctx context.Context, stage Stage, id string, from map[string]int64) (s Search, found []Found) {
	s = Search{Stage: stage.Name, Topic: stage.Topic}
	if s.Partition, s.Err = t.log.PartitionOf(ctx, stage.Topic, id); s.Err != nil {
		return s, nil
	}
	var backlog []ports.Backlog
	if backlog, s.Err = t.log.Backlog(ctx, stage.Group, stage.Topic); s.Err != nil {
		return s, nil
	}
	for _, b := range backlog {
		if b.Partition == s.Partition {
			s.Next, s.End, s.Oldest = max(b.Committed, b.Start, from[stage.Topic]), b.End, b.Oldest
		}
	}
	if s.Left() == 0 {
		return s, nil
	}
	begin := s.Next
	next, err := t.log.Read(ctx, stage.Topic, s.Partition, begin, func(r domain.Record) bool {
		s.LookedAt++
		if r.Key == id {
			found = append(found, Found{stage.Name, stage.Dead, r})
		}
		return s.LookedAt < lookAt && r.Offset+1 < s.End
	})
	s.Next = max(begin, next)
	if err != nil && ctx.Err() == nil {
		s.Err = err
	}
	return s, found
}

// incomplete are the searches that have not come to an end.
func (r *Report) incomplete() (left int64, broken error) {
	for _, s := range r.Search {
		left += s.Left()
		if s.Err != nil {
			broken = s.Err
		}
	}
	return left, broken
}

// conclude says what all of it amounts to.
func (t *Trail) conclude(ctx context.Context, r *Report, opa string) {
	dead := map[domain.DeadState]*domain.DeadLetter{}
	for i := range r.Dead {
		if l := &r.Dead[i]; dead[l.State] == nil {
			dead[l.State] = l
		}
	}
	left, broken := r.incomplete()
	switch {
	case len(r.Rows) > 0:
		row := &r.Rows[0]
		r.State, r.Message = Stored, fmt.Sprintf("it is stored: received %s, saved %s later", stamp(row.ReceivedAt), late(row))
	case len(r.Waiting) > 0 && r.Waiting[0].Dead:
		f := r.Waiting[0]
		r.State, r.Message = Dead, fmt.Sprintf("it is a dead letter, %s, that is not indexed yet: %s", f.Place(), cmp.Or(f.Headers.Error, string(f.Headers.Reason)))
	case len(r.Waiting) > 0:
		f := r.Waiting[0]
		r.State, r.Message = Waiting, fmt.Sprintf("it waits in %s for the %s, since %s", f.Topic, f.Stage, stamp(f.WrittenAt))
		if f.Headers.ErrorClass != "" {
			r.Message += fmt.Sprintf("; it was parked because: %s", f.Headers.Error)
		}
	case dead[domain.DeadOpen] != nil:
		l := dead[domain.DeadOpen]
		r.State, r.Message = Dead, fmt.Sprintf("it is a dead letter, %s: %s (%s)", l.ID, l.Reason, orReason(l))
	case dead[domain.DeadReplayed] != nil:
		l := dead[domain.DeadReplayed]
		r.State, r.Message = Replayed, fmt.Sprintf("it was a dead letter, %s, and is on its way again: job %s replayed it at %s", l.ID, l.Replay, stamp(l.ChangedAt))
	case dead[domain.DeadDiscarded] != nil:
		l := dead[domain.DeadDiscarded]
		r.State, r.Message = Discarded, fmt.Sprintf("it is a dead letter, %s, that was given up by job %s at %s", l.ID, l.Replay, stamp(l.ChangedAt))
	case r.StoreErr != nil:
		r.State, r.Message = Unknown, "nobody can say whether it is stored, because the store does not answer; it does not wait in the log where that was read: "+r.StoreErr.Error()
	case broken != nil:
		r.State, r.Message = Unknown, "it is not stored, and what waits in the log cannot be read: "+broken.Error()
	case left > 0:
		r.State, r.Message = Unknown, fmt.Sprintf("it is not stored and no dead letter; it may be among %d records that wait and were not looked at%s", left, oldest(r.Search))
	default:
		r.State, r.Message = NotFound, "docket has never received it, or its record has passed the retention: it is not stored, does not wait, and is no dead letter"
	}
	if r.State != NotFound && r.State != Unknown || r.StoreErr != nil {
		return
	}
	t.explain(ctx, r, opa)
}

// explain adds what helps to find out why a decision was not received.
func (t *Trail) explain(ctx context.Context, r *Report, opa string) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	known, err := t.store.OPAs(ctx)
	if err != nil {
		r.StoreErr = err
		return
	}
	for i, o := range known {
		if (opa == "" || o.OPA == opa) && !o.Last.IsZero() && (r.LastUpload == nil || o.Last.After(r.LastUpload.Last)) {
			r.LastUpload = &known[i]
		}
	}
	switch {
	case r.LastUpload != nil:
		r.Message += fmt.Sprintf(". The last upload of %s came at %s", nameOf(r.LastUpload.OPA), stamp(r.LastUpload.Last))
	case opa != "":
		r.Message += fmt.Sprintf(". Nothing has ever come from an OPA with the id %q (docket status lists those that are known)", opa)
	default:
		r.Message += ". Nothing has ever come from any OPA"
	}
	bodies := domain.Term{Field: domain.FieldReason}
	for _, reason := range domain.BodyReasons {
		bodies.Matches = append(bodies.Matches, domain.Match{Text: string(reason)})
	}
	if n, err := t.store.CountDeadLetters(ctx, domain.Query{Terms: []domain.Term{bodies}}); err == nil && n[domain.DeadOpen] > 0 {
		r.PutAside = n[domain.DeadOpen]
		r.Message += fmt.Sprintf(". %d uploads were put aside because they could not be read to their end, and may have held it (docket dlq groups)", r.PutAside)
	}
}

func nameOf(opa string) string {
	if opa == "" {
		return "an OPA without labels.id"
	}
	return fmt.Sprintf("OPA %q", opa)
}

func orReason(l *domain.DeadLetter) string {
	if l.Error != "" {
		return l.Error
	}
	return "the upload held no such decision that could be taken"
}

func oldest(searches []Search) string {
	var at time.Time
	for _, s := range searches {
		if s.Left() > 0 && !s.Oldest.IsZero() && (at.IsZero() || s.Oldest.Before(at)) {
			at = s.Oldest
		}
	}
	if at.IsZero() {
		return ""
	}
	return ", the oldest of them of " + stamp(at)
}

func late(d *domain.Decision) string {
	return max(d.SavedAt.Sub(d.ReceivedAt), 0).Round(time.Millisecond).String()
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
