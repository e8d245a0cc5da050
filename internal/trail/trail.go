// Package trail answers "where is my decision?": in a row, on its way there, among the dead letters, or never received.
// It looks at the store, at the index of dead letters and, where those do not know, at what waits in the log. It
// changes nothing, leaves reading either to its ports, and wording what it found to its callers.
package trail

import (
	"cmp"
	"context"
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

// Stage is a topic that records wait in, and the group that takes them out. What waits in one that is Dead are dead
// letters, to be indexed.
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

// Store is what a trail asks of the store.
type Store interface {
	Decisions(ctx context.Context, scope domain.Scope, id string) ([]domain.Decision, error)
	DeadLettersOf(ctx context.Context, scope domain.Scope, decisionID string) ([]domain.DeadLetter, error)
	CountDeadLetters(ctx context.Context, scope domain.Scope, f domain.Filter) (map[domain.DeadState]int64, error)
	ports.LossReader
	ports.OPAReader
}

// Log is what a trail asks of the log.
type Log interface {
	ports.LogReader
	Backlog(ctx context.Context, group string, topics ...string) ([]ports.Backlog, error)
}

// Trail follows decisions. It is safe for concurrent use.
type Trail struct {
	store  Store
	log    Log
	stages []Stage
}

// New makes a Trail over the stages in which a record may wait.
func New(store Store, log Log, stages []Stage) *Trail {
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

// Report is what is known of a decision. The API and the CLI word it.
type Report struct {
	ID    string
	State State
	// OPA is the instance that was asked about, or "".
	OPA string
	// Rows, the newest first; Dead likewise.
	Rows    []domain.Decision
	Waiting []Found
	Dead    []domain.DeadLetter
	Search  []Search
	// LastUpload is the newest of the OPA that was asked about, or of any; nil where none is known.
	LastUpload *domain.OPA
	// Explained says that LastUpload and QuarantinedUploads were looked up.
	Explained bool
	// QuarantinedUploads counts whole uploads that could not be read to their end: nobody knows what they had of this
	// decision.
	QuarantinedUploads int64
	// Lost is what is known to be gone from the partitions that the decision would have been in, the newest first. Nobody
	// knows whether it was among them.
	Lost []domain.Loss
	// StoreErr is why the store could not be asked.
	StoreErr error
}

// Left counts the records that wait and were not looked at. broken is why a stage could not be read.
func (r *Report) Left() (left int64, broken error) {
	for _, s := range r.Search {
		left += s.Left()
		if s.Err != nil {
			broken = s.Err
		}
	}
	return left, broken
}

// DeadIn is the newest dead letter in a state, or nil.
func (r *Report) DeadIn(state domain.DeadState) *domain.DeadLetter {
	for i := range r.Dead {
		if r.Dead[i].State == state {
			return &r.Dead[i]
		}
	}
	return nil
}

// Question is what is asked about a decision.
type Question struct {
	ID string
	// OPA, unless empty, is the instance that made it.
	OPA string
	// From says, by topic, where an earlier call stopped.
	From map[string]int64
}

// Follow finds a decision within a scope. Its errors are the caller's own: ctx that ended.
func (t *Trail) Follow(caller context.Context, scope domain.Scope, q Question) (Report, error) {
	ctx, cancel := context.WithTimeout(caller, answerWithin)
	defer cancel()
	r := Report{ID: q.ID, OPA: q.OPA}
	scan, stop := context.WithTimeout(ctx, lookFor)
	defer stop()
	var looking sync.WaitGroup
	r.Search = make([]Search, len(t.stages))
	found := make([][]Found, len(t.stages))
	for i, stage := range t.stages {
		looking.Go(func() { r.Search[i], found[i] = t.look(scan, scope, stage, q) })
	}
	t.ask(ctx, scope, &r)
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
		again := Report{ID: q.ID} // it may have passed from the log to the store meanwhile
		if t.ask(ctx, scope, &again); again.StoreErr == nil {
			r.Rows, r.Dead = again.Rows, again.Dead
		} else if len(r.Dead) == 0 {
			r.StoreErr = again.StoreErr
		}
	}
	if err := caller.Err(); err != nil {
		return r, domain.Errorf(domain.ClassOf(err), "follow a decision: %w", err)
	}
	r.State = r.conclude()
	if (r.State == NotFound || r.State == Unknown) && r.StoreErr == nil {
		t.explain(ctx, scope, &r)
	}
	return r, nil
}

// ask asks the store.
func (t *Trail) ask(ctx context.Context, scope domain.Scope, r *Report) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	if r.Rows, r.StoreErr = t.store.Decisions(ctx, scope, r.ID); r.StoreErr == nil {
		r.Dead, r.StoreErr = t.store.DeadLettersOf(ctx, scope, r.ID)
	}
}

