package kafka

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/ports"
)

// rig is a log on a fake cluster whose faults a test chooses.
type rig struct {
	*Log
	fake   *kfake.Cluster
	topics domain.Topics
	lost   lostRecords
}

func newRig(t *testing.T, partitions int32, edit func(*Options), opts ...kfake.Opt) *rig {
	t.Helper()
	r := &rig{fake: newFake(t, opts...)}
	r.topics = newTopics(t, r.fake.ListenAddrs(), partitions)
	o := options(r.fake.ListenAddrs(), r.topics, &r.lost)
	if edit != nil {
		edit(&o)
	}
	var err error
	r.Log, err = Open(o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.Close()) })
	return r
}

func (r *rig) records(topic string, from, to int) []domain.Record {
	var out []domain.Record
	for n := from; n < to; n++ {
		out = append(
			out,
			domain.Record{
				Topic: topic, Key: fmt.Sprintf("id-%d", n), Value: fmt.Appendf(nil, `{"n":%d}`, n),
				Headers: domain.Headers{Tenant: "t"},
			},
		)
	}
	return out
}

// publish within a time.
func (r *rig) publish(t *testing.T, within time.Duration, records ...domain.Record) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	start := time.Now()
	err := r.Publish(ctx, records)
	require.Less(
		t, time.Since(start), within+500*time.Millisecond, "Publish returns when its ctx is done, whatever the brokers do",
	)
	return err
}

// seen collects what a consumption delivers.
type seen struct {
	mu   sync.Mutex
	keys []string
}

func (s *seen) handle(_ context.Context, batch []domain.Record) ([]ports.Pause, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range batch {
		s.keys = append(s.keys, r.Key)
	}
	return nil, nil
}

func (s *seen) wait(t *testing.T, want ...string) {
	t.Helper()
	require.Eventually(t, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.keys) >= len(want)
	}, patience, 10*time.Millisecond, "%d records", len(want))
	s.mu.Lock()
	defer s.mu.Unlock()
	require.ElementsMatch(t, want, s.keys)
}

// consume runs a member until the returned func is called.
func (r *rig) consume(t *testing.T, topic string, handle ports.Handler) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- r.Consume(ctx, ports.Subscription{Group: "g", Topics: []string{topic}, MaxRecords: 100, MaxBytes: 1 << 20,
			MaxWait: 10 * time.Millisecond}, handle)
	}()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			select {
			case err := <-ended:
				require.NoError(t, err)
			case <-time.After(patience):
				require.FailNow(t, "Consume did not end")
			}
		})
	}
	t.Cleanup(stop)
	return stop
}

func TestPublishFaults(t *testing.T) {
	t.Parallel() // it waits most of the time
	for _, c := range []struct {
		name  string
		fault *kerr.Error
		count int
		want  domain.Class // "" is success
	}{
		{"too few replicas, for longer than the upload waits", kerr.NotEnoughReplicas, -1, domain.Unavailable},
		{"too few replicas, for a moment", kerr.NotEnoughReplicas, 2, ""},
		{"too few replicas after the append", kerr.NotEnoughReplicasAfterAppend, 2, ""},
		{"a time-out after the append", kerr.RequestTimedOut, 2, ""},
		{"the leader has moved", kerr.NotLeaderForPartition, 2, ""},
		{"a disk of the broker's", kerr.KafkaStorageError, 2, ""},
		{"a record that is too large for the topic", kerr.MessageTooLarge, -1, domain.Invalid},
		{"no right to write", kerr.TopicAuthorizationFailed, -1, domain.Misconfigured},
		{"a policy of the cluster's", kerr.PolicyViolation, -1, domain.Misconfigured},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, 1, nil)
			require.NoError(t, r.publish(t, patience, r.records(r.topics.Decisions, 0, 1)...))
			fault := r.fake.Fault(
				kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: r.topics.Decisions, Err: c.fault, Count: c.count},
			)
			within := 2 * time.Second
			if c.want == "" {
				within = patience
			}
			err := r.publish(t, within, r.records(r.topics.Decisions, 1, 4)...)
			require.Positive(t, fault.Hits())
			fault.Remove()
			if c.want != "" {
				require.Equal(t, c.want, domain.ClassOf(err), "%v", err)
				require.ErrorContains(t, err, r.topics.Decisions)
				return
			}
			require.NoError(t, err)
			var s seen
			r.consume(t, r.topics.Decisions, s.handle)
			s.wait(t, "id-0", "id-1", "id-2", "id-3") // and none twice: the brokers know what they have
			require.Zero(t, r.lost.Load())
		})
	}
}

