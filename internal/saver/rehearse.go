package saver

import (
	"context"
	"log/slog"

	"go.opentelemetry.io/otel/trace/noop"

	"github.com/docket-project/docket/internal/domain"
)

// rehearser is the store as a rehearsal sees it; see ports.Store.
type rehearser interface {
	prober
	RehearseBatch(ctx context.Context, decisions []domain.Decision) ([]domain.Fate, error)
}

// stage lets a Writer play to an empty house.
type stage struct{ rehearser }

func (s stage) SaveBatch(ctx context.Context, decisions []domain.Decision) ([]domain.Fate, error) {
	return s.RehearseBatch(ctx, decisions)
}

// NewRehearsal makes a Writer whose transactions are rolled back: it tells what saving would come to. It has a breaker of its
// own and counts nothing.
func NewRehearsal(store rehearser, p *domain.Projector) *Writer {
	quiet := NewBreaker(store, nil, slog.New(slog.DiscardHandler))
	return NewWriter(stage{store}, quiet, Concurrency{Ceiling: 1}, p, noop.NewTracerProvider().Tracer(""), nil)
}
