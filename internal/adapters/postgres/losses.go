package postgres

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/docket-project/docket/internal/domain"
)

// NoteLoss writes down what is gone from the log; see ports.LossNotes.
func (s *Store) NoteLoss(ctx context.Context, l domain.Loss) error {
	return s.change(ctx, "note a loss", func(b *pgx.Batch) {
		b.Queue(`INSERT INTO log_losses (accepted_at, caller, consumer_group, topic, partition, first_offset, last_offset)
			VALUES ($1::timestamptz, $2::text, $3::text, $4::text, $5::int, $6::bigint, $7::bigint)
			ON CONFLICT (topic, partition, consumer_group, first_offset, last_offset, caller) DO UPDATE SET
				accepted_at = greatest(log_losses.accepted_at, excluded.accepted_at)`,
			l.At, l.Caller, l.Group, l.Topic, l.Partition, l.First, l.Last)
	})
}

// LogLosses are those of a partition; see ports.LossReader.
func (s *Store) LogLosses(ctx context.Context, topic string, partition int32) (losses []domain.Loss, err error) {
	err = s.query(
		ctx, "read the losses of the log",
		`SELECT accepted_at, caller, consumer_group, topic, partition, first_offset, last_offset FROM log_losses
		WHERE topic = $1::text AND partition = $2::int ORDER BY accepted_at DESC LIMIT 1000`, []any{topic, partition},
		func(rows pgx.Rows) (err error) {
			losses, err = pgx.CollectRows(rows, pgx.RowToStructByPos[domain.Loss])
			return err
		},
	)
	return losses, err
}
