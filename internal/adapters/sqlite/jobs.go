package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/docket-project/docket/internal/domain"
)

const jobColumns = `id, kind, dry_run, filter, rate, max, max_replays, stop_ratio, reason, who, state, message, matched, done, stored, failed, reparsed, skipped,
	base_done, base_failed, after_topic, after_partition, after_offset, report, created_at, started_at, finished_at, owner, lease_until`

// CreateJob writes a job down; see ports.JobStore.
func (s *Store) CreateJob(ctx context.Context, j domain.Job, e domain.AuditEntry) (created bool, err error) {
	err = s.inTx(ctx, func(tx *sql.Tx) error {
		res, err := tx.Exec(`INSERT INTO replays (`+jobColumns+`) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, 0, 0, 0, 0, 0, 0, '', 0, 0, NULL, ?, NULL, ?, NULL, NULL)
			ON CONFLICT DO NOTHING`, j.ID, string(j.Kind), j.DryRun, j.Filter.Filter().Encode(), j.Rate, j.Max, j.MaxReplays, j.StopRatio, j.Reason, j.Who,
			string(j.State), j.Message, j.Matched, j.CreatedAt.UnixMicro(), micros(j.FinishedAt))
		if err != nil {
			return err
		}
		n, err := res.RowsAffected()
		if created = n > 0; err == nil && created {
			err = audit(tx, e)
		}
		return err
	})
	return created, s.checked("create a job in "+storeFile, err)
}

// querier is a connection or a transaction.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// jobs reads rows of the table.
func jobs(ctx context.Context, db querier, tail string, args ...any) (out []domain.Job, err error) {
	rows, err := db.QueryContext(ctx, `SELECT `+jobColumns+` FROM replays `+tail, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		j, err := scanJob(rows)
		if err != nil {
			return nil, err
		}
		out = append(out, j)
	}
	return out, rows.Err()
}

// Job finds one; see ports.JobStore.
func (s *Store) Job(ctx context.Context, id string) (domain.Job, bool, error) {
	found, err := jobs(ctx, s.read, "WHERE id = ?", id)
	if err != nil || len(found) == 0 {
		return domain.Job{}, false, s.checked("look for a job in "+storeFile, err)
	}
	return found[0], true, nil
}

// Jobs lists them; see ports.JobStore.
func (s *Store) Jobs(ctx context.Context) ([]domain.Job, error) {
	found, err := jobs(ctx, s.read, "ORDER BY created_at DESC, id LIMIT 100")
	return found, s.checked("look for jobs in "+storeFile, err)
}

// MoveJob changes a job's state; see ports.JobStore.
func (s *Store) MoveJob(ctx context.Context, id string, from []domain.JobState, to domain.JobState, message string, at time.Time, e domain.AuditEntry) (moved bool, err error) {
	err = s.inTx(ctx, func(tx *sql.Tx) error {
		j, err := jobs(ctx, tx, "WHERE id = ?", id)
		if err != nil || len(j) == 0 || !slices.Contains(from, j[0].State) {
			return err
		}
		moved = true
		var finished any
		if to.Over() {
			finished = at.UnixMicro()
		}
		base := j[0]
		if to == domain.JobPending {
			base.BaseDone, base.BaseFailed = base.Done, base.Failed
		}
		_, err = tx.Exec(`UPDATE replays SET state = ?, message = ?, owner = NULL, lease_until = NULL, finished_at = ?, base_done = ?, base_failed = ? WHERE id = ?`,
			string(to), message, finished, base.BaseDone, base.BaseFailed, id)
		if err == nil {
			err = audit(tx, e)
		}
		return err
	})
	return moved, s.checked("change a job in "+storeFile, err)
}

// ClaimJob takes a job; see ports.JobStore.
func (s *Store) ClaimJob(ctx context.Context, dryRun bool, owner string, at, until time.Time) (j domain.Job, found bool, err error) {
	const active = `WHERE state IN ('pending', 'running') AND dry_run = ? ORDER BY created_at, id LIMIT 1`
	if waiting, err := jobs(ctx, s.read, active, dryRun); err != nil || len(waiting) == 0 { // asked often, and without a turn at writing
		return domain.Job{}, false, s.checked("take up a job in "+storeFile, err)
	}
	err = s.inTx(ctx, func(tx *sql.Tx) error {
		waiting, err := jobs(ctx, tx, active, dryRun)
		if err != nil || len(waiting) == 0 {
			return err
		}
		busy, err := jobs(ctx, tx, `WHERE dry_run = ? AND state = 'running' AND owner <> ? AND lease_until >= ?`, dryRun, owner, at.UnixMicro())
		if err != nil || len(busy) > 0 {
			return err
		}
		j, found = waiting[0], true
		j.State, j.Owner, j.LeaseUntil = domain.JobRunning, owner, until
		if j.StartedAt.IsZero() {
			j.StartedAt = at
		}
		_, err = tx.Exec(`UPDATE replays SET state = 'running', owner = ?, lease_until = ?, started_at = ? WHERE id = ?`, owner, until.UnixMicro(), j.StartedAt.UnixMicro(), j.ID)
		return err
	})
	return j, found && err == nil, s.checked("take up a job in "+storeFile, err)
}

