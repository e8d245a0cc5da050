package sqlite

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/json"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/docket-project/docket/internal/adapters/sqlstore"
	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/ports"
)

var (
	_ ports.Decisions = (*Store)(nil)
	_ ports.Control   = (*Store)(nil)
)

// StoreOptions configure OpenStore.
type StoreOptions struct {
	// Window is what is kept by timestamp; rows outside it are kept for Window.Retention by receipt.
	Window domain.Window
	// Fatal is called once when an fsync failed; see LogOptions.
	Fatal func(error)
	Log   *slog.Logger
	// Migrate creates and updates the schema; without it an old schema is an error.
	Migrate bool
	// Now is the clock, for tests; nil is time.Now.
	Now func() time.Time
	// SearchTime bounds how long a search looks at rows; 0 is sqlstore.SearchTime.
	SearchTime time.Duration
	// JSON keeps new events as they are, instead of packing them. Rows of both kinds are read.
	JSON bool
}

// acquireTimeout is how long a batch waits for the one connection that writes.
const acquireTimeout = 3 * time.Second

// Store is the embedded store.
type Store struct {
	dir    *Dir
	opts   StoreOptions
	write  *sql.DB
	read   *sql.DB
	copy   *sql.DB // copies the write-ahead file back
	stop   chan struct{}
	done   sync.WaitGroup
	closed sync.Once

	decisions   table
	outOfWindow table

	gone    atomic.Int64 // days in front of it were dropped
	inForce atomic.Int64 // the retention that the store has

	dictionaries *sqlstore.Dictionaries
	tended       atomic.Int64 // when the counts of all days were folded
}

// table is one of the two tables of decisions, with the statements that write to it.
type table struct{ insert, lookup string }

// columns of both tables, in the order of values.
var columns = `tenant, decision_id, timestamp, time, received_at, saved_at, outcome, ` + sqlstore.TextColumns("") +
	`, bundles, sanitised, unsearchable, sha256`

// OpenStore opens and migrates the store in dir.
func OpenStore(ctx context.Context, dir *Dir, opts StoreOptions) (_ *Store, err error) {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	s := &Store{
		dir: dir, opts: opts, stop: make(chan struct{}), dictionaries: sqlstore.NewDictionaries(opts.Log),
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.closeFiles())
		}
	}()
	if s.write, err = dir.open(storeFile, 0); err != nil {
		return nil, err
	}
	if err := dir.migrate(ctx, s.write, storeFile, "store", opts.Migrate); err != nil {
		return nil, err
	}
	if s.read, err = dir.open(storeFile, 4); err != nil {
		return nil, err
	}
	if s.copy, err = dir.open(storeFile, 1); err != nil {
		return nil, err
	}
	s.gone.Store(-1 << 62)
	if _, err := s.RetentionState(ctx); err != nil {
		return nil, err
	}
	if err := s.readDictionaries(ctx); err != nil {
		return nil, err
	}
	s.decisions = table{
		insert: `INSERT INTO decisions (` + columns + `, packed, event) SELECT ` + parameters + `
			WHERE NOT EXISTS (SELECT 1 FROM decisions_out_of_window WHERE decision_id = ?2 AND tenant = ?1 AND timestamp IS ?3)
			ON CONFLICT DO NOTHING`,
	}
	s.outOfWindow = table{
		insert: `INSERT INTO decisions_out_of_window (` + columns + `, packed, event) SELECT ` + parameters + `
			WHERE NOT EXISTS (SELECT 1 FROM decisions WHERE decision_id = ?2 AND tenant = ?1 AND timestamp IS ?3)
			ON CONFLICT DO NOTHING`,
	}
	// Out of window the key has no timestamp, so any row of the same id stands in the way there.
	s.decisions.lookup = `SELECT sha256 FROM decisions WHERE decision_id = ?1 AND tenant = ?2 AND timestamp IS ?3
		UNION ALL SELECT sha256 FROM decisions_out_of_window WHERE decision_id = ?1 AND tenant = ?2 AND timestamp IS ?3`
	s.outOfWindow.lookup = `SELECT sha256 FROM decisions_out_of_window WHERE decision_id = ?1 AND tenant = ?2
		UNION ALL SELECT sha256 FROM decisions WHERE decision_id = ?1 AND tenant = ?2 AND timestamp IS ?3`
	s.done.Go(s.tend)
	return s, nil
}

