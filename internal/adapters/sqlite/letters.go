package sqlite

import (
	"context"
	"database/sql"
	"errors"

	"github.com/docket-project/docket/internal/adapters/sqlstore"
	"github.com/docket-project/docket/internal/domain"
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
	return s.deadLetters(ctx, tail, w.Args...)
}

// TallyLettersOfJob counts what a job's filter chooses; see ports.JobLetters.
func (s *Store) TallyLettersOfJob(ctx context.Context, j domain.Job) (out []domain.Tally, err error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	w, err := s.lettersOf(ctx, j)
	if err != nil {
		return nil, err
	}
	query := sqlstore.TallyLetters + w.String() + sqlstore.TallyOrder
	err = s.each(ctx, query, w.Args, func(rows *sql.Rows) error {
		var t domain.Tally
		err := rows.Scan(&t.Cause, &t.Path, &t.Class, &t.Code, &t.Error, &t.Letters)
		out = append(out, t)
		return err
	})
	return out, s.slow(err)
}

// CountLettersOfJob counts what a job's filter chooses; see ports.LetterCounter.
func (s *Store) CountLettersOfJob(ctx context.Context, j domain.Job) (n int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	w, err := s.lettersOf(ctx, j)
	if err != nil {
		return 0, err
	}
	err = s.read.QueryRowContext(ctx, `SELECT count(*) FROM dead_letters WHERE `+w.String(), w.Args...).Scan(&n)
	return n, s.slow(ended(ctx, err))
}

// MoveLetters writes down what a job has done with dead letters; see ports.JobLetters.
func (s *Store) MoveLetters(ctx context.Context, step domain.LetterStep) (j domain.Job, err error) {
	err = s.inTx(ctx, func(tx *sql.Tx) error {
		stored, err := moveLetters(tx, step)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(
			`UPDATE jobs SET done = done + ?, stored = stored + ?, failed = failed + ?, reparsed = reparsed + ?
			WHERE id = ? AND (owner IS NULL OR owner = ?)`,
			len(step.Moved)+len(step.Failed),
			stored,
			len(step.Failed),
			step.Reparsed,
			step.Job,
			step.Owner,
		); err != nil {
			return err
		}
		j, err = advance(ctx, tx, step.JobStep)
		return err
	})
	return j, s.checked("write down what a job has done in "+storeFile, err)
}

// moveLetters changes dead letters as a step says, and counts those that turn out to be stored already. One that has
// come back meanwhile has another position, and stays as it is.
func moveLetters(tx *sql.Tx, step domain.LetterStep) (stored int64, err error) {
	at := step.At.UnixMicro()
	standing := ` WHERE state IN ` + anyDeadState + ` AND topic = ? AND partition = ? AND "offset" = ?`
	move, err := tx.Prepare(
		`UPDATE dead_letters AS d SET state = iif(state = 'stored' OR ? AND decision AND ` + hasRow + `, 'stored', ?),
		replay = ?, replays = replays + ?, changed_at = ?` + standing + ` RETURNING state = 'stored'`,
	)
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
		err := move.QueryRow(
			step.To == domain.DeadReplayed, string(step.To), step.Job, replays, at, p.Topic, p.Partition, p.Offset,
		).Scan(&already)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return 0, err
		}
		if already {
			stored++
		}
	}
	for _, p := range step.Failed {
		if _, err := tx.Exec(
			`UPDATE dead_letters SET replay = ?, replays = replays + 1, changed_at = ?`+standing, step.Job, at, p.Topic,
			p.Partition, p.Offset,
		); err != nil {
			return 0, err
		}
	}
	return stored, nil
}
