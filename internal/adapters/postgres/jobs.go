package postgres

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/docket-project/docket/internal/domain"
)

const (
	jobColumns = `id, kind, dry_run, filter, rate, max, max_replays, stop_ratio, reason, who, state, message, matched, done, stored, failed, reparsed, skipped,
		base_done, base_failed, after_topic, after_partition, after_offset, report, created_at, started_at, finished_at, owner, lease_until`
	// audited writes an entry down for every row of a change, which is one or none.
	audited = `audit AS (INSERT INTO audit (at, who, action, target, filter, matched, done, failed, reason, outcome)
		SELECT E::timestamptz, E::text, E::text, E::text, E::text, E::bigint, E::bigint, E::bigint, E::text, E::text FROM changed WHERE E::text <> '')`
	createJob = `INSERT INTO replays (` + jobColumns + `) VALUES ($1::text, $2::text, $3::boolean, $4::text, $5::double precision, $6::bigint, $7::int,
		$8::double precision, $9::text, $10::text, $11::text, $12::text, $13::bigint, 0, 0, 0, 0, 0, 0, 0, '', 0, 0, NULL, $14::timestamptz, NULL, $15::timestamptz, NULL, NULL)
		ON CONFLICT DO NOTHING RETURNING true`
	moveJob = `UPDATE replays SET state = $2::text, message = $3::text, owner = NULL, lease_until = NULL,
		finished_at = CASE WHEN $2::text IN ('canceled', 'failed', 'done') THEN $4::timestamptz END,
		base_done = CASE $2::text WHEN 'pending' THEN done ELSE base_done END, base_failed = CASE $2::text WHEN 'pending' THEN failed ELSE base_failed END WHERE id = $1::text AND state = ANY($5::text[]) RETURNING true`
	claimJob = `UPDATE replays SET state = 'running', owner = $2::text, lease_until = $3::timestamptz, started_at = coalesce(started_at, $4::timestamptz)
		WHERE id = (SELECT id FROM replays WHERE state IN ('pending', 'running') AND dry_run = $1::boolean ORDER BY created_at, id LIMIT 1 FOR UPDATE)
		AND (owner IS NULL OR owner = $2::text OR lease_until < $4::timestamptz)
		AND NOT EXISTS (SELECT 1 FROM replays o WHERE o.dry_run = $1::boolean AND o.state = 'running' AND o.owner <> $2::text AND o.lease_until >= $4::timestamptz)
		RETURNING ` + jobColumns
	// A dead letter that is stored by now stays so, and the job knows it. One that has come back meanwhile has another place.
	moveLetters = `WITH moved AS (UPDATE dead_letters d SET state = CASE WHEN d.state = 'stored' OR p.stored THEN 'stored' ELSE $5::text END, replay = $1::text,
			replays = d.replays + CASE WHEN $5::text = 'replayed' THEN 1 ELSE 0 END, changed_at = $6::timestamptz
		FROM unnest($2::text[], $3::int[], $4::bigint[], $8::boolean[]) AS p(topic, partition, "offset", stored)
		WHERE d.state = ANY($7::text[]) AND (d.topic, d.partition, d."offset") = (p.topic, p.partition, p."offset") RETURNING d.state)
		UPDATE replays SET done = done + cardinality($2::text[]), stored = stored + (SELECT count(*) FROM moved WHERE state = 'stored'), reparsed = reparsed + $10::bigint
			WHERE id = $1::text AND (owner IS NULL OR owner = $9::text)`
	failLetters = `WITH failed AS (UPDATE dead_letters d SET replay = $1::text, replays = d.replays + 1, changed_at = $5::timestamptz
		FROM unnest($2::text[], $3::int[], $4::bigint[]) AS p(topic, partition, "offset")
		WHERE d.state = ANY($6::text[]) AND (d.topic, d.partition, d."offset") = (p.topic, p.partition, p."offset"))
		UPDATE replays SET done = done + cardinality($2::text[]), failed = failed + cardinality($2::text[]) WHERE id = $1::text AND (owner IS NULL OR owner = $7::text)`
	advanceJob = `UPDATE replays SET skipped = skipped + $3::bigint, done = done + $2::bigint,
		matched = CASE $13::bigint WHEN 0 THEN matched ELSE $13::bigint END,
		after_topic = CASE WHEN $4::text = '' THEN after_topic ELSE $4::text END, after_partition = CASE WHEN $4::text = '' THEN after_partition ELSE $5::int END,
		after_offset = CASE WHEN $4::text = '' THEN after_offset ELSE $6::bigint END,
		lease_until = $7::timestamptz, report = coalesce(nullif($8::text, ''), report), state = CASE WHEN $9::text = '' THEN state ELSE $9::text END, message = $10::text,
		finished_at = CASE WHEN $9::text IN ('canceled', 'failed', 'done') THEN $11::timestamptz ELSE finished_at END
		WHERE id = $1::text AND owner = $12::text AND state = 'running' RETURNING true`
)