func TestPublishToABrokerThatHangs(t *testing.T) {
	t.Parallel() // it waits most of the time
	r := newRig(t, 1, func(o *Options) { o.MaxBuffered = 1 << 20 })
	require.NoError(t, r.publish(t, patience, r.records(r.topics.Decisions, 0, 1)...))
	release := make(chan struct{})
	r.fake.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		r.fake.KeepControl()
		r.fake.SleepControl(func() { <-release })
		return nil, nil, false
	})
	err := r.publish(t, time.Second, r.records(r.topics.Decisions, 1, 2)...)
	require.Equal(t, domain.Unavailable, domain.ClassOf(err), "%v", err)

	// The buffer is bounded: what comes when it is full is refused at once.
	large := r.records(r.topics.Decisions, 2, 40)
	for i := range large {
		large[i].Value = make([]byte, 100<<10)
	}
	start := time.Now()
	var wg sync.WaitGroup
	for i := range large {
		wg.Go(func() { _ = r.publish(t, time.Second, large[i]) })
	}
	wg.Wait()
	err = r.publish(t, 2*time.Second, large...)
	require.Equal(t, domain.Unavailable, domain.ClassOf(err), "%v", err)
	require.Less(t, time.Since(start), 5*time.Second)
	close(release)
	require.Eventually(
		t, func() bool { return r.publish(t, time.Second, r.records(r.topics.Decisions, 100, 101)...) == nil }, patience,
		10*time.Millisecond,
	)
}

func TestALostRange(t *testing.T) {
	r := newRig(t, 3, nil)
	// Records of all partitions; the first are consumed and committed.
	publish := func(from, to int) {
		require.NoError(t, r.publish(t, patience, r.records(r.topics.Decisions, from, to)...))
	}
	publish(0, 20)
	var before seen
	stop := r.consume(t, r.topics.Decisions, before.handle)
	before.wait(t, keys(r.records("", 0, 20))...)
	stop()
	publish(20, 60)
	backlog, err := r.Backlog(t.Context(), "g", r.topics.Decisions)
	require.NoError(t, err)
	first := backlog[0]
	require.Positive(t, first.Waiting())
	// The first two partitions lose all that waits but the last record.
	second := backlog[1]
	require.NoError(t, r.fake.DeleteRecords(r.topics.Decisions, 0, first.End-1))
	require.NoError(t, r.fake.DeleteRecords(r.topics.Decisions, 1, second.End-1))
	gone := first.Waiting() + second.Waiting() - 2

	var s seen
	stop = r.consume(t, r.topics.Decisions, s.handle)
	require.Eventually(t, func() bool { return r.lost.Load() >= gone }, patience, 10*time.Millisecond)
	require.Eventually(t, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return int64(len(s.keys)) == backlog[2].Waiting()
	}, patience, 10*time.Millisecond, "the other partition goes on")

	losses, err := r.Losses(t.Context(), "g", r.topics.Decisions)
	require.NoError(t, err)
	require.Equal(t, atAnyTime([]Loss{
		{lossOf("g", r.topics.Decisions, 0, first.Committed, first.End-2), first.End - 1},
		{lossOf("g", r.topics.Decisions, 1, second.Committed, second.End-2), second.End - 1},
	}), atAnyTime(losses))
	err = r.AcceptLoss(t.Context(), losses, "test")
	require.Equal(t, domain.Misconfigured, domain.ClassOf(err), "members that run would not notice: %v", err)
	require.ErrorContains(t, err, "stop them first")
	require.Equal(t, gone, r.lost.Load(), "exactly what is gone, and once")
	stop()

	require.NoError(t, r.AcceptLoss(t.Context(), losses, "test"))
	losses, err = r.Losses(t.Context(), "g", r.topics.Decisions)
	require.NoError(t, err)
	require.Empty(t, losses)
	var after seen
	r.consume(t, r.topics.Decisions, after.handle)
	require.Eventually(t, func() bool {
		after.mu.Lock()
		defer after.mu.Unlock()
		return len(after.keys) == 2
	}, patience, 10*time.Millisecond, "the group goes on behind the losses")
}

