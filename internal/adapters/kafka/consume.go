package kafka

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/ports"
)

const (
	// fetchBytes bounds what one broker sends at once, compressed; a record batch is never cut.
	fetchBytes          = 2 << 20
	fetchPartitionBytes = 512 << 10
	// A broker gathers for as long as a batch may: an answer for every record would cost it and us more than the records.
	fetchMinBytes = 64 << 10
	minFetchWait  = 10 * time.Millisecond
	commitTimeout = 5 * time.Second
	// sessionTimeout is how long the partitions of a member wait that was killed. Heartbeats do not wait for handlers.
	sessionTimeout = 10 * time.Second
	// rebalanceTimeout is how long the others wait for a member to finish what it has in hand.
	rebalanceTimeout = 45 * time.Second
	leaveTimeout     = 3 * time.Second
)

type topicPartition struct {
	topic     string
	partition int32
}

// member is one member of a consumer group. Its loop polls, gathers, hands over and commits, one after the other; the
// client fetches and heartbeats beside it. A rebalance waits while a batch is in hand.
type member struct {
	log    *Log
	sub    ports.Subscription
	client *kgo.Client
	memory *holding
	asks   int32              // how many bytes the client asks for at once
	abort  context.CancelFunc // of the client's own context
	retry  *backoff.ExponentialBackOff

	mu    sync.Mutex // the rebalance callbacks run beside the loop
	feeds map[topicPartition]*feed
	turn  int
	// doubts says that partitions are to be judged, and judgeAt when the store is asked next.
	doubts  bool
	judgeAt time.Time
	passed  bool // a feed was moved past what is no record, and that is not committed
}

// anewEvery is how often a topic that somebody has deleted is looked for.
const anewEvery = 2 * time.Second

// errAnew ends a member whose topic is not the one of before: its client knows the old one.
var errAnew = errors.New("the topic was deleted, or made anew")

// Consume delivers batches to handle; see ports.Log. A lost range stops its partition and is reported; the others go
// on. A topic that is deleted meanwhile is waited for.
func (l *Log) Consume(ctx context.Context, sub ports.Subscription, handle ports.Handler) error {
	if err := l.await(ctx, sub.Topics); err != nil && domain.ClassOf(err) == domain.Misconfigured {
		return err
	}
	for ctx.Err() == nil {
		err := l.consume(ctx, sub, handle)
		if !errors.Is(err, errAnew) {
			return err
		}
		l.opts.Log.Error(
			"a topic is gone, or was made anew while docket consumed it: docket begins anew once it is there. Create it with "+
				"docket migrate", "group", sub.Group, "topics", sub.Topics,
		)
		l.awaitAnew(ctx, sub.Topics)
	}
	return nil
}

// awaitAnew waits until the topics are there again, or ctx is done.
func (l *Log) awaitAnew(ctx context.Context, topics []string) {
	for ctx.Err() == nil {
		sleep(ctx, anewEvery)
		if l.await(ctx, topics) == nil {
			return
		}
	}
}

// consume is Consume for as long as the topics are what they were.
func (l *Log) consume(ctx context.Context, sub ports.Subscription, handle ports.Handler) error {
	m := &member{log: l, sub: sub, feeds: map[topicPartition]*feed{}, memory: l.memory.join(sub.Group)}
	m.retry = backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(500*time.Millisecond),
		backoff.WithMaxInterval(5*time.Second),
		backoff.WithMaxElapsedTime(0),
	)
	life, abort := context.WithCancel(context.Background())
	m.abort = abort
	var err error
	m.client, err = kgo.NewClient(append(
		l.base(),
		kgo.WithContext(life),
		kgo.ClientID(l.process),
		kgo.ConsumerGroup(sub.Group),
		kgo.ConsumeTopics(sub.Topics...),
		kgo.Balancers(newShareByProcess()),
		kgo.DisableAutoCommit(),
		kgo.BlockRebalanceOnPoll(),
		kgo.RebalanceTimeout(rebalanceTimeout),
		kgo.SessionTimeout(sessionTimeout),
		kgo.HeartbeatInterval(sessionTimeout/5),
		// Both: the first says where a group begins, the second that falling off the log is not an occasion to begin anew.
		kgo.ConsumeStartOffset(kgo.NewOffset().AtStart()),
		kgo.ConsumeResetOffset(kgo.NoResetOffset()),
		kgo.KeepControlRecords(),
		kgo.WithDecompressor(m.memory),
		kgo.WithHooks(m.memory),
		kgo.FetchMaxBytes(fetchBytes),
		kgo.FetchMaxPartitionBytes(fetchPartitionBytes),
		kgo.FetchMinBytes(fetchMinBytes),
		kgo.FetchMaxWait(max(sub.MaxWait, minFetchWait)),
		kgo.AdjustFetchOffsetsFn(m.adjust),
		kgo.OnPartitionsAssigned(m.assigned),
		kgo.OnPartitionsRevoked(m.revoked),
		kgo.OnPartitionsLost(m.lost),
	)...)
	if err != nil {
		abort()
		l.memory.leave(m.memory)
		return &domain.Error{Class: domain.Misconfigured, Op: "set up the Kafka client", Text: err.Error(), Err: err}
	}
	m.memory.client.Store(m.client)
	l.marks.join(m)
	defer m.leave()
	for ctx.Err() == nil {
		m.client.AllowRebalance()
		batch, err := m.gather(ctx)
		if err != nil {
			return err
		}
		if len(batch) == 0 {
			continue
		}
		pauses, err := deliver(ctx, batch, handle)
		if err != nil && domain.ClassOf(err) == domain.Canceled {
			return nil
		}
		if err != nil {
			wait := m.retry.NextBackOff()
			l.opts.Log.Warn(
				"a batch failed; it is delivered again", "group", sub.Group, "records", len(batch), "after", wait, "error", err,
			)
			pauses = ports.PauseAll(batch, time.Now().Add(wait))
		} else {
			m.retry.Reset()
		}
		m.settle(pauses)
		m.commit(context.Background())
	}
	return nil
}

