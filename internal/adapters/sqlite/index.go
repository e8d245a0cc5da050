package sqlite

import (
	"context"
	"database/sql"
	"errors"

	"github.com/docket-project/docket/internal/adapters/sqlstore"
	"github.com/docket-project/docket/internal/domain"
)

// anyDeadState names every state, for the index that begins with it.
var anyDeadState = sqlstore.InList(domain.DeadStates)

// indexDeadLetter takes in a dead letter.
var indexDeadLetter = `INSERT INTO dead_letters AS d (` + sqlstore.DeadLetterColumns + `) VALUES (` +
	placeholders(sqlstore.Columns(sqlstore.DeadLetterColumns)) + `)` + dialect.WhereKnown()

// The row of a dead letter, wherever it is.
const hasRow = `(EXISTS (SELECT 1 FROM decisions x WHERE x.decision_id = d.decision_id AND x.tenant = d.tenant
	AND x.timestamp = d.timestamp AND x.sha256 = d.sha256)
	OR EXISTS (SELECT 1 FROM decisions_out_of_window x WHERE x.decision_id = d.decision_id AND x.tenant = d.tenant
	AND x.sha256 = d.sha256))`

// IndexDeadLetters takes in dead letters; see ports.DeadLetterIndex.
func (s *Store) IndexDeadLetters(ctx context.Context, letters []domain.DeadLetter) error {
	err := s.inTx(ctx, func(tx *sql.Tx) error {
		now := s.opts.Now().UnixMicro()
		insert, err := tx.Prepare(indexDeadLetter)
		if err != nil {
			return err
		}
		defer insert.Close()
		failed := map[string]int64{}
		for _, l := range domain.FoldDeadLetters(letters) {
			if err := ctx.Err(); err != nil {
				return err
			}
			// What stands there with other bytes is of a topic that was made anew.
			if _, err := tx.Exec(
				`DELETE FROM dead_letters WHERE id = ? AND (sha256, tenant, class) <> (?, ?, ?)`, l.ID, l.SHA256[:], l.Tenant,
				string(l.Class),
			); err != nil {
				return err
			}
			if taken, err := placeTaken(tx, l); err != nil || taken {
				if err != nil {
					return err
				}
				continue
			}
			var replay sql.NullString
			var changed int64
			err := insert.QueryRow(deadValues(l, now)...).Scan(&replay, &changed)
			if err != nil && !errors.Is(err, sql.ErrNoRows) {
				return err
			}
			if replay.Valid && changed == now {
				failed[replay.String]++
			}
			err = closeOne(tx, now, `sha256 = ? AND tenant = ? AND class = ?`, l.SHA256[:], l.Tenant, string(l.Class))
			if err != nil && !errors.Is(err, sql.ErrNoRows) {
				return err
			}
		}
		for job, n := range failed {
			if _, err := tx.Exec(`UPDATE jobs SET failed = failed + ? WHERE id = ?`, n, job); err != nil {
				return err
			}
		}
		return nil
	})
	return s.checked("index dead letters in "+storeFile, err)
}

// placeTaken reports that what failed in another class after a replay has taken a dead letter's place. One that comes
// back from a replay takes those of the same bytes.
func placeTaken(tx *sql.Tx, l domain.DeadLetter) (taken bool, err error) {
	const same = `sha256 = ? AND tenant = ? AND class <> ?`
	died := l.DiedAt.UnixMicro()
	if l.Replay != "" {
		_, err = tx.Exec(
			`DELETE FROM dead_letters WHERE `+same+` AND died_at < ? AND state IN ('open', 'replayed')`, l.SHA256[:], l.Tenant,
			string(l.Class), died,
		)
		if err != nil {
			return false, err
		}
	}
	err = tx.QueryRow(
		`SELECT EXISTS (SELECT 1 FROM dead_letters WHERE `+same+` AND replay IS NOT NULL AND died_at > ?)`, l.SHA256[:],
		l.Tenant, string(l.Class), died,
	).Scan(&taken)
	return taken, err
}

