package kafka

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/ports"
)

func TestATopicIsMadeAnew(t *testing.T) { madeAnew(t, newFake(t).ListenAddrs()) }

// madeAnew has a topic deleted, and made anew, while a process publishes to it and consumes it.
func madeAnew(t *testing.T, brokers []string) {
	topics := newTopics(t, brokers, 3)
	l, err := Open(options(brokers, topics, &lostRecords{}))
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	var mu sync.Mutex
	got := map[string]bool{}
	ended := make(chan error, 1)
	go func() {
		sub := ports.Subscription{
			Group: topics.Group("anew"), Topics: []string{topics.Decisions}, MaxRecords: 10, MaxBytes: 1 << 20,
			MaxWait: time.Millisecond,
		}
		ended <- l.Consume(ctx, sub, func(_ context.Context, batch []domain.Record) ([]ports.Pause, error) {
			mu.Lock()
			defer mu.Unlock()
			for _, r := range batch {
				got[r.Key] = true
			}
			return nil, nil
		})
	}()
	defer func() {
		cancel()
		require.NoError(t, <-ended)
		require.NoError(t, l.Close())
	}()
	publish := func(key string) error {
		ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
		defer cancel()
		return l.Publish(ctx, []domain.Record{{Topic: topics.Decisions, Key: key, Value: []byte("{}")}})
	}
	consumed := func(key string) {
		t.Helper()
		require.Eventually(t, func() bool {
			mu.Lock()
			defer mu.Unlock()
			return got[key]
		}, 2*patience, 20*time.Millisecond, key)
	}
	require.NoError(t, publish("before"))
	consumed("before")
	require.NoError(t, l.Ready(t.Context()))

	_, err = l.admin.DeleteTopics(t.Context(), topics.Decisions)
	require.NoError(t, err)
	// A broker deletes in its own time.
	require.Eventually(t, func() bool { return publish("nowhere") != nil }, patience, 10*time.Millisecond)
	require.Error(t, l.Ready(t.Context()), "readiness follows publishing")
	_, err = l.Migrate(t.Context())
	require.NoError(t, err)
	for i := range 5 {
		key := fmt.Sprint("after-", i)
		require.Eventually(t, func() bool { return publish(key) == nil }, patience, 20*time.Millisecond)
		consumed(key)
	}
	require.NoError(t, l.Ready(t.Context()))
}

// TestReadinessDoesNotLatch: a publication that failed speaks for ten seconds, and the brokers afterwards.
func TestReadinessDoesNotLatch(t *testing.T) {
	fake := newFake(t)
	topics := newTopics(t, fake.ListenAddrs(), 1)
	l, err := Open(options(fake.ListenAddrs(), topics, &lostRecords{}))
	require.NoError(t, err)
	defer l.Close()
	refused := domain.Errorf(domain.Unavailable, "no")
	l.refused.Store(&refusal{refused, time.Now().Add(-refusedFor + time.Second)})
	require.ErrorIs(t, l.Ready(t.Context()), refused)
	l.refused.Store(&refusal{refused, time.Now().Add(-refusedFor)})
	require.NoError(t, l.Ready(t.Context()), "nobody publishes to a process that is not ready")
	l.refused.Store(&refusal{refused, time.Now()})
	require.NoError(t, l.Publish(t.Context(), []domain.Record{{Topic: topics.Decisions, Key: "k", Value: []byte("{}")}}))
	require.NoError(t, l.Ready(t.Context()), "one that succeeded knows better")
	err = l.Publish(t.Context(), []domain.Record{{Topic: topics.Decisions, Key: "k", Value: make([]byte, maxMessage+1)}})
	require.Equal(t, domain.Invalid, domain.ClassOf(err), "%v", err)
	require.NoError(t, l.Ready(t.Context()), "a record that is too large says nothing about others")
}

func TestTheEndOfATransaction(t *testing.T) { endOfTransaction(t, newFake(t).ListenAddrs()) }

// endOfTransaction has a partition end with a marker that is no record: whoever reads up to the end comes there.
func endOfTransaction(t *testing.T, brokers []string) {
	topics := newTopics(t, brokers, 1)
	l, err := Open(options(brokers, topics, &lostRecords{}))
	require.NoError(t, err)
	defer l.Close()
	mirror, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.TransactionalID("mirror-"+topics.Decisions))
	require.NoError(t, err)
	defer mirror.Close()
	for i := range 3 {
		require.NoError(t, mirror.BeginTransaction())
		require.NoError(t, mirror.ProduceSync(t.Context(), &kgo.Record{
			Topic: topics.Decisions, Key: fmt.Append(nil, i), Value: []byte("{}"),
		}).FirstErr())
		require.NoError(t, mirror.EndTransaction(t.Context(), kgo.TryCommit))
	}
	var read []string
	limit, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	next, err := l.Read(limit, topics.Decisions, 0, 0, func(r domain.Record) bool {
		read = append(read, r.Key)
		return true
	})
	require.NoError(t, err)
	require.EqualValues(t, 6, next)
	require.Equal(t, []string{"0", "1", "2"}, read)

	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	group := topics.Group("transactions")
	var mu sync.Mutex
	var got []string
	go func() {
		ended <- l.Consume(ctx, ports.Subscription{
			Group: group, Topics: []string{topics.Decisions}, MaxRecords: 2, MaxBytes: 1 << 20, MaxWait: time.Millisecond,
		}, func(_ context.Context, batch []domain.Record) ([]ports.Pause, error) {
			mu.Lock()
			defer mu.Unlock()
			for _, r := range batch {
				got = append(got, r.Key)
			}
			return nil, nil
		})
	}()
	require.Eventually(t, func() bool {
		backlog, err := l.Backlog(t.Context(), group, topics.Decisions)
		return err == nil && backlog[0].Committed == 6
	}, patience, 20*time.Millisecond, "nothing waits")
	stop()
	require.NoError(t, <-ended)
	mu.Lock()
	defer mu.Unlock()
	require.Equal(t, []string{"0", "1", "2"}, got)
}