// atAnyTime are losses without the time when they were found.
func atAnyTime(losses []Loss) []Loss {
	for i := range losses {
		losses[i].At = time.Time{}
	}
	return losses
}

// TestALossThatNothingTells has a partition whose records fell off before the group committed anything.
func TestALossThatNothingTells(t *testing.T) {
	t.Parallel() // it waits most of the time
	r := newRig(t, 1, nil)
	require.NoError(t, r.publish(t, patience, r.records(r.topics.Decisions, 0, 10)...))
	r.fake.Fault(
		kfake.Fault{Keys: []kmsg.Key{kmsg.OffsetCommit}, Group: "g", Err: kerr.CoordinatorNotAvailable, Count: -1},
	)
	handled := make(chan struct{}, 1)
	var s seen
	r.consume(t, r.topics.Decisions, func(ctx context.Context, batch []domain.Record) ([]ports.Pause, error) {
		select {
		case handled <- struct{}{}:
			return ports.PauseAll(batch, time.Now().Add(500*time.Millisecond)), nil // the rest is not fetched meanwhile
		default:
			return s.handle(ctx, batch)
		}
	})
	<-handled
	require.NoError(t, r.publish(t, patience, r.records(r.topics.Decisions, 10, 20)...))
	require.NoError(t, r.fake.DeleteRecords(r.topics.Decisions, 0, 15))
	require.Eventually(
		t, func() bool { return r.lost.Load() > 0 }, patience, 10*time.Millisecond, "it is told all the same",
	)
}

func keys(records []domain.Record) []string {
	var out []string
	for _, r := range records {
		out = append(out, r.Key)
	}
	return out
}

func TestCommitFaults(t *testing.T) {
	for _, fault := range []*kerr.Error{kerr.RebalanceInProgress, kerr.CoordinatorNotAvailable,
		kerr.CoordinatorLoadInProgress} {
		t.Run(fault.Message, func(t *testing.T) {
			r := newRig(t, 1, nil)
			require.NoError(t, r.publish(t, patience, r.records(r.topics.Decisions, 0, 3)...))
			f := r.fake.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.OffsetCommit}, Group: "g", Err: fault, Count: 1})
			var s seen
			stop := r.consume(t, r.topics.Decisions, s.handle)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			require.NoError(t, f.Wait(ctx, 1))
			require.NoError(t, r.publish(t, patience, r.records(r.topics.Decisions, 3, 4)...))
			require.Eventually(t, func() bool {
				b, err := r.Backlog(t.Context(), "g", r.topics.Decisions)
				return err == nil && b[0].Waiting() == 0
			}, patience, 20*time.Millisecond, "a later commit makes up for it")
			stop()
			s.mu.Lock()
			defer s.mu.Unlock()
			require.Subset(t, s.keys, keys(r.records("", 0, 4)))
		})
	}
}

func TestFetchFaultsPass(t *testing.T) {
	r := newRig(t, 3, nil)
	require.NoError(t, r.publish(t, patience, r.records(r.topics.Decisions, 0, 30)...))
	r.fake.Fault(
		kfake.Fault{Keys: []kmsg.Key{kmsg.Fetch}, Topic: r.topics.Decisions, Err: kerr.NotLeaderForPartition, Count: 2},
		kfake.Fault{Keys: []kmsg.Key{kmsg.Fetch}, Topic: r.topics.Decisions, Err: kerr.UnknownServerError, Count: 2},
		kfake.Fault{Keys: []kmsg.Key{kmsg.Heartbeat}, Group: "g", Err: kerr.RebalanceInProgress, Count: 1},
	)
	var s seen
	r.consume(t, r.topics.Decisions, s.handle)
	s.wait(t, keys(r.records("", 0, 30))...)
	require.Zero(t, r.lost.Load())
}

