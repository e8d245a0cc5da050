package kafka

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/ports/porttest"
	"github.com/docket-project/docket/internal/testserver"
)

// broker is the Apache Kafka that this package's tests share.
func broker(t *testing.T) *testserver.Kafka {
	t.Helper()
	k, err := testserver.StartKafka(1)
	testserver.Need(t, err)
	t.Cleanup(func() { require.NoError(t, k.Close()) })
	return k
}

// TestKafka runs the conformance suite on a real broker, and then provokes there what the fake only claims.
func TestKafka(t *testing.T) {
	k := broker(t)
	t.Run("conformance", func(t *testing.T) {
		porttest.Log(t, harness(k.Brokers(), func(t *testing.T) {
			require.NoError(t, k.Kill(0))
			require.NoError(t, k.Start(0))
		}))
	})
	t.Run("processes share evenly", func(t *testing.T) { shareEvenly(t, k.Brokers()) })
	t.Run("a topic is made anew", func(t *testing.T) { madeAnew(t, k.Brokers()) })
	t.Run("the end of a transaction", func(t *testing.T) { endOfTransaction(t, k.Brokers()) })
	for _, c := range []struct {
		name string
		run  func(t *testing.T, r *real)
	}{
		{"a record that is too large", realTooLarge},
		{"fewer replicas than are to be in sync", realFewReplicas},
		{"a lost range", realLostRange},
		{"a topic that is deleted", realDeleted},
		{"a broker that hangs", realHang},
		{"a broker that is killed", realKill},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := &real{rig: &rig{topics: newTopics(t, k.Brokers(), 2)}, kafka: k}
			var err error
			r.Log, err = Open(options(k.Brokers(), r.topics, &r.lost))
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, r.Close()) })
			require.NoError(t, r.publish(t, patience, r.records(r.topics.Decisions, 0, 20)...))
			c.run(t, r)
		})
	}
}

type real struct {
	*rig
	kafka *testserver.Kafka
}

func realTooLarge(t *testing.T, r *real) {
	large := r.records(r.topics.Decisions, 20, 21)
	large[0].Value = make([]byte, 6<<20)
	err := r.publish(t, patience, large...)
	require.Equal(t, domain.Invalid, domain.ClassOf(err), "%v", err)
	require.Equal(t, "MESSAGE_TOO_LARGE", domain.CodeOf(err))
	large[0].Topic = r.topics.DLQ
	require.NoError(t, r.publish(t, patience, large...), "the data DLQ takes whole uploads")
}

// realFewReplicas is a topic that asks for more replicas in sync than it has: Kafka takes as many as there can be.
func realFewReplicas(t *testing.T, r *real) {
	two := "2"
	_, err := r.admin.AlterTopicConfigs(
		t.Context(), []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "min.insync.replicas", Value: &two}}, r.topics.Decisions,
	)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		settings, err := r.settings(t.Context(), r.topics.Decisions)
		return err == nil && settings[r.topics.Decisions]["min.insync.replicas"] == two
	}, patience, 50*time.Millisecond)
	require.NoError(t, r.publish(t, patience, r.records(r.topics.Decisions, 20, 21)...))
	require.NoError(t, r.Ready(t.Context()), "what Kafka takes is ready")
}

