package sqlite

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"

	"github.com/docket-project/docket/internal/adapters/sqlstore"
	"github.com/docket-project/docket/internal/domain"
)

// Backup copies the log and the store in a data directory to an empty one, while docket may be running on them. The log
// goes first, so that the store's copy has everything that the log's has handed over; what both have is saved again and
// recognised.
func Backup(ctx context.Context, from, to string) (copied []string, err error) {
	if err := emptyDir(to); err != nil {
		return nil, err
	}
	for _, file := range []string{logFile, storeFile} {
		if _, err := os.Stat(filepath.Join(from, file)); errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err := copyFile(ctx, filepath.Join(from, file), filepath.Join(to, file)); err != nil {
			return copied, err
		}
		copied = append(copied, file)
	}
	if len(copied) == 0 {
		return nil, domain.Errorf(domain.Misconfigured, "%s has neither %s nor %s: there is nothing to copy", from, logFile,
			storeFile)
	}
	return copied, align(ctx, to)
}

// emptyDir makes a directory that only its owner can read, unless it is there and empty.
func emptyDir(path string) error {
	if err := os.MkdirAll(path, dirPerm); err != nil {
		return domain.Errorf(domain.Misconfigured, "make the directory of the backup: %w", err)
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return domain.Errorf(domain.Misconfigured, "look at the directory of the backup: %w", err)
	}
	if len(entries) > 0 {
		return domain.Errorf(domain.Misconfigured, "%s is not empty: a backup is never written over another", path)
	}
	return nil
}

// copyFile has SQLite write a consistent copy (https://www.sqlite.org/lang_vacuum.html#vacuuminto).
func copyFile(ctx context.Context, from, to string) error {
	if err := os.WriteFile(to, nil, filePerm); err != nil { // SQLite keeps its permissions
		return domain.Errorf(domain.Misconfigured, "copy %s: %w", from, err)
	}
	q := url.Values{"mode": {"ro"}, "_pragma": {"busy_timeout(2500)"}}
	db, err := sql.Open("sqlite", "file:"+(&url.URL{Path: from}).EscapedPath()+"?"+q.Encode())
	if err != nil {
		return classify("copy "+from, err)
	}
	_, err = db.ExecContext(ctx, `VACUUM INTO ?`, to)
	return classify("copy "+from, errors.Join(err, db.Close()))
}