// TestPausesSurviveARebalance pauses a partition in one member; when another member gets it, it is delivered there at
// once, and a partition that comes back is not paused any more.
func TestPausesSurviveARebalance(t *testing.T) {
	r := newRig(t, 4, nil)
	require.NoError(t, r.publish(t, patience, r.records(r.topics.Decisions, 0, 40)...))
	handled := make(chan struct{}, 100)
	stopPauser := r.consume(t, r.topics.Decisions, func(_ context.Context, batch []domain.Record) ([]ports.Pause, error) {
		handled <- struct{}{}
		return ports.PauseAll(batch, time.Now().Add(time.Hour)), nil
	})
	<-handled
	var s seen
	r.consume(t, r.topics.Decisions, s.handle)
	require.Eventually(t, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.keys) > 0
	}, patience, 10*time.Millisecond, "the second member gets partitions and delivers them")
	stopPauser()
	s.wait(t, keys(r.records("", 0, 40))...)
}

// TestPausedPartitionsAreNotFetched keeps a partition paused for several rounds, and other members' heartbeats going.
func TestPausedPartitionsAreNotFetched(t *testing.T) {
	r := newRig(t, 1, nil)
	require.NoError(t, r.publish(t, patience, r.records(r.topics.Decisions, 0, 10)...))
	rounds := make(chan []string, 100)
	var until time.Time
	r.consume(t, r.topics.Decisions, func(_ context.Context, batch []domain.Record) ([]ports.Pause, error) {
		rounds <- keys(batch)
		if len(rounds) >= 3 {
			return nil, nil
		}
		until = time.Now().Add(150 * time.Millisecond)
		return ports.PauseAll(batch, until), nil
	})
	require.Eventually(t, func() bool { return len(rounds) >= 3 }, patience, 10*time.Millisecond)
	for range 3 {
		require.Equal(t, keys(r.records("", 0, 10)), <-rounds, "each time all of it, in order")
	}
}

func TestReadyFollowsTheBrokers(t *testing.T) {
	r := newRig(t, 1, nil)
	require.NoError(t, r.Ready(t.Context()))
	r.fake.Close()
	err := r.Ready(t.Context())
	require.Equal(t, domain.Unavailable, domain.ClassOf(err), "%v", err)
	err = r.publish(t, time.Second, r.records(r.topics.Decisions, 0, 1)...)
	require.Equal(t, domain.Unavailable, domain.ClassOf(err), "%v", err)
	_, err = r.Check(t.Context())
	require.Equal(t, domain.Unavailable, domain.ClassOf(err), "%v", err)
	_, err = r.Backlog(t.Context(), "g", r.topics.Decisions)
	require.Equal(t, domain.Unavailable, domain.ClassOf(err), "%v", err)
}

func TestNobodyListens(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := l.Addr().String()
	require.NoError(t, l.Close())
	log, err := Open(options([]string{addr}, domain.TopicsWithPrefix("docket."), &lostRecords{}))
	require.NoError(t, err)
	defer log.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	_, err = log.Check(ctx)
	require.Equal(t, domain.Unavailable, domain.ClassOf(err), "%v", err)
}

