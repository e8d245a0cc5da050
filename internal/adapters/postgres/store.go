// Package postgres is the store on PostgreSQL. It owns its pools, the schema and the partitions of each day. It leaves
// to its caller which row of a batch that failed is rejected, when to try again, and which days are dropped.
//
// Every statement is sent unnamed and every setting is local to its transaction, so that a pooler in transaction mode
// may stand in front.
package postgres

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"

	"github.com/docket-project/docket/internal/adapters/sqlstore"
	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/ports"
)

var (
	_ ports.Decisions = (*Store)(nil)
	_ ports.Control   = (*Store)(nil)
)

//go:embed migrations/*.sql
var migrations embed.FS

// Options configure Open.
type Options struct {
	// URL is a connection string (https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING); what it
	// does not say is taken from PG* variables. pool_max_conns bounds each of the two pools.
	URL string
	// SearchURL is one as searches are to connect, such as with a role that can only read; "" is URL.
	SearchURL string
	// Window is what is kept by timestamp; rows outside it are kept for Window.Retention by receipt.
	Window domain.Window
	Log    *slog.Logger
	// Now is the clock, for tests; nil is time.Now.
	Now func() time.Time
	// StatementTimeout bounds one statement; 0 is ten seconds.
	StatementTimeout time.Duration
	// SearchTime bounds how long a search looks at rows; 0 is sqlstore.SearchTime.
	SearchTime time.Duration
	// JSON keeps new events as json text, for people who ask by SQL, instead of packing them. Rows of both kinds are read.
	JSON bool
}

const (
	defaultPool      = 8
	connectTimeout   = 3 * time.Second
	acquireTimeout   = 3 * time.Second
	statementTimeout = 10 * time.Second
	lockTimeout      = 2 * time.Second
	// probeLockTimeout is within the second that a probe is waited for, so that it can still say that it was a lock.
	probeLockTimeout      = 500 * time.Millisecond
	maxConnectionLifetime = 30 * time.Minute
	// answerMargin is how much longer than a statement's timeout its answer is waited for: a server that hangs does not
	// keep its own limits.
	answerMargin = time.Second
)

// Store is the store on PostgreSQL. It is safe for concurrent use.
type Store struct {
	opts     Options
	write    *pgxpool.Pool
	read     *pgxpool.Pool
	probes   *pgxpool.Pool // one connection, kept warm: a probe must not wait for a login
	settings string        // set for every transaction
	probing  string        // set for a probe's

	mu   sync.Mutex
	days map[domain.Day]bool // partitions known to be there
	gone domain.Day          // days in front of it were dropped
	// inForce is the retention that the store has, as far as known.
	inForce time.Duration
	learned time.Time // when that was
	// timeline is the SQL that names the database's history, once it is known whether the server has any.
	timeline atomic.Pointer[string]
	input    atomic.Uint32

	dictionaries        *sqlstore.Dictionaries
	dictionariesLearned time.Time // under mu

	// What Tend has done, under mu: the insertions of each day that it knows of, and when it looked at all days.
	tended    map[domain.Day]int64
	tendedAll time.Time
	closed    atomic.Bool
}

// Open makes a Store. It does not wait for the server: Migrate, CheckSchema and Probe do.
func Open(opts Options) (*Store, error) {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.StatementTimeout == 0 {
		opts.StatementTimeout = statementTimeout
	}
	// jit: a scan that a search has turned off is said to cost so much that the server compiles its statement for a
	// second.
	settings := func(lock time.Duration) string {
		return fmt.Sprintf(`SELECT set_config('statement_timeout', '%d', true), set_config('lock_timeout', '%d', true),
		set_config('jit', 'off', true), set_config('synchronous_commit',
			CASE current_setting('synchronous_commit') WHEN 'off' THEN 'on' ELSE
		current_setting('synchronous_commit') END, true)`,
			opts.StatementTimeout.Milliseconds(), lock.Milliseconds())
	}
	s := &Store{
		opts: opts, days: map[domain.Day]bool{}, tended: map[domain.Day]int64{}, gone: noDay,
		settings: settings(lockTimeout), probing: settings(probeLockTimeout),
		dictionaries: sqlstore.NewDictionaries(opts.Log),
	}
	var err error
	if s.write, err = s.pool(writes, 0); err != nil {
		return nil, err
	}
	if s.read, err = s.pool(reads, 0); err != nil {
		s.write.Close()
		return nil, err
	}
	if s.probes, err = s.pool(writes, 1); err != nil {
		s.write.Close()
		s.read.Close()
		return nil, err
	}
	return s, nil
}

// Close ends the connections.
func (s *Store) Close() {
	if s.closed.CompareAndSwap(false, true) {
		s.write.Close()
		s.read.Close()
		s.probes.Close()
	}
}

