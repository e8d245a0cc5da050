package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"modernc.org/sqlite"
	lib "modernc.org/sqlite/lib"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/ports"
)

func publishN(t *testing.T, l *Log, topic string, n int) {
	t.Helper()
	for i := range n {
		require.NoError(
			t,
			l.Publish(t.Context(), []domain.Record{{Topic: topic, Key: fmt.Sprint(i), Value: fmt.Appendf(nil, "value-%d", i)}}),
		)
	}
}

// written makes a log with n records in the data DLQ and closes it.
func written(t *testing.T, n int) *Dir {
	t.Helper()
	dir := openDir(t, t.TempDir())
	t.Cleanup(func() { require.NoError(t, dir.Close()) })
	l, err := OpenLog(t.Context(), dir, logOptions(t))
	require.NoError(t, err)
	publishN(t, l, testTopics.DLQ, n)
	require.NoError(t, l.Close())
	return dir
}

func execFile(t *testing.T, dir *Dir, text string) {
	t.Helper()
	db, err := sql.Open("sqlite", filepath.Join(dir.path, logFile))
	require.NoError(t, err)
	defer db.Close()
	_, err = db.ExecContext(t.Context(), text)
	require.NoError(t, err)
}

func TestDamageIsFoundAtStartAndCanBeAccepted(t *testing.T) {
	for _, c := range []struct {
		name, harm string
		lost       []Loss
	}{
		{"a value", `UPDATE records SET value = x'00' WHERE id & 0xfff = 3`, []Loss{{testTopics.DLQ, 3, 3,
			"damaged or missing"}}},
		{"a key", `UPDATE records SET key = 'x' WHERE id & 0xfff IN (3, 4)`, []Loss{{testTopics.DLQ, 3, 4,
			"damaged or missing"}}},
		{"headers", `UPDATE records SET headers = '[ ]' WHERE id & 0xfff = 0`, []Loss{{testTopics.DLQ, 0, 0,
			"damaged or missing"}}},
		{"a time", `UPDATE records SET written_at = 0 WHERE id & 0xfff = 9`, []Loss{{testTopics.DLQ, 9, 9,
			"damaged or missing"}}},
		{"two swapped", `UPDATE records SET id = id + 100 WHERE id & 0xfff = 5`, []Loss{{testTopics.DLQ, 5, 5,
			"damaged or missing"}}},
		{"records in the middle are gone", `DELETE FROM records WHERE id & 0xfff BETWEEN 2 AND 6`, []Loss{{testTopics.DLQ, 2,
			6, "damaged or missing"}}},
		{"records at the end are gone", `DELETE FROM records WHERE id & 0xfff > 7`, []Loss{{testTopics.DLQ, 8, 9,
			"damaged or missing"}}},
		{"an old copy", `DELETE FROM records WHERE id & 0xfff > 7; UPDATE topics SET next_offset = 8 WHERE name = 'docket.dlq'`, []Loss{{testTopics.DLQ, 8, 9, "missing below the high-water mark"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := written(t, 10)
			execFile(t, dir, c.harm)
			options := logOptions(t)
			var reported int64
			options.Lost = func(l domain.Loss) { reported += l.Records() }
			_, err := OpenLog(t.Context(), dir, options)
			require.Equal(t, domain.Misconfigured, domain.ClassOf(err), "%v", err)
			require.ErrorContains(t, err, fmt.Sprintf("%s/0/%d ", testTopics.DLQ, c.lost[0].First))
			require.ErrorContains(t, err, "docket log accept-loss")
			require.Positive(t, reported)

			lost, err := AcceptLoss(t.Context(), dir, options, true)
			require.NoError(t, err)
			require.Equal(t, c.lost, lost)
			_, err = OpenLog(t.Context(), dir, options)
			require.Error(t, err, "a dry run changes nothing")

			lost, err = AcceptLoss(t.Context(), dir, options, false)
			require.NoError(t, err)
			require.Equal(t, c.lost, lost)
			l, err := OpenLog(t.Context(), dir, options)
			require.NoError(t, err)
			want := []string{}
			for i := range int64(10) {
				if i < c.lost[0].First || i > c.lost[0].Last {
					want = append(want, fmt.Sprint(i))
				}
			}
			require.Equal(t, want, readAll(t, l, testTopics.DLQ), "the rest is there, under its old offsets")
			publishN(t, l, testTopics.DLQ, 1)
			b, err := l.Backlog(t.Context(), "any", testTopics.DLQ)
			require.NoError(t, err)
			require.EqualValues(t, 11, b[0].End, "offsets are not used twice")
			require.NoError(t, l.Close())
			again, err := AcceptLoss(t.Context(), dir, options, false)
			require.NoError(t, err)
			require.Empty(t, again)
		})
	}
}

// readAll consumes a topic to its end and returns the keys.
func readAll(t *testing.T, l *Log, topic string) []string {
	t.Helper()
	keys := []string{}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		done <- l.Consume(ctx, ports.Subscription{Group: "all", Topics: []string{topic}, MaxRecords: 3, MaxBytes: 1 << 20,
			MaxWait: time.Millisecond},
			func(_ context.Context, batch []domain.Record) ([]ports.Pause, error) {
				for _, r := range batch {
					require.Equal(t, fmt.Sprint(r.Offset), r.Key)
					keys = append(keys, r.Key)
				}
				return nil, nil
			})
	}()
	require.Eventually(t, func() bool {
		b, err := l.Backlog(ctx, "all", topic)
		return err == nil && b[0].Waiting() == 0
	}, 20*time.Second, time.Millisecond)
	cancel()
	require.NoError(t, <-done)
	return keys
}