func TestTopics(t *testing.T) {
	const prefix = "made."
	topics := domain.TopicsWithPrefix(prefix)
	fake := newFake(t, kfake.NumBrokers(3))
	l, err := Open(options(fake.ListenAddrs(), topics, &lostRecords{}))
	require.NoError(t, err)
	defer l.Close()

	_, err = l.Check(t.Context())
	require.Equal(t, domain.Misconfigured, domain.ClassOf(err), "%v", err)
	require.ErrorContains(t, err, "docket migrate")

	created, err := l.Migrate(t.Context())
	require.NoError(t, err)
	require.Equal(t, topics.All(), created)
	weak, err := l.Check(t.Context())
	require.NoError(t, err)
	require.Empty(t, weak, "three brokers are what docket promises")
	created, err = l.Migrate(t.Context())
	require.NoError(t, err)
	require.Empty(t, created, "what is there is left alone")
	settings, err := l.settings(t.Context(), topics.All()...)
	require.NoError(t, err)
	for topic, want := range map[string][3]string{
		topics.Decisions:  {"5242880", "604800000", "2"},
		topics.Parking:    {"5308416", "604800000", "2"},
		topics.Held:       {"16777216", "2592000000", "2"},
		topics.ParkingDLQ: {"16777216", "2592000000", "2"},
		topics.DLQ:        {"16777216", "2592000000", "2"},
	} {
		got := settings[topic]
		require.Equal(t, want, [3]string{got["max.message.bytes"], got["retention.ms"], got["min.insync.replicas"]}, topic)
		require.Equal(t, "false", got["unclean.leader.election.enable"], topic)
		require.Equal(t, "-1", got["retention.bytes"], topic)
		require.Equal(t, "LogAppendTime", got["message.timestamp.type"], topic)
		require.EqualValues(t, 12, len(fake.PartitionInfos(topic)), topic)
	}
	replicas, one := l.wanted(topics.Decisions, 1)
	require.EqualValues(t, 1, replicas)
	require.Equal(t, "1", *one["min.insync.replicas"])
	replicas, two := l.wanted(topics.Decisions, 2)
	require.EqualValues(t, 2, replicas)
	require.Equal(t, "1", *two["min.insync.replicas"])
}

func TestCheck(t *testing.T) {
	for _, c := range []struct {
		name   string
		topic  func(domain.Topics) string
		change map[string]string
		class  domain.Class // of the error; "" where it is a weakness only
		want   string
		// unreplicated says that a single role refuses to start for it.
		unreplicated bool
	}{
		{"small records", func(t domain.Topics) string { return t.Decisions },
			map[string]string{"max.message.bytes": "1000012"}, domain.Misconfigured, "max.message.bytes", false},
		{"uploads do not fit into the data DLQ", func(t domain.Topics) string { return t.DLQ },
			map[string]string{"max.message.bytes": "5242880"}, domain.Misconfigured, "max.message.bytes", false},
		{"compaction", func(t domain.Topics) string { return t.Parking }, map[string]string{"cleanup.policy": "compact"},
			domain.Misconfigured, "cleanup.policy", false},
		{"parking is kept for less time", func(t domain.Topics) string { return t.Parking },
			map[string]string{"retention.ms": "3600000"}, domain.Misconfigured, "retention.ms", false},
		{"parking is kept for ever", func(t domain.Topics) string { return t.Parking },
			map[string]string{"retention.ms": "-1"}, "", "", false},
		{"one replica may acknowledge", func(t domain.Topics) string { return t.Decisions },
			map[string]string{"min.insync.replicas": "1"}, "", "min.insync.replicas=1", true},
		{"unclean elections", func(t domain.Topics) string { return t.DLQ },
			map[string]string{"unclean.leader.election.enable": "true"}, "", "unclean.leader.election", true},
		{"size decides what is kept", func(t domain.Topics) string { return t.Parking },
			map[string]string{"retention.bytes": "200000"}, "", "retention.bytes=200000", false},
		{"a producer's clock decides what is kept", func(t domain.Topics) string { return t.ParkingDLQ },
			map[string]string{"message.timestamp.type": "CreateTime"}, "", "message.timestamp.type=CreateTime", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			fake := newFake(t, kfake.NumBrokers(3))
			topics := domain.TopicsWithPrefix("docket.")
			l, err := Open(options(fake.ListenAddrs(), topics, &lostRecords{}))
			require.NoError(t, err)
			defer l.Close()
			for _, topic := range topics.All() {
				replicas, settings := l.wanted(topic, 3)
				if topic == c.topic(topics) {
					for name, value := range c.change {
						settings[name] = &value
					}
				}
				_, err := l.admin.CreateTopic(t.Context(), 3, replicas, settings, topic)
				require.NoError(t, err)
			}
			weak, err := l.Check(t.Context())
			if c.class != "" {
				require.Equal(t, c.class, domain.ClassOf(err), "%v", err)
				require.ErrorContains(t, err, c.want)
				require.ErrorContains(t, err, c.topic(topics))
				return
			}
			require.NoError(t, err)
			if c.want == "" {
				require.Empty(t, weak)
				return
			}
			require.Len(t, weak, 1)
			require.Contains(t, weak[0].Text, c.want)
			require.Contains(t, weak[0].Text, c.topic(topics))
			require.Equal(t, c.unreplicated, weak[0].Unreplicated)
		})
	}
}

