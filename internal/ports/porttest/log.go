// Package porttest has the conformance suites of the contracts in ports: one for the durable log and one for the
// store, run against every adapter. It leaves to the adapter's test how an instance is made, reopened and harmed.
package porttest

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/ports"
)

// LogHarness makes the logs of one test; they share their data.
type LogHarness struct {
	// Open opens the log, anew or again after Close.
	Open func(t *testing.T) ports.Log
	// Close closes what Open returned, in good order.
	Close func(t *testing.T, l ports.Log)
	// Crash opens what would be left if everything stopped now, and closes it at the test's end.
	Crash func(t *testing.T) ports.Log
	// Topics exist, with one partition each.
	Topics domain.Topics
}

// patience bounds every wait for something that has to happen.
const patience = 20 * time.Second

// Log runs the suite.
func Log(t *testing.T, harness func(t *testing.T) LogHarness) {
	for _, c := range []struct {
		name string
		run  func(t *testing.T, h LogHarness)
	}{
		{"bytes, keys and headers come back exactly, in order", logRoundTrip},
		{"what was published is there after a restart", logReopen},
		{"what was acknowledged survives a crash", logCrash},
		{"a batch is limited by records and by bytes", logBatchLimits},
		{"a batch is handed over when its first record is old enough", logBatchAge},
		{"an error delivers the batch again", logRedelivery},
		{"a pause commits up to it and delivers the rest later", logPause},
		{"a pause behind the last record delays what comes next", logPauseNext},
		{"a paused topic does not pause the others", logPauseOthers},
		{"offsets are committed only after the handler", logCommitAfter},
		{"what was committed does not come again", logCommitted},
		{"the end of the context finishes the batch in hand", logFinishes},
		{"a canceled handler ends the consumption without a commit", logCanceled},
		{"one member of a group consumes a partition at a time", logGroup},
		{"groups do not share offsets", logGroups},
		{"concurrent writers lose nothing", logConcurrent},
		{"a done context refuses without waiting", logDoneContext},
		{"the backlog counts what waits and how old it is", logBacklog},
		{"an unknown topic is a misconfiguration", logUnknownTopic},
		{"the log is ready while it takes records", logReady},
		{"records can be read where they stand", logRead},
		{"records are followed as they are written", logFollow},
		{"it is known how long topics keep records", logRetention},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, harness(t)) })
	}
}

func logRoundTrip(t *testing.T, h LogHarness) {
	l := h.opened(t)
	at := time.Date(2026, 11, 20, 12, 34, 56, 123456789, time.UTC)
	sent := []domain.Record{
		{
			Topic:   h.Topics.Decisions,
			Key:     "plain",
			Value:   []byte(`{"a":1}`),
			Headers: domain.Headers{Tenant: "default", ReceivedAt: at, Upload: "ab"},
		},
		{
			Topic:   h.Topics.Decisions,
			Key:     "päth/ \u2028💥",
			Value:   []byte("{\"a\":\"\\u0000\\ud800\", \"a\":1e999 }"),
			Headers: domain.Headers{Tenant: "default", ReceivedAt: at, Upload: "ab"},
		},
		{Topic: h.Topics.Decisions, Key: "bytes", Value: []byte{0, 255, '\n', 0x80}, Headers: domain.Headers{
			Tenant: "t", OPAPartition: "p/q", ReceivedAt: at, Upload: "cd", Reason: domain.InvalidUTF8,
			TraceParent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", Attempt: 3, NotBefore: at.Add(time.Second),
			FirstFailedAt: at.Add(-time.Hour), ErrorClass: domain.Unknown, ErrorCode: "P0001", Error: "a \"quoted\"\ntext",
			Origin: "docket.decisions/0/7", Replay: "job", ReplayCount: 2,
		}},
		{Topic: h.Topics.Decisions, Key: "large", Value: make([]byte, 4<<20), Headers: domain.Headers{Tenant: "t"}},
	}
	publish(t, l, sent...)
	c := newCollector()
	sub := h.sub()
	sub.MaxBytes = 16 << 20
	consume(t, l, sub, c.handle)
	for i, got := range c.wait(t, len(sent)) {
		want := sent[i]
		require.WithinDuration(t, time.Now(), got.WrittenAt, time.Minute)
		want.Partition, want.Offset, want.WrittenAt = got.Partition, got.Offset, got.WrittenAt
		require.Equal(t, want, got, "record %d", i)
		if i > 0 {
			require.Greater(t, got.Offset, c.records[i-1].Offset)
		}
	}
}

