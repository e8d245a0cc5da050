package saver_test

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/trace/noop"
	"go.uber.org/goleak"

	"github.com/docket-project/docket/internal/adapters/sqlite"
	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/ports"
	"github.com/docket-project/docket/internal/saver"
	"github.com/docket-project/docket/internal/sink"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var topics = domain.TopicsWithPrefix("docket.")

// outbox keeps what is published, or fails.
type outbox struct {
	mu      sync.Mutex
	records []domain.Record
	err     error
}

func (o *outbox) Publish(_ context.Context, records []domain.Record) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err != nil {
		return o.err
	}
	o.records = append(o.records, records...)
	return nil
}

// rig is a saver in front of a real store.
type rig struct {
	store   *sqlite.Store
	raw     *sql.DB // another connection to the same file, for faults
	out     *outbox
	breaker *sink.Breaker
	writer  *sink.Writer
	guard   *sink.Guard
	saver   *saver.Saver
}

func newRig(t *testing.T) *rig {
	t.Helper()
	path := t.TempDir()
	dir, err := sqlite.OpenDir(path)
	require.NoError(t, err)
	store, err := sqlite.OpenStore(t.Context(), dir, sqlite.StoreOptions{
		Window: domain.Window{Retention: 24 * time.Hour, Ahead: time.Hour}, Log: slog.New(slog.DiscardHandler), Migrate: true,
		Fatal: func(err error) { t.Errorf("fatal: %v", err) },
	})
	require.NoError(t, err)
	raw, err := sql.Open("sqlite", filepath.Join(path, "store.db"))
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, raw.Close())
		require.NoError(t, store.Close())
		require.NoError(t, dir.Close())
	})
	p, err := domain.NewProjector(nil)
	require.NoError(t, err)
	r := &rig{store: store, raw: raw, out: &outbox{}}
	r.breaker = sink.NewBreaker(store, nil, slog.New(slog.DiscardHandler))
	r.writer = sink.NewWriter(
		store, r.breaker, sink.Concurrency{Ceiling: 4, Adaptive: true}, p, nil, noop.NewTracerProvider().Tracer(""), nil,
	)
	r.guard = sink.NewGuard(store, r.breaker, nil, slog.New(slog.DiscardHandler))
	router := &sink.Router{
		Topics: topics, Retry: sink.Retry{MaxAttempts: 10, BackoffMin: time.Minute, BackoffMax: time.Hour}, Guard: r.guard,
		Metrics: sink.NewMetrics(nil),
	}
	r.saver = saver.New(r.writer, router, r.out, slog.New(slog.DiscardHandler))
	return r
}

// refuse makes the store refuse rows with this id.
func (r *rig) refuse(t *testing.T, id string, class domain.Class) {
	t.Helper()
	for _, text := range map[domain.Class][]string{
		domain.Unknown: {`CREATE TRIGGER "u` + id + `" BEFORE INSERT ON decisions_out_of_window WHEN NEW.decision_id = '` +
			id + `' BEGIN SELECT RAISE(ABORT, 'not today'); END`},
		domain.Invalid: {
			`CREATE TABLE IF NOT EXISTS refused (id TEXT CHECK (id IS NULL))`,
			`CREATE TRIGGER "i` + id + `" BEFORE INSERT ON decisions_out_of_window WHEN NEW.decision_id = '` + id +
				`' BEGIN INSERT INTO refused VALUES ('x'); END`,
		},
	}[class] {
		_, err := r.raw.ExecContext(t.Context(), text)
		require.NoError(t, err)
	}
}

// lock holds the store's write lock, as an outage does.
func (r *rig) lock(t *testing.T) (unlock func()) {
	t.Helper()
	conn, err := r.raw.Conn(t.Context())
	require.NoError(t, err)
	_, err = conn.ExecContext(t.Context(), "BEGIN IMMEDIATE")
	require.NoError(t, err)
	return func() {
		_, err := conn.ExecContext(context.Background(), "ROLLBACK")
		require.NoError(t, err)
		require.NoError(t, conn.Close())
	}
}

func record(n int) domain.Record {
	id := fmt.Sprintf("id-%d", n)
	return domain.Record{
		Topic: topics.Decisions, Offset: int64(n), Key: id, Value: []byte(`{"decision_id":"` + id + `"}`),
		Headers: domain.Headers{Tenant: "t", ReceivedAt: time.Now()},
	}
}