// await asks for the topics until the brokers know them: one after the other learns of a new topic.
func (l *Log) await(ctx context.Context, topics []string) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	for {
		err := l.known(ctx, topics...)
		if err == nil || domain.ClassOf(err) != domain.Misconfigured {
			return err
		}
		if sleep(ctx, 250*time.Millisecond); ctx.Err() != nil {
			return err
		}
	}
}

// deliver calls the handler. The batch in hand is finished even when ctx ends meanwhile.
func deliver(ctx context.Context, batch []domain.Record, handle ports.Handler) ([]ports.Pause, error) {
	work, cancel := context.WithTimeout(context.WithoutCancel(ctx), ports.HandlerBudget)
	defer cancel()
	return handle(work, batch)
}

// leave gives the partitions back, so that others need not wait for a session to time out. A member that is still
// joining cannot leave: the broker answers once every other member has joined again or timed out. It does not wait for
// that.
func (m *member) leave() {
	m.log.marks.leave(m)
	defer m.log.memory.leave(m.memory)
	ctx, cancel := context.WithTimeout(context.Background(), leaveTimeout)
	defer cancel()
	m.client.AllowRebalance()
	if err := m.client.LeaveGroupContext(ctx); err != nil {
		m.log.opts.Log.Debug(
			"the group was not left in good order; its other members wait for the session to end", "group", m.sub.Group,
			"error", err,
		)
	}
	m.abort()
	m.client.CloseAllowingRebalance()
}

// gather polls until a batch is full or its first record has waited long enough, and blocks rebalances then until
// AllowRebalance. It returns nothing when ctx ends.
func (m *member) gather(ctx context.Context) ([]domain.Record, error) {
	var deadline time.Time
	for ctx.Err() == nil {
		now := time.Now()
		records, bytes, wake := m.eligible(now)
		if records > 0 && deadline.IsZero() {
			deadline = now.Add(m.sub.MaxWait)
		}
		if records >= m.sub.MaxRecords || bytes >= m.sub.MaxBytes || (records > 0 && !now.Before(deadline)) {
			m.client.PollRecords(canceled, 1) // returns at once, and blocks rebalances where no poll did yet
			return m.take(now), nil
		}
		if records == 0 {
			deadline = time.Time{}
			if m.passed { // only ends of transactions came
				m.passed = false
				m.commit(ctx)
			}
			m.client.AllowRebalance()
		}
		if !deadline.IsZero() && (wake.IsZero() || deadline.Before(wake)) {
			wake = deadline
		}
		if look := now.Add(markIdle); wake.IsZero() || look.Before(wake) {
			wake = look // the store may have been restored while nothing comes
		}
		if err := m.poll(ctx, wake, m.sub.MaxRecords-records); err != nil {
			return nil, err
		}
		m.judgeDoubts(ctx)
	}
	return nil, nil
}

var canceled = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()