// CreateJob writes a job down; see ports.JobStore.
func (s *Store) CreateJob(ctx context.Context, j domain.Job, e domain.AuditEntry) (created bool, err error) {
	err = s.change(ctx, "create a job", func(b *pgx.Batch) {
		sql, args := withAudit(createJob, e, j.ID, string(j.Kind), j.DryRun, j.Filter.Filter().Encode(), j.Rate, j.Max, j.MaxReplays, j.StopRatio, j.Reason, j.Who, string(j.State),
			j.Message, j.Matched, j.CreatedAt, timestamptz(j.FinishedAt))
		b.Queue(sql, args...).Query(one(&created))
	})
	return created, err
}

// withAudit makes a change of a job, which returns something where it changed, and writes an entry of the audit with it.
func withAudit(change string, e domain.AuditEntry, args ...any) (string, []any) {
	sql := audited
	for _, v := range []any{timestamptz(e.At), e.Who, e.Action, e.Target, e.Filter, e.Matched, e.Done, e.Failed, e.Reason, e.Outcome, e.Action} {
		args = append(args, v)
		sql = strings.Replace(sql, "E::", fmt.Sprintf("$%d::", len(args)), 1)
	}
	return `WITH changed AS (` + change + `), ` + sql + ` SELECT true FROM changed`, args
}

// one reads a truth from a row, if there is one.
func one(into *bool) func(pgx.Rows) error {
	return func(rows pgx.Rows) error {
		_, err := pgx.ForEachRow(rows, []any{into}, func() error { return nil })
		return err
	}
}

// jobs reads rows of the table.
func (s *Store) jobs(ctx context.Context, tail string, args ...any) (out []domain.Job, err error) {
	err = s.query(ctx, "look for jobs", `SELECT `+jobColumns+` FROM replays `+tail, args, func(rows pgx.Rows) (err error) {
		out, err = pgx.CollectRows(rows, scanJob)
		return err
	})
	return out, err
}

// Job finds one; see ports.JobStore.
func (s *Store) Job(ctx context.Context, id string) (domain.Job, bool, error) {
	found, err := s.jobs(ctx, "WHERE id = $1::text", id)
	if err != nil || len(found) == 0 {
		return domain.Job{}, false, err
	}
	return found[0], true, nil
}

// Jobs lists them; see ports.JobStore.
func (s *Store) Jobs(ctx context.Context) ([]domain.Job, error) {
	return s.jobs(ctx, "ORDER BY created_at DESC, id LIMIT 100")
}

// MoveJob changes a job's state; see ports.JobStore.
func (s *Store) MoveJob(ctx context.Context, id string, from []domain.JobState, to domain.JobState, message string, at time.Time, e domain.AuditEntry) (moved bool, err error) {
	states := make([]string, len(from))
	for i, f := range from {
		states[i] = string(f)
	}
	sql, args := withAudit(moveJob, e, id, string(to), message, at, states)
	err = s.change(ctx, "change a job", func(b *pgx.Batch) { b.Queue(sql, args...).Query(one(&moved)) })
	return moved, err
}

