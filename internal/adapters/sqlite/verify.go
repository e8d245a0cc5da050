package sqlite

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/docket-project/docket/internal/domain"
)

// lossText tells an operator what is lost and what to do.
func lossText(d *Dir, topic string, offset int64, what string) string {
	return fmt.Sprintf("the log in %s has lost acknowledged records: %s/0/%d %s. Restore the directory from a backup; "+
		"or accept the loss and go on with the rest: docket log accept-loss --data %s", filepath.Join(d.path, logFile), topic, offset, what, d.path)
}

// verify reads every record, and compares the end of each topic with the high-water mark.
func (l *Log) verify(ctx context.Context) error {
	for name, end := range l.mark.offsets {
		t := l.topics[name]
		if t != nil && t.next < end {
			return l.loss(t, t.next, end-t.next, fmt.Sprintf("and everything up to offset %d is missing, by the high-water mark in %s", end-1, markFile))
		}
	}
	for _, t := range l.opts.Topics {
		if err := l.verifyTopic(ctx, l.topics[t.Name]); err != nil {
			return err
		}
	}
	next, _, _ := l.snapshot()
	if err := l.mark.write(next); err != nil {
		return domain.Errorf(domain.Misconfigured, "write the log's high-water mark: %w", err)
	}
	return nil
}

func (l *Log) verifyTopic(ctx context.Context, t *topic) error {
	const step = 1000
	for offset := t.first; offset < t.next; {
		read := offset
		err := l.scan(ctx, t, offset, step, func(domain.Record) bool { read++; return true })
		if err != nil {
			return err
		}
		if read == offset {
			return l.loss(t, offset, t.next-offset, fmt.Sprintf("and everything up to offset %d is missing", t.next-1))
		}
		offset = read
	}
	return nil
}

// Loss is a range of records that an operator gave up.
type Loss struct {
	Topic       string
	First, Last int64
	Reason      string
}

// AcceptLoss gives up the records that are damaged or missing, notes them in the log's table of losses, and makes the
// log fit to start again; with dryRun it only says which. The directory must be open (and so locked) by the caller; no
// log may be.
func AcceptLoss(ctx context.Context, dir *Dir, opts LogOptions, dryRun bool) (losses []Loss, err error) {
	l, err := openLog(ctx, dir, opts)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, l.closeFiles()) }()
	for _, t := range opts.Topics {
		t := l.topics[t.Name]
		lost, keep, err := l.survey(ctx, t)
		if err != nil {
			return losses, err
		}
		losses = append(losses, lost...)
		if len(lost) == 0 || dryRun {
			continue
		}
		if err := l.rewrite(ctx, t, max(t.next, l.mark.offsets[t.Name]), lost, keep); err != nil {
			return losses, err
		}
	}
	if dryRun {
		return losses, nil
	}
	next, _, _ := l.snapshot()
	return losses, l.mark.write(next)
}

// survey finds what a topic has lost, and what of it can still be read.
func (l *Log) survey(ctx context.Context, t *topic) (lost []Loss, keep []domain.Record, err error) {
	give := func(offset int64, reason string) {
		if n := len(lost); n > 0 && lost[n-1].Last == offset-1 && lost[n-1].Reason == reason {
			lost[n-1].Last = offset
			return
		}
		lost = append(lost, Loss{t.Name, offset, offset, reason})
	}
	for offset := t.first; offset < t.next; offset++ {
		found := false
		err := l.scan(ctx, t, offset, 1, func(r domain.Record) bool { keep = append(keep, r); found = true; return false })
		switch {
		case err != nil && !errLost(err):
			return nil, nil, err
		case err != nil || !found:
			give(offset, "damaged or missing")
		}
	}
	for offset := t.next; offset < l.mark.offsets[t.Name]; offset++ {
		give(offset, "missing below the high-water mark")
	}
	return lost, keep, nil
}

// rewrite puts the surviving records of a topic behind its old end, in one run so that offsets stay without gaps, and
// notes what was given up.
func (l *Log) rewrite(ctx context.Context, t *topic, end int64, lost []Loss, keep []domain.Record) error {
	tx, err := l.write.BeginTx(ctx, nil)
	if err != nil {
		return classify("rewrite "+t.Name, err)
	}
	defer func() { _ = tx.Rollback() }() // after a commit it does nothing
	next, now := end, l.opts.Now().UnixMicro()
	type statement struct {
		text string
		args []any
	}
	steps := []statement{{`DELETE FROM records WHERE id >= ? AND id < ?`, []any{t.id(t.first), t.id(end)}}}
	for _, g := range lost {
		steps = append(steps, statement{
			`INSERT INTO losses (accepted_at, topic, first_offset, last_offset, reason) VALUES (?, ?, ?, ?, ?)`,
			[]any{now, g.Topic, g.First, g.Last, g.Reason},
		})
	}
	var headers headerCache
	committed := trimTo(t.Name, l.commits)
	for _, r := range keep {
		if t.Retention == 0 && r.Offset < committed {
			continue
		}
		text := headers.encode(r.Headers)
		steps = append(steps, statement{
			`INSERT INTO records (id, written_at, checksum, key, headers, value) VALUES (?, ?, ?, ?, ?, ?)`,
			[]any{t.id(next), now, int64(checksum(t.id(next), now, r.Key, text, r.Value)), r.Key, text, r.Value},
		})
		next++
	}
	steps = append(steps, statement{`UPDATE topics SET first_offset = ?, next_offset = ? WHERE number = ?`, []any{end, next, t.number}})
	for _, s := range steps {
		if _, err := tx.ExecContext(ctx, s.text, s.args...); err != nil {
			return classify("rewrite "+t.Name, err)
		}
	}
	if err := tx.Commit(); err != nil {
		return classify("rewrite "+t.Name, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	t.first, t.next = end, next
	return nil
}