// Pool reports the connections that write.
func (s *Store) Pool() sql.DBStats {
	st := s.write.Stat()
	return sql.DBStats{
		MaxOpenConnections: int(st.MaxConns()),
		OpenConnections:    int(st.TotalConns()),
		InUse:              int(st.AcquiredConns()),
		Idle:               int(st.IdleConns()),
		WaitCount:          st.EmptyAcquireCount(),
		WaitDuration:       st.EmptyAcquireWaitTime(),
	}
}

// schemaVersions is where the migrations that were made are noted. goose's own table is also that of any other program
// that uses it in this database.
const schemaVersions = "docket_schema_versions"

// migrator brings the schema up to date.
func (s *Store) migrator(db *sql.DB) (*goose.Provider, error) {
	sub, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, err
	}
	return goose.NewProvider(
		goose.DialectPostgres, db, sub, goose.WithTableName(schemaVersions), goose.WithSlog(slog.New(slog.DiscardHandler)),
	)
}

// withDB lends a database/sql handle to the migrations, which use nothing that a pooler would not understand.
func (s *Store) withDB(ctx context.Context, fn func(*sql.DB, *goose.Provider) error) (err error) {
	config := s.write.Config().ConnConfig
	config.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	db := stdlib.OpenDB(*config)
	defer func() { err = errors.Join(err, db.Close()) }()
	ping, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	if err := db.PingContext(ping); err != nil {
		return err
	}
	p, err := s.migrator(db)
	if err != nil {
		return err
	}
	return fn(db, p)
}

// migrationLock keeps two processes from migrating at once.
const migrationLock = 0x646f636b6574 // "docket"

// lookTimeout bounds what asks for the schema's version, and waits for another process that migrates.
const lookTimeout = 5 * time.Second

// Migrate creates or updates the schema, and makes the partitions of the next days. Looking is bounded; a migration
// that reads every day takes the time that it takes, unless ctx ends.
func (s *Store) Migrate(ctx context.Context) error {
	err := s.withDB(ctx, func(db *sql.DB, p *goose.Provider) error {
		look, cancel := context.WithTimeout(ctx, lookTimeout)
		defer cancel()
		// In a transaction of its own, because a pooler may hand each of goose's to another connection. It is under ctx: it
		// ends with that.
		lock, err := db.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelReadCommitted})
		if err != nil {
			return err
		}
		defer func() { _ = lock.Rollback() }() // it only holds the lock
		for _, statement := range []string{
			`SET LOCAL idle_in_transaction_session_timeout = 0`,
			fmt.Sprintf(`SELECT pg_advisory_xact_lock(%d)`, int64(migrationLock)),
		} {
			if _, err := lock.ExecContext(look, statement); err != nil {
				return err
			}
		}
		current, err := p.GetDBVersion(look)
		if err != nil {
			return err
		}
		if err := known(current, p); err != nil {
			return err
		}
		_, err = p.Up(ctx)
		return err
	})
	if err != nil {
		return classify("migrate the database", err)
	}
	today := domain.DayOf(s.opts.Now())
	return s.PrepareDays(ctx, today, today+domain.DaysAhead)
}

// known refuses a schema of the future.
func known(current int64, p *goose.Provider) error {
	sources := p.ListSources()
	return sqlstore.KnownSchema("the database", current, sources[len(sources)-1].Version)
}

// CheckSchema is Misconfigured unless the database has the schema of this version. It creates nothing.
func (s *Store) CheckSchema(ctx context.Context) error {
	pending := true
	err := s.withDB(ctx, func(db *sql.DB, p *goose.Provider) error {
		var ours bool
		const there = `SELECT to_regclass('` + schemaVersions + `') IS NOT NULL`
		if err := db.QueryRowContext(ctx, there).Scan(&ours); err != nil || !ours {
			return err
		}
		var current int64
		const version = `SELECT coalesce(max(version_id), 0) FROM ` + schemaVersions + ` WHERE is_applied`
		if err := db.QueryRowContext(ctx, version).Scan(&current); err != nil {
			return err
		}
		if err := known(current, p); err != nil {
			return err
		}
		pending = slices.ContainsFunc(p.ListSources(), func(source *goose.Source) bool { return source.Version > current })
		return nil
	})
	if err != nil {
		return classify("look at the schema of the database", err)
	}
	if pending {
		return domain.Errorf(
			domain.Misconfigured,
			"the database does not have the schema of this version: run docket migrate",
		)
	}
	return nil
}

