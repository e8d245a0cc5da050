package kafka

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"log/slog"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/docket-project/docket/internal/adapters/sqlite"
	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/ports"
)

// marked is a group that consumes one partition and keeps its marks in a real store, which may be away.
type marked struct {
	t      *testing.T
	fake   *kfake.Cluster
	topics domain.Topics
	store  *sqlite.Store
	lost   *lostRecords

	mu      sync.Mutex
	away    bool
	full    bool // it answers, and takes no marks
	history string
	got     []int64
	stop    func()
	log     *Log
}

var errAway = domain.Errorf(domain.Unavailable, "away")

func (m *marked) LogMarks(ctx context.Context, group string) ([]domain.Mark, string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.away {
		return nil, "", errAway
	}
	marks, _, err := m.store.LogMarks(ctx, group)
	return marks, m.history, err
}

func (m *marked) AdvanceLogMarks(ctx context.Context, steps []domain.MarkStep) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.away || m.full {
		return false, errAway
	}
	for _, s := range steps {
		if s.History != "" && s.History != m.history {
			return false, nil
		}
	}
	return m.store.AdvanceLogMarks(ctx, steps)
}

func (m *marked) SetLogMarks(ctx context.Context, marks []domain.Mark) error {
	return m.store.SetLogMarks(ctx, marks)
}

func (m *marked) setAway(away bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.away = away
}

// become is another server that has taken over, which takes marks or does not.
func (m *marked) become(history string, full bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.history, m.full = history, full
}

const markedGroup = "marked"

func newMarked(t *testing.T) *marked {
	dir, err := sqlite.OpenDir(t.TempDir())
	require.NoError(t, err)
	store, err := sqlite.OpenStore(t.Context(), dir, sqlite.StoreOptions{
		Window: domain.Window{Retention: time.Hour, Ahead: time.Hour}, Log: slog.New(slog.DiscardHandler), Migrate: true,
		Fatal: func(err error) { t.Errorf("fatal: %v", err) },
	})
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, store.Close())
		require.NoError(t, dir.Close())
	})
	fake := newFake(t)
	m := &marked{t: t, fake: fake, topics: newTopics(t, fake.ListenAddrs(), 1), store: store, lost: &lostRecords{}}
	m.start()
	t.Cleanup(func() { m.stop() })
	return m
}

// start has a process consume, with the marks written as they come.
func (m *marked) start() {
	o := options(m.fake.ListenAddrs(), m.topics, m.lost)
	o.Marks = m
	l, err := Open(o)
	require.NoError(m.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		sub := ports.Subscription{
			Group: markedGroup, Topics: []string{m.topics.Decisions}, MaxRecords: 100, MaxBytes: 1 << 20,
			MaxWait: time.Millisecond,
		}
		require.NoError(m.t, l.Consume(ctx, sub, func(_ context.Context, batch []domain.Record) ([]ports.Pause, error) {
			m.mu.Lock()
			defer m.mu.Unlock()
			for _, r := range batch {
				m.got = append(m.got, r.Offset)
			}
			return nil, nil
		}))
	})
	running.Go(func() { l.KeepMarks(ctx) })
	m.log = l
	m.stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
		require.NoError(m.t, l.Close())
	})
}

func (m *marked) publish(n int) {
	m.t.Helper()
	for i := range n {
		require.NoError(m.t, m.log.Publish(m.t.Context(), []domain.Record{
			{Topic: m.topics.Decisions, Key: fmt.Sprint(i), Value: []byte("{}")},
		}))
	}
}

// consumed waits until exactly these offsets were delivered, and forgets them.
func (m *marked) consumed(from, to int64) {
	m.t.Helper()
	var want []int64
	for at := from; at < to; at++ {
		want = append(want, at)
	}
	require.Eventually(m.t, func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		return slices.Equal(m.got, want)
	}, patience, 10*time.Millisecond, "offsets %d to %d", from, to)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.got = nil
}

// marksAt waits until the store has the mark.
func (m *marked) marksAt(offset int64) domain.Mark {
	m.t.Helper()
	var mark domain.Mark
	require.Eventually(m.t, func() bool {
		marks, _, err := m.store.LogMarks(m.t.Context(), markedGroup)
		require.NoError(m.t, err)
		if len(marks) > 0 {
			mark = marks[len(marks)-1]
		}
		return mark.Offset == offset
	}, patience, 10*time.Millisecond, "%+v", mark)
	return mark
}