// chosen is what a job's filter chooses: never what is stored, what the job has dealt with, or what died after it was made; and
// for a replay, nothing that was replayed too often.
func (s *Store) chosen(ctx context.Context, j domain.Job) (condition, error) {
	c, err := s.ofDeadLetters(ctx, j.Filter)
	if err != nil {
		return c, err
	}
	c.add("state <> 'stored' AND replay IS NOT ? AND died_at <= ?", j.ID, j.CreatedAt.UnixMicro())
	if j.Kind == domain.Replay {
		c.add("replays < ?", j.MaxReplays)
	}
	return c, nil
}

// JobLetters returns what a job is to deal with next; see ports.JobStore.
func (s *Store) JobLetters(ctx context.Context, j domain.Job, limit int) ([]domain.DeadLetter, error) {
	c, err := s.chosen(ctx, j)
	if err != nil {
		return nil, err
	}
	c.add(`(topic, partition, "offset") > (?, ?, ?)`, j.After.Topic, j.After.Partition, j.After.Offset)
	return s.deadLetters(ctx, `WHERE `+c.String()+` ORDER BY topic, partition, "offset" LIMIT ?`, append(c.args, limit)...)
}

// Tallies counts what a job's filter chooses; see ports.JobStore.
func (s *Store) Tallies(ctx context.Context, j domain.Job) (out []domain.Tally, err error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	c, err := s.chosen(ctx, j)
	if err != nil {
		return nil, err
	}
	err = s.each(ctx, `SELECT reason, coalesce(path, ''), class, coalesce(code, ''), coalesce(error_text, ''), count(*) FROM dead_letters
		WHERE `+c.String()+` GROUP BY 1, 2, 3, 4, 5 ORDER BY 6 DESC, 1, 2 LIMIT 100`, c.args, func(rows *sql.Rows) error {
		var t domain.Tally
		err := rows.Scan(&t.Reason, &t.Path, &t.Class, &t.Code, &t.Error, &t.Letters)
		out = append(out, t)
		return err
	})
	return out, s.slow(err)
}

// CountJob counts what a job's filter chooses; see ports.JobStore.
func (s *Store) CountJob(ctx context.Context, j domain.Job) (n int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	c, err := s.chosen(ctx, j)
	if err != nil {
		return 0, err
	}
	err = s.read.QueryRowContext(ctx, `SELECT count(*) FROM dead_letters WHERE `+c.String(), c.args...).Scan(&n)
	return n, s.slow(err)
}

// AdvanceJob writes down what was done of a job; see ports.JobStore.
func (s *Store) AdvanceJob(ctx context.Context, step domain.JobStep) (j domain.Job, err error) {
	err = s.inTx(ctx, func(tx *sql.Tx) error {
		at := step.At.UnixMicro()
		stored, err := moveLetters(tx, step, at)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(`UPDATE replays SET done = done + ?, stored = stored + ?, failed = failed + ?, reparsed = reparsed + ?
			WHERE id = ? AND (owner IS NULL OR owner = ?)`, len(step.Moved)+len(step.Failed), stored, len(step.Failed), step.Reparsed, step.Job, step.Owner); err != nil {
			return err
		}
		set, args := []string{"skipped = skipped + ?", "done = done + ?", "matched = iif(? = 0, matched, ?)", "lease_until = ?", "report = coalesce(?, report)", "message = ?"},
			[]any{step.Skipped, step.Indexed, step.Matched, step.Matched, step.LeaseUntil.UnixMicro(), text(step.Report.String()), step.Message}
		if step.After.Topic != "" {
			set = append(set, "after_topic = ?", "after_partition = ?", "after_offset = ?")
			args = append(args, step.After.Topic, step.After.Partition, step.After.Offset)
		}
		if step.State != "" {
			set, args = append(set, "state = ?"), append(args, string(step.State))
		}
		if step.State.Over() {
			set, args = append(set, "finished_at = ?"), append(args, at)
		}
		res, err := tx.Exec(`UPDATE replays SET `+strings.Join(set, ", ")+` WHERE id = ? AND owner = ? AND state = 'running'`, append(args, step.Job, step.Owner)...)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil {
			return err
		} else if n > 0 {
			if err := audit(tx, step.Audit); err != nil {
				return err
			}
		}
		found, err := jobs(ctx, tx, "WHERE id = ?", step.Job)
		if err == nil && len(found) == 0 {
			err = sql.ErrNoRows
		}
		if err == nil {
			j = found[0]
		}
		return err
	})
	return j, s.checked("write down what a job has done in "+storeFile, err)
}