var parameters = placeholders(sqlstore.Columns(columns + ", packed, event"))

// Pool reports the connections that read.
func (s *Store) Pool() sql.DBStats { return s.read.Stats() }

// Close stops the upkeep and closes the files.
func (s *Store) Close() (err error) {
	s.closed.Do(func() {
		close(s.stop)
		s.done.Wait()
		_, ckErr := s.write.Exec(`PRAGMA wal_checkpoint(TRUNCATE)`)
		err = errors.Join(classify("checkpoint "+storeFile, ckErr), s.closeFiles())
	})
	return err
}

func (s *Store) closeFiles() error {
	var errs []error
	for _, db := range []*sql.DB{s.copy, s.read, s.write} {
		if db != nil {
			errs = append(errs, db.Close())
		}
	}
	return errors.Join(errs...)
}

// checked classifies an error and reports an fsync that failed.
func (s *Store) checked(op string, err error) error {
	if err == nil {
		return nil
	}
	err = classify(op, err)
	if isFsync(err) {
		go s.opts.Fatal(err)
	}
	return err
}

// SaveBatch stores decisions in one transaction; see ports.DecisionWriter.
func (s *Store) SaveBatch(ctx context.Context, decisions []domain.Decision) ([]domain.SaveStatus, error) {
	statuses := make([]domain.SaveStatus, len(decisions))
	if err := s.inTx(ctx, s.insertBatch(ctx, decisions, statuses)); err != nil {
		return nil, s.checked("save to "+storeFile, err)
	}
	return statuses, nil
}

// errDryRun ends a transaction that was never meant to be committed.
var errDryRun = errors.New("a dry run")

// DryRunBatch is SaveBatch, rolled back; see ports.DryRunner.
func (s *Store) DryRunBatch(ctx context.Context, decisions []domain.Decision) ([]domain.SaveStatus, error) {
	statuses := make([]domain.SaveStatus, len(decisions))
	insert := s.insertBatch(ctx, decisions, statuses)
	err := s.inTx(ctx, func(tx *sql.Tx) error { return cmp.Or(insert(tx), errDryRun) })
	if !errors.Is(err, errDryRun) {
		return nil, s.checked("dry run in "+storeFile, err)
	}
	return statuses, nil
}

// insertBatch inserts decisions and fills in what becomes of them.
func (s *Store) insertBatch(
	ctx context.Context, decisions []domain.Decision, statuses []domain.SaveStatus,
) func(*sql.Tx) error {
	return func(tx *sql.Tx) error {
		now := s.opts.Now()
		packing, counts := s.packing(), tally{}
		in, err := tx.Prepare(s.decisions.insert)
		if err != nil {
			return err
		}
		defer in.Close()
		out, err := tx.Prepare(s.outOfWindow.insert)
		if err != nil {
			return err
		}
		defer out.Close()
		for i := range decisions {
			if err := ctx.Err(); err != nil {
				return err
			}
			d := &decisions[i]
			switch s.placement(d, now) {
			case domain.BeforeWindow:
				statuses[i] = domain.TooOld
			case domain.Outside:
				statuses[i], err = s.outOfWindow.save(tx, out, d, now, packing)
			case domain.Inside:
				if statuses[i], err = s.decisions.save(tx, in, d, now, packing); statuses[i] == domain.Saved {
					counts.add(d, now, 1)
				}
			}
			if err != nil {
				return err
			}
		}
		if err := counts.write(tx); err != nil {
			return err
		}
		return needDictionaries(tx, packing)
	}
}

