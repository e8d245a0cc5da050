package sqlite

import (
	"database/sql"
	"errors"
	"maps"
	"slices"
)

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
		{&s.commit, `INSERT INTO commits (consumer_group, topic, next_offset, store_mark) VALUES (?, ?, ?, ?)
			ON CONFLICT (consumer_group, topic) DO UPDATE SET next_offset = excluded.next_offset,
			store_mark = excluded.store_mark`},
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
	before := maps.Clone(next)
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
	if slices.ContainsFunc(group, func(c *call) bool { return len(c.records) > 0 }) {
		l.newest = l.opts.Now()
		l.tell(group, before)
	}
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
func (l *Log) append(
	tx *sql.Tx, s statements, group []*call, next, first map[string]int64, commits map[groupTopic]int64,
) error {
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
			if _, err := tx.Stmt(s.commit).Exec(g.group, l.topics[g.topic].number, offset, l.keptOf(g)); err != nil {
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

// keptOf is how far the store is known to have been saved for a group.
func (l *Log) keptOf(g groupTopic) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.kept[g]
}