// ClaimJob takes a job; see ports.JobStore.
func (s *Store) ClaimJob(ctx context.Context, dryRun bool, owner string, at, until time.Time) (domain.Job, bool, error) {
	var found []domain.Job
	err := s.change(ctx, "take up a job", func(b *pgx.Batch) {
		b.Queue(claimJob, dryRun, owner, until, at).Query(func(rows pgx.Rows) (err error) {
			found, err = pgx.CollectRows(rows, scanJob)
			return err
		})
	})
	if err != nil || len(found) == 0 {
		return domain.Job{}, false, err
	}
	return found[0], true, nil
}

// chosen is what a job's filter chooses: never what is stored, what the job has dealt with, or what died after it was made; and
// for a replay, nothing that was replayed too often.
func (s *Store) chosen(ctx context.Context, j domain.Job) (*condition, error) {
	c, err := s.ofDeadLetters(ctx, j.Filter)
	if err != nil {
		return nil, err
	}
	c.add("state <> 'stored' AND replay IS DISTINCT FROM " + c.arg(j.ID) + "::text AND died_at <= " + c.arg(j.CreatedAt) + "::timestamptz")
	if j.Kind == domain.Replay {
		c.add("replays < " + c.arg(j.MaxReplays) + "::int")
	}
	return c, nil
}

// JobLetters returns what a job is to deal with next; see ports.JobStore.
func (s *Store) JobLetters(ctx context.Context, j domain.Job, limit int) ([]domain.DeadLetter, error) {
	c, err := s.chosen(ctx, j)
	if err != nil {
		return nil, err
	}
	c.add(`(topic, partition, "offset") > (` + c.arg(j.After.Topic) + `::text, ` + c.arg(j.After.Partition) + `::int, ` + c.arg(j.After.Offset) + `::bigint)`)
	tail := `WHERE ` + c.String() + ` ORDER BY topic, partition, "offset" LIMIT ` + c.arg(limit) + `::int`
	return s.deadLetters(ctx, "look for the dead letters of a job", tail, c.args...)
}

// Tallies counts what a job's filter chooses; see ports.JobStore.
func (s *Store) Tallies(ctx context.Context, j domain.Job) (out []domain.Tally, err error) {
	c, err := s.chosen(ctx, j)
	if err != nil {
		return nil, err
	}
	err = s.query(ctx, "count the dead letters of a job", `SELECT reason, coalesce(path, ''), class, coalesce(code, ''), coalesce(error_text, ''), count(*) FROM dead_letters
		WHERE `+c.String()+` GROUP BY 1, 2, 3, 4, 5 ORDER BY 6 DESC, 1, 2 LIMIT 100`, c.args, func(rows pgx.Rows) (err error) {
		out, err = pgx.CollectRows(rows, pgx.RowToStructByPos[domain.Tally])
		return err
	})
	return out, err
}

// CountJob counts what a job's filter chooses; see ports.JobStore.
func (s *Store) CountJob(ctx context.Context, j domain.Job) (n int64, err error) {
	c, err := s.chosen(ctx, j)
	if err != nil {
		return 0, err
	}
	err = s.query(ctx, "count the dead letters of a job", `SELECT count(*) FROM dead_letters WHERE `+c.String(), c.args, func(rows pgx.Rows) (err error) {
		n, err = pgx.CollectExactlyOneRow(rows, pgx.RowTo[int64])
		return err
	})
	return n, err
}

