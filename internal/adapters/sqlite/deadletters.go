package sqlite

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/docket-project/docket/internal/domain"
)

// deadColumn maps the fields of dead letters to columns.
var deadColumn = map[domain.Field]string{
	domain.FieldID: "id", domain.FieldState: "state", domain.FieldClass: "class", domain.FieldCode: "code", domain.FieldFingerprint: "fingerprint",
	domain.FieldReason: "reason", domain.FieldTenant: "tenant", domain.FieldPath: "path", domain.FieldTopic: "topic",
	domain.FieldDecisionID: "decision_id", domain.FieldReplay: "replay",
}

const deadColumns = `id, topic, partition, "offset", state, class, code, reason, error, error_text, fingerprint, attempts, tenant, decision_id, path, timestamp,
	decision, whole, sha256, bytes, upload, origin, received_at, first_failed_at, died_at, indexed_at, changed_at, copies, replay, replays`

// A record that is known is read again, and everything else is as it was; a copy is behind it.
var (
	isCopy = `(CASE WHEN excluded.topic = d.topic AND excluded.partition = d.partition THEN excluded."offset" > d."offset" ELSE excluded.died_at > d.died_at END)`

	indexDeadLetter = `INSERT INTO dead_letters AS d (` + deadColumns + `) VALUES (` + strings.TrimSuffix(strings.Repeat("?, ", 30), ", ") + `)
		ON CONFLICT (sha256, tenant, class) DO UPDATE SET
		topic = excluded.topic, partition = excluded.partition, "offset" = excluded."offset", code = excluded.code, reason = excluded.reason,
		error = excluded.error, error_text = excluded.error_text, fingerprint = excluded.fingerprint, attempts = excluded.attempts,
		decision_id = excluded.decision_id, path = excluded.path, timestamp = excluded.timestamp, decision = excluded.decision, whole = excluded.whole,
		upload = excluded.upload, origin = excluded.origin, died_at = max(d.died_at, excluded.died_at),
		state = CASE WHEN ` + isCopy + ` AND excluded.replay IS NOT NULL AND d.state <> 'stored' THEN 'open' ELSE d.state END,
		changed_at = CASE WHEN ` + isCopy + ` AND excluded.replay IS NOT NULL AND d.state <> 'stored' THEN excluded.changed_at ELSE d.changed_at END,
		indexed_at = CASE WHEN ` + isCopy + ` THEN excluded.indexed_at ELSE d.indexed_at END,
		copies = CASE WHEN ` + isCopy + ` THEN d.copies + excluded.copies ELSE max(d.copies, excluded.copies) END,
		replay = coalesce(excluded.replay, d.replay), replays = max(d.replays, excluded.replays)
		WHERE ` + isCopy + ` OR (excluded.topic = d.topic AND excluded.partition = d.partition AND excluded."offset" = d."offset")
		RETURNING replay, changed_at`
)

// The row of a dead letter, wherever it is.
const hasRow = `(EXISTS (SELECT 1 FROM decisions x WHERE x.decision_id = d.decision_id AND x.tenant = d.tenant AND x.timestamp = d.timestamp AND x.sha256 = d.sha256)
	OR EXISTS (SELECT 1 FROM decisions_out_of_window x WHERE x.decision_id = d.decision_id AND x.tenant = d.tenant AND x.sha256 = d.sha256))`

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
			if _, err := tx.Exec(`DELETE FROM dead_letters WHERE id = ? AND (sha256, tenant, class) <> (?, ?, ?)`, l.ID, l.SHA256[:], l.Tenant, string(l.Class)); err != nil {
				return err
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
			if err := closeOne(tx, now, `sha256 = ? AND tenant = ? AND class = ?`, l.SHA256[:], l.Tenant, string(l.Class)); err != nil && !errors.Is(err, sql.ErrNoRows) {
				return err
			}
		}
		for job, n := range failed {
			if _, err := tx.Exec(`UPDATE replays SET failed = failed + ? WHERE id = ?`, n, job); err != nil {
				return err
			}
		}
		return nil
	})
	return s.checked("index dead letters in "+storeFile, err)
}

