package testserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// postgresAccount runs PostgreSQL and PgBouncer where we are root, which both refuse to be.
const postgresAccount = "postgres"

// Postgres is a PostgreSQL server with an empty cluster of its own.
type Postgres struct {
	*server
	dir, bin string
	port     int
	settings []string
	pid      atomic.Int64
}

// StartPostgres makes a cluster and starts it. Settings are postgresql.conf's, such as "max_connections=20". Where dir
// is not empty, the cluster is made in it and the caller removes it.
func StartPostgres(dir string, settings ...string) (_ *Postgres, err error) {
	bin, err := postgresPrograms()
	if err != nil {
		return nil, err
	}
	return startPostgres(bin, dir, settings, "initdb", "-U", "postgres", "--auth=trust", "-E", "UTF8", "--locale=C.UTF-8")
}

// Standby starts a server that follows p without p's commits waiting for it. It takes p's changes from addr, which may
// be a proxy in front of p. The caller closes it.
func (p *Postgres) Standby(addr string) (*Postgres, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	return startPostgres(
		p.bin, "", p.settings, "pg_basebackup", "-h", host, "-p", port, "-U", "postgres", "-R", "-c", "fast",
	)
}

// startPostgres starts a server whose data one of PostgreSQL's programs makes.
func startPostgres(bin, dir string, settings []string, program string, args ...string) (_ *Postgres, err error) {
	p := &Postgres{dir: dir, bin: bin, settings: settings}
	if p.port, err = FreePort(); err != nil {
		return nil, err
	}
	if p.dir == "" {
		p.dir, err = os.MkdirTemp("", "docket-postgres-")
	} else {
		err = os.MkdirAll(p.dir, 0o755)
	}
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.Close())
		}
	}()
	if err := give(p.dir, postgresAccount); err != nil {
		return nil, err
	}
	making := exec.CommandContext(
		context.Background(), filepath.Join(p.bin, program), append(args, "-D", p.data(), "--no-sync")...,
	)
	making.Dir = p.dir
	if making.SysProcAttr, err = account(postgresAccount); err != nil {
		return nil, err
	}
	if out, err := making.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%s: %w: %s", program, err, out)
	}
	return p, p.Start()
}

// Promote makes a standby the primary.
func (p *Postgres) Promote() error { return p.Exec("postgres", "SELECT pg_promote()") }

// postgresPrograms is the directory of the newest PostgreSQL there is.
func postgresPrograms() (string, error) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err != nil {
		return "", err
	}
	if len(found) == 0 {
		path, err := exec.LookPath("initdb")
		if err != nil {
			return "", fmt.Errorf("PostgreSQL %w (Debian: apt-get install postgresql)", ErrMissing)
		}
		found = []string{path}
	}
	return filepath.Dir(slices.Max(found)), nil
}

// PostgresVersion is the version that StartPostgres starts, such as 15.14.
func PostgresVersion() (string, error) {
	bin, err := postgresPrograms()
	if err != nil {
		return "", err
	}
	out, err := exec.CommandContext(context.Background(), filepath.Join(bin, "postgres"), "--version").Output()
	if err != nil {
		return "", fmt.Errorf("postgres --version: %w", err)
	}
	version, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimSpace(string(out)), "postgres (PostgreSQL) "), " ")
	return version, nil
}

func (p *Postgres) data() string { return filepath.Join(p.dir, "data") }

// Start starts a server that was stopped, and waits until it takes connections.
func (p *Postgres) Start() (err error) {
	args := []string{
		"-D",
		p.data(),
		"-p",
		fmt.Sprint(p.port),
		"-c",
		"listen_addresses=127.0.0.1",
		"-c",
		"unix_socket_directories=",
	}
	for _, s := range p.settings {
		args = append(args, "-c", s)
	}
	if p.server, err = start(
		"PostgreSQL",
		postgresAccount,
		p.dir,
		filepath.Join(p.dir, "log"),
		filepath.Join(p.bin, "postgres"),
		args...); err != nil {
		return err
	}
	p.pid.Store(int64(p.server.Pid()))
	return p.waitFor(30*time.Second, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		conn, err := pgx.Connect(ctx, p.URL("postgres", ""))
		if err != nil {
			return err
		}
		return conn.Close(ctx)
	})
}

// URL addresses a database of the server; user "" is the superuser. Options follow the question mark.
func (p *Postgres) URL(database, user string, options ...string) string {
	if user == "" {
		user = "postgres"
	}
	u := url.URL{
		Scheme: "postgres", User: url.User(user), Host: p.Addr(), Path: "/" + database,
		RawQuery: strings.Join(options, "&"),
	}
	return u.String()
}