// inTx runs fn in a transaction on the one connection that writes.
func (s *Store) inTx(ctx context.Context, fn func(*sql.Tx) error) error {
	acquire, cancel := context.WithTimeout(ctx, acquireTimeout)
	defer cancel()
	conn, err := s.write.Conn(acquire)
	if err != nil {
		return err
	}
	defer conn.Close()
	// Not under ctx: the driver would watch it with a goroutine for each statement. fn looks at ctx itself.
	tx, err := conn.BeginTx(context.Background(), nil)
	if err != nil {
		return err
	}
	if err := fn(tx); err != nil {
		return errors.Join(err, ignoreDone(tx.Rollback()))
	}
	if err := tx.Commit(); err != nil {
		return errors.Join(err, ignoreDone(tx.Rollback()))
	}
	return nil
}

// save writes one row and says what became of it.
func (t table) save(
	tx *sql.Tx, insert *sql.Stmt, d *domain.Decision, now time.Time, packing *sqlstore.Packing,
) (domain.SaveStatus, error) {
	res, err := insert.Exec(values(d, now, packing)...)
	if err != nil {
		return "", err
	}
	if n, err := res.RowsAffected(); err != nil || n > 0 {
		return domain.Saved, err
	}
	rows, err := tx.Query(t.lookup, d.ID, d.Tenant, micros(d.Timestamp))
	if err != nil {
		return "", err
	}
	defer rows.Close()
	status := domain.Skipped // a trigger did it
	for rows.Next() {
		var sum []byte
		if err := rows.Scan(&sum); err != nil {
			return "", err
		}
		if bytes.Equal(sum, d.SHA256[:]) {
			status = domain.Duplicate
		} else if status == domain.Skipped {
			status = domain.Conflicting
		}
	}
	return status, rows.Err()
}

// values are a row's, in the order of columns and then the event, which is packed unless packing is nil.
func values(d *domain.Decision, now time.Time, packing *sqlstore.Packing) []any {
	out := make([]any, 0, 13+len(domain.TextColumns))
	out = append(out, d.Tenant, d.ID, micros(d.Timestamp), d.Time().UnixMicro(), d.ReceivedAt.UnixMicro(), now.UnixMicro(),
		string(d.Outcome))
	for _, c := range domain.TextColumns {
		out = append(out, text(*c.Of(d)))
	}
	event := d.Event
	if packing != nil {
		event = packing.Append(nil, d.Tenant, d.Event)
	}
	return append(
		out, text(domain.EncodeBundles(d.Bundles)), d.Sanitised, d.Unsearchable, d.SHA256[:], packing != nil, event,
	)
}

func micros(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UnixMicro()
}

func text(s string) any {
	if s == "" {
		return nil
	}
	return s
}

// Probe writes a row on a fresh connection and rolls it back; see ports.Prober.
func (s *Store) Probe(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, ports.ProbeTimeout)
	defer cancel()
	db, err := s.dir.open(storeFile, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return s.checked("probe "+storeFile, err)
	}
	defer func() { _ = tx.Rollback() }() // that is the point
	now := s.opts.Now()
	d := domain.Decision{
		Tenant: "docket-probe", ID: "probe", Timestamp: now, ReceivedAt: now, Outcome: domain.OutcomeUnknown,
		Event: []byte("{}"), SHA256: sha256.Sum256([]byte("{}")),
	}
	_, err = tx.ExecContext(ctx, s.decisions.insert, values(&d, now, nil)...)
	return s.checked("probe "+storeFile, err)
}

