package sink

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/ports"
)

const (
	// erasuresEvery is how often the store is asked for erasures, and erasuresAge how long what it said counts while it
	// cannot be asked: nothing is saved after that.
	erasuresEvery = 5 * time.Second
	erasuresAge   = 10 * time.Second
	// erasuresAgain is when a store is asked again that did not answer: batches wait for it together.
	erasuresAgain = 500 * time.Millisecond
	// ErasuresTakeEffect is how long after an order the last batch has come to its end that has not heard of it: what its
	// process had heard was erasuresAge old, it took all of its time, and the store wrote for another 15 s what nobody
	// waited for any more.
	ErasuresTakeEffect = erasuresAge + ports.HandlerBudget + 15*time.Second
)

// Erasures are the erasures in force, as this process has last heard of them. It is safe for concurrent use. Nil has
// none.
type Erasures struct {
	store ports.ErasureReader
	now   func() time.Time

	mu      sync.Mutex
	known   *domain.Erasures
	heard   time.Time // when known was asked for
	err     error     // of the last time, where known is too old
	nextAsk time.Time
}

// NewErasures makes Erasures of a store.
func NewErasures(store ports.ErasureReader) *Erasures {
	return &Erasures{store: store, now: time.Now}
}

// InForce are those in force. Its error is that what is known is too old, and why the store did not answer: nothing may
// be saved then, whatever the rows are.
func (e *Erasures) InForce(ctx context.Context) (*domain.Erasures, error) {
	in, _, err := e.inForce(ctx)
	return in, err
}

// inForce is InForce; asked tells whether the store was, or this is what it said before.
func (e *Erasures) inForce(ctx context.Context) (in *domain.Erasures, asked bool, err error) {
	if e == nil {
		return nil, false, nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	now := e.now()
	if now.Before(e.nextAsk) && (e.err != nil || now.Sub(e.heard) <= erasuresAge) {
		return e.known, false, e.err
	}
	known, err := e.ask(ctx)
	switch {
	case err == nil:
		e.known, e.heard, e.err, e.nextAsk = known, now, nil, now.Add(erasuresEvery)
	case ctx.Err() != nil: // it was our time that ran out
		return nil, true, noRowsFault(err)
	case e.heard.IsZero() || e.now().Sub(e.heard) > erasuresAge:
		e.known, e.err, e.nextAsk = nil, noRowsFault(err), e.now().Add(erasuresAgain)
	default:
		e.nextAsk = e.now().Add(erasuresAgain)
	}
	return e.known, true, e.err
}

// noRowsFault is an error that says nothing about the rows of a batch, whatever the store has answered.
func noRowsFault(err error) error {
	class := domain.ClassOf(err)
	if class == domain.Invalid || class == domain.Unknown {
		class = domain.Unavailable
	}
	return &domain.Error{Class: class, Op: "find out what may not be kept", Text: err.Error()}
}

// ask asks for the key each time: a store that was restored has another one.
func (e *Erasures) ask(ctx context.Context) (*domain.Erasures, error) {
	all, err := e.store.Erasures(ctx)
	if err != nil || len(all) == 0 {
		return nil, err
	}
	key, err := e.store.ErasureKey(ctx)
	if err != nil {
		return nil, err
	}
	return domain.NewErasures(key, all), nil
}

// sifted are rows without those that may not be kept.
type sifted struct {
	rows []domain.Decision
	// at tells where they stand among all, whose statuses are these; nil where nothing is left out.
	at       []int
	statuses []domain.SaveStatus
}

func sift(in *domain.Erasures, rows []domain.Decision) (out sifted) {
	covered := func(d domain.Decision) bool { return in.Cover(&d) }
	if in.None() || !slices.ContainsFunc(rows, covered) { // as nearly always
		return sifted{rows: rows}
	}
	out.statuses = make([]domain.SaveStatus, len(rows))
	for i := range rows {
		if in.Cover(&rows[i]) {
			out.statuses[i] = domain.Erased
			continue
		}
		out.rows, out.at = append(out.rows, rows[i]), append(out.at, i)
	}
	return out
}

// all are the statuses of all rows, with those of the ones that were saved.
func (s sifted) all(saved []domain.SaveStatus) []domain.SaveStatus {
	if s.statuses == nil {
		return saved
	}
	for i, status := range saved {
		s.statuses[s.at[i]] = status
	}
	return s.statuses
}

// Kept are records without those that may not be kept, for what goes back to where it was without being saved. Its
// error is that of Erasures.InForce.
func (w *Writer) Kept(ctx context.Context, records []domain.Record) (kept []domain.Record, erased int, err error) {
	in, err := w.erasures.InForce(ctx)
	if err != nil || in.None() {
		return records, 0, err
	}
	for _, r := range records {
		if d := w.projector.Project(r); in.Cover(&d) {
			erased++
		} else {
			kept = append(kept, r)
		}
	}
	return kept, erased, nil
}
