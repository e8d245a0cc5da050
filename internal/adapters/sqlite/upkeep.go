package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/docket-project/docket/internal/domain"
)

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

const (
	// expireEach is how often a topic is trimmed by time, and expireSpan how much of it goes at most, by the records' own
	// times: whatever is wrong with a clock, somebody has time to see it.
	expireEach = 24 * time.Hour
	expireSpan = 48 * time.Hour
	// clockTolerance is how far the clock may be from the newest record.
	clockTolerance = 24 * time.Hour
)

// expire drops records that are older than their topic's retention, from the front and in steps. It stops at the first
// that is not: a clock that was ahead for a while must not make a hole.
func (l *Log) expire(ctx context.Context) error {
	now := l.opts.Now()
	if newest := l.Newest(); !newest.IsZero() && now.Sub(newest).Abs() > clockTolerance {
		return domain.Errorf(
			domain.Misconfigured, "the newest record is of %s, more than a day from now: the clock may be wrong",
			newest.UTC().Format(time.RFC3339),
		)
	}
	for name, t := range l.topics {
		if t.Retention == 0 || now.Sub(l.trimmed[name]) < expireEach {
			continue
		}
		oldest, err := l.oldestToGo(ctx, t, now)
		if err != nil {
			return err
		}
		for ctx.Err() == nil {
			l.mu.Lock()
			first, end := t.first, min(t.first+expireStep, t.next)
			l.mu.Unlock()
			to := t.id(end)
			row := l.read.QueryRowContext(
				ctx, `SELECT id FROM records WHERE id >= ? AND id < ? AND written_at >= ? ORDER BY id LIMIT 1`, t.id(first),
				t.id(end), oldest,
			)
			if err := row.Scan(&to); err != nil && !errors.Is(err, sql.ErrNoRows) {
				return classify("find what is past its retention", err)
			}
			if to == t.id(first) {
				break
			}
			l.trimmed[name] = now
			c := &call{ctx: ctx, trim: map[string]int64{name: first + to - t.id(first)}, bytes: 256, done: make(chan error, 1)}
			if err := l.submit(ctx, c); err != nil {
				return err
			}
		}
	}
	return nil
}

// oldestToGo is the time, in microseconds, up to which a topic's records go now: what is past the retention, but no
// more than expireSpan.
func (l *Log) oldestToGo(ctx context.Context, t *topic, now time.Time) (int64, error) {
	oldest := now.Add(-t.Retention).UnixMicro()
	l.mu.Lock()
	first := t.id(t.first)
	l.mu.Unlock()
	var written int64
	row := l.read.QueryRowContext(ctx, `SELECT written_at FROM records WHERE id = ?`, first)
	if err := row.Scan(&written); err != nil && !errors.Is(err, sql.ErrNoRows) {
		return 0, classify("find what is past its retention", err)
	} else if err == nil {
		oldest = min(oldest, written+expireSpan.Microseconds())
	}
	return oldest, nil
}
