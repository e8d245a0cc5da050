package sqlite

import (
	"context"
	"database/sql"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"maps"
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
	Lost func(topic string, records int64)
	Log  *slog.Logger
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
}

// topic is a topic's place in the file and its offsets; guarded by Log.mu.
type topic struct {
	Topic
	number      int64
	first, next int64
}

func (t *topic) id(offset int64) int64 { return t.number<<offsetBits | offset }

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
	if l.mark, _, err = openMark(filepath.Join(dir.path, markFile)); err != nil {
		return nil, domain.Errorf(domain.Misconfigured, "open the log's high-water mark: %w", err)
	}
	return l, nil
}

// load reads topics and committed offsets, adding topics that are new.
func (l *Log) load(ctx context.Context) error {
	for _, t := range l.opts.Topics {
		if _, err := l.write.ExecContext(ctx, `INSERT INTO topics (name) VALUES (?) ON CONFLICT DO NOTHING`, t.Name); err != nil {
			return classify("add topic "+t.Name, err)
		}
		loaded := &topic{Topic: t}
		row := l.write.QueryRowContext(ctx, `SELECT number, first_offset, next_offset FROM topics WHERE name = ?`, t.Name)
		if err := row.Scan(&loaded.number, &loaded.first, &loaded.next); err != nil {
			return classify("read topic "+t.Name, err)
		}
		l.topics[t.Name] = loaded
	}
	rows, err := l.write.QueryContext(ctx, `SELECT c.consumer_group, t.name, c.next_offset FROM commits c JOIN topics t ON t.number = c.topic`)
	if err != nil {
		return classify("read committed offsets", err)
	}
	defer rows.Close()
	for rows.Next() {
		var g groupTopic
		var next int64
		if err := rows.Scan(&g.group, &g.topic, &next); err != nil {
			return classify("read committed offsets", err)
		}
		l.commits[g] = next
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

// run is the writer.
func (l *Log) run() {
	defer close(l.finished)
	stmts, err := l.prepare()
	if err != nil {
		l.fail(err)
	}
	for {
		var group []*call
		select {
		case c := <-l.queue:
			group = l.gather(c)
		case <-l.stop:
			select { // what is queued already is finished
			case c := <-l.queue:
				group = l.gather(c)
			default:
				return
			}
		}
		err := l.failure()
		if err == nil {
			err = l.commit(stmts, group)
		}
		for _, c := range group {
			c.done <- err
			l.room.Release(c.bytes)
		}
	}
}

// gather takes every call that waits, up to the size of one commit. Calls whose callers have gone are left out: they
// were told that nothing is certain.
func (l *Log) gather(first *call) []*call {
	group := make([]*call, 0, 16)
	var bytes int64
	for c := first; ; {
		if c.ctx != nil && c.ctx.Err() != nil {
			c.done <- c.ctx.Err()
			l.room.Release(c.bytes)
		} else {
			group = append(group, c)
			bytes += c.bytes
		}
		if bytes >= maxGroupBytes || len(group) == maxGroup {
			return group
		}
		select {
		case c = <-l.queue:
		default:
			return group
		}
	}
}

// statements are the writer's, prepared on its one connection.
type statements struct {
	insert, next, commit, trim, first *sql.Stmt
}

func (l *Log) prepare() (s statements, err error) {
	for _, p := range []struct {
		stmt **sql.Stmt
		text string
	}{
		{&s.insert, `INSERT INTO records (id, written_at, checksum, key, headers, value) VALUES (?, ?, ?, ?, ?, ?)`},
		{&s.next, `UPDATE topics SET next_offset = ? WHERE number = ?`},
		{&s.commit, `INSERT INTO commits (consumer_group, topic, next_offset) VALUES (?, ?, ?)
			ON CONFLICT (consumer_group, topic) DO UPDATE SET next_offset = excluded.next_offset`},
		{&s.trim, `DELETE FROM records WHERE id >= ? AND id < ?`},
		{&s.first, `UPDATE topics SET first_offset = ? WHERE number = ?`},
	} {
		if *p.stmt, err = l.write.Prepare(p.text); err != nil {
			return s, classify("prepare", err)
		}
	}
	return s, nil
}

// commit writes one group in one transaction and, once it is durable, publishes the new offsets to readers.
func (l *Log) commit(s statements, group []*call) error {
	if len(group) == 0 {
		return nil
	}
	next, first, commits := l.snapshot()
	tx, err := l.write.Begin()
	if err != nil {
		return l.checked("begin", err)
	}
	if err := l.append(tx, s, group, next, first, commits); err != nil {
		return l.checked("append to "+logFile, errors.Join(err, tx.Rollback()))
	}
	if err := tx.Commit(); err != nil {
		return l.checked("commit to "+logFile, errors.Join(err, ignoreDone(tx.Rollback())))
	}
	if err := l.mark.write(next); err != nil {
		l.opts.Log.Warn("the log's high-water mark was not written; a lost tail may go unnoticed", "error", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for name, t := range l.topics {
		t.next, t.first = next[name], first[name]
	}
	l.commits = commits
	close(l.changed)
	l.changed = make(chan struct{})
	return nil
}

// ignoreDone drops the error of rolling back what SQLite has rolled back itself.
func ignoreDone(err error) error {
	if errors.Is(err, sql.ErrTxDone) {
		return nil
	}
	return err
}

func (l *Log) snapshot() (next, first map[string]int64, commits map[groupTopic]int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	next, first = make(map[string]int64, len(l.topics)), make(map[string]int64, len(l.topics))
	for name, t := range l.topics {
		next[name], first[name] = t.next, t.first
	}
	return next, first, maps.Clone(l.commits)
}

// append writes the group's records and offsets, and trims what every group has left behind.
func (l *Log) append(tx *sql.Tx, s statements, group []*call, next, first map[string]int64, commits map[groupTopic]int64) error {
	insert := tx.Stmt(s.insert)
	now := l.opts.Now().UnixMicro()
	grown, committed, trim := map[string]bool{}, map[string]bool{}, map[string]int64{}
	var headers headerCache
	for _, c := range group {
		for _, r := range c.records {
			t := l.topics[r.Topic]
			id := t.id(next[r.Topic])
			text := headers.encode(r.Headers)
			sum := checksum(id, now, r.Key, text, r.Value)
			if _, err := insert.Exec(id, now, int64(sum), r.Key, text, r.Value); err != nil {
				return err
			}
			next[r.Topic]++
			grown[r.Topic] = true
		}
		if c.touch {
			for name := range next {
				grown[name] = true
			}
		}
		for g, offset := range c.commit {
			if _, err := tx.Stmt(s.commit).Exec(g.group, l.topics[g.topic].number, offset); err != nil {
				return err
			}
			commits[g] = offset
			committed[g.topic] = true
		}
		maps.Copy(trim, c.trim)
	}
	for name := range grown {
		if _, err := tx.Stmt(s.next).Exec(next[name], l.topics[name].number); err != nil {
			return err
		}
	}
	for name := range committed {
		if l.topics[name].Retention == 0 {
			trim[name] = trimTo(name, commits)
		}
	}
	for name, done := range trim {
		t := l.topics[name]
		if done <= first[name] {
			continue
		}
		if _, err := tx.Stmt(s.trim).Exec(t.id(first[name]), t.id(done)); err != nil {
			return err
		}
		if _, err := tx.Stmt(s.first).Exec(done, t.number); err != nil {
			return err
		}
		first[name] = done
	}
	return nil
}

// trimTo is the offset in front of which every group that consumes the topic is done.
func trimTo(name string, commits map[groupTopic]int64) int64 {
	least := int64(-1)
	for g, offset := range commits {
		if g.topic == name && (least < 0 || offset < least) {
			least = offset
		}
	}
	return least
}

// checked classifies an error of the writer and, after an fsync that failed, ends writing for good.
func (l *Log) checked(op string, err error) error {
	err = classify(op, err)
	if isFsync(err) {
		l.fail(err)
	}
	return err
}

// fail ends writing for good and says so once.
func (l *Log) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.broken == nil {
		l.broken = err
		go l.opts.Fatal(err) // it may close the log, which waits for the writer
	}
}

// tend copies the write-ahead file back, syncs the mark and drops what is past its retention.
func (l *Log) tend() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	l.done.Go(func() {
		<-l.stop
		cancel()
	})
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := l.mark.sync(); err != nil {
			l.fail(classify("sync the log's high-water mark", err))
		}
		if err := checkpoint(l.write, l.copy); err != nil {
			if err := l.checked("checkpoint "+logFile, err); domain.ClassOf(err) != domain.Unavailable {
				l.opts.Log.Error("the log's write-ahead file cannot be copied back", "error", err)
			}
		}
		if n%3600 == 0 {
			if err := l.expire(ctx); err != nil && ctx.Err() == nil {
				l.opts.Log.Error("records past their retention were not dropped", "error", err)
			}
		}
	}
}

// checkpoint copies a write-ahead file back without making the writer wait. Where the file has grown too large, and all
// of it is copied, the writer starts it anew; while a reader still needs a part of it, that would only block.
func checkpoint(write, own *sql.DB) error {
	var busy, pages, copied int64
	row := own.QueryRow(`PRAGMA wal_checkpoint(PASSIVE)`)
	if err := row.Scan(&busy, &pages, &copied); err != nil {
		return err
	}
	if pages < walPagesHard || copied < pages {
		return nil
	}
	_, err := write.Exec(`PRAGMA wal_checkpoint(RESTART)`)
	return err
}

// expireStep is how many records one transaction drops.
const expireStep = 2000

// expire drops records that are older than their topic's retention, from the front and in steps. It stops at the first
// that is not: a clock that was ahead for a while must not make a hole.
func (l *Log) expire(ctx context.Context) error {
	for name, t := range l.topics {
		if t.Retention == 0 {
			continue
		}
		oldest := l.opts.Now().Add(-t.Retention).UnixMicro()
		for ctx.Err() == nil {
			l.mu.Lock()
			first, end := t.first, min(t.first+expireStep, t.next)
			l.mu.Unlock()
			to := t.id(end)
			row := l.read.QueryRowContext(ctx, `SELECT id FROM records WHERE id >= ? AND id < ? AND written_at >= ? ORDER BY id LIMIT 1`,
				t.id(first), t.id(end), oldest)
			if err := row.Scan(&to); err != nil && !errors.Is(err, sql.ErrNoRows) {
				return classify("find what is past its retention", err)
			}
			if to == t.id(first) {
				break
			}
			c := &call{ctx: ctx, trim: map[string]int64{name: first + to - t.id(first)}, bytes: 256, done: make(chan error, 1)}
			if err := l.submit(ctx, c); err != nil {
				return err
			}
		}
	}
	return nil
}

// Ready writes a row that nobody reads: only a disk that takes writes can make records durable.
func (l *Log) Ready(ctx context.Context) error {
	return l.submit(ctx, &call{ctx: ctx, touch: true, bytes: 1, done: make(chan error, 1)})
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
		b := ports.Backlog{Topic: name, Start: t.first, End: t.next}
		committed, ok := l.commits[groupTopic{group, name}]
		b.Committed = max(committed, t.first)
		if !ok {
			b.Committed = t.first
		}
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

// headerCache encodes headers. The records of one upload share theirs, so most calls cost a comparison.
type headerCache struct {
	last domain.Headers
	text string
}

func (c *headerCache) encode(h domain.Headers) string {
	if c.text == "" || h != c.last {
		b, err := json.Marshal(h.Encode())
		if err != nil {
			panic(err) // pairs of strings
		}
		c.last, c.text = h, string(b)
	}
	return c.text
}

func (c *headerCache) decode(text string) (domain.Headers, error) {
	if c.text != text {
		var pairs []domain.Header
		if err := json.Unmarshal([]byte(text), &pairs); err != nil {
			return domain.Headers{}, fmt.Errorf("headers: %w", err)
		}
		c.last, c.text = domain.DecodeHeaders(pairs), text
	}
	return c.last, nil
}

// checksum covers everything in a row.
func checksum(id, writtenAt int64, key, headers string, value []byte) uint32 {
	var b [32]byte
	binary.LittleEndian.PutUint64(b[0:], uint64(id))
	binary.LittleEndian.PutUint64(b[8:], uint64(writtenAt))
	binary.LittleEndian.PutUint64(b[16:], uint64(len(key)))
	binary.LittleEndian.PutUint64(b[24:], uint64(len(headers)))
	sum := crc32.Update(0, castagnoli, b[:])
	sum = crc32.Update(sum, castagnoli, []byte(key))
	sum = crc32.Update(sum, castagnoli, []byte(headers))
	return crc32.Update(sum, castagnoli, value)
}