// Pid is the process that was started last. It may be asked for while the server is being started or stopped.
func (p *Postgres) Pid() int { return int(p.pid.Load()) }

// Addr is where it listens.
func (p *Postgres) Addr() string { return fmt.Sprintf("127.0.0.1:%d", p.port) }

// victimised is how often a statement is run again that PostgreSQL ended to resolve a deadlock: docket works on its
// tables meanwhile, and either may be chosen.
const victimised = 5

// Exec runs statements as the superuser, each in a transaction of its own.
func (p *Postgres) Exec(database string, statements ...string) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, p.URL(database, ""))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	for _, s := range statements {
		_, err := conn.Exec(ctx, s)
		var pg *pgconn.PgError
		for try := 0; try < victimised && errors.As(err, &pg) && pg.Code == "40P01"; try++ {
			_, err = conn.Exec(ctx, s)
		}
		if err != nil && pg != nil {
			err = fmt.Errorf("%w: %s", err, pg.Detail) // who waits for whom
		}
		if err != nil {
			return fmt.Errorf("%s: %w", s, err)
		}
	}
	return nil
}

// Stop ends it: fast (connections are ended) or immediate (as a crash).
func (p *Postgres) Stop(immediate bool) error {
	sig := syscall.SIGINT
	if immediate {
		sig = syscall.SIGQUIT
	}
	return p.end(sig, 30*time.Second)
}

// Pause stops every process of the server without ending any, as a machine does that hangs.
func (p *Postgres) Pause() error { return p.pause() }

// Resume goes on after Pause.
func (p *Postgres) Resume() { p.signalAll(syscall.SIGCONT) }

// Close ends the server and removes its directory.
func (p *Postgres) Close() error {
	if p.server == nil { // it was never started
		return os.RemoveAll(p.dir)
	}
	return errors.Join(p.end(syscall.SIGQUIT, 30*time.Second), os.RemoveAll(p.dir))
}

// PgBouncer is a pooler in transaction mode in front of a Postgres.
type PgBouncer struct {
	*server
	dir  string
	port int
}

// StartPgBouncer puts a pooler in front of p.
func StartPgBouncer(p *Postgres) (_ *PgBouncer, err error) {
	program, err := exec.LookPath("pgbouncer")
	if err != nil {
		return nil, fmt.Errorf("PgBouncer %w (Debian: apt-get install pgbouncer)", ErrMissing)
	}
	b := &PgBouncer{}
	if b.port, err = FreePort(); err != nil {
		return nil, err
	}
	if b.dir, err = os.MkdirTemp("", "docket-pgbouncer-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.Close())
		}
	}()
	if err := give(b.dir, postgresAccount); err != nil {
		return nil, err
	}
	users := filepath.Join(b.dir, "users")
	config := fmt.Sprintf(
		"[databases]\n* = host=127.0.0.1 port=%d\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = %d\n"+
			"auth_type = trust\nauth_file = %s\npool_mode = transaction\nunix_socket_dir =\nmax_client_conn = 200\n",
		p.port,
		b.port,
		users,
	)
	if err := os.WriteFile(users, []byte("\"postgres\" \"\"\n"), 0o644); err != nil {
		return nil, err
	}
	ini := filepath.Join(b.dir, "pgbouncer.ini")
	if err := os.WriteFile(ini, []byte(config), 0o644); err != nil {
		return nil, err
	}
	if b.server, err = start("PgBouncer", postgresAccount, b.dir, filepath.Join(b.dir, "log"), program, ini); err != nil {
		return nil, err
	}
	return b, b.waitFor(10*time.Second, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		config, err := pgx.ParseConfig(b.URL("postgres"))
		if err != nil {
			return err
		}
		config.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
		conn, err := pgx.ConnectConfig(ctx, config)
		if err != nil {
			return err
		}
		return conn.Close(ctx)
	})
}

// URL addresses a database through the pooler.
func (b *PgBouncer) URL(database string, options ...string) string {
	u := url.URL{
		Scheme: "postgres", User: url.User("postgres"), Host: fmt.Sprintf("127.0.0.1:%d", b.port), Path: "/" + database,
		RawQuery: strings.Join(options, "&"),
	}
	return u.String()
}

// Close ends the pooler and removes its directory.
func (b *PgBouncer) Close() error {
	return errors.Join(b.end(syscall.SIGINT, 10*time.Second), os.RemoveAll(b.dir))
}
