package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/ports"
)

var _ ports.Log = (*Log)(nil)

// Topic is a topic of the embedded log; each has one partition, numbered 0.
type Topic struct {
	Name string
	// Retention is how long records are kept. Zero trims them once every group that consumes the topic has committed
	// past them.
	Retention time.Duration
}

// LogOptions configure OpenLog.
type LogOptions struct {
	Topics []Topic
	// Fatal is called once, from any goroutine, when an fsync failed. The process has to end: nothing is acknowledged
	// after that.
	Fatal func(error)
	// Lost is called when acknowledged records turn out to be damaged or missing.
	Lost func(domain.Loss)
	Log  *slog.Logger
	// Marks is the store that the log fills, which keeps how far it was consumed; nil keeps nothing.
	Marks ports.LogMarks
	// Renamed are consumer groups that had another name: the old one, and what it is now.
	Renamed map[string]string
	// Migrate creates and updates the schema; without it an old schema is an error.
	Migrate bool
	// Now is the clock, for tests; nil is time.Now.
	Now func() time.Time
}

const (
	offsetBits    = 44      // 17 trillion records a topic
	maxGroupBytes = 8 << 20 // one commit writes at most about this much
	maxGroup      = 4096    // and at most this many calls
	// queuedBytes bounds what waits for the disk, so that a stalled one costs refusals and not memory.
	queuedBytes = 64 << 20
	// The write-ahead file is copied back in the background; if it still grows beyond this, writers wait for it.
	walPagesHard = 24_000
)

// Log is the embedded durable log.
//
// One goroutine writes: it gathers every call that waits into one transaction, and one fsync acknowledges them all.
// Readers use connections of their own and never wait for it.
type Log struct {
	dir    *Dir
	opts   LogOptions
	write  *sql.DB
	read   *sql.DB
	copy   *sql.DB // copies the write-ahead file back
	mark   *mark
	marked bool // there was a mark to compare with
	queue  chan *call
	room   *semaphore.Weighted
	stop   chan struct{}
	done   sync.WaitGroup
	closed sync.Once
	// finished is closed when the writer has taken its last call.
	finished chan struct{}

	mu      sync.Mutex
	topics  map[string]*topic
	commits map[groupTopic]int64
	claimed map[groupTopic]chan struct{}
	changed chan struct{} // closed and replaced after every commit
	broken  error         // set for good after an fsync failed
	newest  time.Time     // when the newest record was written, as far as there is one
	// followers are told of records by the writer.
	followers []*follower
	trimmed   map[string]time.Time
	// beyond are groups whose commits in the file are beyond the end of the topic; in memory they end there.
	beyond []groupTopic
	// identity tells this log from others. stored is what the store was known to have when a group committed last, and
	// kept what it has now.
	identity     string
	stored, kept map[groupTopic]int64
}

// topic is a topic's place in the file and its offsets; guarded by Log.mu.
type topic struct {
	Topic
	number      int64
	first, next int64
}

func (t *topic) id(offset int64) int64 { return t.number<<offsetBits | offset }

// Nothing that docket writes comes near to these: what is beyond was altered.
const (
	maxTopic  = 1 << (62 - offsetBits)
	maxOffset = 1 << 40
)

// plausible is an error where a topic's numbers were altered.
func (t *topic) plausible() error {
	if t.number > 0 && t.number < maxTopic && 0 <= t.first && t.first <= t.next && t.next < maxOffset {
		return nil
	}
	return domain.Errorf(
		domain.Misconfigured, "%s says of topic %s that it has number %d and the offsets %d to %d, which docket has not "+
			"written: the file was altered or damaged. Restore the data directory from a backup", logFile, t.Name, t.number,
		t.first, t.next,
	)
}

type groupTopic struct{ group, topic string }

// call is one request to the writer: records to append, or an offset to commit.
type call struct {
	ctx     context.Context
	records []domain.Record
	commit  map[groupTopic]int64
	trim    map[string]int64 // topic to its new first offset
	touch   bool             // write something, to see whether it can be done
	bytes   int64
	done    chan error // of capacity 1
}

// OpenLog opens, migrates and verifies the log in dir. It reads every record once, so that damage is found at start
// and not in the middle of the night.
func OpenLog(ctx context.Context, dir *Dir, opts LogOptions) (*Log, error) {
	l, err := openLog(ctx, dir, opts)
	if err != nil {
		return nil, err
	}
	err = l.verify(ctx)
	if err != nil {
		return nil, errors.Join(err, l.closeFiles())
	}
	l.pair(ctx)
	l.done.Go(l.run)
	l.done.Go(l.tend)
	return l, nil
}