func TestDamageWhileRunningStopsTheTopic(t *testing.T) {
	dir := openDir(t, t.TempDir())
	defer dir.Close()
	options := logOptions(t)
	lost := make(chan int64, 10)
	options.Lost = func(l domain.Loss) { lost <- l.Records() }
	l, err := OpenLog(t.Context(), dir, options)
	require.NoError(t, err)
	publishN(t, l, testTopics.Decisions, 3)
	execFile(t, dir, `UPDATE records SET value = x'00' WHERE id & 0xfff = 1`)
	err = l.Consume(
		t.Context(),
		ports.Subscription{
			Group: "g", Topics: []string{testTopics.Decisions}, MaxRecords: 10, MaxBytes: 1000, MaxWait: time.Millisecond,
		},
		func(context.Context, []domain.Record) ([]ports.Pause, error) { return nil, errors.New("not reached") },
	)
	require.Equal(t, domain.Misconfigured, domain.ClassOf(err), "%v", err)
	require.EqualValues(t, 1, <-lost)
	require.NoError(
		t, l.Publish(t.Context(), []domain.Record{{Topic: testTopics.Decisions, Key: "k", Value: []byte("{}")}}),
		"uploads are still taken",
	)
	require.NoError(t, l.Close())
}

func TestTheMarkIsMissed(t *testing.T) {
	for name, harm := range map[string]func(file string) error{
		"gone":    os.Remove,
		"empty":   func(file string) error { return os.Truncate(file, 0) },
		"rubbish": func(file string) error { return os.WriteFile(file, make([]byte, 2*slotSize), 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := written(t, 3)
			require.NoError(t, harm(filepath.Join(dir.path, markFile)))
			_, err := OpenLog(t.Context(), dir, logOptions(t))
			require.Equal(t, domain.Misconfigured, domain.ClassOf(err))
			require.ErrorContains(t, err, "docket log accept-loss")
			require.NoError(t, harm(filepath.Join(dir.path, markFile)), "opening it does not repair it")
			lost, err := AcceptLoss(t.Context(), dir, logOptions(t), false)
			require.NoError(t, err)
			require.Empty(t, lost)
			l, err := OpenLog(t.Context(), dir, logOptions(t))
			require.NoError(t, err)
			require.NoError(t, l.Close())
		})
	}
}

func TestConsumedRecordsAreTrimmed(t *testing.T) {
	dir := openDir(t, t.TempDir())
	defer dir.Close()
	l, err := OpenLog(t.Context(), dir, logOptions(t))
	require.NoError(t, err)
	defer l.Close()
	publishN(t, l, testTopics.Decisions, 5)
	ctx, cancel := context.WithCancel(t.Context())
	require.NoError(
		t,
		l.Consume(
			ctx,
			ports.Subscription{
				Group: "g", Topics: []string{testTopics.Decisions}, MaxRecords: 5, MaxBytes: 1000, MaxWait: time.Millisecond,
			},
			func(context.Context, []domain.Record) ([]ports.Pause, error) { cancel(); return nil, nil },
		),
	)
	var left int
	require.NoError(t, l.read.QueryRowContext(t.Context(), `SELECT count(*) FROM records`).Scan(&left))
	require.Zero(t, left)
	b, err := l.Backlog(t.Context(), "g", testTopics.Decisions)
	require.NoError(t, err)
	require.EqualValues(t, 5, b[0].Start)
	require.EqualValues(t, 5, b[0].End)
}

