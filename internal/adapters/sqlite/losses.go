package sqlite

import (
	"context"
	"database/sql"
	"time"

	"github.com/docket-project/docket/internal/domain"
)

// NoteLoss writes down what is gone from the log; see ports.LossNotes.
func (s *Store) NoteLoss(ctx context.Context, l domain.Loss) error {
	err := s.inTx(ctx, func(tx *sql.Tx) error {
		_, err := tx.Exec(
			`INSERT INTO log_losses (found_at, caller, consumer_group, topic, partition, first_offset, last_offset)
			VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET found_at = max(found_at, excluded.found_at)`,
			l.At.UnixMicro(), l.Caller, l.Group, l.Topic, l.Partition, l.First, l.Last,
		)
		return err
	})
	return s.checked("note a loss in "+storeFile, err)
}

// LogLosses are those of a partition; see ports.LossReader.
func (s *Store) LogLosses(ctx context.Context, topic string, partition int32) (losses []domain.Loss, err error) {
	const query = `SELECT found_at, caller, consumer_group, topic, partition, first_offset, last_offset FROM log_losses
		WHERE topic = ? AND partition = ? ORDER BY found_at DESC LIMIT 1000`
	err = s.each(ctx, query, []any{topic, partition}, func(rows *sql.Rows) error {
		var l domain.Loss
		var at int64
		err := rows.Scan(&at, &l.Caller, &l.Group, &l.Topic, &l.Partition, &l.First, &l.Last)
		l.At = time.UnixMicro(at).UTC()
		losses = append(losses, l)
		return err
	})
	return losses, s.checked("read the losses of the log in "+storeFile, err)
}