// deadValues are a dead letter's, in the order of deadColumns.
func deadValues(l domain.DeadLetter, now int64) []any {
	return []any{
		l.ID, l.Topic, l.Partition, l.Offset, string(domain.DeadOpen), string(l.Class), text(l.Code), string(l.Reason), text(l.Error), text(l.Text), l.Fingerprint,
		l.Attempts, l.Tenant, text(l.DecisionID), text(l.Path), micros(l.Timestamp), l.Decision, l.Whole, l.SHA256[:], l.Bytes, text(l.Upload), text(l.Origin),
		micros(l.ReceivedAt), micros(l.FirstFailedAt), l.DiedAt.UnixMicro(), now, now, l.Copies, text(l.Replay), l.Replays,
	}
}

// closeOne closes a dead letter whose row exists with the same bytes, or returns sql.ErrNoRows. The count of a job's stored dead
// letters follows only what it has replayed.
func closeOne(tx *sql.Tx, now int64, which string, args ...any) error {
	var id, state string
	var replay sql.NullString
	if err := tx.QueryRow(`SELECT id, state, replay FROM dead_letters AS d WHERE `+which+` AND state IN ('open', 'replayed') AND decision AND `+hasRow, args...).
		Scan(&id, &state, &replay); err != nil {
		return err
	}
	if _, err := tx.Exec(`UPDATE dead_letters SET state = 'stored', changed_at = ? WHERE id = ?`, now, id); err != nil {
		return err
	}
	if state != string(domain.DeadReplayed) || !replay.Valid {
		return nil
	}
	_, err := tx.Exec(`UPDATE replays SET stored = stored + 1 WHERE id = ?`, replay.String)
	return err
}

// CloseStored closes the next dead letters in a state that have a row; see ports.DeadLetterIndex.
func (s *Store) CloseStored(ctx context.Context, state domain.DeadState, after domain.Place, limit int) (closed int, next domain.Place, err error) {
	candidates, err := s.deadLetters(ctx, `WHERE state = ? AND decision AND (topic, partition, "offset") > (?, ?, ?) ORDER BY topic, partition, "offset" LIMIT ?`,
		string(state), after.Topic, after.Partition, after.Offset, limit)
	if err != nil || len(candidates) == 0 {
		return 0, domain.Place{}, err
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
		next = candidates[limit-1].Place
	}
	return closed, next, s.checked("close dead letters in "+storeFile, err)
}

