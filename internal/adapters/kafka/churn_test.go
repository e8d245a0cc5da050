package kafka

import (
	"context"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/ports"
)

// TestMembersComeAndGo starts and stops members at any moment of a rebalance: every one of them ends, and nothing is
// lost.
func TestMembersComeAndGo(t *testing.T) {
	r := newRig(t, 12, nil)
	require.NoError(t, r.publish(t, patience, r.records(r.topics.Decisions, 0, 200)...))
	const members, rounds = 3, 12
	done := make(chan struct{}, members)
	var s seen
	handle := func(ctx context.Context, batch []domain.Record) ([]ports.Pause, error) {
		if rand.IntN(3) == 0 {
			return ports.PauseAll(batch, time.Now().Add(time.Duration(rand.IntN(300))*time.Millisecond)), nil
		}
		return s.handle(ctx, batch)
	}
	for range members {
		go func() {
			defer func() { done <- struct{}{} }()
			for range rounds {
				ctx, cancel := context.WithTimeout(context.Background(), time.Duration(rand.IntN(600))*time.Millisecond)
				_ = r.Consume(
					ctx,
					ports.Subscription{
						Group: "g", Topics: []string{r.topics.Decisions}, MaxRecords: 20, MaxBytes: 1 << 20,
						MaxWait: 10 * time.Millisecond,
					},
					handle,
				)
				cancel()
			}
		}()
	}
	for range members {
		select {
		case <-done:
		case <-time.After(patience):
			require.FailNow(t, "a member did not end")
		}
	}
	r.consume(t, r.topics.Decisions, s.handle)
	require.Eventually(t, func() bool {
		b, err := r.Backlog(t.Context(), "g", r.topics.Decisions)
		require.NoError(t, err)
		for _, p := range b {
			if p.Waiting() > 0 {
				return false
			}
		}
		return true
	}, patience, 20*time.Millisecond)
	s.mu.Lock()
	defer s.mu.Unlock()
	require.Subset(t, s.keys, keys(r.records("", 0, 200)))
}
