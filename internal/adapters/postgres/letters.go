package postgres

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/docket-project/docket/internal/adapters/sqlstore"
	"github.com/docket-project/docket/internal/domain"
)

const (
	// A dead letter that is stored by now stays so, and the job knows it. One that has come back meanwhile has another
	// position.
	moveLetters = `WITH moved AS (UPDATE dead_letters d SET replay = $1::text,
			state = CASE WHEN d.state = 'stored' OR p.stored THEN 'stored' ELSE $5::text END,
			replays = d.replays + CASE WHEN $5::text = 'replayed' THEN 1 ELSE 0 END, changed_at = $6::timestamptz
		FROM unnest($2::text[], $3::int[], $4::bigint[], $8::boolean[]) AS p(topic, partition, "offset", stored)
		WHERE d.state = ANY($7::text[]) AND (d.topic, d.partition, d."offset") = (p.topic, p.partition, p."offset")
		RETURNING d.state)
		UPDATE jobs SET done = done + cardinality($2::text[]), reparsed = reparsed + $10::bigint,
			stored = stored + (SELECT count(*) FROM moved WHERE state = 'stored')
		WHERE id = $1::text AND (owner IS NULL OR owner = $9::text)`
	failLetters = `WITH failed AS (UPDATE dead_letters d SET replay = $1::text, replays = d.replays + 1,
			changed_at = $5::timestamptz
		FROM unnest($2::text[], $3::int[], $4::bigint[]) AS p(topic, partition, "offset")
		WHERE d.state = ANY($6::text[]) AND (d.topic, d.partition, d."offset") = (p.topic, p.partition, p."offset"))
		UPDATE jobs SET done = done + cardinality($2::text[]), failed = failed + cardinality($2::text[])
		WHERE id = $1::text AND (owner IS NULL OR owner = $7::text)`
)

// lettersOf is what a job has to do with dead letters; see ports.JobLetters.
func (s *Store) lettersOf(ctx context.Context, j domain.Job) (*sqlstore.Where, error) {
	w, err := s.ofDeadLetters(ctx, j.Tenants, j.Filter)
	if err != nil {
		return nil, err
	}
	w.ToDo(j)
	return w, nil
}

// LettersOfJob returns what a job is to deal with next; see ports.JobLetters.
func (s *Store) LettersOfJob(ctx context.Context, j domain.Job, limit int) ([]domain.DeadLetter, error) {
	w, err := s.lettersOf(ctx, j)
	if err != nil {
		return nil, err
	}
	tail := w.NextPositions(j.After, limit)
	return s.deadLetters(ctx, "look for the dead letters of a job", tail, w.Args...)
}

// TallyLettersOfJob counts what a job's filter chooses; see ports.JobLetters.
func (s *Store) TallyLettersOfJob(ctx context.Context, j domain.Job) (out []domain.Tally, err error) {
	w, err := s.lettersOf(ctx, j)
	if err != nil {
		return nil, err
	}
	sql := sqlstore.TallyLetters + w.String() + sqlstore.TallyOrder
	err = s.query(ctx, "count the dead letters of a job", sql, w.Args, func(rows pgx.Rows) (err error) {
		out, err = pgx.CollectRows(rows, pgx.RowToStructByPos[domain.Tally])
		return err
	})
	return out, err
}

// CountLettersOfJob counts what a job's filter chooses; see ports.LetterCounter.
func (s *Store) CountLettersOfJob(ctx context.Context, j domain.Job) (n int64, err error) {
	w, err := s.lettersOf(ctx, j)
	if err != nil {
		return 0, err
	}
	sql := `SELECT count(*) FROM dead_letters WHERE ` + w.String()
	err = s.query(ctx, "count the dead letters of a job", sql, w.Args, func(rows pgx.Rows) (err error) {
		n, err = pgx.CollectExactlyOneRow(rows, pgx.RowTo[int64])
		return err
	})
	return n, err
}

// MoveLetters writes down what a job has done with dead letters; see ports.JobLetters.
func (s *Store) MoveLetters(ctx context.Context, step domain.LetterStep) (j domain.Job, err error) {
	positions, stored := make([]domain.Position, len(step.Moved)), make([]bool, len(step.Moved))
	for i, l := range step.Moved {
		positions[i] = l.Position
	}
	if step.To == domain.DeadReplayed {
		if err := s.visitStored(ctx, step.Moved, func(i int) { stored[i] = true }); err != nil {
			return domain.Job{}, err
		}
	}
	err = s.change(ctx, "write down what a job has done", func(b *pgx.Batch) {
		b.Queue(inIndexOrder)
		if len(step.Moved) > 0 {
			topics, partitions, offsets := columnsOf(positions)
			b.Queue(
				moveLetters, step.Job, topics, partitions, offsets, string(step.To), step.At, deadStates(), stored, step.Owner,
				step.Reparsed,
			)
		}
		if len(step.Failed) > 0 {
			topics, partitions, offsets := columnsOf(step.Failed)
			b.Queue(failLetters, step.Job, topics, partitions, offsets, step.At, deadStates(), step.Owner)
		}
		queueStep(b, step.JobStep, &j)
	})
	return j, err
}

func columnsOf(positions []domain.Position) (topics []string, partitions []int32, offsets []int64) {
	for _, p := range positions {
		topics, partitions, offsets = append(topics, p.Topic), append(partitions, p.Partition), append(offsets, p.Offset)
	}
	return topics, partitions, offsets
}