func TestDeadLettersAreDroppedByAge(t *testing.T) {
	dir := openDir(t, t.TempDir())
	defer dir.Close()
	options := logOptions(t)
	now := time.Now()
	options.Now = func() time.Time { return now }
	l, err := OpenLog(t.Context(), dir, options)
	require.NoError(t, err)
	publishN(t, l, testTopics.DLQ, 3)
	require.NoError(t, l.Close())

	now = now.Add(31 * 24 * time.Hour)
	l, err = OpenLog(t.Context(), dir, options)
	require.NoError(t, err)
	publishN(t, l, testTopics.DLQ, 1)
	require.NoError(t, l.expire(t.Context()))
	b, err := l.Backlog(t.Context(), "g", testTopics.DLQ)
	require.NoError(t, err)
	require.EqualValues(t, 3, b[0].Start)
	require.EqualValues(t, 4, b[0].End)
	require.NoError(t, l.Close())
	l, err = OpenLog(t.Context(), dir, options)
	require.NoError(t, err, "what was dropped is not missed")
	require.NoError(t, l.Close())
}

func TestManyDecisionsAreDropped(t *testing.T) {
	dir := openDir(t, t.TempDir())
	defer dir.Close()
	now := time.Now()
	clock := now
	s, err := OpenStore(t.Context(), dir, StoreOptions{
		Window: domain.Window{Retention: time.Hour, Ahead: time.Hour}, Migrate: true,
		Fatal: func(err error) { t.Error(err) }, Log: logOptions(t).Log, Now: func() time.Time { return clock },
	})
	require.NoError(t, err)
	defer s.Close()
	var rows []domain.Decision
	for i := range 2500 {
		d := domain.Decision{
			Tenant: "t", ID: fmt.Sprint(i), Timestamp: now, ReceivedAt: now, Outcome: domain.OutcomeDenied,
			Event: []byte("{}"),
		}
		if i%2 == 0 {
			d.Timestamp = time.Time{}
		}
		rows = append(rows, d)
	}
	_, err = s.SaveBatch(t.Context(), rows)
	require.NoError(t, err)
	drop := func(day domain.Day) {
		dropped, err := s.DropDay(t.Context(), day, 0)
		require.NoError(t, err)
		require.True(t, dropped)
	}
	clock = now.Add(72 * time.Hour)
	drop(domain.DayOf(now) - 1)
	require.NoError(t, s.DropReceivedBefore(t.Context(), now))
	page, err := s.Search(t.Context(), domain.AllTenants(), domain.Query{Limit: 1000})
	require.NoError(t, err)
	require.Len(t, page.Items, 1000)
	drop(domain.DayOf(now))
	require.NoError(t, s.DropReceivedBefore(t.Context(), now.Add(time.Microsecond)))
	page, err = s.Search(t.Context(), domain.AllTenants(), domain.Query{Limit: 1})
	require.NoError(t, err)
	require.Empty(t, page.Items)
}

func TestDamagedRowIsNotServed(t *testing.T) {
	dir := openDir(t, t.TempDir())
	defer dir.Close()
	s, err := OpenStore(t.Context(), dir, StoreOptions{
		Window: domain.Window{
			Retention: time.Hour,
			Ahead:     time.Hour,
		},
		Migrate: true,
		Fatal:   func(err error) { t.Error(err) },
		Log:     logOptions(t).Log,
	})
	require.NoError(t, err)
	defer s.Close()
	p, err := domain.NewProjector(nil)
	require.NoError(t, err)
	_, err = s.SaveBatch(
		t.Context(),
		[]domain.Decision{
			p.Project(domain.Record{Value: []byte(`{"decision_id":"a"}`), Headers: domain.Headers{ReceivedAt: time.Now()}}),
		},
	)
	require.NoError(t, err)
	_, err = s.write.ExecContext(t.Context(), `UPDATE decisions_out_of_window SET event = '{"decision_id":"b"}'`)
	require.NoError(t, err)
	_, err = s.Decisions(t.Context(), domain.AllTenants(), "a")
	require.Equal(t, domain.Misconfigured, domain.ClassOf(err))
	require.ErrorContains(t, err, "is damaged")
}

