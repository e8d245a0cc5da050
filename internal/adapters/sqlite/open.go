// Package sqlite is the embedded durable log and the embedded store: two SQLite files in one directory that one
// process owns. It leaves to its caller what to do about an fsync that failed (it reports it once, through
// Options.Fatal, and the process must end: the kernel may have dropped the pages) and when to open and close.
package sqlite

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/pressly/goose/v3"
	_ "modernc.org/sqlite" // registers the driver "sqlite"

	"github.com/docket-project/docket/internal/adapters/sqlstore"
	"github.com/docket-project/docket/internal/domain"
)

//go:embed migrations
var migrations embed.FS

// The files in a data directory.
const (
	lockFile  = "lock"
	logFile   = "log.db"
	markFile  = "log.mark"
	storeFile = "store.db"
)

// Nobody but docket's own account reads what is kept: inputs hold personal data.
const (
	filePerm = 0o600
	dirPerm  = 0o700
)

// Dir is a data directory that this process has locked.
type Dir struct {
	path string
	lock *os.File
}

// Free is the part of the directory's file system that docket may still use, from 0 to 1, as df counts it: what is
// reserved for root is neither free nor in use.
func (d *Dir) Free() (float64, error) {
	var fs syscall.Statfs_t
	if err := syscall.Statfs(d.path, &fs); err != nil {
		return 0, err
	}
	used := fs.Blocks - fs.Bfree
	return float64(fs.Bavail) / max(float64(used+fs.Bavail), 1), nil
}

// OpenDir makes the directory where it is missing and locks it against other processes. The lock ends with the process,
// however that ends.
func OpenDir(path string) (*Dir, error) {
	if err := os.MkdirAll(path, dirPerm); err != nil {
		return nil, domain.Errorf(domain.Misconfigured, "make the data directory: %w; choose another with DOCKET_DATA", err)
	}
	f, err := os.OpenFile(filepath.Join(path, lockFile), os.O_RDWR|os.O_CREATE, filePerm)
	if err != nil {
		return nil, domain.Errorf(
			domain.Misconfigured,
			"lock the data directory: %w; docket needs to write to %s, or choose another with DOCKET_DATA", err, path,
		)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		owner := "another process"
		if b, readErr := os.ReadFile(f.Name()); readErr == nil {
			if pid := strings.TrimSpace(string(b)); pid != "" {
				owner = "process " + pid
			}
		}
		_ = f.Close()
		return nil, domain.Errorf(
			domain.Misconfigured,
			"the data directory %s is in use by %s: stop it, or choose another directory with DOCKET_DATA", path, owner,
		)
	}
	// The number is for people only; a full disk must not keep docket from starting.
	if err := f.Truncate(0); err == nil {
		_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	return &Dir{path: path, lock: f}, nil
}

// Close releases the lock.
func (d *Dir) Close() error { return d.lock.Close() }

// writerCache bounds the pages that a writing connection keeps, in KiB, as SQLite spells it. The log appends, and the
// store's random pages are in the kernel's cache anyway: more was only memory.
const writerCache = "-8000"

// private makes a file that only its owner reads, or one that is there so; what SQLite puts beside it follows.
func (d *Dir) private(file string) error {
	path := filepath.Join(d.path, file)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, filePerm)
	if err == nil {
		err = errors.Join(f.Chmod(filePerm), f.Close())
	}
	if err != nil {
		return domain.Errorf(domain.Misconfigured, "open %s: %w", path, err)
	}
	return nil
}

// open opens one of the directory's files, to write through one connection or to read through several.
func (d *Dir) open(file string, readers int) (*sql.DB, error) {
	if readers == 0 {
		if err := d.private(file); err != nil {
			return nil, err
		}
	}
	q := url.Values{"_txlock": {"immediate"}}
	for _, p := range []string{
		"busy_timeout(2500)", "journal_mode(WAL)", "synchronous(FULL)", "wal_autocheckpoint(0)", "foreign_keys(1)",
		"temp_store(MEMORY)",
	} {
		q.Add("_pragma", p)
	}
	conns := 1
	if readers > 0 {
		q.Add("_pragma", "query_only(1)")
		conns = readers
	} else {
		q.Add("_pragma", "cache_size("+writerCache+")")
	}
	db, err := sql.Open("sqlite", "file:"+(&url.URL{Path: filepath.Join(d.path, file)}).EscapedPath()+"?"+q.Encode())
	if err != nil {
		return nil, classify("open "+file, err)
	}
	db.SetMaxOpenConns(conns)
	db.SetMaxIdleConns(conns)
	return db, nil
}

// migrate brings a file to the newest schema or, where it may not, checks that it is there.
func (d *Dir) migrate(ctx context.Context, db *sql.DB, file, dir string, apply bool) error {
	sub, err := fs.Sub(migrations, "migrations/"+dir)
	if err != nil {
		return err
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, db, sub, goose.WithSlog(slog.New(slog.DiscardHandler)))
	if err != nil {
		return damaged(d, file, err)
	}
	current, err := p.GetDBVersion(ctx)
	if err != nil {
		return damaged(d, file, err)
	}
	sources := p.ListSources()
	if err := sqlstore.KnownSchema(filepath.Join(d.path, file), current, sources[len(sources)-1].Version); err != nil {
		return err
	}
	if !apply {
		pending, err := p.HasPending(ctx)
		if err != nil {
			return damaged(d, file, err)
		}
		if pending {
			return domain.Errorf(
				domain.Misconfigured,
				"%s does not have the schema of this version: run docket migrate, or start without --migrate=false",
				filepath.Join(d.path, file),
			)
		}
		return nil
	}
	if _, err := p.Up(ctx); err != nil {
		return damaged(d, file, err)
	}
	return nil
}

// damaged explains an error met while opening a file.
func damaged(d *Dir, file string, err error) error {
	err = classify("open "+filepath.Join(d.path, file), err)
	var e *domain.Error
	if errors.As(err, &e) && e.Class == domain.Misconfigured && isDamage(err) {
		e.Text += fmt.Sprintf(
			"; the file is damaged: restore the directory %s from a backup, or move %s aside to start with an empty one (what "+
				"it held is then lost)",
			d.path,
			file,
		)
	}
	return err
}
