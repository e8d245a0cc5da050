package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/docket-project/docket/internal/adapters/sqlstore"
	"github.com/docket-project/docket/internal/domain"
)

// The states of jobs that statements speak of, as domain says.
var (
	activeJobs = sqlstore.InList(domain.JobStatesThat(domain.JobState.Active))
	overJobs   = sqlstore.InList(domain.JobStatesThat(domain.JobState.Over))
	running    = sqlstore.InList([]domain.JobState{domain.JobRunning})
)

const createJob = `INSERT INTO jobs (` + sqlstore.JobColumns + `) VALUES (
	$1::text, $2::text, $3::text, $4::boolean, $5::text, nullif($6::text, '')::jsonb, $7::double precision, $8::bigint,
	$9::int, $10::double precision, $11::text, $12::text, $13::text, $14::text, $15::bigint,
	0, 0, 0, 0, 0, 0, 0, '', 0, 0, NULL, $16::timestamptz, NULL, $17::timestamptz, NULL, NULL)
	ON CONFLICT DO NOTHING RETURNING true`

// twinOf finds a job that does the same as another.
var twinOf = `SELECT id FROM jobs WHERE kind = $1::text AND filter = $2::text
	AND tenants IS NOT DISTINCT FROM nullif($3::text, '')::jsonb AND NOT dry_run AND id <> $4::text
	ORDER BY state IN ` + overJobs + `, created_at DESC LIMIT 1`

// forget takes an erasure's filter away with a state that is over, in a parameter, because it names somebody.
func forget(param string) string {
	return `filter = CASE WHEN kind = '` + string(domain.Erase) + `' AND ` + param + `::text IN ` + overJobs +
		` THEN '` + sqlstore.EncodeFilter(domain.Filter{}) + `' ELSE filter END`
}

var (
	moveJob = `UPDATE jobs SET ` + forget("$2") + `, state = $2::text, message = $3::text, owner = NULL,
		lease_until = NULL,
		finished_at = CASE WHEN $2::text IN ` + overJobs + ` THEN $4::timestamptz END,
		base_done = CASE $2::text WHEN '` + string(domain.JobPending) + `' THEN done ELSE base_done END,
		base_failed = CASE $2::text WHEN '` + string(domain.JobPending) + `' THEN failed ELSE base_failed END`
	claimJob = `UPDATE jobs SET state = '` + string(domain.JobRunning) + `',
			owner = $2::text, lease_until = $3::timestamptz, started_at = coalesce(started_at, $4::timestamptz)
		WHERE id = (SELECT id FROM jobs WHERE state IN ` + activeJobs + ` AND lane = $1::text ORDER BY created_at, id LIMIT 1
		FOR UPDATE)
		AND (owner IS NULL OR owner = $2::text OR lease_until < $4::timestamptz)
		AND NOT EXISTS (SELECT 1 FROM jobs o WHERE o.lane = $1::text AND o.state IN ` + running + ` AND o.owner <> $2::text
			AND o.lease_until >= $4::timestamptz)
		RETURNING ` + jobColumns
	advanceJob = `UPDATE jobs SET ` + forget("$10") + `, done = done + $2::bigint, skipped = skipped + $3::bigint,
		matched = CASE $4::bigint WHEN 0 THEN matched ELSE $4::bigint END,
		after_topic = CASE WHEN $5::text = '' THEN after_topic ELSE $5::text END,
		after_partition = CASE WHEN $5::text = '' THEN after_partition ELSE $6::int END,
		after_offset = CASE WHEN $5::text = '' THEN after_offset ELSE $7::bigint END,
		lease_until = $8::timestamptz, report = coalesce(nullif($9::text, ''), report),
		state = CASE WHEN $10::text = '' THEN state ELSE $10::text END, message = $11::text,
		finished_at = CASE WHEN $10::text IN ` + overJobs + ` THEN $12::timestamptz ELSE finished_at END
		WHERE id = $1::text AND owner = $13::text AND state IN ` + running + ` RETURNING true`
)

// jobColumns are sqlstore.JobColumns as they are read.
const jobColumns = `id, kind, dry_run, filter, tenants::text, rate, max, max_replays, stop_ratio, comment, caller,
	state, message,
	matched, done, stored, failed, reparsed, skipped, base_done, base_failed, after_topic, after_partition, after_offset,
	report,
	created_at, started_at, finished_at, owner, lease_until`

// CreateJob writes a job down; see ports.JobControl.
func (s *Store) CreateJob(ctx context.Context, j domain.Job, e domain.AuditEntry) (twin string, err error) {
	filter, tenants := sqlstore.EncodeFilter(j.Filter), sqlstore.EncodeScope(j.Tenants)
	created := false
	err = s.change(ctx, "create a job", func(b *pgx.Batch) {
		sql, args := withAudit(
			createJob, e, j.ID, string(j.Kind), string(j.Kind.Lane(j.DryRun)), j.DryRun, filter, tenants, j.Rate, j.Max,
			j.MaxReplays, j.StopRatio, j.Comment, j.Caller, string(j.State), sqlstore.EncodeMessage(j.Message), j.Matched,
			j.CreatedAt, timestamptz(j.FinishedAt),
		)
		b.Queue(sql, args...).Query(one(&created))
		if e := j.Erasure; e != nil {
			subjects := make([][]byte, len(e.Subjects))
			for i := range e.Subjects {
				subjects[i] = e.Subjects[i][:]
			}
			b.Queue(orderErasure, j.ID, subjects, sqlstore.EncodeScope(e.Tenants), e.At)
		}
	})
	if err != nil || created {
		return "", err
	}
	err = s.query(
		ctx,
		"find the job that does the same",
		twinOf,
		[]any{string(j.Kind), filter, tenants, j.ID},
		func(rows pgx.Rows) error {
			twin, err = pgx.CollectExactlyOneRow(rows, pgx.RowTo[string])
			return err
		},
	)
	return twin, err
}