// poll waits for records until wake, if there is one.
func (m *member) poll(ctx context.Context, wake time.Time, limit int) error {
	if !wake.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, wake)
		defer cancel()
	}
	fetches := m.client.PollRecords(ctx, limit)
	var errs []kgo.FetchError
	fetches.EachError(func(topic string, partition int32, err error) {
		errs = append(errs, kgo.FetchError{Topic: topic, Partition: partition, Err: err})
	})
	now := time.Now()
	m.mu.Lock()
	fetches.EachRecord(func(r *kgo.Record) {
		f := m.feeds[topicPartition{r.Topic, r.Partition}]
		if f == nil || f.stopped {
			return
		}
		if r.Attrs.IsControl() {
			f.waiting = append(f.waiting, fetched{
				Record: domain.Record{Offset: r.Offset}, epoch: r.LeaderEpoch, control: true,
			})
			m.passed = f.pass() || m.passed
			return
		}
		record := decode(r)
		if r.Topic == m.log.opts.Topics.Decisions {
			m.log.clocks.look(record, now)
		}
		f.waiting = append(f.waiting, fetched{Record: record, epoch: r.LeaderEpoch})
	})
	m.weigh()
	m.memory.polled.Store(0)
	m.mu.Unlock()
	m.askFor(m.memory.ratio.fetch(fetchBytes))
	for _, e := range errs {
		switch {
		case errors.Is(e.Err, kgo.ErrClientClosed):
			return domain.Errorf(domain.Canceled, "the log is closed")
		case errors.Is(e.Err, context.Canceled), errors.Is(e.Err, context.DeadlineExceeded):
		case errors.Is(e.Err, errNoRoom):
			m.starve(e.Topic, e.Partition)
		case m.isAnew(ctx, e):
			return errAnew
		default:
			m.failed(ctx, e)
		}
	}
	return nil
}

// commit makes durable how far the partitions have come. What it cannot commit it tries again with the next batch, or
// when the partition is revoked; until then it is only that more would be delivered again.
func (m *member) commit(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, commitTimeout)
	defer cancel()
	m.mu.Lock()
	offsets := map[string]map[int32]kgo.EpochOffset{}
	for _, f := range m.feeds {
		if m.log.opts.Marks != nil && !f.known {
			continue // what a commit would wipe out tells whether the store is what it was
		}
		if f.done.Offset > f.committed {
			if offsets[f.topic] == nil {
				offsets[f.topic] = map[int32]kgo.EpochOffset{}
			}
			offsets[f.topic][f.partition] = f.done
		}
	}
	m.mu.Unlock()
	if len(offsets) == 0 {
		return
	}
	var failure error
	m.client.CommitOffsetsSync(
		m.withMarks(ctx),
		offsets,
		func(_ *kgo.Client, _ *kmsg.OffsetCommitRequest, resp *kmsg.OffsetCommitResponse, err error) {
			failure = err
			if err != nil {
				return
			}
			m.mu.Lock()
			defer m.mu.Unlock()
			for _, t := range resp.Topics {
				for _, p := range t.Partitions {
					if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
						failure = err
					} else if f := m.feeds[topicPartition{t.Topic, p.Partition}]; f != nil {
						f.committed = max(f.committed, offsets[t.Topic][p.Partition].Offset)
					}
				}
			}
		},
	)
	m.markCommitted()
	if failure != nil {
		log := m.log.opts.Log.Warn
		if isRebalance(failure) {
			log = m.log.opts.Log.Debug // others have the partitions now, and deliver again what was not committed
		}
		log("offsets were not committed; what was done since may come again", "group", m.sub.Group, "error", failure)
	}
}

func isRebalance(err error) bool {
	return errors.Is(err, kerr.RebalanceInProgress) || errors.Is(err, kerr.IllegalGeneration) ||
		errors.Is(err, kerr.UnknownMemberID)
}

// assigned begins with partitions that are new to this member. The client remembers what was paused when it had them
// before.
func (m *member) assigned(_ context.Context, client *kgo.Client, partitions map[string][]int32) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for topic, numbers := range partitions {
		for _, p := range numbers {
			m.feeds[topicPartition{topic, p}] = &feed{topic: topic, partition: p}
		}
	}
	client.ResumeFetchPartitions(partitions)
}

// revoked commits what is done before others continue there.
func (m *member) revoked(ctx context.Context, _ *kgo.Client, partitions map[string][]int32) {
	m.commit(ctx)
	m.log.lastMarks(ctx)
	m.forget(partitions)
}

// lost is revoked too late: others may have the partitions already, so nothing is committed.
func (m *member) lost(_ context.Context, _ *kgo.Client, partitions map[string][]int32) {
	m.forget(partitions)
}

func (m *member) forget(partitions map[string][]int32) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for topic, numbers := range partitions {
		for _, p := range numbers {
			delete(m.feeds, topicPartition{topic, p})
			m.log.marks.forget(m, topicPartition{topic, p})
		}
	}
	m.weigh()
}

// sleep waits, at most until ctx is done.
func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
