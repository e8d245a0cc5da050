package app

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/domain"
)

// bookkeeper is a store that takes no losses before a time.
type bookkeeper struct {
	back time.Time

	mu    sync.Mutex
	noted []domain.Loss
}

func (b *bookkeeper) NoteLoss(_ context.Context, l domain.Loss) error {
	if time.Now().Before(b.back) {
		return domain.Errorf(domain.Unavailable, "away")
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.noted = append(b.noted, l)
	return nil
}

func (b *bookkeeper) all() []domain.Loss {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.noted)
}

// TestLossNotes are written once the store is back, in the order in which they were found; nobody waits for it.
func TestLossNotes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &bookkeeper{back: time.Now().Add(time.Minute)}
		n := newLossNotes(slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(t.Context())
		var writing sync.WaitGroup
		writing.Go(func() { n.write(ctx, store) })
		var want []domain.Loss
		for i := range int64(maxLossNotes + 10) {
			l := domain.Loss{Topic: "t", First: i, Last: i}
			n.add(l)
			synctest.Wait()
			if want = append(want, l); len(want) > maxLossNotes+1 { // one is in hand
				want = want[:maxLossNotes+1]
			}
		}
		require.Empty(t, store.all())
		time.Sleep(time.Minute + lossRetry)
		synctest.Wait()
		require.Equal(t, want, store.all())
		cancel()
		writing.Wait()
	})
}
