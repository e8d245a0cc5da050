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
		"or accept the loss and go on with the rest: docket log accept-loss --data %s", filepath.Join(d.path, logFile), topic,
		offset, what, d.path)
}

// verify reads every record, and compares the end of each topic with the high-water mark.
func (l *Log) verify(ctx context.Context) error {
	for _, t := range l.topics {
		if !l.marked && t.next > 0 {
			return domain.Errorf(
				domain.Misconfigured,
				"%s is missing or unreadable, so nobody can tell whether the log lost its tail: "+
					"restore the directory from a backup; or go on with what is there: docket log accept-loss --yes --data %s",
				filepath.Join(l.dir.path, markFile),
				l.dir.path,
			)
		}
	}
	for _, g := range l.beyond {
		t := l.topics[g.topic]
		return l.loss(
			t, t.next, 1, fmt.Sprintf("and more may be missing: the group %s has consumed beyond the end of the log, so that "+
				"this is not the log of before", g.group),
		)
	}
	for name, end := range l.mark.offsets {
		t := l.topics[name]
		if t != nil && t.next < end {
			return l.loss(
				t, t.next, end-t.next,
				fmt.Sprintf("and everything up to offset %d is missing, by the high-water mark in %s", end-1, markFile),
			)
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

// verifyStep is how many records one query verifies.
const verifyStep = 1000

func (l *Log) verifyTopic(ctx context.Context, t *topic) error {
	for offset := t.first; offset < t.next; {
		reached, err := l.scan(ctx, t, offset, verifyStep, func(domain.Record) bool { return true })
		if err != nil {
			return err
		}
		if reached == offset {
			return l.loss(t, offset, t.next-offset, fmt.Sprintf("and everything up to offset %d is missing", t.next-1))
		}
		offset = reached
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
// log fit to start again; with dryRun it only says which. Each leaves a placeholder behind, which readers skip, so that
// every other record keeps its offset. The directory must be open (and so locked) by the caller; no log may be.
func AcceptLoss(ctx context.Context, dir *Dir, opts LogOptions, dryRun bool) (losses []Loss, err error) {
	l, err := openLog(ctx, dir, opts)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, l.closeFiles()) }()
	for _, t := range opts.Topics {
		t := l.topics[t.Name]
		lost, err := l.survey(ctx, t)
		if err != nil {
			return losses, err
		}
		losses = append(losses, lost...)
		if len(lost) == 0 || dryRun {
			continue
		}
		if err := l.giveUp(ctx, t, lost); err != nil {
			return losses, err
		}
	}
	for _, g := range l.beyond {
		end := l.topics[g.topic].next
		losses = append(losses, Loss{g.topic, end, end, "consumed by " + g.group + " beyond the end of the log"})
	}
	if dryRun {
		return losses, nil
	}
	for _, g := range l.beyond {
		if _, err := l.write.ExecContext(
			ctx, `UPDATE commits SET next_offset = ? WHERE consumer_group = ? AND topic = ?`, l.topics[g.topic].next, g.group,
			l.topics[g.topic].number,
		); err != nil {
			return losses, classify("take back what was consumed beyond the end of the log", err)
		}
	}
	next, _, _ := l.snapshot()
	return losses, l.mark.write(next)
}

// survey finds what a topic has lost.
func (l *Log) survey(ctx context.Context, t *topic) (lost []Loss, err error) {
	give := func(first, last int64, reason string) {
		if n := len(lost); n > 0 && lost[n-1].Last == first-1 && lost[n-1].Reason == reason {
			lost[n-1].Last = last
			return
		}
		lost = append(lost, Loss{t.Name, first, last, reason})
	}
	const damage = "damaged or missing"
	for offset := t.first; offset < t.next; {
		reached, err := l.scan(ctx, t, offset, verifyStep, func(domain.Record) bool { return true })
		switch {
		case err != nil && !errLost(err):
			return nil, err
		case err != nil:
			give(reached, reached, damage)
			offset = reached + 1
		case reached == offset: // nothing at all from here on
			give(offset, t.next-1, damage)
			offset = t.next
		default:
			offset = reached
		}
	}
	if end := l.mark.offsets[t.Name]; end > t.next {
		give(t.next, end-1, "missing below the high-water mark")
	}
	return lost, nil
}

// giveUp replaces what is lost by placeholders.
func (l *Log) giveUp(ctx context.Context, t *topic, lost []Loss) error {
	tx, err := l.write.BeginTx(ctx, nil)
	if err != nil {
		return classify("give up records of "+t.Name, err)
	}
	defer func() { _ = tx.Rollback() }() // after a commit it does nothing
	next, now := t.next, l.opts.Now().UnixMicro()
	exec := func(text string, args ...any) {
		if err == nil {
			_, err = tx.ExecContext(ctx, text, args...)
		}
	}
	for _, g := range lost {
		exec(
			`INSERT INTO losses (accepted_at, topic, first_offset, last_offset, reason) VALUES (?, ?, ?, ?, ?)`, now, g.Topic,
			g.First, g.Last, g.Reason,
		)
		if g.First <= t.first && g.Last+1 >= next { // nothing is left: there is nobody to keep an offset for
			exec(`DELETE FROM records WHERE id >= ? AND id < ?`, t.id(t.first), t.id(g.Last+1))
			exec(`UPDATE topics SET first_offset = ? WHERE number = ?`, g.Last+1, t.number)
			t.first, next = g.Last+1, g.Last+1
			continue
		}
		for offset := g.First; offset <= g.Last; offset++ {
			exec(
				`INSERT OR REPLACE INTO records (id, written_at, checksum, key, headers, value) VALUES (?, ?, ?, '', '[]', x'')`,
				t.id(offset), now, placeholder,
			)
		}
		next = max(next, g.Last+1)
	}
	exec(`UPDATE topics SET next_offset = ? WHERE number = ?`, next, t.number)
	if err == nil {
		err = tx.Commit()
	}
	if err != nil {
		return classify("give up records of "+t.Name, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	t.next = next
	return nil
}