func TestMark(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mark")
	m, found, err := openMark(path)
	require.NoError(t, err)
	require.False(t, found)
	for i := range int64(5) {
		require.NoError(t, m.write(map[string]int64{"a": i, "b": 7}))
	}
	require.NoError(t, m.sync())
	require.NoError(t, m.close())

	m, found, err = openMark(path)
	require.NoError(t, err)
	require.True(t, found)
	require.Equal(t, map[string]int64{"a": 4, "b": 7}, m.offsets)
	require.EqualValues(t, 5, m.sequence)
	require.NoError(t, m.close())

	// A torn write costs one step.
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(t, err)
	_, err = f.WriteAt([]byte{0xff}, int64(m.sequence%2)*slotSize+slotHeader+2)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	m, found, err = openMark(path)
	require.NoError(t, err)
	require.True(t, found)
	require.EqualValues(t, 3, m.offsets["a"])
	require.NoError(t, m.close())

	require.NoError(t, os.WriteFile(path, []byte("short"), 0o600))
	m, found, err = openMark(path)
	require.NoError(t, err)
	require.False(t, found)
	require.NoError(t, m.write(map[string]int64{"a": 1}))
	require.NoError(t, m.close())
}

func FuzzDecodeSlot(f *testing.F) {
	path := filepath.Join(f.TempDir(), "mark")
	m, _, err := openMark(path)
	if err != nil {
		f.Fatal(err)
	}
	if err := errors.Join(m.write(map[string]int64{"docket.decisions": 42}), m.close()); err != nil {
		f.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b[slotSize:])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, slot []byte) {
		_, offsets, ok := decodeSlot(slot)
		if ok != (offsets != nil) {
			t.Fatal("a valid slot has offsets, and no other")
		}
	})
}

func FuzzHeaderCache(f *testing.F) {
	var c headerCache
	f.Add(c.encode(domain.Headers{Tenant: "t", Attempt: 3}))
	f.Add("{}")
	f.Fuzz(func(t *testing.T, text string) {
		var c headerCache
		h, err := c.decode(text)
		if err != nil {
			return
		}
		var again headerCache
		if back, err := again.decode(again.encode(h)); err != nil || back != h {
			t.Fatalf("%+v became %+v, %v", h, back, err)
		}
	})
}

func TestOpenDir(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "b")
	first, err := OpenDir(path)
	require.NoError(t, err)
	_, err = OpenDir(path)
	require.Equal(t, domain.Misconfigured, domain.ClassOf(err))
	require.ErrorContains(t, err, fmt.Sprintf("in use by process %d", os.Getpid()))
	require.NoError(t, first.Close())
	again, err := OpenDir(path)
	require.NoError(t, err)
	require.NoError(t, again.Close())
	_, err = OpenDir(filepath.Join(path, lockFile))
	require.Equal(t, domain.Misconfigured, domain.ClassOf(err), "a file in the way: %v", err)
	require.NotErrorIs(t, err, fs.ErrNotExist)
}