func records(n int) []domain.Record {
	var out []domain.Record
	for i := range n {
		out = append(out, record(i))
	}
	return out
}

func (r *rig) stored(t *testing.T) int {
	t.Helper()
	page, err := r.store.Search(t.Context(), domain.AllTenants(), domain.Query{Limit: 1000})
	require.NoError(t, err)
	return len(page.Items)
}

func (r *rig) handle(t *testing.T, batch []domain.Record) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	pauses, err := r.saver.Handle(ctx, batch)
	require.Empty(t, pauses)
	return err
}

func TestEverythingIsSaved(t *testing.T) {
	r := newRig(t)
	require.NoError(t, r.handle(t, records(100)))
	require.Equal(t, 100, r.stored(t))
	require.NoError(t, r.handle(t, records(100)), "again")
	require.Equal(t, 100, r.stored(t))
	require.Empty(t, r.out.records)
}

func TestTheRejectedRowsAndNoOthers(t *testing.T) {
	r := newRig(t)
	rejected := map[string]domain.Class{
		"id-3":  domain.Invalid,
		"id-50": domain.Unknown,
		"id-51": domain.Invalid,
		"id-99": domain.Unknown,
	}
	for id, class := range rejected {
		r.refuse(t, id, class)
	}
	require.NoError(t, r.handle(t, records(100)))
	require.Equal(t, 96, r.stored(t))
	require.Len(t, r.out.records, 4)
	for _, got := range r.out.records {
		class := rejected[got.Key]
		sent := record(int(mustOffset(t, got.Headers.Origin)))
		require.Equal(t, sent.Value, got.Value, "the bytes stay")
		require.Equal(t, class, got.Headers.ErrorClass)
		require.NotEmpty(t, got.Headers.ErrorCode)
		require.NotEmpty(t, got.Headers.Error)
		require.False(t, got.Headers.FirstFailedAt.IsZero())
		if class == domain.Invalid {
			require.Equal(t, topics.DLQ, got.Topic)
			require.Zero(t, got.Headers.Attempt)
			continue
		}
		require.Equal(t, topics.Parking, got.Topic)
		require.Equal(t, 1, got.Headers.Attempt)
		require.True(t, got.Headers.NotBefore.After(time.Now()))
	}
}

func mustOffset(t *testing.T, origin string) int64 {
	t.Helper()
	var n int64
	_, err := fmt.Sscanf(origin, topics.Decisions+"/0/%d", &n)
	require.NoError(t, err, origin)
	return n
}

func TestConflictAndExpiredGoToTheDataDLQ(t *testing.T) {
	r := newRig(t)
	first := record(1)
	forged := record(1)
	forged.Value = []byte(`{"decision_id":"id-1","forged":true}`)
	old := record(2)
	old.Value = []byte(`{"decision_id":"id-2","timestamp":"2001-01-01T00:00:00Z"}`)
	require.NoError(t, r.handle(t, []domain.Record{first, forged, old}))
	require.Equal(t, 1, r.stored(t))
	require.Len(t, r.out.records, 2)
	require.Equal(t, domain.Conflict, r.out.records[0].Headers.Reason)
	require.Equal(t, forged.Value, r.out.records[0].Value)
	require.Equal(t, domain.Expired, r.out.records[1].Headers.Reason)
	for _, got := range r.out.records {
		require.Equal(t, topics.DLQ, got.Topic)
		require.Equal(t, domain.Invalid, got.Headers.ErrorClass)
	}
}

func TestAnOutageParksTheBatchAndSpendsNothing(t *testing.T) {
	r := newRig(t)
	unlock := r.lock(t)
	require.NoError(t, r.handle(t, records(10)))
	require.Len(t, r.out.records, 10)
	for _, got := range r.out.records {
		require.Equal(t, topics.Parking, got.Topic)
		require.Equal(t, domain.Unavailable, got.Headers.ErrorClass)
		require.Zero(t, got.Headers.Attempt, "an outage never costs an attempt")
		require.True(t, got.Headers.NotBefore.IsZero())
	}
	state, next := r.breaker.State()
	require.Equal(t, "open", state)
	require.LessOrEqual(t, next, time.Second)

	start := time.Now()
	require.NoError(t, r.handle(t, records(10)))
	require.Len(t, r.out.records, 20)
	require.Less(t, time.Since(start), time.Second, "while the breaker is open nobody waits for the store again")

	unlock()
	require.Eventually(t, func() bool {
		require.NoError(t, r.handle(t, []domain.Record{record(77)}))
		return r.stored(t) == 1
	}, 10*time.Second, 50*time.Millisecond, "fresh decisions flow again")
	state, _ = r.breaker.State()
	require.Equal(t, "closed", state)
}