func logReopen(t *testing.T, h LogHarness) {
	l := h.Open(t)
	publish(t, l, events(h.Topics.Decisions, 0, 10)...)
	h.Close(t, l)
	l = h.opened(t)
	publish(t, l, events(h.Topics.Decisions, 10, 12)...)
	c := newCollector()
	consume(t, l, h.sub(), c.handle)
	require.Equal(t, keys(events("", 0, 12)), keys(c.wait(t, 12)))
}

func logCrash(t *testing.T, h LogHarness) {
	l := h.opened(t)
	publish(t, l, events(h.Topics.Decisions, 0, 10)...)
	c := newCollector()
	sub := h.sub()
	sub.MaxRecords = 4
	calls := 0
	s := consume(t, l, sub, func(_ context.Context, batch []domain.Record) ([]ports.Pause, error) {
		calls++
		if calls > 1 {
			return nil, domain.Errorf(domain.Canceled, "stopping")
		}
		c.add(batch)
		return nil, nil
	})
	c.wait(t, 4)
	require.NoError(t, <-s.ended)
	s.ended <- nil

	after := h.Crash(t)
	again := newCollector()
	consume(t, after, h.sub(), again.handle)
	require.Equal(t, keys(events("", 4, 10)), keys(again.wait(t, 6)), "records and committed offsets")
}

func logBatchLimits(t *testing.T, h LogHarness) {
	l := h.opened(t)
	publish(t, l, events(h.Topics.Decisions, 0, 25)...)
	c := newCollector()
	sub := h.sub()
	sub.MaxRecords = 10
	s := consume(t, l, sub, c.handle)
	c.wait(t, 25)
	s.stop(t)
	for _, b := range c.batches {
		require.LessOrEqual(t, len(b), 10)
	}

	big := events(h.Topics.Decisions, 25, 28)
	for i := range big {
		big[i].Value = make([]byte, 40<<10)
	}
	big[1].Value = make([]byte, 200<<10) // alone larger than a batch
	publish(t, l, big...)
	c = newCollector()
	sub.MaxBytes = 100 << 10
	consume(t, l, sub, c.handle)
	c.wait(t, 3)
	require.Len(t, c.batches, 3, "the large one goes alone")
}

func logBatchAge(t *testing.T, h LogHarness) {
	l := h.opened(t)
	c := newCollector()
	sub := h.sub()
	sub.MaxWait = 50 * time.Millisecond
	consume(t, l, sub, c.handle)
	publish(t, l, event(h.Topics.Decisions, 0))
	require.Equal(t, []string{"id-0"}, keys(c.wait(t, 1)))
}

func logRedelivery(t *testing.T, h LogHarness) {
	l := h.opened(t)
	publish(t, l, events(h.Topics.Decisions, 0, 5)...)
	c := newCollector()
	calls := 0
	consume(t, l, h.sub(), func(_ context.Context, batch []domain.Record) ([]ports.Pause, error) {
		calls++
		if calls == 1 {
			return nil, domain.Errorf(domain.Unavailable, "not now")
		}
		c.add(batch)
		return nil, nil
	})
	require.Equal(t, keys(events("", 0, 5)), keys(c.wait(t, 5)))
}

