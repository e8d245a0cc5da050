package sink

import (
	"context"
	"log/slog"

	"go.opentelemetry.io/otel/trace/noop"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/ports"
)

// rolledBack saves in transactions that are rolled back.
type rolledBack struct{ ports.DryRunner }

// SaveBatch tells what saving would come to.
func (r rolledBack) SaveBatch(ctx context.Context, decisions []domain.Decision) ([]domain.SaveStatus, error) {
	return r.DryRunBatch(ctx, decisions)
}

// NewDryRun makes a Writer whose transactions are rolled back: it tells what saving would come to. It has a breaker of
// its own and counts nothing.
func NewDryRun(store ports.DryRunner, p *domain.Projector, e *Erasures) *Writer {
	quiet := NewBreaker(store, nil, slog.New(slog.DiscardHandler))
	return NewWriter(rolledBack{store}, quiet, Concurrency{Ceiling: 1}, p, e, noop.NewTracerProvider().Tracer(""), nil)
}