// align makes copies that were taken one after the other fit: the log's high-water mark is its end, and the store's
// marks do not go beyond it.
func align(ctx context.Context, path string) (err error) {
	if _, err := os.Stat(filepath.Join(path, logFile)); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	dir, err := OpenDir(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	log, err := dir.open(logFile, 1)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	var identity string
	if err := log.QueryRowContext(ctx, `SELECT id FROM identity`).Scan(&identity); err != nil {
		return classify("read the copy of "+logFile, err)
	}
	ends := map[string]int64{}
	rows, err := log.QueryContext(ctx, `SELECT name, next_offset FROM topics`)
	if err != nil {
		return classify("read the copy of "+logFile, err)
	}
	defer rows.Close()
	for rows.Next() {
		var name string
		var end int64
		if err := rows.Scan(&name, &end); err != nil {
			return classify("read the copy of "+logFile, err)
		}
		ends[name] = end
	}
	if err := rows.Err(); err != nil {
		return classify("read the copy of "+logFile, err)
	}
	mark, _, err := openMark(filepath.Join(path, markFile))
	if err != nil {
		return domain.Errorf(domain.Misconfigured, "write the copy's high-water mark: %w", err)
	}
	if err := errors.Join(mark.write(ends), mark.close()); err != nil {
		return domain.Errorf(domain.Misconfigured, "write the copy's high-water mark: %w", err)
	}
	return lowerMarks(ctx, dir, identity, ends)
}

// lowerMarks takes the marks of a store back to where the log ends.
func lowerMarks(ctx context.Context, dir *Dir, identity string, ends map[string]int64) (err error) {
	if _, err := os.Stat(filepath.Join(dir.path, storeFile)); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	store, err := dir.open(storeFile, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	for name, end := range ends {
		if _, err := store.ExecContext(
			ctx, `UPDATE log_marks SET next_offset = min(next_offset, ?) WHERE topic = ? AND topic_id = ?`, end, name, identity,
		); err != nil {
			return classify("write the copy of "+storeFile, err)
		}
	}
	_, err = store.ExecContext(ctx, `PRAGMA wal_checkpoint(TRUNCATE)`)
	return classify("write the copy of "+storeFile, err)
}

// Verify reads all of a data directory that is not in use: every record of the log and its checksum, every decision and
// its hash, the files as SQLite knows them, and whether both belong together. It returns what it has found, in words.
func Verify(ctx context.Context, dir *Dir, opts LogOptions) (found []string, err error) {
	say := func(format string, args ...any) { found = append(found, fmt.Sprintf(format, args...)) }
	opts.Migrate = false
	if _, err := os.Stat(filepath.Join(dir.path, storeFile)); err == nil {
		if err := verifyStore(ctx, dir, say); err != nil {
			return found, err
		}
		store, err := OpenStore(ctx, dir, StoreOptions{Log: opts.Log, Fatal: opts.Fatal})
		if err != nil {
			return found, err
		}
		defer func() { err = errors.Join(err, store.Close()) }()
		opts.Marks = readOnly{store}
	}
	if _, err := os.Stat(filepath.Join(dir.path, logFile)); errors.Is(err, os.ErrNotExist) {
		return found, nil
	}
	lost := int64(0)
	opts.Lost = func(l domain.Loss) { lost += l.Records() }
	log, err := OpenLog(ctx, dir, opts)
	switch {
	case err != nil && domain.ClassOf(err) == domain.Misconfigured:
		say("%s: %v", logFile, err)
		return found, nil
	case err != nil:
		return found, err
	}
	if lost > 0 {
		say("%s and %s are not of one time, or not of one another: %d records are in neither", logFile, storeFile, lost)
	}
	return found, log.Close()
}

// readOnly keeps a verification from changing what the store knows.
type readOnly struct{ *Store }

func (readOnly) SetLogMarks(context.Context, []domain.Mark) error { return nil }

// verifyStore looks at the store's pages and indexes, and at the hash of every event.
func verifyStore(ctx context.Context, dir *Dir, say func(string, ...any)) (err error) {
	db, err := dir.open(storeFile, 1)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	var state string
	if err := db.QueryRowContext(ctx, `PRAGMA integrity_check(1)`).Scan(&state); err != nil || state != "ok" {
		say("%s is damaged: %s %v", storeFile, state, err)
		return nil
	}
	dictionaries, packed, err := dictionariesOf(ctx, db)
	if err != nil {
		return classify("read "+storeFile, err)
	}
	for _, table := range []string{"decisions", "decisions_out_of_window"} {
		if err := verifyEvents(ctx, db, table, packed, dictionaries, say); err != nil {
			return classify("read "+storeFile, err)
		}
	}
	return nil
}

// dictionariesOf reads what the events of a store are packed with. packed is the column that says which are; a store of
// before has none.
func dictionariesOf(ctx context.Context, db *sql.DB) (out *sqlstore.Dictionaries, packed string, err error) {
	out = sqlstore.NewDictionaries(slog.New(slog.DiscardHandler))
	var there bool
	const has = `SELECT EXISTS (SELECT 1 FROM pragma_table_info('decisions') WHERE name = 'packed')`
	if err := db.QueryRowContext(ctx, has).Scan(&there); err != nil || !there {
		return out, "0", err
	}
	rows, err := db.QueryContext(ctx, dictionariesIn)
	if err != nil {
		return nil, "", err
	}
	defer rows.Close()
	var found []domain.Dictionary
	for rows.Next() {
		d, err := scanDictionary(rows)
		if err != nil {
			return nil, "", err
		}
		found = append(found, d)
	}
	out.Learn(found)
	return out, "packed", rows.Err()
}

// verifyEvents compares the events of a table with their hashes.
func verifyEvents(
	ctx context.Context, db *sql.DB, table, packed string, dictionaries *sqlstore.Dictionaries, say func(string, ...any),
) error {
	rows, err := db.QueryContext(ctx, `SELECT decision_id, sha256, `+packed+`, event FROM `+table)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var id string
		var sum, event []byte
		var isPacked bool
		if err := rows.Scan(&id, &sum, &isPacked, &event); err != nil {
			return err
		}
		if isPacked {
			plain, err := dictionaries.Unpack(event)
			if err != nil {
				say("%s: the event of decision %q cannot be read: %v", storeFile, id, err)
				continue
			}
			event = plain
		}
		if actual := sha256.Sum256(event); !bytes.Equal(actual[:], sum) {
			say("%s: the event of decision %q is not the one that was stored", storeFile, id)
		}
	}
	return rows.Err()
}