func logPause(t *testing.T, h LogHarness) {
	l := h.opened(t)
	publish(t, l, events(h.Topics.Decisions, 0, 5)...)
	c := newCollector()
	var until time.Time
	s := consume(t, l, h.sub(), func(_ context.Context, batch []domain.Record) ([]ports.Pause, error) {
		if until.IsZero() && batch[len(batch)-1].Key == "id-4" {
			until = time.Now().Add(300 * time.Millisecond)
			third := batch[len(batch)-2]
			c.add(batch[:len(batch)-2])
			return []ports.Pause{{Topic: third.Topic, Partition: third.Partition, Offset: third.Offset, Until: until}}, nil
		}
		c.add(batch)
		if !until.IsZero() {
			assert.False(t, time.Now().Before(until), "delivered before its time")
		}
		return nil, nil
	})
	require.Equal(t, keys(events("", 0, 5)), keys(c.wait(t, 5)))
	s.stop(t)

	// The part in front of the pause was committed.
	waiting, err := l.Backlog(t.Context(), "suite", h.Topics.Decisions)
	require.NoError(t, err)
	require.Zero(t, waiting[0].Waiting())
}

// logPauseNext has handled everything, and pauses for a while.
func logPauseNext(t *testing.T, h LogHarness) {
	l := h.opened(t)
	publish(t, l, events(h.Topics.Decisions, 0, 2)...)
	c := newCollector()
	var until time.Time
	s := consume(t, l, h.sub(), func(_ context.Context, batch []domain.Record) ([]ports.Pause, error) {
		if !until.IsZero() {
			assert.False(t, time.Now().Before(until), "delivered before its time")
		}
		until = time.Now().Add(300 * time.Millisecond)
		last := batch[len(batch)-1]
		c.add(batch)
		return []ports.Pause{{Topic: last.Topic, Partition: last.Partition, Offset: last.Offset + 1, Until: until}}, nil
	})
	c.wait(t, 2)
	publish(t, l, events(h.Topics.Decisions, 2, 4)...)
	require.Equal(t, keys(events("", 0, 4)), keys(c.wait(t, 4)))
	s.stop(t)
	waiting, err := l.Backlog(t.Context(), "suite", h.Topics.Decisions)
	require.NoError(t, err)
	require.Zero(t, waiting[0].Waiting())
}

func logPauseOthers(t *testing.T, h LogHarness) {
	l := h.opened(t)
	publish(t, l, event(h.Topics.Parking, 0))
	c := newCollector()
	sub := h.sub()
	sub.Topics = []string{h.Topics.Parking, h.Topics.Decisions}
	consume(t, l, sub, func(_ context.Context, batch []domain.Record) ([]ports.Pause, error) {
		c.add(batch)
		for _, r := range batch {
			if r.Topic == h.Topics.Parking {
				return []ports.Pause{
					{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Until: time.Now().Add(time.Hour)},
				}, nil
			}
		}
		return nil, nil
	})
	c.wait(t, 1)
	publish(t, l, event(h.Topics.Decisions, 1))
	require.Equal(t, []string{"id-0", "id-1"}, keys(c.wait(t, 2)))
}

func logCommitAfter(t *testing.T, h LogHarness) {
	l := h.opened(t)
	publish(t, l, events(h.Topics.Decisions, 0, 3)...)
	c := newCollector()
	s := consume(t, l, h.sub(), func(ctx context.Context, batch []domain.Record) ([]ports.Pause, error) {
		b, err := l.Backlog(ctx, "suite", h.Topics.Decisions)
		assert.NoError(t, err)
		assert.EqualValues(t, 3, b[0].Waiting(), "nothing is committed while the handler runs")
		c.add(batch)
		return nil, nil
	})
	c.wait(t, 3)
	s.stop(t)
	b, err := l.Backlog(t.Context(), "suite", h.Topics.Decisions)
	require.NoError(t, err)
	require.Zero(t, b[0].Waiting())
}