func TestAMisconfigurationWaits(t *testing.T) {
	r := newRig(t)
	_, err := r.raw.ExecContext(t.Context(), `ALTER TABLE decisions_out_of_window RENAME COLUMN path TO paths`)
	require.NoError(t, err)
	err = r.handle(t, records(3))
	require.Equal(t, domain.Misconfigured, domain.ClassOf(err), "%v", err)
	require.Empty(t, r.out.records, "nothing parked, nothing dead")
}

func TestWhatCannotBePublishedIsNotDone(t *testing.T) {
	r := newRig(t)
	r.refuse(t, "id-1", domain.Invalid)
	r.out.err = domain.Errorf(domain.Unavailable, "the log is away")
	require.ErrorIs(t, r.handle(t, records(3)), r.out.err)
	r.out.err = nil
	require.NoError(t, r.handle(t, records(3)), "delivered again")
	require.Len(t, r.out.records, 1)
	require.Equal(t, 2, r.stored(t))
}

func TestShutdownCostsNothing(t *testing.T) {
	r := newRig(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := r.saver.Handle(ctx, records(3))
	require.Equal(t, domain.Canceled, domain.ClassOf(err))
	require.Empty(t, r.out.records)
}

func TestNoTimeToIsolateParksInstead(t *testing.T) {
	r := newRig(t)
	r.refuse(t, "id-1", domain.Unknown)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second) // less than what is kept for publishing
	defer cancel()
	_, err := r.saver.Handle(ctx, records(3))
	require.NoError(t, err)
	require.Len(t, r.out.records, 3)
	for _, got := range r.out.records {
		require.Equal(t, domain.Unavailable, got.Headers.ErrorClass)
		require.Zero(t, got.Headers.Attempt)
	}
}

// TestWatchFindsTheStoreBack has no batch that could notice.
func TestWatchFindsTheStoreBack(t *testing.T) {
	r := newRig(t)
	unlock := r.lock(t)
	require.NoError(t, r.handle(t, records(1)))
	state, _ := r.breaker.State()
	require.Equal(t, "open", state)
	require.Error(t, r.breaker.Trouble())
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.breaker.Watch(ctx)
	}()
	unlock()
	require.Eventually(t, func() bool {
		state, _ := r.breaker.State()
		return state == "closed" && r.breaker.Trouble() == nil
	}, 10*time.Second, 20*time.Millisecond)
	cancel()
	<-done
}

// slowStore takes as long as it is given.
type slowStore struct {
	ports.RejectionStats
	deadline time.Duration
}

func (s *slowStore) SaveBatch(ctx context.Context, _ []domain.Decision) ([]domain.SaveStatus, error) {
	at, _ := ctx.Deadline()
	s.deadline = time.Until(at)
	return nil, context.DeadlineExceeded
}

func (s *slowStore) Probe(context.Context) error { return nil }

// TestAnAttemptLeavesTimeToPark has a store that uses up the time of a handler.
func TestAnAttemptLeavesTimeToPark(t *testing.T) {
	p, err := domain.NewProjector(nil)
	require.NoError(t, err)
	store, out := &slowStore{}, &outbox{}
	breaker := sink.NewBreaker(store, nil, slog.New(slog.DiscardHandler))
	w := sink.NewWriter(store, breaker, sink.Concurrency{Ceiling: 1}, p, nil, noop.NewTracerProvider().Tracer(""), nil)
	router := &sink.Router{
		Topics: topics, Retry: sink.Retry{MaxAttempts: 10, BackoffMin: time.Second, BackoffMax: time.Minute},
		Guard: sink.NewGuard(store, breaker, nil, slog.New(slog.DiscardHandler)), Metrics: sink.NewMetrics(nil),
	}
	s := saver.New(w, router, out, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_, err = s.Handle(ctx, records(5))
	require.NoError(t, err)
	require.Len(t, out.records, 5, "parked")
	require.Less(t, store.deadline, 17*time.Second)
}
