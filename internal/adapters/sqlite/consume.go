package sqlite

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/ports"
)

// feed is one topic of a consumption: where to read on, and until when not to.
type feed struct {
	*topic
	next      int64
	committed int64
	until     time.Time
}

// Consume delivers batches to handle; see ports.Log. A second consumer of the same group waits for the first to end.
// Only damage ends it: whatever else keeps the log from being read may pass.
func (l *Log) Consume(ctx context.Context, sub ports.Subscription, handle ports.Handler) error {
	release, err := l.claim(ctx, sub)
	if err != nil || release == nil {
		return err
	}
	defer release()
	feeds := l.feeds(sub)
	retry := backoff.NewExponentialBackOff(backoff.WithInitialInterval(500*time.Millisecond),
		backoff.WithMaxInterval(5*time.Second), backoff.WithMaxElapsedTime(0))
	for {
		batch, err := l.collect(ctx, sub, feeds)
		if ctx.Err() != nil {
			return nil
		}
		if errLost(err) {
			return err
		}
		if err != nil {
			l.opts.Log.Warn("reading the log failed; trying again", "group", sub.Group, "error", err)
			sleep(ctx, retry.NextBackOff())
			continue
		}
		pauses, err := l.deliver(ctx, batch, handle)
		if err != nil && domain.ClassOf(err) == domain.Canceled {
			return nil
		}
		if err != nil {
			wait := retry.NextBackOff()
			l.opts.Log.Warn(
				"a batch failed; it is delivered again", "group", sub.Group, "records", len(batch), "after", wait, "error", err,
			)
			pauses = ports.PauseAll(batch, l.opts.Now().Add(wait))
		} else {
			retry.Reset()
		}
		settle(feeds, batch, pauses)
		for l.commitFeeds(sub.Group, feeds) != nil && ctx.Err() == nil {
			sleep(ctx, retry.NextBackOff())
		}
	}
}

// feeds are the topics of a subscription, each from where the group's commits end.
func (l *Log) feeds(sub ports.Subscription) []*feed {
	l.mu.Lock()
	defer l.mu.Unlock()
	feeds := make([]*feed, 0, len(sub.Topics))
	for _, name := range sub.Topics {
		t := l.topics[name]
		next := l.committed(sub.Group, t)
		feeds = append(feeds, &feed{topic: t, next: next, committed: next})
	}
	return feeds
}

// deliver calls the handler. The batch in hand is finished even when ctx ends meanwhile.
func (l *Log) deliver(ctx context.Context, batch []domain.Record, handle ports.Handler) ([]ports.Pause, error) {
	work, cancel := context.WithTimeout(context.WithoutCancel(ctx), ports.HandlerBudget)
	defer cancel()
	return handle(work, batch)
}

// claim makes the caller the one consumer of the topics for the group. release is nil when ctx ended first.
func (l *Log) claim(ctx context.Context, sub ports.Subscription) (release func(), err error) {
	names := slices.Clone(sub.Topics)
	slices.Sort(names) // in one order, so that two consumers of several topics cannot wait for each other
	var paused []groupTopic
	release = func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		for _, g := range paused {
			close(l.claimed[g])
			delete(l.claimed, g)
		}
	}
	for _, name := range names {
		if l.topics[name] == nil {
			release()
			return nil, domain.Errorf(domain.Misconfigured, "consume %s: the embedded log has no such topic", name)
		}
		g := groupTopic{sub.Group, name}
		for {
			l.mu.Lock()
			busy := l.claimed[g]
			if busy == nil {
				l.claimed[g] = make(chan struct{})
				l.mu.Unlock()
				paused = append(paused, g)
				break
			}
			l.mu.Unlock()
			select {
			case <-busy:
			case <-ctx.Done():
				release()
				return nil, nil
			}
		}
	}
	return release, nil
}

// collect waits for a batch to be full or old enough and reads it.
func (l *Log) collect(ctx context.Context, sub ports.Subscription, feeds []*feed) ([]domain.Record, error) {
	var deadline time.Time // of the first record that was seen to wait
	for {
		now := l.opts.Now()
		waiting, wake, changed := l.waiting(feeds, now)
		if waiting > 0 && deadline.IsZero() {
			deadline = now.Add(sub.MaxWait)
		}
		if waiting >= int64(sub.MaxRecords) || (waiting > 0 && !now.Before(deadline)) {
			batch, err := l.readBatch(ctx, sub, feeds, now)
			if err != nil || len(batch) > 0 {
				return batch, err
			}
			if err := l.commitFeeds(sub.Group, feeds); err != nil { // past placeholders
				return nil, err
			}
			deadline = time.Time{}
			continue
		}
		if !deadline.IsZero() && (wake.IsZero() || deadline.Before(wake)) {
			wake = deadline
		}
		var timer <-chan time.Time
		if !wake.IsZero() {
			timer = time.After(max(wake.Sub(now), time.Millisecond))
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-changed:
		case <-timer:
		}
	}
}

// waiting counts the records that may be read now, and says when a paused topic may be read again.
func (l *Log) waiting(feeds []*feed, now time.Time) (records int64, wake time.Time, changed <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, f := range feeds {
		n := f.topic.next - f.next
		switch {
		case n <= 0:
		case now.Before(f.until):
			if wake.IsZero() || f.until.Before(wake) {
				wake = f.until
			}
		default:
			records += n
		}
	}
	return records, wake, l.changed
}