// TestCheckOfLongUploads has a data DLQ that could not take the longest upload that ingest accepts.
func TestCheckOfLongUploads(t *testing.T) {
	fake := newFake(t, kfake.NumBrokers(3))
	topics := domain.TopicsWithPrefix("docket.")
	o := options(fake.ListenAddrs(), topics, &lostRecords{})
	o.MaxUpload = 16 << 20
	l, err := Open(o)
	require.NoError(t, err)
	defer l.Close()
	_, err = l.Migrate(t.Context())
	require.NoError(t, err)
	_, err = l.Check(t.Context())
	require.Equal(t, domain.Misconfigured, domain.ClassOf(err), "%v", err)
	require.ErrorContains(t, err, topics.DLQ)
	require.ErrorContains(t, err, "max_wire_bytes")
}

// TestClassesAreTotal has a class for every error of the protocol, and none by accident.
func TestClassesAreTotal(t *testing.T) {
	unknown := map[*kerr.Error]bool{}
	for code := int16(-1); code < 200; code++ {
		err := kerr.TypedErrorForCode(code)
		if err == nil || err.Code != code {
			continue
		}
		class := classOf(err)
		require.Contains(t, domain.Classes, class, err.Message)
		require.NotEqual(t, domain.Canceled, class, err.Message)
		if err.Retriable {
			require.NotEqual(t, domain.Unknown, class, err.Message)
		}
		if class == domain.Unknown {
			unknown[err] = true
		}
	}
	require.NotContains(t, unknown, kerr.TopicAuthorizationFailed)
	for err, want := range map[error]domain.Class{
		context.Canceled: domain.Canceled, context.DeadlineExceeded: domain.Unavailable, kgo.ErrClientClosed: domain.Canceled,
		kgo.ErrMaxBuffered: domain.Unavailable, kgo.ErrRecordTimeout: domain.Unavailable,
		kgo.ErrRecordRetries:                         domain.Unavailable,
		&net.OpError{Op: "dial", Err: net.ErrClosed}: domain.Unavailable, fmt.Errorf("something else"): domain.Unknown,
		&kgo.ErrDataLoss{}: domain.Misconfigured,
	} {
		require.Equal(t, want, domain.ClassOf(classify("op", err)), "%v", err)
	}
}

func FuzzBatchTime(f *testing.F) {
	b := make([]byte, 70)
	b[16] = 2
	binary.BigEndian.PutUint64(b[27:], 1_700_000_000_123)
	f.Add(b)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		at := batchTime(b)
		if len(b) < 35 && !at.IsZero() {
			t.Fatalf("%d bytes are no batch, but have the time %v", len(b), at)
		}
	})
}

func TestBatchTime(t *testing.T) {
	b := make([]byte, 70)
	b[16] = 2
	binary.BigEndian.PutUint64(b[27:], 1_700_000_000_123)
	binary.BigEndian.PutUint64(b[35:], 1_700_000_000_456)
	require.Equal(t, time.UnixMilli(1_700_000_000_123).UTC(), batchTime(b))
	b[22] = 0b1011 // LZ4, and the broker's time
	require.Equal(t, time.UnixMilli(1_700_000_000_456).UTC(), batchTime(b))
}