// TestClassify provokes the causes it can on a real file; the disk's own errors are provoked end to end.
func TestClassify(t *testing.T) {
	db, err := sql.Open("sqlite", filepath.Join(t.TempDir(), "x.db"))
	require.NoError(t, err)
	defer db.Close()
	ctx := t.Context()
	_, err = db.ExecContext(ctx, `CREATE TABLE t (a TEXT NOT NULL CHECK (length(a) < 5), b INTEGER UNIQUE);
		CREATE TRIGGER tr BEFORE INSERT ON t WHEN NEW.a = 'no' BEGIN SELECT RAISE(ABORT, 'raised'); END`)
	require.NoError(t, err)
	done, cancel := context.WithCancel(ctx)
	cancel()
	late, cancelLate := context.WithDeadline(ctx, time.Now().Add(-time.Second))
	defer cancelLate()
	for _, c := range []struct {
		name  string
		ctx   context.Context
		text  string
		class domain.Class
		code  string
	}{
		{"not null", ctx, `INSERT INTO t (a) VALUES (NULL)`, domain.Invalid, "SQLITE_CONSTRAINT"},
		{"check", ctx, `INSERT INTO t (a) VALUES ('too long')`, domain.Invalid, "SQLITE_CONSTRAINT"},
		{"a raising trigger", ctx, `INSERT INTO t (a) VALUES ('no')`, domain.Unknown, "SQLITE_CONSTRAINT"},
		{"too big", ctx, `INSERT INTO t (a) VALUES (zeroblob(2000000000))`, domain.Invalid, "SQLITE_TOOBIG"},
		{"no such table", ctx, `INSERT INTO nowhere VALUES (1)`, domain.Misconfigured, "SQLITE_ERROR"},
		{"no such column", ctx, `INSERT INTO t (z) VALUES (1)`, domain.Misconfigured, "SQLITE_ERROR"},
		{"a syntax error", ctx, `INSERT NONSENSE`, domain.Unknown, "SQLITE_ERROR"},
		{"canceled", done, `INSERT INTO t (a) VALUES ('x')`, domain.Canceled, ""},
		{"deadline", late, `INSERT INTO t (a) VALUES ('x')`, domain.Unavailable, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := db.ExecContext(c.ctx, c.text)
			err = classify("op", err)
			require.Equal(t, c.class, domain.ClassOf(err), "%v", err)
			require.Equal(t, c.code, domain.CodeOf(err))
		})
	}
	require.NoError(t, classify("op", nil))
	require.Equal(t, "SQLITE_IOERR_FSYNC", codeName(lib.SQLITE_IOERR_FSYNC))
	require.Equal(t, "SQLITE_FULL", codeName(lib.SQLITE_FULL))
	require.False(t, isFsync(&sqlite.Error{}))
	known := domain.Errorf(domain.Invalid, "x")
	require.Equal(t, known, classify("op", known), "an error keeps its class")
}

func TestFullIsUnavailable(t *testing.T) {
	dir := openDir(t, t.TempDir())
	defer dir.Close()
	l, err := OpenLog(t.Context(), dir, logOptions(t))
	require.NoError(t, err)
	defer l.Close()
	publishN(t, l, testTopics.Decisions, 1)
	_, err = l.write.ExecContext(t.Context(), `PRAGMA max_page_count = 12`)
	require.NoError(t, err)
	err = l.Publish(t.Context(), []domain.Record{{Topic: testTopics.Decisions, Key: "big", Value: make([]byte, 1<<20)}})
	require.Equal(t, domain.Unavailable, domain.ClassOf(err), "%v", err)
	require.Equal(t, "SQLITE_FULL", domain.CodeOf(err))
	_, err = l.write.ExecContext(t.Context(), `PRAGMA max_page_count = 100000`)
	require.NoError(t, err)
	publishN(t, l, testTopics.Decisions, 1)
	b, err := l.Backlog(t.Context(), "g", testTopics.Decisions)
	require.NoError(t, err)
	require.EqualValues(t, 2, b[0].End, "what was refused left no hole")
}

// TestSchemaOfTheFuture has files that a newer docket has migrated, also where this one may not migrate.
func TestSchemaOfTheFuture(t *testing.T) {
	dir := written(t, 1)
	execFile(t, dir, `INSERT INTO goose_db_version (version_id, is_applied) VALUES (99, 1)`)
	for _, migrate := range []bool{true, false} {
		options := logOptions(t)
		options.Migrate = migrate
		_, err := OpenLog(t.Context(), dir, options)
		require.Equal(t, domain.Misconfigured, domain.ClassOf(err))
		require.ErrorContains(t, err, "log.db has schema 99, of a newer docket")
	}
	store := StoreOptions{Window: domain.Window{Retention: time.Hour}, Fatal: func(error) {}, Migrate: true}
	store.Log = slog.New(slog.DiscardHandler)
	s, err := OpenStore(t.Context(), dir, store)
	require.NoError(t, err)
	require.NoError(t, s.Close())
	db, err := sql.Open("sqlite", filepath.Join(dir.path, storeFile))
	require.NoError(t, err)
	_, err = db.ExecContext(t.Context(), `INSERT INTO goose_db_version (version_id, is_applied) VALUES (99, 1)`)
	require.NoError(t, errors.Join(err, db.Close()))
	_, err = OpenStore(t.Context(), dir, store)
	require.ErrorContains(t, err, "store.db has schema 99, of a newer docket")
}
