package sink

import (
	"context"
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
	// erasuresPatience is how long the store may take to answer, and erasuresAgain when it is asked again after that:
	// batches wait for it together.
	erasuresPatience = 2 * time.Second
	erasuresAgain    = 500 * time.Millisecond
	// ErasuresTakeEffect is how long after its order the last batch may come to its end that has not heard of an erasure.
	ErasuresTakeEffect = erasuresAge + ports.HandlerBudget
)

// Erasures are the erasures in force, as this process has last heard of them. It is safe for concurrent use. Nil has
// none.
type Erasures struct {
	store ports.ErasureReader
	now   func() time.Time

	mu      sync.Mutex
	key     []byte
	known   *domain.Erasures
	heard   time.Time // when known was
	err     error     // of the last time, where known is too old
	nextAsk time.Time
}

// NewErasures makes Erasures of a store.
func NewErasures(store ports.ErasureReader) *Erasures {
	return &Erasures{store: store, now: time.Now}
}

// InForce are those in force. Its error is the store's, or Unavailable, where what is known is too old: nothing may be
// saved then.
func (e *Erasures) InForce(ctx context.Context) (*domain.Erasures, error) {
	if e == nil {
		return nil, nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	now := e.now()
	if now.Before(e.nextAsk) {
		return e.known, e.err
	}
	known, err := e.ask(ctx)
	switch {
	case err == nil:
		e.known, e.heard, e.err, e.nextAsk = known, now, nil, now.Add(erasuresEvery)
	case ctx.Err() != nil: // it was our time that ran out
		return nil, err
	case e.heard.IsZero() || now.Sub(e.heard) > erasuresAge:
		if class := domain.ClassOf(err); class == domain.Invalid || class == domain.Unknown { // it is no row's fault
			err = domain.Reclass(err, domain.Unavailable, "what may not be kept is not known")
		}
		e.known, e.err, e.nextAsk = nil, err, e.now().Add(erasuresAgain)
	default:
		e.nextAsk = e.now().Add(erasuresAgain)
	}
	return e.known, e.err
}

func (e *Erasures) ask(ctx context.Context) (*domain.Erasures, error) {
	ctx, cancel := context.WithTimeout(ctx, erasuresPatience)
	defer cancel()
	all, err := e.store.Erasures(ctx)
	if err != nil || len(all) == 0 {
		return nil, err
	}
	if e.key == nil {
		if e.key, err = e.store.ErasureKey(ctx); err != nil {
			return nil, err
		}
	}
	return domain.NewErasures(e.key, all), nil
}

// sift takes out of rows what may not be kept. statuses are those of all rows; at tells where the others stand among
// them.
func sift(in *domain.Erasures, rows []domain.Decision) (others []domain.Decision, at []int, statuses []domain.SaveStatus) {
	statuses = make([]domain.SaveStatus, len(rows))
	for i := range rows {
		if in.Cover(&rows[i]) {
			statuses[i] = domain.Erased
			continue
		}
		others, at = append(others, rows[i]), append(at, i)
	}
	return others, at, statuses
}
