package postgres

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// NoteLoss writes down that a person gave up records of the log.
func (s *Store) NoteLoss(
	ctx context.Context, group, topic string, partition int32, first, last int64, caller string,
) error {
	return s.change(ctx, "note a loss", func(b *pgx.Batch) {
		b.Queue(`INSERT INTO log_losses (accepted_at, caller, consumer_group, topic, partition, first_offset, last_offset)
			VALUES ($1::timestamptz, $2::text, $3::text, $4::text, $5::int, $6::bigint, $7::bigint)`, s.opts.Now(), caller,
			group, topic, partition, first, last)
	})
}
