// Package porttest has the conformance suites of the contracts in ports: one for the durable log and one for the
// store, run against every adapter. It leaves to the adapter's test how an instance is made, reopened and harmed.
package porttest

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/ports"
)

// opened opens the log and closes it at the test's end.
func (h LogHarness) opened(t *testing.T) ports.Log {
	l := h.Open(t)
	t.Cleanup(func() { h.Close(t, l) })
	return l
}

func event(topic string, n int) domain.Record {
	return domain.Record{
		Topic: topic, Key: fmt.Sprintf("id-%d", n), Value: fmt.Appendf(nil, `{"decision_id":"id-%d"}`, n),
		Headers: domain.Headers{Tenant: "t", Upload: fmt.Sprintf("upload-%d", n/3), ReceivedAt: time.Unix(int64(n), 0).UTC()},
	}
}

func events(topic string, from, to int) []domain.Record {
	var out []domain.Record
	for n := from; n < to; n++ {
		out = append(out, event(topic, n))
	}
	return out
}

func publish(t *testing.T, l ports.Publisher, records ...domain.Record) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	require.NoError(t, l.Publish(ctx, records))
}

func (h LogHarness) sub() ports.Subscription {
	return ports.Subscription{
		Group: "suite", Topics: []string{h.Topics.Decisions}, MaxRecords: 100, MaxBytes: 1 << 20,
		MaxWait: 10 * time.Millisecond,
	}
}

// consumption runs Consume in the background and stops it with the test.
type consumption struct {
	cancel context.CancelFunc
	ended  chan error
}

func consume(t *testing.T, l ports.Log, sub ports.Subscription, h ports.Handler) *consumption {
	ctx, cancel := context.WithCancel(context.Background())
	c := &consumption{cancel: cancel, ended: make(chan error, 1)}
	go func() { c.ended <- l.Consume(ctx, sub, h) }()
	t.Cleanup(func() { c.stop(t) })
	return c
}

func (c *consumption) stop(t *testing.T) {
	c.cancel()
	select {
	case err := <-c.ended:
		c.ended <- nil
		require.NoError(t, err)
	case <-time.After(patience):
		require.FailNow(t, "Consume did not end with its context")
	}
}

// collector is a handler that keeps what it is given.
type collector struct {
	mu      sync.Mutex
	records []domain.Record
	batches [][]domain.Record
	grown   chan struct{}
}

func newCollector() *collector { return &collector{grown: make(chan struct{}, 10_000)} }

func (c *collector) add(batch []domain.Record) {
	c.mu.Lock()
	c.records = append(c.records, batch...)
	c.batches = append(c.batches, batch)
	c.mu.Unlock()
	c.grown <- struct{}{}
}

func (c *collector) handle(_ context.Context, batch []domain.Record) ([]ports.Pause, error) {
	c.add(batch)
	return nil, nil
}

func (c *collector) snapshot() []domain.Record {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]domain.Record(nil), c.records...)
}

// wait returns once n records came.
func (c *collector) wait(t *testing.T, n int) []domain.Record {
	t.Helper()
	deadline := time.After(patience)
	for {
		if got := c.snapshot(); len(got) >= n {
			return got
		}
		select {
		case <-c.grown:
		case <-deadline:
			require.FailNow(t, "too few records", "want %d, have %d", n, len(c.snapshot()))
		}
	}
}

func keys(records []domain.Record) []string {
	out := make([]string, len(records))
	for i, r := range records {
		out[i] = r.Key
	}
	return out
}