// look reads what waits in the partition of a stage that the key is in.
func (t *Trail) look(ctx context.Context, scope domain.Scope, stage Stage, q Question) (s Search, found []Found) {
	s = Search{Stage: stage.Name, Topic: stage.Topic}
	if s.Partition, s.Err = t.log.PartitionOf(ctx, stage.Topic, q.ID); s.Err != nil {
		return s, nil
	}
	var backlog []ports.Backlog
	if backlog, s.Err = t.log.Backlog(ctx, stage.Group, stage.Topic); s.Err != nil {
		return s, nil
	}
	for _, b := range backlog {
		if b.Partition == s.Partition {
			s.Next, s.End, s.Oldest = max(b.Committed, b.Start, q.From[stage.Topic]), b.End, b.Oldest
		}
	}
	if s.Left() == 0 {
		return s, nil
	}
	begin := s.Next
	next, err := t.log.Read(ctx, stage.Topic, s.Partition, begin, func(r domain.Record) bool {
		s.LookedAt++
		if r.Key == q.ID && scope.Includes(r.Headers.Owner()) {
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

// conclude says what all of it amounts to.
func (r *Report) conclude() State {
	left, broken := r.Left()
	switch {
	case len(r.Rows) > 0:
		return Stored
	case len(r.Waiting) > 0 && r.Waiting[0].Dead:
		return Dead
	case len(r.Waiting) > 0:
		return Waiting
	case r.DeadIn(domain.DeadOpen) != nil:
		return Dead
	case r.DeadIn(domain.DeadReplayed) != nil:
		return Replayed
	case r.DeadIn(domain.DeadDiscarded) != nil:
		return Discarded
	case r.StoreErr != nil, broken != nil, left > 0:
		return Unknown
	default:
		return NotFound
	}
}

// LostRecords counts what is gone.
func (r *Report) LostRecords() (n int64) {
	for _, l := range r.Lost {
		n += l.Records()
	}
	return n
}

// losses are what is gone from the partitions that were looked at, the newest first.
func (t *Trail) losses(ctx context.Context, searched []Search) (out []domain.Loss) {
	for _, s := range searched {
		if s.Err != nil {
			continue // the answer is that docket does not know
		}
		found, err := t.store.LogLosses(ctx, s.Topic, s.Partition)
		if err != nil {
			continue // what was found is true without it
		}
		out = append(out, merged(found)...)
	}
	slices.SortFunc(out, func(a, b domain.Loss) int { return b.At.Compare(a.At) })
	return out
}

// merged makes one of losses of a partition that overlap: what is found is given up later, and a topic's beginning
// moves on. Those whose range is not known stay as they are.
func merged(losses []domain.Loss) (out []domain.Loss) {
	losses = slices.Clone(losses)
	slices.SortFunc(losses, func(a, b domain.Loss) int {
		return cmp.Or(
			cmp.Compare(a.Group, b.Group), cmp.Compare(min(a.Last-a.First, 0), min(b.Last-b.First, 0)), // not known: first
			cmp.Compare(a.First, b.First),
		)
	})
	for _, l := range losses {
		last := len(out) - 1
		if last < 0 || l.Last < l.First || out[last].Group != l.Group || out[last].Last < l.First {
			out = append(out, l)
			continue
		}
		out[last].Last = max(out[last].Last, l.Last)
		if l.At.After(out[last].At) {
			out[last].At = l.At
		}
	}
	return out
}

// explain adds what helps to find out why a decision was not received.
func (t *Trail) explain(ctx context.Context, scope domain.Scope, r *Report) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	r.Lost = t.losses(ctx, r.Search)
	known, err := t.store.OPAs(ctx, scope)
	if err != nil {
		return // what was found is true without it
	}
	r.Explained = true
	for i, o := range known {
		if (r.OPA == "" || o.OPA == r.OPA) && !o.Last.IsZero() && (r.LastUpload == nil || o.Last.After(r.LastUpload.Last)) {
			r.LastUpload = &known[i]
		}
	}
	var bodies []domain.Expr
	for _, cause := range domain.BodyCauses {
		bodies = append(bodies, domain.Equals(domain.FieldCause, string(cause)))
	}
	if n, err := t.store.CountDeadLetters(ctx, scope, domain.Filter{Where: domain.AnyOf(bodies...)}); err == nil {
		r.QuarantinedUploads = n[domain.DeadOpen]
	}
}