// acquire takes a connection that writes; what waits for longer than acquireTimeout is an outage.
func (s *Store) acquire(ctx context.Context) (*pgxpool.Conn, error) {
	wait, cancel := context.WithTimeout(ctx, acquireTimeout)
	defer cancel()
	conn, err := s.write.Acquire(wait)
	// A login has as long as we wait for a connection; whichever timer is the first, nobody answers.
	if err != nil && ctx.Err() == nil && (wait.Err() != nil || pgconn.Timeout(err)) {
		st := s.write.Stat()
		return nil, &domain.Error{Class: domain.Unavailable, Code: "ACQUIRE_TIMEOUT", Err: err, Text: fmt.Sprintf(
			"no connection to the database within %s: %d of %d are busy, %d are being made", acquireTimeout,
			st.AcquiredConns(), st.MaxConns(), st.ConstructingConns(),
		)}
	}
	return conn, err
}

// settle deals with the error of a statement that writes; see settleOn.
func (s *Store) settle(op string, conn *pgx.Conn, err error) error {
	return settleOn(s.write, s.opts.Log, op, conn, err)
}

// settleOn classifies the error of a statement, ends a transaction that failed, and lets go of every connection after
// one has broken: the others are most likely to the same dead server, and each would cost a batch. One that was closed
// because its caller went away says nothing of the others.
func settleOn(pool *pgxpool.Pool, log *slog.Logger, op string, conn *pgx.Conn, err error) error {
	if err == nil {
		return nil
	}
	if conn != nil && !conn.IsClosed() && conn.PgConn().TxStatus() != 'I' {
		ctx, cancel := context.WithTimeout(context.Background(), answerMargin)
		defer cancel()
		if _, err := conn.PgConn().Exec(ctx, "ROLLBACK").ReadAll(); err != nil {
			log.Debug("a transaction was not rolled back; its connection is closed", "error", err)
		}
	}
	if conn != nil && conn.IsClosed() && !errors.Is(err, context.Canceled) {
		pool.Reset()
	}
	return classify(op, err)
}

// inTx runs queries in one transaction of one round trip: begin, the settings, the queries, commit.
func (s *Store) inTx(ctx context.Context, conn *pgx.Conn, begin string, queries func(*pgx.Batch)) (err error) {
	ctx, cancel := context.WithTimeout(ctx, s.opts.StatementTimeout+answerMargin)
	defer cancel()
	var batch pgx.Batch
	batch.Queue(begin)
	batch.Queue(s.settings)
	queries(&batch)
	batch.Queue("COMMIT")
	return conn.SendBatch(ctx, &batch).Close()
}

// change makes one small transaction.
func (s *Store) change(ctx context.Context, op string, queries func(*pgx.Batch)) error {
	return atOnce(func() error {
		conn, err := s.acquire(ctx)
		if err != nil {
			return s.settle(op, nil, err)
		}
		defer conn.Release()
		return notTheRows(s.settle(op, conn.Conn(), s.inTx(ctx, conn.Conn(), begin, queries)))
	})
}

// collisions is how often a transaction is made that PostgreSQL ends for the sake of another one.
const collisions = 5

// atOnce repeats a transaction that has met another one (40001, 40P01): there is nothing to wait for.
func atOnce(tx func() error) (err error) {
	for range collisions {
		if err = tx(); domain.CodeOf(err) != "40001" && domain.CodeOf(err) != "40P01" {
			return err
		}
	}
	return err
}

// notTheRows makes a statement that was canceled (57014) an outage: it is about rows of docket's own, none of which is
// the cause.
func notTheRows(err error) error {
	if domain.CodeOf(err) != "57014" {
		return err
	}
	return domain.Reclass(err, domain.Unavailable, "")
}

// probeEvent is the event of a probe row.
var probeEvent = []byte("{}")

// Probe writes a row to decisions and rolls it back; see ports.Prober. Its connection is its own and is kept: what a
// login takes says nothing about writes.
func (s *Store) Probe(ctx context.Context) error {
	conn, err := s.probes.Acquire(ctx)
	if err != nil {
		return settleOn(s.probes, s.opts.Log, "probe the database", nil, err)
	}
	defer conn.Release()
	ctx, cancel := context.WithTimeout(ctx, ports.ProbeTimeout)
	defer cancel()
	now := s.opts.Now().UTC().Truncate(time.Microsecond)
	if err := s.ensureDay(ctx, conn.Conn(), domain.DayOf(now)); err != nil {
		return err
	}
	rows := []row{{inside: true, Decision: &domain.Decision{
		Tenant: "docket-probe", ID: fmt.Sprintf("probe-%d", now.UnixNano()), Timestamp: now, ReceivedAt: now,
		Outcome: domain.OutcomeUnknown, Event: probeEvent, SHA256: sha256.Sum256(probeEvent),
	}}}
	err = s.insert(
		ctx, conn.Conn(), s.probing, "ROLLBACK", []insertion{{insertDecisions, rows, true}}, make([]domain.SaveStatus, 1),
	)
	return settleOn(s.probes, s.opts.Log, "probe the database", conn.Conn(), err)
}
