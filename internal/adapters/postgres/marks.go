package postgres

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/docket-project/docket/internal/domain"
)

// timeline names the history of the database: its cluster, and the timeline, which is a new one after every failover
// and every restore to a point in time (PostgreSQL's documentation, "Timelines"). By default any role may ask for both.
const timeline = `CASE WHEN pg_is_in_recovery() THEN NULL ELSE left(pg_walfile_name(pg_current_wal_lsn()), 8) || '/' ||
	(SELECT system_identifier FROM pg_control_system()) END`

// history is the SQL that names the database's history. Servers that only speak like PostgreSQL do not know timelines,
// and some do not let everybody ask.
func (s *Store) history(ctx context.Context) (string, error) {
	if known := s.timeline.Load(); known != nil {
		return *known, nil
	}
	expression := timeline
	err := s.change(ctx, "ask for the timeline", func(b *pgx.Batch) { b.Queue(`SELECT ` + timeline) })
	if err != nil {
		if !tellsNone(err) {
			return "", err
		}
		expression = `''`
		s.opts.Log.Warn(
			"the database does not tell its timeline: after a failover, what was saved in the last second may be missing. Let "+
				"docket's account execute pg_control_system and pg_walfile_name", "error", err,
		)
	}
	s.timeline.Store(&expression)
	return expression, nil
}

// tellsNone says that the server does not know what a timeline is, or does not let this account ask: a missing right,
// function or feature.
func tellsNone(err error) bool {
	switch domain.CodeOf(err) {
	case "42501", "42883", "0A000":
		return true
	default:
		return false
	}
}

// LogMarks are a group's marks, and the history of the database; see ports.LogMarks.
func (s *Store) LogMarks(ctx context.Context, group string) (marks []domain.Mark, history string, err error) {
	expression, err := s.history(ctx)
	if err != nil {
		return nil, "", err
	}
	conn, err := s.acquire(ctx) // of the primary: a standby may be behind
	if err != nil {
		return nil, "", s.settle("read the log's marks", nil, err)
	}
	defer conn.Release()
	var now *string
	err = s.inTx(ctx, conn.Conn(), beginReadOnly, func(b *pgx.Batch) {
		b.Queue(`SELECT consumer_group, topic, topic_id, partition, next_offset FROM log_marks
			WHERE consumer_group = $1::text`, group).Query(func(rows pgx.Rows) (err error) {
			marks, err = pgx.CollectRows(rows, pgx.RowToStructByPos[domain.Mark])
			return err
		})
		b.Queue(`SELECT ` + expression).QueryRow(func(row pgx.Row) error { return row.Scan(&now) })
	})
	if err != nil {
		return nil, "", s.asked(s.settle("read the log's marks", conn.Conn(), err))
	}
	if now == nil { // behind a pooler, which may have turned to it meanwhile
		return nil, "", domain.Errorf(domain.Unavailable, "read the log's marks: the server is a standby")
	}
	return marks, *now, nil
}

// asked has the server be asked again whether it tells its timeline, where it no longer does.
func (s *Store) asked(err error) error {
	if tellsNone(err) {
		s.timeline.Store(nil)
	}
	return err
}

// AdvanceLogMarks moves marks on, all or none; see ports.LogMarks.
func (s *Store) AdvanceLogMarks(ctx context.Context, steps []domain.MarkStep) (advanced bool, err error) {
	history, err := s.history(ctx)
	if err != nil {
		return false, err
	}
	advance := `WITH step AS (SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::int[], $5::bigint[],
			$6::bigint[], $7::text[]) AS u(consumer_group, topic, topic_id, partition, next_offset, before, history)),
		store AS MATERIALIZED (SELECT ` + history + ` AS history),
		known AS (SELECT NOT EXISTS (
			SELECT 1 FROM step CROSS JOIN store LEFT JOIN log_marks m USING (consumer_group, topic, topic_id, partition)
			WHERE coalesce(m.next_offset, 0) < step.before
				OR step.history <> '' AND store.history <> '' AND step.history <> store.history) AS ok),
		written AS (INSERT INTO log_marks AS m (consumer_group, topic, topic_id, partition, next_offset)
			SELECT consumer_group, topic, topic_id, partition, next_offset FROM step WHERE (SELECT ok FROM known)
			ORDER BY consumer_group, topic, topic_id, partition
			ON CONFLICT (consumer_group, topic, topic_id, partition) DO UPDATE SET
				next_offset = excluded.next_offset, marked_at = now() WHERE m.next_offset < excluded.next_offset)
		SELECT ok FROM known`
	groups, topics, ids, partitions, offsets := columnsOfMarks(steps)
	before, histories := make([]int64, len(steps)), make([]string, len(steps))
	for i, step := range steps {
		before[i], histories[i] = step.Before, step.History
	}
	err = s.change(ctx, "write the log's marks", func(b *pgx.Batch) {
		b.Queue(advance, groups, topics, ids, partitions, offsets, before, histories).QueryRow(func(row pgx.Row) error {
			return row.Scan(&advanced)
		})
	})
	return advanced, s.asked(err)
}

// SetLogMarks moves marks anywhere; see ports.LogMarks.
func (s *Store) SetLogMarks(ctx context.Context, marks []domain.Mark) error {
	const set = `INSERT INTO log_marks (consumer_group, topic, topic_id, partition, next_offset)
		SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::int[], $5::bigint[])
		ON CONFLICT (consumer_group, topic, topic_id, partition) DO UPDATE SET
			next_offset = excluded.next_offset, marked_at = now()`
	steps := make([]domain.MarkStep, len(marks))
	for i, m := range marks {
		steps[i].Mark = m
	}
	groups, topics, ids, partitions, offsets := columnsOfMarks(steps)
	return s.change(ctx, "write the log's marks", func(b *pgx.Batch) {
		b.Queue(set, groups, topics, ids, partitions, offsets)
	})
}

func columnsOfMarks(steps []domain.MarkStep) (groups, topics, ids []string, partitions []int32, offsets []int64) {
	for _, m := range steps {
		groups, topics, ids = append(groups, m.Group), append(topics, m.Topic), append(ids, m.TopicID)
		partitions, offsets = append(partitions, m.Partition), append(offsets, m.Offset)
	}
	return groups, topics, ids, partitions, offsets
}
