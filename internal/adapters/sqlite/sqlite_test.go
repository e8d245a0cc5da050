package sqlite

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"log/slog"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/ports"
	"github.com/docket-project/docket/internal/ports/porttest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var testTopics = domain.TopicsWithPrefix("docket.")

func logOptions(t *testing.T) LogOptions {
	return LogOptions{
		Topics: []Topic{
			{Name: testTopics.Decisions},
			{Name: testTopics.Parking},
			{
				Name:      testTopics.ParkingDLQ,
				Retention: 30 * 24 * time.Hour,
			},
			{Name: testTopics.DLQ, Retention: 30 * 24 * time.Hour},
		},
		Fatal: func(err error) { t.Errorf("fatal: %v", err) },
		Lost:  func(domain.Loss) {},
		Log:   slog.New(slog.DiscardHandler), Migrate: true,
	}
}

func openDir(t *testing.T, path string) *Dir {
	t.Helper()
	dir, err := OpenDir(path)
	require.NoError(t, err)
	return dir
}

func TestLogConformance(t *testing.T) {
	porttest.Log(t, func(t *testing.T) porttest.LogHarness {
		path := t.TempDir()
		dirs := map[ports.Log]*Dir{}
		return porttest.LogHarness{
			Topics: testTopics,
			Open: func(t *testing.T) ports.Log {
				dir := openDir(t, path)
				l, err := OpenLog(t.Context(), dir, logOptions(t))
				require.NoError(t, err)
				dirs[l] = dir
				return l
			},
			Crash: func(t *testing.T) ports.Log {
				copied := t.TempDir() // the files as they are now, write-ahead file and all
				require.NoError(t, os.CopyFS(copied, os.DirFS(path)))
				dir := openDir(t, copied)
				l, err := OpenLog(t.Context(), dir, logOptions(t))
				require.NoError(t, err)
				t.Cleanup(func() {
					require.NoError(t, l.Close())
					require.NoError(t, dir.Close())
				})
				return l
			},
			Close: func(t *testing.T, l ports.Log) {
				require.NoError(t, l.(*Log).Close())
				require.NoError(t, dirs[l].Close())
			},
		}
	})
}