func logCommitted(t *testing.T, h LogHarness) {
	l := h.Open(t)
	publish(t, l, events(h.Topics.Decisions, 0, 3)...)
	c := newCollector()
	s := consume(t, l, h.sub(), c.handle)
	c.wait(t, 3)
	s.stop(t)
	h.Close(t, l)

	l = h.opened(t)
	publish(t, l, event(h.Topics.Decisions, 3))
	c = newCollector()
	consume(t, l, h.sub(), c.handle)
	require.Equal(t, []string{"id-3"}, keys(c.wait(t, 1)))
}

func logFinishes(t *testing.T, h LogHarness) {
	l := h.opened(t)
	publish(t, l, event(h.Topics.Decisions, 0))
	entered, leave := make(chan struct{}), make(chan struct{})
	s := consume(t, l, h.sub(), func(ctx context.Context, _ []domain.Record) ([]ports.Pause, error) {
		close(entered)
		<-leave
		return nil, ctx.Err()
	})
	<-entered
	s.cancel()
	close(leave)
	s.stop(t)
	b, err := l.Backlog(t.Context(), "suite", h.Topics.Decisions)
	require.NoError(t, err)
	require.Zero(t, b[0].Waiting(), "the batch in hand was committed")
}

func logCanceled(t *testing.T, h LogHarness) {
	l := h.opened(t)
	publish(t, l, event(h.Topics.Decisions, 0))
	s := consume(t, l, h.sub(), func(context.Context, []domain.Record) ([]ports.Pause, error) {
		return nil, domain.Errorf(domain.Canceled, "stopping")
	})
	select {
	case err := <-s.ended:
		require.NoError(t, err)
		s.ended <- nil
	case <-time.After(patience):
		require.FailNow(t, "Consume went on")
	}
	b, err := l.Backlog(t.Context(), "suite", h.Topics.Decisions)
	require.NoError(t, err)
	require.EqualValues(t, 1, b[0].Waiting())
}

func logGroup(t *testing.T, h LogHarness) {
	l := h.opened(t)
	c := newCollector()
	first := consume(t, l, h.sub(), c.handle)
	second := consume(t, l, h.sub(), c.handle)
	publish(t, l, events(h.Topics.Decisions, 0, 50)...)
	c.wait(t, 50)
	first.stop(t)
	publish(t, l, events(h.Topics.Decisions, 50, 60)...)
	require.ElementsMatch(t, keys(events("", 0, 60)), keys(c.wait(t, 60)), "each record once, by whichever member is left")
	second.stop(t)
}

func logGroups(t *testing.T, h LogHarness) {
	l := h.opened(t)
	publish(t, l, events(h.Topics.DLQ, 0, 5)...)
	for _, group := range []string{"one", "two"} {
		c := newCollector()
		sub := h.sub()
		sub.Group, sub.Topics = group, []string{h.Topics.DLQ}
		s := consume(t, l, sub, c.handle)
		require.Equal(t, keys(events("", 0, 5)), keys(c.wait(t, 5)))
		s.stop(t)
	}
}

func logConcurrent(t *testing.T, h LogHarness) {
	const writers, each = 8, 50
	l := h.opened(t)
	c := newCollector()
	consume(t, l, h.sub(), c.handle)
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for n := range each {
				ctx, cancel := context.WithTimeout(context.Background(), patience)
				assert.NoError(t, l.Publish(ctx, []domain.Record{event(h.Topics.Decisions, w*each+n)}))
				cancel()
			}
		})
	}
	wg.Wait()
	got := c.wait(t, writers*each)
	require.ElementsMatch(t, keys(events("", 0, writers*each)), keys(got))
}

