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

// mostADay is how many days may go within 24 hours by themselves: whatever is wrong, somebody has time to see it.
const mostADay = 2

const (
	// clockTolerance is how far docket's clock may be from the database's.
	clockTolerance = 5 * time.Minute
	// logTolerance is how far it may be from the time of the embedded log's newest record.
	logTolerance = 24 * time.Hour
)

// Retention keeps a store's days. Several processes may do it.
type Retention struct {
	store  ports.DecisionDays
	window domain.Window
	// newest is when the embedded log took its newest record, zero where it has none; nil without one.
	newest func() time.Time
	logger *slog.Logger
	now    func() time.Time
	said   string // what was warned of last
}

// New makes a Retention of what is in the window; newest may be nil.
func New(store ports.DecisionDays, window domain.Window, newest func() time.Time, logger *slog.Logger) *Retention {
	return &Retention{store: store, window: window, newest: newest, logger: logger, now: time.Now}
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

// Apply prepares the days ahead and drops what is past the retention that is in force, by the store's clock and at most
// mostADay of them. Errors: those of the store, and Misconfigured where the clocks cannot be trusted; what was dropped
// before stays so.
func (r *Retention) Apply(ctx context.Context) error {
	state, err := r.store.RetentionState(ctx)
	if err != nil {
		return err
	}
	today := domain.DayOf(state.Now)
	if err := r.store.PrepareDays(ctx, today, today+daysAhead); err != nil {
		return err
	}
	if err := r.trust(state.Now); err != nil {
		return err
	}
	inForce, err := r.inForce(ctx, state)
	if err != nil {
		return err
	}
	days, err := r.store.Days(ctx)
	if err != nil {
		return err
	}
	for _, day := range days {
		if !day.Past(inForce, state.Now) {
			continue
		}
		dropped, err := r.store.DropDay(ctx, day, mostADay)
		if err != nil {
			return err
		}
		if !dropped {
			if r.once("more") {
				r.logger.Warn(
					"more days are past the retention than go at once: two go a day. If it is meant, run docket retention apply",
					"next", day.String(), "retention", inForce,
				)
			}
			break
		}
		r.logger.Warn("a day past the retention was dropped", "day", day.String(), "retention", inForce)
	}
	return r.store.DropReceivedBefore(ctx, state.Now.Add(-inForce))
}

// trust refuses to drop anything by a clock that may be wrong.
func (r *Retention) trust(store time.Time) error {
	now := r.now()
	if off := now.Sub(store); off.Abs() > clockTolerance {
		return domain.Errorf(
			domain.Misconfigured, "the clocks of docket and of the database are %s apart: nothing is dropped until they are "+
				"synchronised", off.Abs().Round(time.Minute),
		)
	}
	if r.newest == nil {
		return nil
	}
	if newest := r.newest(); !newest.IsZero() && now.Sub(newest).Abs() > logTolerance {
		return domain.Errorf(
			domain.Misconfigured, "the log's newest record is of %s, more than a day from now: nothing is dropped, because the "+
				"clock may be wrong", newest.UTC().Format(time.RFC3339),
		)
	}
	return nil
}

// inForce is the retention to apply. The first one to come sets it, and a longer one at once; a shorter one has to be
// meant.
func (r *Retention) inForce(ctx context.Context, state domain.RetentionState) (time.Duration, error) {
	configured := r.window.Retention
	if configured > state.InForce {
		return configured, r.store.SetRetention(ctx, configured)
	}
	if configured < state.InForce && r.once("shorter") {
		r.logger.Warn("decisions are kept for longer than is configured: a shorter retention comes into force by docket "+
			"retention apply", "in_force", state.InForce, "configured", configured)
	}
	return state.InForce, nil
}

// once reports that something was not said already, as the last of what is warned of.
func (r *Retention) once(what string) bool {
	first := r.said != what
	r.said = what
	return first
}
