package sqlite

import (
	"context"
	"database/sql"
	"errors"

	"github.com/docket-project/docket/internal/domain"
)

const (
	markOf  = `SELECT next_offset FROM log_marks WHERE consumer_group = ? AND topic = ? AND topic_id = ? AND partition = ?`
	setMark = `INSERT INTO log_marks (consumer_group, topic, topic_id, partition, next_offset) VALUES (?, ?, ?, ?, ?)
		ON CONFLICT DO UPDATE SET next_offset = excluded.next_offset`
)

// LogMarks are a group's marks; see ports.LogMarks. A file cannot tell its history.
func (s *Store) LogMarks(ctx context.Context, group string) (marks []domain.Mark, history string, err error) {
	err = s.each(ctx, `SELECT consumer_group, topic, topic_id, partition, next_offset FROM log_marks
		WHERE consumer_group = ?`, []any{group}, func(rows *sql.Rows) error {
		var m domain.Mark
		err := rows.Scan(&m.Group, &m.Topic, &m.TopicID, &m.Partition, &m.Offset)
		marks = append(marks, m)
		return err
	})
	return marks, "", s.checked("read the log's marks in "+storeFile, err)
}

// errBehind ends a transaction that finds a mark where it was not expected.
var errBehind = errors.New("the store's mark is behind")

// AdvanceLogMarks moves marks on, all or none; see ports.LogMarks.
func (s *Store) AdvanceLogMarks(ctx context.Context, steps []domain.MarkStep) (advanced bool, err error) {
	err = s.inTx(ctx, func(tx *sql.Tx) error {
		for _, step := range steps {
			var at int64
			err := tx.QueryRow(markOf, step.Group, step.Topic, step.TopicID, step.Partition).Scan(&at)
			if err != nil && !errors.Is(err, sql.ErrNoRows) {
				return err
			}
			if at < step.Before {
				return errBehind
			}
			if step.Offset <= at {
				continue
			}
			if _, err := tx.Exec(
				setMark, step.Group, step.Topic, step.TopicID, step.Partition, step.Offset,
			); err != nil {
				return err
			}
		}
		return nil
	})
	if errors.Is(err, errBehind) {
		return false, nil
	}
	return err == nil, s.checked("write the log's marks to "+storeFile, err)
}

// SetLogMarks moves marks anywhere; see ports.LogMarks.
func (s *Store) SetLogMarks(ctx context.Context, marks []domain.Mark) error {
	err := s.inTx(ctx, func(tx *sql.Tx) error {
		for _, m := range marks {
			if _, err := tx.Exec(setMark, m.Group, m.Topic, m.TopicID, m.Partition, m.Offset); err != nil {
				return err
			}
		}
		return nil
	})
	return s.checked("write the log's marks to "+storeFile, err)
}