func realLostRange(t *testing.T, r *real) {
	b, err := r.Backlog(t.Context(), "g", r.topics.Decisions)
	require.NoError(t, err)
	require.Positive(t, b[0].End)
	// The group has done the first record of the first partition; then all but the last fall off.
	var offsets kadm.Offsets
	offsets.AddOffset(r.topics.Decisions, 0, 1, -1)
	committed, err := r.admin.CommitOffsets(t.Context(), "g", offsets)
	require.NoError(t, err)
	require.NoError(t, committed.Error())
	var until kadm.Offsets
	until.AddOffset(r.topics.Decisions, 0, b[0].End-1, -1)
	_, err = r.admin.DeleteRecords(t.Context(), until)
	require.NoError(t, err)
	var s seen
	stop := r.consume(t, r.topics.Decisions, s.handle)
	require.Eventually(t, func() bool { return r.lost.Load() > 0 }, patience, 10*time.Millisecond)
	require.Eventually(t, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return int64(len(s.keys)) == b[1].End
	}, patience, 10*time.Millisecond, "the other partition goes on")
	require.Equal(t, b[0].End-2, r.lost.Load())
	stop()

	// Another group has done what the topic does not have: the topic was cut back, or made anew.
	var ahead kadm.Offsets
	ahead.AddOffset(r.topics.Decisions, 1, b[1].End+5, -1)
	_, err = r.admin.CommitOffsets(t.Context(), "h", ahead)
	require.NoError(t, err)
	cut, err := r.Losses(t.Context(), "h", r.topics.Decisions)
	require.NoError(t, err)
	want := Loss{lossOf("h", r.topics.Decisions, 1, b[1].End, b[1].End+4), b[1].Start}
	require.Equal(t, atAnyTime([]Loss{want}), atAnyTime(cut))
	losses, err := r.Losses(t.Context(), "g", r.topics.Decisions)
	require.NoError(t, err)
	require.NoError(t, r.AcceptLoss(t.Context(), losses, "test"))
	var after seen
	r.consume(t, r.topics.Decisions, after.handle)
	require.Eventually(t, func() bool {
		after.mu.Lock()
		defer after.mu.Unlock()
		return len(after.keys) == 1
	}, patience, 10*time.Millisecond)
}

func realDeleted(t *testing.T, r *real) {
	_, err := r.admin.DeleteTopic(t.Context(), r.topics.Parking)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		err := r.publish(t, 5*time.Second, r.records(r.topics.Parking, 0, 1)...)
		return domain.ClassOf(err) == domain.Misconfigured
	}, patience, 50*time.Millisecond)
	_, err = r.Check(t.Context())
	require.Equal(t, domain.Misconfigured, domain.ClassOf(err), "%v", err)
	require.ErrorContains(t, err, "docket migrate")
}

func realHang(t *testing.T, r *real) {
	require.NoError(t, r.kafka.Pause(0))
	defer r.kafka.Resume(0)
	err := r.publish(t, 2*time.Second, r.records(r.topics.Decisions, 20, 30)...)
	require.Equal(t, domain.Unavailable, domain.ClassOf(err), "%v", err)
	err = r.Ready(t.Context())
	require.Equal(t, domain.Unavailable, domain.ClassOf(err), "%v", err)
	r.kafka.Resume(0)
	require.Eventually(
		t, func() bool { return r.publish(t, 5*time.Second, r.records(r.topics.Decisions, 30, 31)...) == nil }, patience,
		50*time.Millisecond,
	)
}

func realKill(t *testing.T, r *real) {
	var s seen
	r.consume(t, r.topics.Decisions, s.handle)
	s.wait(t, keys(r.records("", 0, 20))...)
	require.NoError(t, r.kafka.Kill(0))
	restart := sync.OnceValue(func() error { return r.kafka.Start(0) })
	defer func() { _ = restart() }()
	for name, ask := range map[string]func(context.Context) error{
		"publish": func(context.Context) error {
			return r.publish(t, time.Second, r.records(r.topics.Decisions, 20, 21)...)
		},
		"ready":   r.Ready,
		"check":   func(ctx context.Context) error { _, err := r.Check(ctx); return err },
		"backlog": func(ctx context.Context) error { _, err := r.Backlog(ctx, "g", r.topics.Decisions); return err },
		"migrate": func(ctx context.Context) error { _, err := r.Migrate(ctx); return err },
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		err := ask(ctx)
		cancel()
		require.Equal(t, domain.Unavailable, domain.ClassOf(err), "%s: %v", name, err)
	}
	require.NoError(t, restart())
	require.Eventually(
		t, func() bool { return r.publish(t, 5*time.Second, r.records(r.topics.Decisions, 50, 51)...) == nil }, patience,
		50*time.Millisecond,
	)
	require.Eventually(t, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return slices.Contains(s.keys, "id-50") // behind which id-20, which nobody heard of again, may have become durable
	}, patience, 10*time.Millisecond, "the consumer comes back by itself")
}
