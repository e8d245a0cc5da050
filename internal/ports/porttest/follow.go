package porttest

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/ports"
)

// logFollow follows a topic whose records are trimmed as soon as they are consumed.
func logFollow(t *testing.T, h LogHarness) {
	l := h.opened(t)
	topic := h.Topics.Decisions
	publish(t, l, events(topic, 0, 5)...) // in front of it
	consume(t, l, h.sub(), func(context.Context, []domain.Record) ([]ports.Pause, error) { return nil, nil })
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	begun, got, ended := make(chan struct{}), make(chan domain.Record, 1000), make(chan error, 1)
	go func() {
		ended <- l.Follow(ctx, topic, func() { close(begun) }, func(batch []domain.Record) {
			for _, r := range batch {
				got <- r
			}
		})
	}()
	wait := func(done <-chan struct{}) {
		t.Helper()
		select {
		case <-done:
		case <-time.After(patience):
			t.Fatal("nothing came")
		}
	}
	wait(begun)
	sent := events(topic, 5, 305)
	for i := 0; i < len(sent); i += 100 {
		publish(t, l, append(events(h.Topics.Parking, i, i+3), sent[i:i+100]...)...)
	}
	seen := map[string]domain.Record{}
	offsets := map[int32]int64{}
	for range sent {
		select {
		case r := <-got:
			require.Equal(t, topic, r.Topic)
			require.Greater(t, r.Offset+1, offsets[r.Partition], "in order")
			offsets[r.Partition] = r.Offset + 1
			seen[r.Key] = r
		case <-time.After(patience):
			t.Fatalf("only %d of %d came", len(seen), len(sent))
		}
	}
	for _, r := range sent {
		require.Equal(t, r.Value, seen[r.Key].Value, r.Key)
		require.Equal(t, r.Headers, seen[r.Key].Headers)
		require.WithinDuration(t, time.Now(), seen[r.Key].WrittenAt, time.Minute)
	}
	require.Empty(t, got, "nothing else")
	stop()
	require.NoError(t, <-ended)
	err := l.Follow(t.Context(), "nowhere", func() {}, func([]domain.Record) {})
	require.Equal(t, domain.Misconfigured, domain.ClassOf(err), "%v", err)
}
