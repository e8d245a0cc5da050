// Package retention says which days of decisions may go, and has the store drop them. It also has room made for the
// days ahead. The store only lists, prepares and drops.
package retention

import (
	"context"
	"log/slog"
	"time"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/ports"
)

const (
	// Every is how often days are looked at.
	Every = 10 * time.Minute
	// daysAhead is how many days after today have room before they are needed; a migration prepares as many.
	daysAhead = domain.DaysAhead
)

// Retention keeps a store's days. Several processes may do it.
type Retention struct {
	store  ports.DecisionDays
	window domain.Window
	logger *slog.Logger
	now    func() time.Time
}

// New makes a Retention of what is in the window.
func New(store ports.DecisionDays, window domain.Window, logger *slog.Logger) *Retention {
	return &Retention{store: store, window: window, logger: logger, now: time.Now}
}

// Run looks at the days until ctx is done.
func (r *Retention) Run(ctx context.Context) {
	tick := time.NewTicker(Every)
	defer tick.Stop()
	for {
		if err := r.Apply(ctx); err != nil && ctx.Err() == nil {
			r.logger.Warn("the retention could not be applied; docket tries again", "in", Every, "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Apply prepares the days ahead and drops what is past the retention. Errors: those of the store; what was dropped
// before stays so.
func (r *Retention) Apply(ctx context.Context) error {
	now := r.now()
	today := domain.DayOf(now)
	if err := r.store.PrepareDays(ctx, today, today+daysAhead); err != nil {
		return err
	}
	days, err := r.store.Days(ctx)
	if err != nil {
		return err
	}
	oldest := now.Add(-r.window.Retention)
	for _, day := range days {
		if !mayGo(day, oldest) {
			continue
		}
		if err := r.store.DropDay(ctx, day); err != nil {
			return err
		}
		r.logger.Info("a day past the retention was dropped", "day", day.String())
	}
	return r.store.DropReceivedBefore(ctx, oldest)
}

// mayGo reports that a day is wholly past the retention.
func mayGo(day domain.Day, oldest time.Time) bool { return !day.End().After(oldest) }