// RecordOPAs adds observations; see ports.OPARecorder.
func (s *Store) RecordOPAs(ctx context.Context, observations []domain.Observation) error {
	// The interval follows the newest uploads: the gap since the last known one, spread over those that came, counts 30 %.
	const upsert = `INSERT INTO opas AS o (tenant, opa, version, first_upload, last_upload, interval, uploads, events,
		status_at, status, app)
		VALUES (?1, ?2, ?3, ?4, ?5, CASE WHEN ?6 > 1 THEN (?5 - ?4) / (?6 - 1) ELSE 0 END, ?6, ?7, ?8, ?9, ?10)
		ON CONFLICT (tenant, opa) DO UPDATE SET
		version = CASE WHEN excluded.version = '' THEN o.version ELSE excluded.version END,
		first_upload = coalesce(min(o.first_upload, excluded.first_upload), o.first_upload, excluded.first_upload),
		last_upload = coalesce(max(o.last_upload, excluded.last_upload), o.last_upload, excluded.last_upload),
		interval = CASE
			WHEN ?6 = 0 OR o.last_upload IS NULL OR excluded.last_upload <= o.last_upload THEN o.interval
			WHEN o.interval = 0 THEN (excluded.last_upload - o.last_upload) / ?6
			ELSE (7 * o.interval + 3 * ((excluded.last_upload - o.last_upload) / ?6)) / 10 END,
		uploads = o.uploads + excluded.uploads,
		events = o.events + excluded.events,
		status_at = coalesce(excluded.status_at, o.status_at),
		status = coalesce(excluded.status, o.status),
		app = CASE WHEN excluded.app = '' THEN o.app ELSE excluded.app END`
	err := s.inTx(ctx, func(tx *sql.Tx) error {
		bounded, err := s.boundOPAs(ctx, tx, observations)
		if err != nil {
			return err
		}
		for _, g := range bounded {
			_, err := tx.Exec(
				upsert, g.Tenant, g.OPA, g.Version, micros(g.First), micros(g.Last), g.Uploads, g.Events, micros(g.StatusAt),
				g.Status, g.App,
			)
			if err != nil {
				return err
			}
		}
		return nil
	})
	return s.checked("record OPAs in "+storeFile, err)
}

// boundOPAs folds those that there is no room for.
func (s *Store) boundOPAs(
	ctx context.Context, tx *sql.Tx, observations []domain.Observation,
) (out []domain.Observation, err error) {
	tenants := map[string][]domain.Observation{}
	for _, o := range observations {
		tenants[o.Tenant] = append(tenants[o.Tenant], o)
	}
	for tenant, own := range tenants {
		known, fresh := map[string]bool{}, 0
		for _, o := range own {
			var n int
			err := tx.QueryRowContext(ctx, `SELECT count(*) FROM opas WHERE tenant = ? AND opa = ?`, tenant, o.OPA).Scan(&n)
			if err != nil {
				return nil, err
			}
			if known[o.OPA] = n > 0; n == 0 {
				fresh++
			}
		}
		room := func() (int, error) {
			var count int
			err := tx.QueryRowContext(ctx, `SELECT count(*) FROM opas WHERE tenant = ?`, tenant).Scan(&count)
			return domain.MaxOPAs - count, err
		}
		left, err := room()
		if short := fresh - left; short > 0 && err == nil {
			// max of one is that one, of NULL and another is NULL
			const seen = `max(coalesce(last_upload, 0), coalesce(status_at, 0))`
			_, err = tx.ExecContext(
				ctx, `DELETE FROM opas WHERE tenant = ?1 AND opa IN (SELECT opa FROM opas WHERE tenant = ?1 AND `+seen+
					` < ?2 AND opa NOT IN (SELECT value FROM json_each(?4)) ORDER BY `+seen+` LIMIT ?3)`,
				tenant, s.opts.Now().Add(-24*time.Hour).UnixMicro(), short, namesOf(own),
			)
			if err == nil {
				left, err = room()
			}
		}
		if err != nil {
			return nil, err
		}
		out = append(out, domain.FoldOPAs(own, func(opa string) bool { return known[opa] }, left)...)
	}
	return out, nil
}

// namesOf are the OPAs of observations, as a JSON array.
func namesOf(observations []domain.Observation) string {
	names := make([]string, len(observations))
	for i, o := range observations {
		names[i] = o.OPA
	}
	b, err := json.Marshal(names)
	if err != nil {
		panic(err) // texts
	}
	return string(b)
}

// tend copies the write-ahead file back.
func (s *Store) tend() {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-s.stop:
			return
		case <-tick.C:
		}
		if err := checkpoint(s.write, s.copy); err != nil {
			if err := s.checked("checkpoint "+storeFile, err); domain.ClassOf(err) != domain.Unavailable {
				s.opts.Log.Error("the store's write-ahead file cannot be copied back", "error", err)
			}
		}
	}
}