// ranOnce has had twelve records consumed by a process that has stopped, and the commit beside which a mark stands.
func (m *marked) ranOnce() domain.Mark {
	m.t.Helper()
	m.publish(10)
	m.consumed(0, 10)
	mark := m.marksAt(10)
	m.publish(1) // its commit says that the store has the mark
	m.consumed(10, 11)
	m.marksAt(11)
	m.publish(1)
	m.consumed(11, 12)
	m.stop()
	return mark
}

// expire has the group's offsets be forgotten, as Kafka does after a week without members.
func (m *marked) expire() {
	m.t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(m.fake.ListenAddrs()...))
	require.NoError(m.t, err)
	defer cl.Close()
	_, err = kadm.NewClient(cl).DeleteGroup(m.t.Context(), markedGroup)
	require.NoError(m.t, err)
}

// TestOffsetsThatExpired are no first start: the group goes on where its store says, and what fell off meanwhile is
// reported.
func TestOffsetsThatExpired(t *testing.T) {
	t.Parallel() // it waits most of the time
	for _, c := range []struct {
		name          string
		trimmed, from int64
		lost          int64
	}{
		{"nothing fell off", 0, 10, 0},
		{"what was consumed fell off", 8, 10, 0},
		{"what was not consumed fell off", 15, 15, 5},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMarked(t)
			m.publish(10)
			m.consumed(0, 10)
			m.marksAt(10)
			m.stop()
			m.expire()
			l, err := Open(options(m.fake.ListenAddrs(), m.topics, m.lost))
			require.NoError(t, err)
			m.log = l
			m.publish(10)
			require.NoError(t, l.Close())
			require.NoError(t, m.fake.DeleteRecords(m.topics.Decisions, 0, c.trimmed))
			m.start()
			m.consumed(c.from, 20)
			require.Equal(t, c.lost, m.lost.Load())
			m.marksAt(20)
		})
	}
}

// TestAFirstStartBehindTheBeginning has neither a commit nor a mark, and a topic that has lost its front.
func TestAFirstStartBehindTheBeginning(t *testing.T) {
	t.Parallel() // it waits most of the time
	m := newMarked(t)
	m.stop()
	l, err := Open(options(m.fake.ListenAddrs(), m.topics, m.lost))
	require.NoError(t, err)
	m.log = l
	m.publish(10)
	require.NoError(t, l.Close())
	require.NoError(t, m.fake.DeleteRecords(m.topics.Decisions, 0, 4))
	m.start()
	m.consumed(4, 10)
	require.EqualValues(t, 4, m.lost.Load(), "reported, and not stopped")
}

// TestAStoreThatWasRestored is noticed at a start and while docket runs: the log is read again from where the store is.
func TestAStoreThatWasRestored(t *testing.T) {
	t.Parallel() // it waits most of the time
	m := newMarked(t)
	mark := m.ranOnce()
	mark.Offset = 4
	require.NoError(t, m.store.SetLogMarks(t.Context(), []domain.Mark{mark}))
	m.start()
	m.consumed(4, 12)
	m.marksAt(12)
	m.publish(2)
	m.consumed(12, 14)
	m.marksAt(14)

	mark.Offset = 6 // another server takes over that lacks the last commits
	require.NoError(t, m.store.SetLogMarks(t.Context(), []domain.Mark{mark}))
	m.consumed(6, 14)
	m.marksAt(14)
	require.Zero(t, m.lost.Load(), "Kafka still has all of it")

	require.NoError(t, m.fake.DeleteRecords(m.topics.Decisions, 0, 9))
	mark.Offset = 3
	require.NoError(t, m.store.SetLogMarks(t.Context(), []domain.Mark{mark}))
	m.consumed(9, 14)
	require.EqualValues(t, 6, m.lost.Load(), "what it lacks and Kafka has no more")
}

// TestAnotherServerTakesOver has the last mark, and may lack what was saved behind it within the second: the log is
// read again from there, at a start and while docket runs, and once only.
func TestAnotherServerTakesOver(t *testing.T) {
	t.Parallel() // it waits most of the time
	m := newMarked(t)
	m.stop()
	m.become("1/a", false)
	m.start()
	m.publish(10)
	m.consumed(0, 10)
	m.marksAt(10)
	m.become("1/a", true)
	m.publish(3)
	m.consumed(10, 13)
	m.become("2/a", false) // while docket runs
	m.consumed(10, 13)
	m.marksAt(13)

	// Kafka's coordinator is away as well: nothing that was saved since is committed, and no mark is behind a commit.
	coordinator := m.fake.Fault(kfake.Fault{
		Keys: []kmsg.Key{kmsg.OffsetCommit}, Group: markedGroup, Err: kerr.CoordinatorLoadInProgress, Count: -1,
	})
	m.publish(1)
	m.consumed(13, 14)
	m.become("2/b", false)
	m.consumed(13, 14)
	coordinator.Remove()
	m.publish(1)
	m.consumed(14, 15)
	m.marksAt(15)

	m.become("2/b", true)
	m.publish(2)
	m.consumed(15, 17)
	m.stop()
	m.become("3/a", false) // while it does not
	m.start()
	m.consumed(15, 17)
	m.marksAt(17)

	m.stop()
	m.become("4/a", false) // it lacks nothing
	m.start()
	m.publish(1)
	m.consumed(17, 18)
	m.marksAt(18)
	require.Zero(t, m.lost.Load())
}

