package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"time"

	"github.com/docket-project/docket/internal/adapters/sqlstore"
	"github.com/docket-project/docket/internal/domain"
)

var (
	activeJobs = sqlstore.InList(domain.JobStatesThat(domain.JobState.Active))
	running    = string(domain.JobRunning)
)

// CreateJob writes a job down; see ports.JobControl.
func (s *Store) CreateJob(ctx context.Context, j domain.Job, e domain.AuditEntry) (twin string, err error) {
	filter, tenants := sqlstore.EncodeFilter(j.Filter), text(sqlstore.EncodeScope(j.Tenants))
	err = s.inTx(ctx, func(tx *sql.Tx) error {
		res, err := tx.Exec(
			`INSERT INTO jobs (`+sqlstore.JobColumns+`) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?,
			0, 0, 0, 0, 0, 0, 0, '', 0, 0, NULL, ?, NULL, ?, NULL, NULL) ON CONFLICT DO NOTHING`,
			j.ID,
			string(j.Kind),
			string(j.Kind.Lane(j.DryRun)),
			j.DryRun,
			filter,
			tenants,
			j.Rate,
			j.Max,
			j.MaxReplays,
			j.StopRatio,
			j.Comment,
			j.Caller,
			string(j.State),
			sqlstore.EncodeMessage(j.Message),
			j.Matched,
			j.CreatedAt.UnixMicro(),
			micros(j.FinishedAt),
		)
		if err != nil {
			return err
		}
		n, err := res.RowsAffected()
		switch {
		case err != nil:
			return err
		case n > 0:
			return errors.Join(orderErasure(tx, j.ID, j.Erasure), audit(tx, e))
		}
		return tx.QueryRow(`SELECT id FROM jobs WHERE kind = ? AND filter = ? AND tenants IS ? AND NOT dry_run AND id <> ?
			ORDER BY state IN `+sqlstore.InList(domain.JobStatesThat(domain.JobState.Over))+`, created_at DESC LIMIT 1`,
			string(j.Kind), filter, tenants, j.ID).Scan(&twin)
	})
	return twin, s.checked("create a job in "+storeFile, err)
}