// ForgetDeadLetters removes what has fallen off the log; see ports.DeadLetterIndex.
func (s *Store) ForgetDeadLetters(ctx context.Context, topic string, partition int32, oldest int64) (map[domain.DeadState]int64, error) {
	gone := map[domain.DeadState]int64{}
	const step = 1000
	for removed := step; removed == step; {
		removed = 0
		err := s.inTx(ctx, func(tx *sql.Tx) error {
			rows, err := tx.Query(`DELETE FROM dead_letters WHERE id IN (SELECT id FROM dead_letters WHERE state IN ('open', 'replayed', 'discarded', 'stored')
				AND topic = ? AND partition = ? AND "offset" < ? LIMIT 1000) RETURNING state`, topic, partition, oldest)
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

// rare is how many dead letters are worth finding by their fingerprints: of more, the newest are soon met.
const rare = 50_000

// ofDeadLetters is what a query wants of the index. What a fingerprint stands for is looked up in the counts first: a path that
// is rare among a million dead letters is found by its fingerprints.
func (s *Store) ofDeadLetters(ctx context.Context, q domain.Query) (c condition, err error) {
	c.within("died_at", q)
	c.terms(deadColumn, q.Terms)
	byFingerprint := domain.TermsOf(q.Terms, domain.CountedFields...)
	if len(byFingerprint) == 0 {
		return c, nil
	}
	var counts condition
	counts.terms(deadColumn, byFingerprint)
	var fingerprints []any
	total := int64(0)
	err = s.each(ctx, `SELECT fingerprint, sum(letters) FROM dead_letter_counts WHERE `+counts.String()+` GROUP BY fingerprint HAVING sum(letters) > 0 LIMIT 201`, counts.args,
		func(rows *sql.Rows) error {
			var fingerprint string
			var n int64
			err := rows.Scan(&fingerprint, &n)
			fingerprints, total = append(fingerprints, fingerprint), total+n
			return err
		})
	if err == nil && len(fingerprints) <= 200 && total <= rare {
		c.add("fingerprint IN ("+strings.TrimSuffix(strings.Repeat("?, ", len(fingerprints)), ", ")+")", fingerprints...)
	}
	return c, s.slow(err)
}

// deadLetters reads rows of the index.
func (s *Store) deadLetters(ctx context.Context, tail string, args ...any) (out []domain.DeadLetter, err error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	err = s.each(ctx, `SELECT `+deadColumns+` FROM dead_letters `+tail, args, func(rows *sql.Rows) error {
		l, err := scanDeadLetter(rows)
		out = append(out, l)
		return err
	})
	return out, s.slow(err)
}

// DeadLetters returns one page; see ports.DeadLetterIndex.
func (s *Store) DeadLetters(ctx context.Context, q domain.Query) (page domain.DeadPage, err error) {
	c, err := s.ofDeadLetters(ctx, q)
	if err != nil {
		return page, err
	}
	if a := q.After; a != nil {
		c.add("(died_at, id) < (?, ?)", a.Time.UnixMicro(), a.ID)
	}
	page.Items, err = s.deadLetters(ctx, "WHERE "+c.String()+" ORDER BY died_at DESC, id DESC LIMIT ?", append(c.args, q.Limit+1)...)
	if len(page.Items) > q.Limit {
		page.Items = page.Items[:q.Limit]
		last := page.Items[q.Limit-1]
		page.Next = &domain.Cursor{Time: last.DiedAt, ID: last.ID}
	}
	return page, err
}

// DeadLetter finds one; see ports.DeadLetterIndex.
func (s *Store) DeadLetter(ctx context.Context, id string) (domain.DeadLetter, bool, error) {
	found, err := s.deadLetters(ctx, "WHERE id = ?", id)
	if p, bad := domain.ParsePlace(id); err == nil && len(found) == 0 && bad == nil {
		found, err = s.deadLetters(ctx, `WHERE state IN ('open', 'replayed', 'discarded', 'stored') AND topic = ? AND partition = ? AND "offset" = ?`, p.Topic, p.Partition, p.Offset)
	}
	if err != nil || len(found) == 0 {
		return domain.DeadLetter{}, false, err
	}
	return found[0], true, nil
}

// DeadLettersOf returns those of a decision; see ports.DeadLetterIndex.
func (s *Store) DeadLettersOf(ctx context.Context, decisionID string) ([]domain.DeadLetter, error) {
	return s.deadLetters(ctx, "WHERE decision_id = ? ORDER BY died_at DESC, id DESC LIMIT 1000", decisionID)
}

// CountDeadLetters counts by state; see ports.DeadLetterIndex.
func (s *Store) CountDeadLetters(ctx context.Context, q domain.Query) (map[domain.DeadState]int64, error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	c, err := s.ofDeadLetters(ctx, q)
	if err != nil {
		return nil, err
	}
	query := `SELECT state, count(*) FROM dead_letters WHERE ` + c.String() + ` GROUP BY state`
	if q.Countable() {
		query = `SELECT state, sum(letters) FROM dead_letter_counts WHERE ` + c.String() + ` GROUP BY state HAVING sum(letters) > 0`
	}
	out := map[domain.DeadState]int64{}
	err = s.each(ctx, query, c.args, func(rows *sql.Rows) error {
		var state domain.DeadState
		var n int64
		err := rows.Scan(&state, &n)
		out[state] = n
		return err
	})
	return out, s.slow(err)
}

// DeadGroups returns the groups; see ports.DeadLetterIndex.
func (s *Store) DeadGroups(ctx context.Context, q domain.Query) ([]domain.DeadGroup, error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	var c, inState, having, sample condition
	c.terms(deadColumn, domain.TermsOf(q.Terms, domain.CountedFields...))
	inState.terms(deadColumn, domain.TermsOf(q.Terms, domain.FieldState)) // which chooses groups, and does not hide their others
	sample.terms(deadColumn, domain.TermsOf(q.Terms, domain.FieldTenant, domain.FieldTopic))
	having.add("sum(iif("+inState.String()+", letters, 0)) > 0", inState.args...)
	if !q.Since.IsZero() {
		having.add("max(last_at) >= ?", q.Since.UnixMicro())
	}
	if !q.Until.IsZero() {
		having.add("min(first_at) < ?", q.Until.UnixMicro())
	}
	sum := func(state domain.DeadState) string { return fmt.Sprintf("sum(iif(state = '%s', letters, 0))", state) }
	query := `SELECT g.*, coalesce((SELECT id FROM dead_letters d WHERE d.fingerprint = g.fingerprint AND ` + sample.String() + ` ORDER BY died_at DESC LIMIT 1), '') FROM (
		SELECT fingerprint, min(class), coalesce(min(code), ''), min(reason), coalesce(min(error_text), ''), coalesce(min(path), ''), ` +
		sum(domain.DeadOpen) + ` AS open, ` + sum(domain.DeadReplayed) + `, ` + sum(domain.DeadDiscarded) + `, ` + sum(domain.DeadStored) + `,
		min(first_at), max(last_at) FROM dead_letter_counts WHERE ` + c.String() + ` GROUP BY fingerprint HAVING ` + having.String() + `
		ORDER BY open DESC, sum(letters) DESC, fingerprint LIMIT ` + fmt.Sprint(domain.MaxGroups) + `) g`
	var out []domain.DeadGroup
	err := s.each(ctx, query, slices.Concat(sample.args, c.args, having.args), func(rows *sql.Rows) error {
		var g domain.DeadGroup
		var open, replayed, discarded, stored, first, last int64
		err := rows.Scan(&g.Fingerprint, &g.Class, &g.Code, &g.Reason, &g.Text, &g.Path, &open, &replayed, &discarded, &stored, &first, &last, &g.Sample)
		g.Letters = map[domain.DeadState]int64{
			domain.DeadOpen: open, domain.DeadReplayed: replayed, domain.DeadDiscarded: discarded, domain.DeadStored: stored,
		}
		g.First, g.Last = time.UnixMicro(first).UTC(), time.UnixMicro(last).UTC()
		out = append(out, g)
		return err
	})
	return out, s.slow(err)
}

// scanDeadLetter reads a row of deadColumns.
func scanDeadLetter(rows *sql.Rows) (l domain.DeadLetter, err error) {
	var code, failure, errorText, decisionID, path, upload, origin, replay sql.NullString
	var timestamp, receivedAt, firstFailedAt sql.NullInt64
	var died, indexed, changed int64
	var sum []byte
	err = rows.Scan(&l.ID, &l.Topic, &l.Partition, &l.Offset, &l.State, &l.Class, &code, &l.Reason, &failure, &errorText, &l.Fingerprint, &l.Attempts, &l.Tenant,
		&decisionID, &path, &timestamp, &l.Decision, &l.Whole, &sum, &l.Bytes, &upload, &origin, &receivedAt, &firstFailedAt, &died, &indexed, &changed,
		&l.Copies, &replay, &l.Replays)
	l.Code, l.Error, l.Text, l.DecisionID, l.Path = code.String, failure.String, errorText.String, decisionID.String, path.String
	l.Upload, l.Origin, l.Replay = upload.String, origin.String, replay.String
	l.Timestamp, l.ReceivedAt, l.FirstFailedAt = instant(timestamp), instant(receivedAt), instant(firstFailedAt)
	l.DiedAt, l.IndexedAt, l.ChangedAt = time.UnixMicro(died).UTC(), time.UnixMicro(indexed).UTC(), time.UnixMicro(changed).UTC()
	if err == nil && len(sum) != sha256.Size {
		return l, domain.Errorf(domain.Misconfigured, "dead letter %s has a hash of %d bytes: repair the index with docket dlq reindex", l.ID, len(sum))
	}
	copy(l.SHA256[:], sum)
	return l, err
}