// TestBegin is where a member begins, by what the group, the store and the log know; -1 is where the group stands.
func TestBegin(t *testing.T) {
	for _, c := range []struct {
		name  string
		found found
		at    int64
		lost  int64
	}{
		{"a first start", found{end: 9, committed: -1, mark: -1}, -1, 0},
		{"a first start, and the front is gone", found{start: 4, end: 9, committed: -1, mark: -1}, -1, 4},
		{"as always", found{end: 9, committed: 7, written: 5, mark: 7}, -1, 0},
		{"offsets expired", found{end: 9, committed: -1, mark: 5}, 5, 0},
		{"offsets expired, and some fell off", found{start: 7, end: 9, committed: -1, mark: 5}, 7, 2},
		{"the store was restored", found{end: 9, committed: 8, written: 7, mark: 3}, 3, 0},
		{"the store was restored, and some fell off", found{start: 5, end: 9, committed: 8, written: 7, mark: 3}, 5, 2},
		{"the topic was made anew", found{end: 2, committed: -1, mark: -1, anew: true}, 0, 1},
		{"another server, behind its mark", found{end: 9, committed: 8, written: 6, mark: 6, replaced: true}, 6, 0},
		{"another server, at its mark", found{end: 9, committed: 8, written: 8, mark: 8, replaced: true}, 8, 0},
		{"another server, no commit", found{end: 9, committed: -1, mark: 6, replaced: true}, 6, 0},
		{"another server, and nothing is known", found{start: 2, end: 9, committed: -1, mark: -1, replaced: true}, 2, 0},
		{"another server, no mark", found{start: 2, end: 9, committed: 5, mark: -1, replaced: true}, 2, 0},
		{"another server, and what is behind the mark fell off",
			found{start: 7, end: 9, committed: 8, written: 4, mark: 4, replaced: true}, 7, 3},
		{"another server, and all fell off",
			found{start: 9, end: 9, committed: 6, written: 4, mark: 4, replaced: true}, 6, 2},
		{"the brokers do not say", found{start: -1, end: 9, committed: 8, mark: 3, written: 7}, -1, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			var lost lostRecords
			m := &member{
				sub: ports.Subscription{Group: markedGroup},
				log: &Log{opts: Options{Log: slog.New(slog.DiscardHandler), Lost: lost.add}, lost: map[string]bool{}},
			}
			for range 2 { // reported once
				require.Equal(t, c.at, m.begin(topicPartition{"t", 0}, c.found))
			}
			require.Equal(t, c.lost, lost.Load())
		})
	}
}

// TestAQuietPartition is rewound as well: this member has committed nothing there, and others have.
func TestAQuietPartition(t *testing.T) {
	t.Parallel() // it waits most of the time
	m := newMarked(t)
	mark := m.ranOnce()
	m.start()
	time.Sleep(2 * markEvery) // it has joined, and nothing comes
	mark.Offset = 4
	require.NoError(t, m.store.SetLogMarks(t.Context(), []domain.Mark{mark}))
	m.consumed(4, 12)
	m.marksAt(12)
}

// TestABusyPartition commits all the time, also between the doubt and the judgement.
func TestABusyPartition(t *testing.T) {
	t.Parallel() // it waits most of the time
	m := newMarked(t)
	m.publish(10)
	m.consumed(0, 10)
	m.marksAt(10)
	m.stop()
	m.start() // what stands beside the commit is carried from here on
	ctx, stop := context.WithCancel(t.Context())
	var publishing sync.WaitGroup
	publishing.Go(func() {
		for ctx.Err() == nil {
			m.publish(1)
		}
	})
	var mark domain.Mark
	require.Eventually(t, func() bool {
		marks, _, err := m.store.LogMarks(t.Context(), markedGroup)
		require.NoError(t, err)
		mark = marks[0]
		return mark.Offset > 50
	}, patience, 10*time.Millisecond)
	back := mark.Offset - 20
	mark.Offset = back
	m.mu.Lock()
	m.got = nil
	m.mu.Unlock()
	require.NoError(t, m.store.SetLogMarks(t.Context(), []domain.Mark{mark}))
	require.Eventually(t, func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		return slices.Contains(m.got, back)
	}, patience, 10*time.Millisecond, "read again from the mark")
	stop()
	publishing.Wait()
}