func TestStoreConformance(t *testing.T) {
	harness := func(t *testing.T) *porttest.StoreHarness {
		dir := openDir(t, t.TempDir())
		t.Cleanup(func() { require.NoError(t, dir.Close()) })
		h := &porttest.StoreHarness{
			Window: domain.Window{Retention: 90 * 24 * time.Hour, Ahead: domain.DefaultAhead},
			Now:    time.Now(),
		}
		var s *Store
		open := func(t *testing.T) (ports.Decisions, ports.Control) {
			var err error
			s, err = OpenStore(context.Background(), dir, StoreOptions{
				Window: h.Window, Log: slog.New(slog.DiscardHandler), Migrate: true, Now: func() time.Time { return h.Now },
				JSON: h.JSON, SearchTime: h.SearchTime,
				Fatal: func(err error) { t.Errorf("fatal: %v", err) },
			})
			require.NoError(t, err)
			return s, s
		}
		h.Decisions, h.Control = open(t)
		t.Cleanup(func() { require.NoError(t, s.Close()) })
		h.Reopen = func(t *testing.T) (ports.Decisions, ports.Control) {
			require.NoError(t, s.Close())
			return open(t)
		}
		exec := func(t *testing.T, text string) {
			_, err := s.write.Exec(text)
			require.NoError(t, err)
		}
		h.Exec = func(t *testing.T, statements ...string) {
			for _, text := range statements {
				exec(t, text)
			}
		}
		h.WrongDictionary = `UPDATE dictionaries SET bytes = CAST(bytes || 'x' AS BLOB)`
		h.EventBytes = func(t *testing.T, id string) (n int) {
			row := s.read.QueryRow(`SELECT length(event) FROM decisions WHERE decision_id = ?1
				UNION ALL SELECT length(event) FROM decisions_out_of_window WHERE decision_id = ?1`, id)
			require.NoError(t, row.Scan(&n))
			return n
		}
		h.Poison = func(t *testing.T, id string, class domain.Class) {
			if class == domain.Invalid {
				exec(t, `CREATE TABLE refuse (id TEXT NOT NULL CHECK (id <> 'x'))`)
				exec(
					t,
					`CREATE TRIGGER invalid BEFORE INSERT ON decisions WHEN NEW.decision_id = '`+id+`' BEGIN INSERT INTO refuse VALUES ('x'); END`,
				)
				return
			}
			exec(
				t,
				`CREATE TRIGGER unknown BEFORE INSERT ON decisions WHEN NEW.decision_id = '`+id+`' BEGIN SELECT RAISE(ABORT, 'not today'); END`,
			)
		}
		h.Skip = func(t *testing.T, id string) func() {
			for _, table := range []string{"decisions", "decisions_out_of_window"} {
				exec(t, `CREATE TRIGGER skip_`+table+` BEFORE INSERT ON `+table+` WHEN NEW.decision_id = '`+id+
					`' BEGIN SELECT RAISE(IGNORE); END`)
			}
			return func() {
				exec(t, `DROP TRIGGER skip_decisions`)
				exec(t, `DROP TRIGGER skip_decisions_out_of_window`)
			}
		}
		h.Break = func(t *testing.T, class domain.Class) func() {
			if class == domain.Misconfigured {
				exec(t, `ALTER TABLE decisions RENAME COLUMN path TO paths`)
				return func() { exec(t, `ALTER TABLE decisions RENAME COLUMN paths TO path`) }
			}
			// Another process holds the write lock.
			db, err := dir.open(storeFile, 0)
			require.NoError(t, err)
			tx, err := db.Begin()
			require.NoError(t, err)
			return func() {
				require.NoError(t, tx.Rollback())
				require.NoError(t, db.Close())
			}
		}
		h.Tamper = func(t *testing.T) {
			for _, text := range []string{`UPDATE audit SET caller = 'nobody'`, `DELETE FROM audit`} {
				_, err := s.write.Exec(text)
				require.ErrorContains(t, err, "append-only", text)
			}
		}
		return h
	}
	t.Run("decisions", func(t *testing.T) { porttest.Decisions(t, harness) })
	t.Run("control", func(t *testing.T) { porttest.Control(t, harness) })
}

// BenchmarkPublish measures durable uploads of three events from 64 writers.
func BenchmarkPublish(b *testing.B) {
	dir, err := OpenDir(b.TempDir())
	require.NoError(b, err)
	defer dir.Close()
	l, err := OpenLog(b.Context(), dir, LogOptions{
		Topics: []Topic{
			{Name: testTopics.Decisions},
		},
		Fatal:   func(err error) { b.Error(err) },
		Lost:    func(domain.Loss) {},
		Log:     slog.Default(),
		Migrate: true,
	})
	require.NoError(b, err)
	defer l.Close()
	value := make([]byte, 1400)
	records := make([]domain.Record, 3)
	for i := range records {
		records[i] = domain.Record{
			Topic: testTopics.Decisions, Key: "0123456789abcdef", Value: value,
			Headers: domain.Headers{Tenant: "t", Upload: "x", ReceivedAt: time.Now()},
		}
	}
	b.ReportAllocs()
	var wg sync.WaitGroup
	work := make(chan struct{})
	for range 64 {
		wg.Go(func() {
			for range work {
				if err := l.Publish(context.Background(), records); err != nil {
					b.Error(err)
				}
			}
		})
	}
	for b.Loop() {
		work <- struct{}{}
	}
	close(work)
	wg.Wait()
}