// deadValues are a dead letter's, in the order of sqlstore.DeadLetterColumns.
func deadValues(l domain.DeadLetter, now int64) []any {
	return []any{
		l.ID, l.Topic, l.Partition, l.Offset, string(domain.DeadOpen), string(l.Class), text(l.Code), string(l.Cause),
		text(l.Error), text(l.Text), l.Fingerprint, l.Attempts, l.Tenant, text(l.DecisionID), text(l.Path),
		micros(l.Timestamp), l.Decision, l.Whole, l.SHA256[:], l.Bytes, text(l.Upload), text(l.Origin), micros(l.ReceivedAt),
		micros(l.FirstFailedAt), l.DiedAt.UnixMicro(), now, now, l.Copies, text(l.Replay), l.Replays,
	}
}

// closeOne closes a dead letter whose row exists with the same bytes, or returns sql.ErrNoRows. The count of a job's
// stored dead letters follows only what it has replayed.
func closeOne(tx *sql.Tx, now int64, which string, args ...any) error {
	var id, state string
	var replay sql.NullString
	err := tx.QueryRow(`SELECT id, state, replay FROM dead_letters AS d WHERE `+which+
		` AND state IN ('open', 'replayed') AND decision AND `+hasRow, args...).Scan(&id, &state, &replay)
	if err != nil {
		return err
	}
	if _, err := tx.Exec(`UPDATE dead_letters SET state = 'stored', changed_at = ? WHERE id = ?`, now, id); err != nil {
		return err
	}
	if state != string(domain.DeadReplayed) || !replay.Valid {
		return nil
	}
	_, err = tx.Exec(`UPDATE jobs SET stored = stored + 1 WHERE id = ?`, replay.String)
	return err
}

// CloseStored closes the next dead letters in a state that have a row; see ports.DeadLetterIndex.
func (s *Store) CloseStored(
	ctx context.Context, state domain.DeadState, after domain.Position, limit int,
) (closed int, next domain.Position, err error) {
	w := dialect.Where()
	w.Add("decision AND state = " + w.Param(sqlstore.Text, string(state)))
	tail := w.NextPositions(after, limit)
	candidates, err := s.deadLetters(ctx, tail, w.Args...)
	if err != nil || len(candidates) == 0 {
		return 0, domain.Position{}, err
	}
	err = s.inTx(ctx, func(tx *sql.Tx) error {
		for _, l := range candidates {
			switch err := closeOne(tx, s.opts.Now().UnixMicro(), `id = ?`, l.ID); {
			case err == nil:
				closed++
			case !errors.Is(err, sql.ErrNoRows):
				return err
			}
		}
		return nil
	})
	if len(candidates) == limit {
		next = candidates[limit-1].Position
	}
	return closed, next, s.checked("close dead letters in "+storeFile, err)
}

// ForgetDeadLetters removes what has fallen off the log; see ports.DeadLetterIndex.
func (s *Store) ForgetDeadLetters(
	ctx context.Context, topic string, partition int32, oldest int64,
) (map[domain.DeadState]int64, error) {
	gone := map[domain.DeadState]int64{}
	const step = 1000
	for removed := step; removed == step; {
		removed = 0
		err := s.inTx(ctx, func(tx *sql.Tx) error {
			rows, err := tx.Query(
				`DELETE FROM dead_letters WHERE id IN (SELECT id FROM dead_letters WHERE state IN `+anyDeadState+`
				AND topic = ? AND partition = ? AND "offset" < ? LIMIT ?) RETURNING state`, topic, partition, oldest, step,
			)
			if err != nil {
				return err
			}
			defer rows.Close()
			for rows.Next() {
				var state domain.DeadState
				if err := rows.Scan(&state); err != nil {
					return err
				}
				removed++
				gone[state]++
			}
			return rows.Err()
		})
		if err != nil {
			return gone, s.checked("forget dead letters in "+storeFile, err)
		}
	}
	return gone, nil
}