// openLog opens the files without believing them.
func openLog(ctx context.Context, dir *Dir, opts LogOptions) (_ *Log, err error) {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	l := &Log{
		dir: dir, opts: opts,
		queue:    make(chan *call, maxGroup),
		room:     semaphore.NewWeighted(queuedBytes),
		stop:     make(chan struct{}),
		finished: make(chan struct{}),
		topics:   map[string]*topic{},
		commits:  map[groupTopic]int64{},
		claimed:  map[groupTopic]chan struct{}{},
		changed:  make(chan struct{}),
		trimmed:  map[string]time.Time{},
		stored:   map[groupTopic]int64{},
		kept:     map[groupTopic]int64{},
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.closeFiles())
		}
	}()
	if l.write, err = dir.open(logFile, 0); err != nil {
		return nil, err
	}
	if err := dir.migrate(ctx, l.write, logFile, "log", opts.Migrate); err != nil {
		return nil, err
	}
	if l.read, err = dir.open(logFile, 4); err != nil {
		return nil, err
	}
	if l.copy, err = dir.open(logFile, 1); err != nil {
		return nil, err
	}
	if err := l.load(ctx); err != nil {
		return nil, damaged(dir, logFile, err)
	}
	if err := l.identify(ctx); err != nil {
		return nil, damaged(dir, logFile, err)
	}
	if l.mark, l.marked, err = openMark(filepath.Join(dir.path, markFile)); err != nil {
		return nil, domain.Errorf(domain.Misconfigured, "open the log's high-water mark: %w", err)
	}
	return l, nil
}

// Retention is how long topics keep records; see ports.Log.
func (l *Log) Retention(_ context.Context, topics ...string) (map[string]time.Duration, error) {
	out := map[string]time.Duration{}
	for _, name := range topics {
		t := l.topics[name]
		if t == nil {
			return nil, domain.Errorf(domain.Misconfigured, "the log has no topic %s", name)
		}
		out[name] = t.Retention
	}
	return out, nil
}

// load reads topics and committed offsets, adding topics that are new.
func (l *Log) load(ctx context.Context) error {
	for _, t := range l.opts.Topics {
		if _, err := l.write.ExecContext(
			ctx, `INSERT INTO topics (name) VALUES (?) ON CONFLICT DO NOTHING`, t.Name,
		); err != nil {
			return classify("add topic "+t.Name, err)
		}
		loaded := &topic{Topic: t}
		row := l.write.QueryRowContext(ctx, `SELECT number, first_offset, next_offset FROM topics WHERE name = ?`, t.Name)
		if err := row.Scan(&loaded.number, &loaded.first, &loaded.next); err != nil {
			return classify("read topic "+t.Name, err)
		}
		if err := loaded.plausible(); err != nil {
			return err
		}
		l.topics[t.Name] = loaded
		var micros *int64
		row = l.write.QueryRowContext(ctx, `SELECT written_at FROM records WHERE id = ?`, loaded.id(loaded.next-1))
		if err := row.Scan(&micros); err != nil && !errors.Is(err, sql.ErrNoRows) {
			return classify("read the newest record of "+t.Name, err)
		}
		// Of dead letters the newest may be old: what is consumed is trimmed, and they stay.
		if t.Retention == 0 && micros != nil && time.UnixMicro(*micros).After(l.newest) {
			l.newest = time.UnixMicro(*micros)
		}
	}
	for old, name := range l.opts.Renamed {
		if old == name {
			continue
		}
		for _, text := range []string{
			`UPDATE OR IGNORE commits SET consumer_group = ?2 WHERE consumer_group = ?1`,
			`DELETE FROM commits WHERE consumer_group = ?1 AND ?2 <> ''`, // what stayed would keep records from being trimmed
		} {
			if _, err := l.write.ExecContext(ctx, text, old, name); err != nil {
				return classify("rename the consumer group "+old, err)
			}
		}
	}
	rows, err := l.write.QueryContext(
		ctx,
		`SELECT c.consumer_group, t.name, c.next_offset, c.store_mark FROM commits c JOIN topics t ON t.number = c.topic`,
	)
	if err != nil {
		return classify("read committed offsets", err)
	}
	defer rows.Close()
	for rows.Next() {
		var g groupTopic
		var next, stored int64
		if err := rows.Scan(&g.group, &g.topic, &next, &stored); err != nil {
			return classify("read committed offsets", err)
		}
		if t := l.topics[g.topic]; t != nil && (next < 0 || next > t.next) {
			l.beyond = append(l.beyond, g)
			next = min(max(next, t.first), t.next)
		}
		l.commits[g], l.stored[g] = next, stored
	}
	return classify("read committed offsets", rows.Err())
}