// BenchmarkSaveBatch measures rows of about 1.4 KB in batches of 500.
func BenchmarkSaveBatch(b *testing.B) {
	dir, err := OpenDir(b.TempDir())
	require.NoError(b, err)
	defer dir.Close()
	s, err := OpenStore(b.Context(), dir, StoreOptions{
		Window: domain.Window{
			Retention: time.Hour * 24,
			Ahead:     time.Hour,
		},
		Fatal:   func(err error) { b.Error(err) },
		Log:     slog.Default(),
		Migrate: true,
	})
	require.NoError(b, err)
	defer s.Close()
	rows := make([]domain.Decision, 500)
	n := uint64(0)
	b.ReportAllocs()
	for b.Loop() {
		now := time.Now()
		for i := range rows {
			n++
			id := spread(n)
			rows[i] = domain.Decision{Tenant: "default", ID: id, Timestamp: now, ReceivedAt: now, Outcome: domain.OutcomeDenied,
				Path: "http/authz/allow", Principal: "alice", OPA: "4f0c1d2e-9a1b-4c3d-8e5f", Event: make([]byte, 1400)}
		}
		if _, err := s.SaveBatch(b.Context(), rows); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N*len(rows))/b.Elapsed().Seconds(), "rows/s")
}

// spread makes ids that are as scattered as UUIDs.
func spread(n uint64) string {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], n)
	sum := sha256.Sum256(b[:])
	return hex.EncodeToString(sum[:16])
}

// TestReadWhileTrimmed has a reader that holds nothing look where a consumer is at work: what is trimmed under its eyes
// is no loss.
func TestReadWhileTrimmed(t *testing.T) {
	dir := openDir(t, t.TempDir())
	defer dir.Close()
	options := logOptions(t)
	options.Lost = func(l domain.Loss) { t.Errorf("reported lost: %+v", l) }
	l, err := OpenLog(t.Context(), dir, options)
	require.NoError(t, err)
	defer func() { require.NoError(t, l.Close()) }()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		require.NoError(
			t,
			l.Consume(
				ctx,
				ports.Subscription{
					Group: "g", Topics: []string{testTopics.Decisions}, MaxRecords: 50, MaxBytes: 1 << 20, MaxWait: time.Millisecond,
				},
				func(context.Context, []domain.Record) ([]ports.Pause, error) { return nil, nil },
			),
		)
	})
	reads := 0
	for range 40 {
		records := make([]domain.Record, 500)
		for i := range records {
			records[i] = domain.Record{Topic: testTopics.Decisions, Key: "k", Value: []byte("{}")}
		}
		require.NoError(t, l.Publish(t.Context(), records))
		for range 5 {
			last := int64(-1)
			_, err := l.Read(t.Context(), testTopics.Decisions, 0, 0, func(r domain.Record) bool {
				require.Greater(t, r.Offset, last)
				last = r.Offset
				return true
			})
			require.NoError(t, err)
			reads++
		}
	}
	cancel()
	wg.Wait()
	require.Equal(t, 200, reads)
}

// TestRenamedGroups go on where they stood under their old name.
func TestRenamedGroups(t *testing.T) {
	path := t.TempDir()
	consume := func(options LogOptions, group string) (got []string) {
		dir := openDir(t, path)
		defer func() { require.NoError(t, dir.Close()) }()
		l, err := OpenLog(t.Context(), dir, options)
		require.NoError(t, err)
		defer func() { require.NoError(t, l.Close()) }()
		one := domain.Record{Topic: testTopics.Decisions, Key: group, Value: []byte("{}")}
		require.NoError(t, l.Publish(t.Context(), []domain.Record{one}))
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		sub := ports.Subscription{Group: group, Topics: []string{testTopics.Decisions}, MaxRecords: 10, MaxBytes: 1 << 20}
		require.NoError(t, l.Consume(ctx, sub, func(_ context.Context, batch []domain.Record) ([]ports.Pause, error) {
			for _, r := range batch {
				got = append(got, r.Key)
			}
			cancel()
			return nil, nil
		}))
		return got
	}
	options := logOptions(t)
	require.Equal(t, []string{"docket-saver"}, consume(options, "docket-saver"))
	options.Renamed = map[string]string{"docket-saver": "a.docket-saver", "docket-parking": "docket-parking"}
	require.Equal(t, []string{"a.docket-saver"}, consume(options, "a.docket-saver"))
	require.Equal(t, []string{"a.docket-saver"}, consume(options, "a.docket-saver"), "again")
}