// AdvanceJob writes down what was done of a job; see ports.JobStore.
func (s *Store) AdvanceJob(ctx context.Context, step domain.JobStep) (domain.Job, error) {
	places, stored := make([]domain.Place, len(step.Moved)), make([]bool, len(step.Moved))
	for i, l := range step.Moved {
		places[i] = l.Place
	}
	if step.To == domain.DeadReplayed {
		if err := s.visitStored(ctx, step.Moved, func(i int) { stored[i] = true }); err != nil {
			return domain.Job{}, err
		}
	}
	var job domain.Job
	err := s.change(ctx, "write down what a job has done", func(b *pgx.Batch) {
		b.Queue(inIndexOrder)
		if len(step.Moved) > 0 {
			topics, partitions, offsets := columnsOf(places)
			b.Queue(moveLetters, step.Job, topics, partitions, offsets, string(step.To), step.At, deadStates(), stored, step.Owner, step.Reparsed)
		}
		if len(step.Failed) > 0 {
			topics, partitions, offsets := columnsOf(step.Failed)
			b.Queue(failLetters, step.Job, topics, partitions, offsets, step.At, deadStates(), step.Owner)
		}
		sql, args := withAudit(advanceJob, step.Audit, step.Job, step.Indexed, step.Skipped, step.After.Topic, step.After.Partition, step.After.Offset, step.LeaseUntil, step.Report.String(),
			string(step.State), step.Message, step.At, step.Owner, step.Matched)
		b.Queue(sql, args...)
		b.Queue(`SELECT `+jobColumns+` FROM replays WHERE id = $1::text`, step.Job).Query(func(rows pgx.Rows) (err error) {
			job, err = pgx.CollectExactlyOneRow(rows, scanJob)
			return err
		})
	})
	return job, err
}

func columnsOf(places []domain.Place) (topics []string, partitions []int32, offsets []int64) {
	for _, p := range places {
		topics, partitions, offsets = append(topics, p.Topic), append(partitions, p.Partition), append(offsets, p.Offset)
	}
	return topics, partitions, offsets
}

// scanJob reads a row of jobColumns.
func scanJob(row pgx.CollectableRow) (j domain.Job, err error) {
	var filter string
	var report, owner pgtype.Text
	var created time.Time
	var started, finished, lease pgtype.Timestamptz
	if err := row.Scan(&j.ID, &j.Kind, &j.DryRun, &filter, &j.Rate, &j.Max, &j.MaxReplays, &j.StopRatio, &j.Reason, &j.Who, &j.State, &j.Message, &j.Matched,
		&j.Done, &j.Stored, &j.Failed, &j.Reparsed, &j.Skipped, &j.BaseDone, &j.BaseFailed, &j.After.Topic, &j.After.Partition, &j.After.Offset, &report, &created, &started, &finished,
		&owner, &lease); err != nil {
		return j, err
	}
	j.Owner, j.CreatedAt, j.StartedAt, j.FinishedAt, j.LeaseUntil = owner.String, created.UTC(), instant(started), instant(finished), instant(lease)
	err = j.Restore(filter, report.String)
	return j, err
}

// Audit adds an entry; see ports.AuditLog.
func (s *Store) Audit(ctx context.Context, e domain.AuditEntry) error {
	return s.change(ctx, "write to the audit", func(b *pgx.Batch) {
		b.Queue(`INSERT INTO audit (at, who, action, target, filter, matched, done, failed, reason, outcome)
			VALUES ($1::timestamptz, $2::text, $3::text, $4::text, $5::text, $6::bigint, $7::bigint, $8::bigint, $9::text, $10::text)`,
			e.At, e.Who, e.Action, e.Target, e.Filter, e.Matched, e.Done, e.Failed, e.Reason, e.Outcome)
	})
}

// Audits lists entries; see ports.AuditLog.
func (s *Store) Audits(ctx context.Context, before time.Time, limit int) (out []domain.AuditEntry, err error) {
	err = s.query(ctx, "read the audit", `SELECT at, who, action, target, filter, matched, done, failed, reason, outcome FROM audit
		WHERE $1::timestamptz IS NULL OR at < $1::timestamptz ORDER BY at DESC LIMIT $2::int`, []any{timestamptz(before), limit}, func(rows pgx.Rows) (err error) {
		out, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (e domain.AuditEntry, err error) {
			e, err = pgx.RowToStructByPos[domain.AuditEntry](row)
			e.At = e.At.UTC()
			return e, err
		})
		return err
	})
	return out, err
}