// moveLetters changes dead letters as a step says, and counts those that turn out to be stored already. One that has come back
// meanwhile has another place, and stays as it is.
func moveLetters(tx *sql.Tx, step domain.JobStep, at int64) (stored int64, err error) {
	const standing = ` WHERE state IN ('open', 'replayed', 'discarded', 'stored') AND topic = ? AND partition = ? AND "offset" = ?`
	move, err := tx.Prepare(`UPDATE dead_letters AS d SET state = iif(state = 'stored' OR ? AND decision AND ` + hasRow + `, 'stored', ?), replay = ?, replays = replays + ?, changed_at = ?` + standing + ` RETURNING state = 'stored'`)
	if err != nil {
		return 0, err
	}
	defer move.Close()
	replays := 0
	if step.To == domain.DeadReplayed {
		replays = 1
	}
	for _, p := range step.Moved {
		var already bool
		err := move.QueryRow(step.To == domain.DeadReplayed, string(step.To), step.Job, replays, at, p.Topic, p.Partition, p.Offset).Scan(&already)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return 0, err
		}
		if already {
			stored++
		}
	}
	for _, p := range step.Failed {
		if _, err := tx.Exec(`UPDATE dead_letters SET replay = ?, replays = replays + 1, changed_at = ?`+standing, step.Job, at, p.Topic, p.Partition, p.Offset); err != nil {
			return 0, err
		}
	}
	return stored, nil
}

// scanJob reads a row of jobColumns.
func scanJob(rows *sql.Rows) (j domain.Job, err error) {
	var filter string
	var report, owner sql.NullString
	var created int64
	var started, finished, lease sql.NullInt64
	if err := rows.Scan(&j.ID, &j.Kind, &j.DryRun, &filter, &j.Rate, &j.Max, &j.MaxReplays, &j.StopRatio, &j.Reason, &j.Who, &j.State, &j.Message, &j.Matched,
		&j.Done, &j.Stored, &j.Failed, &j.Reparsed, &j.Skipped, &j.BaseDone, &j.BaseFailed, &j.After.Topic, &j.After.Partition, &j.After.Offset, &report, &created, &started, &finished,
		&owner, &lease); err != nil {
		return j, err
	}
	j.Owner, j.CreatedAt, j.StartedAt, j.FinishedAt, j.LeaseUntil = owner.String, time.UnixMicro(created).UTC(), instant(started), instant(finished), instant(lease)
	err = j.Restore(filter, report.String)
	return j, err
}

// Audit adds an entry; see ports.AuditLog.
func (s *Store) Audit(ctx context.Context, e domain.AuditEntry) error {
	return s.checked("write to the audit in "+storeFile, s.inTx(ctx, func(tx *sql.Tx) error { return audit(tx, e) }))
}

// audit adds an entry, unless it has no action.
func audit(tx *sql.Tx, e domain.AuditEntry) error {
	if e.Action == "" {
		return nil
	}
	_, err := tx.Exec(`INSERT INTO audit (at, who, action, target, filter, matched, done, failed, reason, outcome) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		e.At.UnixMicro(), e.Who, e.Action, e.Target, e.Filter, e.Matched, e.Done, e.Failed, e.Reason, e.Outcome)
	return err
}

// Audits lists entries; see ports.AuditLog.
func (s *Store) Audits(ctx context.Context, before time.Time, limit int) (out []domain.AuditEntry, err error) {
	err = s.each(ctx, `SELECT at, who, action, target, filter, matched, done, failed, reason, outcome FROM audit
		WHERE ?1 IS NULL OR at < ?1 ORDER BY at DESC LIMIT ?2`, []any{micros(before), limit}, func(rows *sql.Rows) error {
		var e domain.AuditEntry
		var at int64
		err := rows.Scan(&at, &e.Who, &e.Action, &e.Target, &e.Filter, &e.Matched, &e.Done, &e.Failed, &e.Reason, &e.Outcome)
		e.At = time.UnixMicro(at).UTC()
		out = append(out, e)
		return err
	})
	return out, s.checked("read the audit in "+storeFile, err)
}