// readBatch reads up to one batch from the topics that are not paused and verifies every record. Where there are only
// placeholders of accepted losses, it moves past them.
func (l *Log) readBatch(
	ctx context.Context, sub ports.Subscription, feeds []*feed, now time.Time,
) ([]domain.Record, error) {
	var batch []domain.Record
	var bytes int
	for _, f := range feeds {
		if now.Before(f.until) {
			continue
		}
		full := func() bool { return len(batch) >= sub.MaxRecords || (bytes >= sub.MaxBytes && len(batch) > 0) }
		if full() {
			break
		}
		visited := false
		reached, err := l.scan(ctx, f.topic, f.next, sub.MaxRecords-len(batch), func(r domain.Record) bool {
			visited = true
			if len(batch) > 0 && bytes+len(r.Value) > sub.MaxBytes {
				return false
			}
			batch = append(batch, r)
			bytes += len(r.Value)
			return !full()
		})
		if err != nil {
			return nil, err
		}
		if !visited {
			f.next = reached
		}
	}
	return batch, nil
}

// placeholder stands for a checksum where an operator accepted the loss of a record; a real one is never negative.
const placeholder = -1

// scan reads records from offset on until visit returns false, and returns the offset behind the last one it looked at.
// It reports damage, at the offset it returns: a checksum that does not fit, or a record that is not where it has to
// be.
func (l *Log) scan(
	ctx context.Context, t *topic, offset int64, limit int, visit func(domain.Record) bool,
) (int64, error) {
	reached, err := l.look(ctx, t, offset, limit, visit)
	var gap *gapError
	if errors.As(err, &gap) {
		err = l.loss(t, reached, gap.records, "is missing")
	}
	return reached, err
}

// gapError is a record that is not where it has to be: lost or, for a reader that has no records of the topic, trimmed
// meanwhile.
type gapError struct{ records int64 }

func (*gapError) Error() string { return "records are missing" }

// look is scan, but for a gap, which is the caller's to judge.
func (l *Log) look(
	ctx context.Context, t *topic, offset int64, limit int, visit func(domain.Record) bool,
) (int64, error) {
	l.mu.Lock()
	end := t.next
	l.mu.Unlock()
	rows, err := l.read.QueryContext(ctx, `SELECT id, written_at, checksum, key, headers, value FROM records
		WHERE id >= ? AND id < ? ORDER BY id LIMIT ?`, t.id(offset), t.id(end), limit)
	if err != nil {
		return offset, l.readError(t, offset, err)
	}
	defer rows.Close()
	var headers headerCache
	for rows.Next() {
		var id, writtenAt, sum int64
		var text string
		r := domain.Record{Topic: t.Name, Offset: offset}
		if err := rows.Scan(&id, &writtenAt, &sum, &r.Key, &text, &r.Value); err != nil {
			return offset, l.readError(t, offset, err)
		}
		if id != t.id(offset) {
			return offset, &gapError{id - t.id(offset)}
		}
		if sum == placeholder {
			offset++
			continue
		}
		if int64(checksum(id, writtenAt, r.Key, text, r.Value)) != sum {
			return offset, l.loss(t, offset, 1, "is damaged: its checksum does not fit")
		}
		if r.Headers, err = headers.decode(text); err != nil {
			return offset, l.loss(t, offset, 1, "is damaged: "+err.Error())
		}
		r.WrittenAt = instantOf(writtenAt)
		offset++
		if !visit(r) {
			return offset, nil
		}
	}
	if err := rows.Err(); err != nil {
		return offset, l.readError(t, offset, err)
	}
	return offset, nil
}

func (l *Log) readError(t *topic, offset int64, err error) error {
	if isDamage(err) {
		return l.loss(t, offset, 1, "cannot be read: "+err.Error())
	}
	return classify("read "+t.Name, err)
}

// loss reports acknowledged records that are gone.
func (l *Log) loss(t *topic, offset, records int64, what string) error {
	l.opts.Lost(lossOf("", t.Name, offset, offset+records-1))
	return &domain.Error{Class: domain.Misconfigured, Code: "LOG_DAMAGED", Text: lossText(l.dir, t.Name, offset, what)}
}

// settle moves the feeds past what a batch's handler has done, and pauses the rest.
func settle(feeds []*feed, batch []domain.Record, pauses []ports.Pause) {
	for _, f := range feeds {
		for _, r := range batch {
			if r.Topic == f.Name {
				f.next = r.Offset + 1
			}
		}
		for _, h := range pauses {
			if h.Topic == f.Name {
				f.next, f.until = h.Offset, h.Until
			}
		}
	}
}

// commitFeeds makes durable how far the feeds have come.
func (l *Log) commitFeeds(group string, feeds []*feed) error {
	commit := map[groupTopic]int64{}
	for _, f := range feeds {
		if f.next > f.committed {
			commit[groupTopic{group, f.Name}] = f.next
		}
	}
	if len(commit) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	err := l.submit(ctx, &call{ctx: ctx, commit: commit, bytes: 256, done: make(chan error, 1)})
	if err != nil {
		l.opts.Log.Warn(
			"offsets were not committed; what was done since may come again after a restart", "group", group, "error", err,
		)
		return err
	}
	for _, f := range feeds {
		f.committed = max(f.committed, f.next)
	}
	return nil
}

// sleep waits, at most until ctx is done.
func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// errLost distinguishes damage from every other misconfiguration.
func errLost(err error) bool {
	var e *domain.Error
	return errors.As(err, &e) && e.Code == "LOG_DAMAGED"
}