// TestAStoreThatIsAwayAtTheStart is judged later; nobody waits for it.
func TestAStoreThatIsAwayAtTheStart(t *testing.T) {
	t.Parallel() // it waits most of the time
	m := newMarked(t)
	mark := m.ranOnce()
	mark.Offset = 4
	require.NoError(t, m.store.SetLogMarks(t.Context(), []domain.Mark{mark}))
	m.setAway(true)
	m.start()
	m.publish(1)
	m.consumed(12, 13)
	require.EqualValues(t, 4, m.marksAt(4).Offset, "it is not written over meanwhile")
	m.setAway(false)
	m.consumed(4, 13)
	m.marksAt(13)
}

// TestATopicThatWasMadeAnew begins with its first record, and says so.
func TestATopicThatWasMadeAnew(t *testing.T) {
	t.Parallel() // it waits most of the time
	m := newMarked(t)
	m.publish(10)
	m.consumed(0, 10)
	m.marksAt(10)
	m.stop()
	l, err := Open(options(m.fake.ListenAddrs(), m.topics, m.lost))
	require.NoError(t, err)
	_, err = l.admin.DeleteTopics(t.Context(), m.topics.Decisions)
	require.NoError(t, err)
	_, err = l.Migrate(t.Context())
	require.NoError(t, err)
	m.log = l
	m.publish(3)
	require.NoError(t, l.Close())
	m.start()
	require.Eventually(t, func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		return len(m.got) == 3
	}, patience, 10*time.Millisecond)
	require.Positive(t, m.lost.Load())
}

func TestMarkOf(t *testing.T) {
	k := newMarker(nil)
	for _, history := range []string{"", "00000002/7123"} {
		k.known(nil, domain.Mark{Group: "g", Topic: "t", TopicID: "AbC-_1", Partition: 2, Offset: 77}, history)
		offset, id, in, ok := markOf(k.metadata("g", topicPartition{"t", 2}))
		require.True(t, ok)
		require.EqualValues(t, 77, offset)
		require.Equal(t, "AbC-_1", id)
		require.Equal(t, history, in)
	}
	for _, text := range []string{"", "offsets 1 to 7 given up: 2026 by ann", "docket-mark x of y"} {
		_, _, _, ok := markOf(text)
		require.False(t, ok, text)
	}
}

// TestMarksThatMoveOnWhileTheyAreWritten are known to be in the store all the same: on a busy partition another commit
// comes during every write, and a restored store would never be noticed.
func TestMarksThatMoveOnWhileTheyAreWritten(t *testing.T) {
	store := &busyMarks{}
	k := newMarker(store)
	store.written = func(m domain.Mark) {
		m.Offset++
		k.note(m)
	}
	mark := domain.Mark{Group: markedGroup, Topic: "t", TopicID: "id", Offset: 10}
	sub := ports.Subscription{Group: markedGroup}
	owner, another := &member{sub: sub}, &member{sub: sub}
	k.known(owner, domain.Mark{Group: markedGroup, Topic: "t", TopicID: "id"}, "")
	k.note(mark)
	require.NoError(t, k.flush(t.Context(), false))
	k.forget(another, topicPartition{"t", 0}) // it had the partition once
	require.Equal(t, "docket-mark 10 of id", k.metadata(markedGroup, topicPartition{"t", 0}))
	require.NoError(t, k.flush(t.Context(), false))
	require.EqualValues(t, 10, store.steps[0].Before, "the store is asked whether it still has it")

	store.written = func(domain.Mark) { k.forget(owner, topicPartition{"t", 0}) }
	require.NoError(t, k.flush(t.Context(), false))
	require.Empty(t, k.metadata(markedGroup, topicPartition{"t", 0}), "the partition is another member's now")
}

type unasked interface{ ports.LogMarks }

// busyMarks takes every mark, and says when it has.
type busyMarks struct {
	unasked
	written func(domain.Mark)
	steps   []domain.MarkStep
}

func (s *busyMarks) AdvanceLogMarks(_ context.Context, steps []domain.MarkStep) (bool, error) {
	s.steps = steps
	s.written(steps[0].Mark)
	return true, nil
}