func logDoneContext(t *testing.T, h LogHarness) {
	l := h.opened(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := l.Publish(ctx, events(h.Topics.Decisions, 0, 1))
	require.Error(t, err)
	require.Contains(t, []domain.Class{domain.Canceled, domain.Unavailable}, domain.ClassOf(err))
}

func logBacklog(t *testing.T, h LogHarness) {
	l := h.opened(t)
	before := time.Now().Add(-time.Second)
	publish(t, l, events(h.Topics.Decisions, 0, 4)...)
	b, err := l.Backlog(t.Context(), "suite", h.Topics.Decisions, h.Topics.Parking)
	require.NoError(t, err)
	require.Len(t, b, 2)
	require.EqualValues(t, 4, b[0].Waiting())
	require.True(t, b[0].Oldest.After(before) && b[0].Oldest.Before(time.Now().Add(time.Second)), "%v", b[0].Oldest)
	require.Zero(t, b[1].Waiting())
	require.True(t, b[1].Oldest.IsZero())
}

func logUnknownTopic(t *testing.T, h LogHarness) {
	l := h.opened(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	err := l.Publish(ctx, events("no.such.topic", 0, 1))
	require.Equal(t, domain.Misconfigured, domain.ClassOf(err), "%v", err)
	require.ErrorContains(t, err, "no.such.topic")
	sub := h.sub()
	sub.Topics = []string{"no.such.topic"}
	err = l.Consume(ctx, sub, newCollector().handle)
	require.Equal(t, domain.Misconfigured, domain.ClassOf(err), "%v", err)
}

func logReady(t *testing.T, h LogHarness) {
	l := h.Open(t)
	require.NoError(t, l.Ready(t.Context()))
	h.Close(t, l)
	require.Error(t, l.Ready(t.Context()))
	require.False(t, errors.Is(l.Ready(t.Context()), context.DeadlineExceeded))
}

func logRead(t *testing.T, h LogHarness) {
	l := h.opened(t)
	topic := h.Topics.DLQ
	var partition int32
	var err error
	require.Eventually(t, func() bool { // brokers hear of a new topic one after the other
		partition, err = l.PartitionOf(t.Context(), topic, "id-3")
		return err == nil
	}, patience, 20*time.Millisecond)
	require.Zero(t, partition, "of one")
	read := func(from int64, limit int) (got []domain.Record, next int64) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		next, err := l.Read(ctx, topic, partition, from, func(r domain.Record) bool {
			got = append(got, r)
			return len(got) < limit
		})
		require.NoError(t, err)
		return got, next
	}
	got, next := read(0, 10)
	require.Empty(t, got)
	require.Zero(t, next, "an empty partition is read to its end")

	sent := events(topic, 0, 1500)
	publish(t, l, sent...)
	got, next = read(0, 2000)
	require.Equal(t, keys(sent), keys(got))
	require.EqualValues(t, len(sent), next)
	require.Equal(t, sent[7].Value, got[7].Value)
	require.Equal(t, sent[7].Headers, got[7].Headers)
	require.EqualValues(t, 7, got[7].Offset)
	require.WithinDuration(t, time.Now(), got[7].WrittenAt, time.Minute)

	got, next = read(1000, 3)
	require.Equal(t, []string{"id-1000", "id-1001", "id-1002"}, keys(got))
	require.EqualValues(t, 1003, next)
	got, next = read(5000, 3)
	require.Empty(t, got, "behind the end")
	require.EqualValues(t, 1500, next)

	done, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = l.Read(done, topic, partition, 0, func(domain.Record) bool { return true })
	require.Equal(t, domain.Canceled, domain.ClassOf(err), "%v", err)
	_, err = l.Read(t.Context(), "nowhere", 0, 0, func(domain.Record) bool { return true })
	require.Equal(t, domain.Misconfigured, domain.ClassOf(err), "%v", err)
	_, err = l.PartitionOf(t.Context(), "nowhere", "x")
	require.Equal(t, domain.Misconfigured, domain.ClassOf(err), "%v", err)
}

func logRetention(t *testing.T, h LogHarness) {
	l := h.opened(t)
	kept, err := l.Retention(t.Context(), h.Topics.Decisions, h.Topics.DLQ)
	require.NoError(t, err)
	require.Len(t, kept, 2)
	for topic, d := range kept {
		require.GreaterOrEqual(t, d, ports.Forever, topic)
	}
	_, err = l.Retention(t.Context(), "nobody-made-it")
	require.Error(t, err)
}
