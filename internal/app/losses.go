package app

import (
	"context"
	"log/slog"
	"time"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/ports"
)

const (
	// lossRetry is how often what could not be noted is noted again, and maxLossNotes how much waits for that.
	lossRetry    = 5 * time.Second
	maxLossNotes = 1000
)

// lossNotes writes what the log has lost to the store, for whoever looks for a decision. They wait while the store is
// away; what a process takes with it when it ends, the next one finds again, or its log has said.
type lossNotes struct {
	logger *slog.Logger
	found  chan domain.Loss
}

func newLossNotes(logger *slog.Logger) *lossNotes {
	return &lossNotes{logger: logger, found: make(chan domain.Loss, maxLossNotes)}
}

// add never waits.
func (n *lossNotes) add(l domain.Loss) {
	select {
	case n.found <- l:
	default:
		n.logger.Error("a loss of the log is not noted in the store, because too many wait for that", "topic", l.Topic,
			"partition", l.Partition, "first", l.First, "last", l.Last)
	}
}

// write writes them until ctx is done.
func (n *lossNotes) write(ctx context.Context, store ports.LossNotes) {
	for {
		select {
		case <-ctx.Done():
			return
		case l := <-n.found:
			for told := false; ; {
				err := store.NoteLoss(ctx, l)
				if err == nil {
					break
				}
				if !told && domain.ClassOf(err) != domain.Unavailable {
					told = true
					n.logger.Warn("a loss of the log could not be noted in the store; docket tries again", "error", err)
				}
				if sleep(ctx, lossRetry) != nil {
					return
				}
			}
		}
	}
}