// querier is a connection or a transaction.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// jobs reads rows of the table.
func jobs(ctx context.Context, db querier, tail string, args ...any) (out []domain.Job, err error) {
	rows, err := db.QueryContext(ctx, `SELECT `+sqlstore.JobColumns+` FROM jobs `+tail, args...)
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

// ownJob finds a job that is within a scope.
func ownJob(ctx context.Context, db querier, scope domain.Scope, id string) ([]domain.Job, error) {
	w := dialect.Where(id)
	w.Add("id = ?1")
	w.Owned(scope)
	return jobs(ctx, db, "WHERE "+w.String(), w.Args...)
}

// Job finds one; see ports.JobReader.
func (s *Store) Job(ctx context.Context, scope domain.Scope, id string) (domain.Job, bool, error) {
	found, err := ownJob(ctx, s.read, scope, id)
	if err != nil || len(found) == 0 {
		return domain.Job{}, false, s.checked("look for a job in "+storeFile, ended(ctx, err))
	}
	return found[0], true, nil
}

// Jobs lists them; see ports.JobReader.
func (s *Store) Jobs(ctx context.Context, scope domain.Scope) ([]domain.Job, error) {
	w := dialect.Where()
	w.Owned(scope)
	found, err := jobs(ctx, s.read, "WHERE "+w.String()+" ORDER BY created_at DESC, id LIMIT 100", w.Args...)
	return found, s.checked("look for jobs in "+storeFile, ended(ctx, err))
}

// forget takes an erasure's filter away with its last state, because it names somebody; "" with any other.
func forget(to domain.JobState) string {
	if !to.Over() {
		return ""
	}
	return `filter = iif(kind = '` + string(domain.Erase) + `', '` + sqlstore.EncodeFilter(domain.Filter{}) +
		`', filter),`
}

// MoveJob changes a job's state; see ports.JobControl.
func (s *Store) MoveJob(
	ctx context.Context, scope domain.Scope, id string, m domain.JobMove, message domain.Message, at time.Time,
	e domain.AuditEntry,
) (moved bool, err error) {
	err = s.inTx(ctx, func(tx *sql.Tx) error {
		found, err := ownJob(ctx, tx, scope, id)
		if err != nil || len(found) == 0 || !found[0].State.Can(m) {
			return err
		}
		moved = true
		j, to := found[0], m.To()
		var finished any
		if to.Over() {
			finished = at.UnixMicro()
		}
		if to == domain.JobPending {
			j.BaseDone, j.BaseFailed = j.Done, j.Failed
		}
		_, err = tx.Exec(
			`UPDATE jobs SET `+forget(to)+` state = ?, message = ?, owner = NULL, lease_until = NULL, finished_at = ?,
			base_done = ?, base_failed = ? WHERE id = ?`,
			string(to),
			sqlstore.EncodeMessage(message),
			finished,
			j.BaseDone,
			j.BaseFailed,
			id,
		)
		if err == nil {
			err = audit(tx, e)
		}
		return err
	})
	return moved && err == nil, s.checked("change a job in "+storeFile, err)
}

// ClaimJob takes a job; see ports.JobQueue.
func (s *Store) ClaimJob(
	ctx context.Context, lane domain.Lane, owner string, at, until time.Time,
) (j domain.Job, found bool, err error) {
	active := `WHERE state IN ` + activeJobs + ` AND lane = ? ORDER BY created_at, id LIMIT 1`
	if waiting, err := jobs(ctx, s.read, active, string(lane)); err != nil ||
		len(waiting) == 0 { // asked often, and without a turn at writing
		return domain.Job{}, false, s.checked("take up a job in "+storeFile, err)
	}
	err = s.inTx(ctx, func(tx *sql.Tx) error {
		waiting, err := jobs(ctx, tx, active, string(lane))
		if err != nil || len(waiting) == 0 {
			return err
		}
		busy, err := jobs(
			ctx, tx, `WHERE lane = ? AND state = ? AND owner <> ? AND lease_until >= ?`, string(lane), running, owner,
			at.UnixMicro(),
		)
		if err != nil || len(busy) > 0 {
			return err
		}
		j, found = waiting[0], true
		j.State, j.Owner, j.LeaseUntil = domain.JobRunning, owner, until
		if j.StartedAt.IsZero() {
			j.StartedAt = at
		}
		_, err = tx.Exec(`UPDATE jobs SET state = ?, owner = ?, lease_until = ?, started_at = ? WHERE id = ?`, running, owner,
			until.UnixMicro(), j.StartedAt.UnixMicro(), j.ID)
		return err
	})
	return j, found && err == nil, s.checked("take up a job in "+storeFile, err)
}

// AdvanceJob writes down what was done of a job; see ports.JobQueue.
func (s *Store) AdvanceJob(ctx context.Context, step domain.JobStep) (j domain.Job, err error) {
	err = s.inTx(ctx, func(tx *sql.Tx) error {
		j, err = advance(ctx, tx, step)
		return err
	})
	return j, s.checked("write down what a job has done in "+storeFile, err)
}

// advance moves a job, and reads it as it then is.
func advance(ctx context.Context, tx *sql.Tx, step domain.JobStep) (j domain.Job, err error) {
	set := []string{
		"done = done + ?", "skipped = skipped + ?", "matched = iif(? = 0, matched, ?)", "lease_until = ?",
		"report = coalesce(?, report)", "message = ?",
	}
	args := []any{
		step.Done,
		step.Skipped,
		step.Matched,
		step.Matched,
		step.LeaseUntil.UnixMicro(),
		text(sqlstore.EncodeReport(step.Report)),
		sqlstore.EncodeMessage(step.Message),
	}
	if step.After.Topic != "" {
		set = append(set, "after_topic = ?", "after_partition = ?", "after_offset = ?")
		args = append(args, step.After.Topic, step.After.Partition, step.After.Offset)
	}
	if what, forgets := strings.CutSuffix(forget(step.State), ","); forgets {
		set = append(set, what)
	}
	if step.State != "" {
		set, args = append(set, "state = ?"), append(args, string(step.State))
	}
	if step.State.Over() {
		set, args = append(set, "finished_at = ?"), append(args, step.At.UnixMicro())
	}
	res, err := tx.Exec(`UPDATE jobs SET `+strings.Join(set, ", ")+` WHERE id = ? AND owner = ? AND state = ?`,
		append(args, step.Job, step.Owner, running)...)
	if err != nil {
		return j, err
	}
	if n, err := res.RowsAffected(); err != nil {
		return j, err
	} else if n > 0 {
		if err := audit(tx, step.Audit); err != nil {
			return j, err
		}
	}
	found, err := jobs(ctx, tx, "WHERE id = ?", step.Job)
	switch {
	case err != nil:
		return j, err
	case len(found) == 0:
		return j, sql.ErrNoRows
	default:
		return found[0], nil
	}
}

// scanJob reads a row of sqlstore.JobColumns.
func scanJob(rows *sql.Rows) (j domain.Job, err error) {
	var t sqlstore.JobTexts
	var lane string // which kind and dry_run say
	var tenants, report, owner sql.NullString
	var created int64
	var started, finished, lease sql.NullInt64
	if err := rows.Scan(
		&j.ID, &j.Kind, &lane, &j.DryRun, &t.Filter, &tenants, &j.Rate, &j.Max, &j.MaxReplays, &j.StopRatio, &j.Comment,
		&j.Caller, &j.State, &t.Message, &j.Matched, &j.Done, &j.Stored, &j.Failed, &j.Reparsed, &j.Skipped, &j.BaseDone,
		&j.BaseFailed, &j.After.Topic, &j.After.Partition, &j.After.Offset, &report, &created, &started, &finished, &owner,
		&lease,
	); err != nil {
		return j, err
	}
	j.Owner, j.CreatedAt, j.StartedAt = owner.String, instantOf(created), instant(started)
	j.FinishedAt, j.LeaseUntil = instant(finished), instant(lease)
	t.Tenants, t.Report = tenants.String, report.String
	return j, t.Into(&j)
}
