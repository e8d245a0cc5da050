// Package saver moves fresh decisions from the log to the store. It parks what the store cannot take now, and
// dead-letters what it will never take, as sink says. It leaves gathering, committing and redelivery to the log, and
// replaying what is parked to the parking role.
package saver

import (
	"context"
	"log/slog"
	"time"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/ports"
	"github.com/docket-project/docket/internal/sink"
)

// Group is the saver's consumer group.
const Group = "docket-saver"

// Saver handles batches of the decisions topic. It is safe for concurrent use.
type Saver struct {
	writer *sink.Writer
	router *sink.Router
	log    ports.Publisher
	logger *slog.Logger
	now    func() time.Time
}

// New makes a Saver.
func New(w *sink.Writer, r *sink.Router, log ports.Publisher, logger *slog.Logger) *Saver {
	return &Saver{writer: w, router: r, log: log, logger: logger, now: time.Now}
}

// Handle saves a batch; see ports.Handler. What is not stored is durable in its next home before Handle returns nil.
func (s *Saver) Handle(ctx context.Context, batch []domain.Record) ([]ports.Pause, error) {
	verdicts := s.writer.Save(ctx, batch)
	s.router.Guard.Judge(ctx, batch, verdicts)
	now := s.now()
	out := s.router.Departures()
	var failure error
	for i, v := range verdicts {
		route := s.router.Route(batch[i], v, now)
		if route.Action == sink.Stop || route.Action == sink.Wait {
			return nil, v.Err
		}
		if v.Err != nil {
			failure = v.Err
		}
		out.Add(route)
	}
	if err := out.Publish(ctx, s.log); err != nil {
		return nil, err
	}
	if len(out.Next) > 0 {
		level := slog.LevelWarn
		if out.Statuses[domain.Parked]+out.Statuses[domain.Held] == len(out.Next) {
			level = slog.LevelDebug // an outage or a trouble, which is told already; or a row that is tried again
		}
		s.logger.Log(
			ctx, level, "not everything of a batch was stored", "records", len(batch), "parked", out.Statuses[domain.Parked],
			"held", out.Statuses[domain.Held], "dead", out.Statuses[domain.Dead], "conflicts",
			out.Statuses[domain.Conflicting], "expired", out.Statuses[domain.TooOld], "error", failure,
		)
	}
	return nil, nil
}
