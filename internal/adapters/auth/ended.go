package auth

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/ports"
)

const (
	// endedEvery is how often the store is asked for sessions that ended in other processes.
	endedEvery = 5 * time.Second
	// endPatience is how long a logout waits for the store.
	endPatience = 2 * time.Second
)

// Ended are the sessions that were ended before their time. A copy of a cookie counts no more where this process or the
// store has heard of it; while the store is away each process knows its own, and what it has read before.
type Ended struct {
	store  ports.EndedSessions
	logger *slog.Logger

	mu     sync.Mutex
	ids    map[string]time.Time // until when
	untold []domain.EndedSession
}

// NewEnded makes an empty Ended, which knows its own until Run has a store.
func NewEnded(logger *slog.Logger) *Ended { return &Ended{logger: logger, ids: map[string]time.Time{}} }

// has reports whether a session has ended.
func (e *Ended) has(id string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	_, ended := e.ids[id]
	return ended
}

// end ends a session, here at once and elsewhere as soon as the store has heard of it.
func (e *Ended) end(ctx context.Context, s domain.EndedSession) {
	e.mu.Lock()
	e.ids[s.ID] = s.Until
	e.untold = append(e.untold, s)
	e.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endPatience)
	defer cancel()
	_ = e.tell(ctx) // Run goes on with it
}

// tell tells the store what it has not heard of.
func (e *Ended) tell(ctx context.Context) error {
	e.mu.Lock()
	store, untold := e.store, e.untold
	if store == nil || len(untold) == 0 {
		e.mu.Unlock()
		return nil
	}
	e.untold = nil
	e.mu.Unlock()
	err := store.EndSessions(ctx, untold)
	if err != nil {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.untold = append(e.untold, untold...)
	}
	return err
}

// Run tells the store and asks it until ctx is done.
func (e *Ended) Run(ctx context.Context, store ports.EndedSessions) {
	e.mu.Lock()
	e.store = store
	e.mu.Unlock()
	tick := time.NewTicker(endedEvery)
	defer tick.Stop()
	for failing := false; ; {
		look, cancel := context.WithTimeout(ctx, endedEvery)
		err := e.look(look)
		cancel()
		if err != nil && !failing && ctx.Err() == nil {
			e.logger.Warn(
				"the list of ended sessions was not read; a session that ends in another console may count here until it is",
				"error", err,
			)
		}
		failing = err != nil
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// look tells the store, learns from it, and forgets what is over.
func (e *Ended) look(ctx context.Context) error {
	if err := e.tell(ctx); err != nil {
		return err
	}
	ended, err := e.store.EndedSessions(ctx)
	if err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, s := range ended {
		e.ids[s.ID] = s.Until
	}
	for id, until := range e.ids {
		if time.Now().After(until) {
			delete(e.ids, id)
		}
	}
	return nil
}
