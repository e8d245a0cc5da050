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
	// failing says that the last try failed.
	failing bool

	mu     sync.Mutex
	ids    map[string]time.Time // until when
	untold []domain.EndedSession
}

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

// Open asks a store which sessions have ended, before anybody shows one. It waits for a store that is away for a moment
// only.
func (e *Ended) Open(ctx context.Context, store ports.EndedSessions) {
	e.mu.Lock()
	e.store = store
	e.mu.Unlock()
	e.try(ctx, endPatience)
}

// Run tells the store and asks it until ctx is done, and tells it what it has not heard of then.
func (e *Ended) Run(ctx context.Context) {
	tick := time.NewTicker(endedEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), endPatience)
			defer cancel()
			if err := e.tell(last); err != nil {
				e.logger.Error(
					"sessions that were ended here count elsewhere until they end by themselves: the store was not told",
					"error", err,
				)
			}
			return
		case <-tick.C:
			e.try(ctx, endedEvery)
		}
	}
}

// try is look, within a time.
func (e *Ended) try(ctx context.Context, within time.Duration) {
	look, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	err := e.look(look)
	if err != nil && !e.failing && ctx.Err() == nil {
		e.logger.Warn(
			"the list of ended sessions was not read; a session that ended before the start, or in another console, may count "+
				"here until it is", "error", err,
		)
	}
	e.failing = err != nil
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