// Close finishes what is queued, syncs and closes the files.
func (l *Log) Close() (err error) {
	l.closed.Do(func() {
		close(l.stop)
		l.done.Wait()
		if l.failure() == nil {
			_, ckErr := l.write.Exec(`PRAGMA wal_checkpoint(TRUNCATE)`)
			err = classify("checkpoint "+logFile, ckErr)
		}
		err = errors.Join(err, l.closeFiles())
	})
	return err
}

func (l *Log) closeFiles() error {
	var errs []error
	if l.mark != nil {
		errs = append(errs, l.mark.close())
	}
	for _, db := range []*sql.DB{l.copy, l.read, l.write} {
		if db != nil {
			errs = append(errs, db.Close())
		}
	}
	return errors.Join(errs...)
}

// Publish appends the records in one transaction; see ports.Publisher.
func (l *Log) Publish(ctx context.Context, records []domain.Record) error {
	if len(records) == 0 {
		return nil
	}
	c := &call{ctx: ctx, records: records, done: make(chan error, 1)}
	for _, r := range records {
		if l.topics[r.Topic] == nil { // the map itself never changes after opening
			return domain.Errorf(domain.Misconfigured, "publish to %s: the embedded log has no such topic", r.Topic)
		}
		c.bytes += int64(len(r.Value) + len(r.Key) + len(r.Headers.OPAPartition) + len(r.Headers.Error) + 512)
	}
	return l.submit(ctx, c)
}

// submit queues a call for the writer and waits for its end, at most until ctx is done.
func (l *Log) submit(ctx context.Context, c *call) error {
	if err := l.failure(); err != nil {
		return err
	}
	weight := min(c.bytes, queuedBytes)
	if err := l.room.Acquire(ctx, weight); err != nil {
		return classify("wait for the disk", err)
	}
	c.bytes = weight
	select {
	case l.queue <- c:
	case <-l.stop:
		l.room.Release(weight)
		return errClosed
	case <-ctx.Done():
		l.room.Release(weight)
		return classify("wait for the disk", ctx.Err())
	}
	select {
	case err := <-c.done:
		return err
	case <-ctx.Done():
		return classify("wait for the disk", ctx.Err())
	case <-l.finished:
	}
	select { // the writer's last act, or queued after it
	case err := <-c.done:
		return err
	default:
		return errClosed
	}
}

var errClosed = domain.Errorf(domain.Unavailable, "the embedded log is closed")

// failure is the error that ended writing for good, or nil.
func (l *Log) failure() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.broken
}

// Ready writes a row that nobody reads: only a disk that takes writes can make records durable.
func (l *Log) Ready(ctx context.Context) error {
	return l.submit(ctx, &call{ctx: ctx, touch: true, bytes: 1, done: make(chan error, 1)})
}

// committed is a group's next record: at first, and where its own is trimmed, the oldest there is. The caller holds
// l.mu.
func (l *Log) committed(group string, t *topic) int64 {
	return max(l.commits[groupTopic{group, t.Name}], t.first)
}

// Newest is when the log took its newest record, or zero where it has none. A clock that is far from it is wrong.
func (l *Log) Newest() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.newest
}

// Backlog reports the topics for a group.
func (l *Log) Backlog(ctx context.Context, group string, topics ...string) ([]ports.Backlog, error) {
	out := make([]ports.Backlog, 0, len(topics))
	for _, name := range topics {
		l.mu.Lock()
		t := l.topics[name]
		if t == nil {
			l.mu.Unlock()
			return nil, domain.Errorf(domain.Misconfigured, "the embedded log has no topic %s", name)
		}
		b := ports.Backlog{Topic: name, Start: t.first, Committed: l.committed(group, t), End: t.next}
		id := t.id(b.Committed)
		l.mu.Unlock()
		if b.Waiting() > 0 {
			var micros int64
			err := l.read.QueryRowContext(ctx, `SELECT written_at FROM records WHERE id = ?`, id).Scan(&micros)
			if err != nil && !errors.Is(err, sql.ErrNoRows) { // trimmed in the meantime
				return nil, classify("read the oldest record of "+name, err)
			}
			if err == nil {
				b.Oldest = time.UnixMicro(micros).UTC()
			}
		}
		out = append(out, b)
	}
	return out, nil
}