// jobs reads rows of the table.
func (s *Store) jobs(ctx context.Context, tail string, args ...any) (out []domain.Job, err error) {
	err = s.query(ctx, "look for jobs", `SELECT `+jobColumns+` FROM jobs `+tail, args, func(rows pgx.Rows) (err error) {
		out, err = pgx.CollectRows(rows, scanJob)
		return err
	})
	return out, err
}

// Job finds one; see ports.JobReader.
func (s *Store) Job(ctx context.Context, scope domain.Scope, id string) (domain.Job, bool, error) {
	w := dialect.Where(id)
	w.Add("id = $1::text")
	w.Owned(scope)
	found, err := s.jobs(ctx, "WHERE "+w.String(), w.Args...)
	if err != nil || len(found) == 0 {
		return domain.Job{}, false, err
	}
	return found[0], true, nil
}

// Jobs lists them; see ports.JobReader.
func (s *Store) Jobs(ctx context.Context, scope domain.Scope) ([]domain.Job, error) {
	w := dialect.Where()
	w.Owned(scope)
	return s.jobs(ctx, "WHERE "+w.String()+" ORDER BY created_at DESC, id LIMIT 100", w.Args...)
}

// MoveJob changes a job's state; see ports.JobControl.
func (s *Store) MoveJob(
	ctx context.Context, scope domain.Scope, id string, m domain.JobMove, message domain.Message, at time.Time,
	e domain.AuditEntry,
) (moved bool, err error) {
	w := dialect.Where(id, string(m.To()), sqlstore.EncodeMessage(message), at)
	w.Add("id = $1::text AND state IN " + sqlstore.InList(m.From()))
	w.Owned(scope)
	sql, args := withAudit(moveJob+" WHERE "+w.String()+" RETURNING true", e, w.Args...)
	err = s.change(ctx, "change a job", func(b *pgx.Batch) { b.Queue(sql, args...).Query(one(&moved)) })
	return moved, err
}

// ClaimJob takes a job; see ports.JobQueue.
func (s *Store) ClaimJob(
	ctx context.Context, lane domain.Lane, owner string, at, until time.Time,
) (domain.Job, bool, error) {
	var found []domain.Job
	err := s.change(ctx, "take up a job", func(b *pgx.Batch) {
		b.Queue(claimJob, string(lane), owner, until, at).Query(func(rows pgx.Rows) (err error) {
			found, err = pgx.CollectRows(rows, scanJob)
			return err
		})
	})
	if err != nil || len(found) == 0 {
		return domain.Job{}, false, err
	}
	return found[0], true, nil
}

// AdvanceJob writes down what was done of a job; see ports.JobQueue.
func (s *Store) AdvanceJob(ctx context.Context, step domain.JobStep) (j domain.Job, err error) {
	err = s.change(ctx, "write down what a job has done", func(b *pgx.Batch) { queueStep(b, step, &j) })
	return j, err
}

// queueStep moves a job, and reads it as it then is.
func queueStep(b *pgx.Batch, step domain.JobStep, j *domain.Job) {
	sql, args := withAudit(advanceJob, step.Audit, step.Job, step.Done, step.Skipped, step.Matched, step.After.Topic,
		step.After.Partition, step.After.Offset, step.LeaseUntil, sqlstore.EncodeReport(step.Report), string(step.State),
		sqlstore.EncodeMessage(step.Message), step.At, step.Owner)
	b.Queue(sql, args...)
	b.Queue(`SELECT `+jobColumns+` FROM jobs WHERE id = $1::text`, step.Job).Query(func(rows pgx.Rows) (err error) {
		*j, err = pgx.CollectExactlyOneRow(rows, scanJob)
		return err
	})
}

// scanJob reads a row of jobColumns.
func scanJob(row pgx.CollectableRow) (j domain.Job, err error) {
	var t sqlstore.JobTexts
	var tenants, report, owner pgtype.Text
	var created time.Time
	var started, finished, lease pgtype.Timestamptz
	if err := row.Scan(
		&j.ID, &j.Kind, &j.DryRun, &t.Filter, &tenants, &j.Rate, &j.Max, &j.MaxReplays, &j.StopRatio, &j.Comment, &j.Caller,
		&j.State, &t.Message, &j.Matched, &j.Done, &j.Stored, &j.Failed, &j.Reparsed, &j.Skipped, &j.BaseDone,
		&j.BaseFailed, &j.After.Topic, &j.After.Partition, &j.After.Offset, &report, &created, &started, &finished, &owner,
		&lease,
	); err != nil {
		return j, err
	}
	j.Owner, j.CreatedAt, j.StartedAt = owner.String, created.UTC(), instant(started)
	j.FinishedAt, j.LeaseUntil = instant(finished), instant(lease)
	t.Tenants, t.Report = tenants.String, report.String
	return j, t.Into(&j)
}