func TestClocks(t *testing.T) {
	now := time.Date(2026, 7, 31, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		name              string
		written, received time.Duration // from now
		headerless        bool
		want              string
	}{
		{name: "in step", written: -2 * time.Second, received: -3 * time.Second},
		{name: "a record that waited for days", written: -72 * time.Hour, received: -72 * time.Hour},
		{name: "within the tolerance", written: 50 * time.Second, received: 0},
		{name: "ahead", written: 5 * time.Minute, received: 0, want: "a broker's clock is 5m0s ahead of docket's"},
		{name: "ahead, without a receipt", written: 5 * time.Minute, headerless: true, want: "5m0s ahead"},
		{name: "behind", written: -time.Hour, received: 0, want: "a broker's clock is 1h0m0s behind docket's"},
		{name: "of a program that says nothing", written: -time.Hour, headerless: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			var clocks clocks
			r := domain.Record{WrittenAt: now.Add(c.written)}
			if !c.headerless {
				r.Headers.ReceivedAt = now.Add(c.received)
			}
			clocks.look(r, now)
			weak := clocks.weakness(now.Add(time.Minute))
			if c.want == "" {
				require.Empty(t, weak)
				return
			}
			require.Len(t, weak, 1)
			require.Contains(t, weak[0].Text, c.want)
			require.False(t, weak[0].Unreplicated)
			require.Empty(t, clocks.weakness(now.Add(clockMemory+time.Second)), "it was not met again")
		})
	}
}

// TestRenamedGroup goes on where the group of the old name stands, once.
func TestRenamedGroup(t *testing.T) {
	fake := newFake(t)
	topics := newTopics(t, fake.ListenAddrs(), 3)
	l, err := Open(options(fake.ListenAddrs(), topics, &lostRecords{}))
	require.NoError(t, err)
	defer l.Close()
	var old kadm.Offsets
	for p, at := range []int64{7, 8} {
		old.AddOffset(topics.Decisions, int32(p), at, -1)
	}
	old.AddOffset("another.decisions", 0, 99, -1)
	_, err = l.admin.CommitOffsets(t.Context(), "docket-saver", old)
	require.NoError(t, err)
	committed := func() map[int32]int64 {
		out := map[int32]int64{}
		offsets, err := l.admin.FetchOffsets(t.Context(), topics.Group("docket-saver"))
		require.NoError(t, err)
		offsets.Each(func(o kadm.OffsetResponse) {
			require.Equal(t, topics.Decisions, o.Topic, "another installation's topics are none of ours")
			out[o.Partition] = o.At
		})
		return out
	}
	for range 2 {
		require.NoError(t, l.CopyCommits(t.Context(), "docket-saver", topics.Group("docket-saver"), topics.Decisions))
		require.Equal(t, map[int32]int64{0: 7, 1: 8}, committed())
	}
	var own kadm.Offsets
	own.AddOffset(topics.Decisions, 0, 70, -1)
	_, err = l.admin.CommitOffsets(t.Context(), topics.Group("docket-saver"), own)
	require.NoError(t, err)
	require.NoError(t, l.CopyCommits(t.Context(), "docket-saver", topics.Group("docket-saver"), topics.Decisions))
	require.Equal(t, map[int32]int64{0: 70, 1: 8}, committed(), "what the group has committed itself stays")
}

// TestALongPublicationLeavesRoom: what one upload has waiting at the brokers is bounded, so that others' records do not
// wait behind all of it, and in the end all of it is there.
func TestALongPublicationLeavesRoom(t *testing.T) {
	t.Parallel() // it waits for a broker
	r := newRig(t, 1, func(*Options) {})
	hung, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	r.fake.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		r.fake.KeepControl()
		once.Do(func() { close(hung) })
		r.fake.SleepControl(func() { <-release })
		return nil, nil, false
	})
	long := r.records(r.topics.Decisions, 0, 3000)
	for i := range long {
		long[i].Value = make([]byte, 1<<10)
	}
	published := make(chan error, 1)
	go func() { published <- r.publish(t, patience, long...) }()
	<-hung
	require.Never(t, func() bool { return r.client.BufferedProduceBytes() > publishWindow }, 100*time.Millisecond,
		time.Millisecond)
	require.Greater(t, r.client.BufferedProduceBytes(), int64(publishWindow/2))
	close(release)
	require.NoError(t, <-published)
	ends, err := r.admin.ListEndOffsets(t.Context(), r.topics.Decisions)
	require.NoError(t, err)
	end, _ := ends.Lookup(r.topics.Decisions, 0)
	require.Equal(t, int64(len(long)), end.Offset)
}
