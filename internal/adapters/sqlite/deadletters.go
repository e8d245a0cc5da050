package sqlite

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/docket-project/docket/internal/adapters/sqlstore"
	"github.com/docket-project/docket/internal/domain"
)

// anyDeadState names every state, for the index that begins with it.
var anyDeadState = sqlstore.InList(domain.DeadStates)

// A record that is known is read again, and everything else is as it was; a copy is behind it.
var (
	isCopy = `(CASE WHEN excluded.topic = d.topic AND excluded.partition = d.partition THEN excluded."offset" > d."offset"
		ELSE excluded.died_at > d.died_at END)`

	indexDeadLetter = `INSERT INTO dead_letters AS d (` + sqlstore.DeadLetterColumns + `) VALUES (` +
		placeholders(sqlstore.Columns(sqlstore.DeadLetterColumns)) + `)
		ON CONFLICT (sha256, tenant, class) DO UPDATE SET
		topic = excluded.topic, partition = excluded.partition, "offset" = excluded."offset", code = excluded.code, cause =
		excluded.cause,
		error = excluded.error, error_text = excluded.error_text, fingerprint = excluded.fingerprint, attempts =
		excluded.attempts,
		decision_id = excluded.decision_id, path = excluded.path, timestamp = excluded.timestamp, decision =
		excluded.decision, whole = excluded.whole,
		upload = excluded.upload, origin = excluded.origin, died_at = max(d.died_at, excluded.died_at),
		state = CASE WHEN ` + isCopy + ` AND excluded.replay IS NOT NULL AND d.state <> 'stored' THEN 'open' ELSE d.state END,
		changed_at = CASE WHEN ` + isCopy + ` AND excluded.replay IS NOT NULL AND d.state <> 'stored' THEN excluded.changed_at
		ELSE d.changed_at END,
		indexed_at = CASE WHEN ` + isCopy + ` THEN excluded.indexed_at ELSE d.indexed_at END,
		copies = CASE WHEN ` + isCopy + ` THEN d.copies + excluded.copies ELSE max(d.copies, excluded.copies) END,
		replay = coalesce(excluded.replay, d.replay), replays = max(d.replays, excluded.replays)
		WHERE ` + isCopy + ` OR (excluded.topic = d.topic AND excluded.partition = d.partition AND excluded."offset" =
		d."offset")
		RETURNING replay, changed_at`
)

// The row of a dead letter, wherever it is.
const hasRow = `(EXISTS (SELECT 1 FROM decisions x WHERE x.decision_id = d.decision_id AND x.tenant = d.tenant AND
	x.timestamp = d.timestamp AND x.sha256 = d.sha256)
	OR EXISTS (SELECT 1 FROM decisions_out_of_window x WHERE x.decision_id = d.decision_id AND x.tenant = d.tenant AND
	x.sha256 = d.sha256))`

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
			var replay sql.NullString
			var changed int64
			err := insert.QueryRow(deadValues(l, now)...).Scan(&replay, &changed)
			if err != nil && !errors.Is(err, sql.ErrNoRows) {
				return err
			}
			if replay.Valid && changed == now {
				failed[replay.String]++
			}
			if err := closeOne(
				tx, now, `sha256 = ? AND tenant = ? AND class = ?`, l.SHA256[:], l.Tenant, string(l.Class),
			); err != nil &&
				!errors.Is(err, sql.ErrNoRows) {
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

// deadValues are a dead letter's, in the order of sqlstore.DeadLetterColumns.
func deadValues(l domain.DeadLetter, now int64) []any {
	return []any{
		l.ID,
		l.Topic,
		l.Partition,
		l.Offset,
		string(domain.DeadOpen),
		string(l.Class),
		text(l.Code),
		string(l.Cause),
		text(l.Error),
		text(l.Text),
		l.Fingerprint,
		l.Attempts,
		l.Tenant,
		text(l.DecisionID),
		text(l.Path),
		micros(l.Timestamp),
		l.Decision,
		l.Whole,
		l.SHA256[:],
		l.Bytes,
		text(l.Upload),
		text(l.Origin),
		micros(l.ReceivedAt),
		micros(l.FirstFailedAt),
		l.DiedAt.UnixMicro(),
		now,
		now,
		l.Copies,
		text(l.Replay),
		l.Replays,
	}
}

// closeOne closes a dead letter whose row exists with the same bytes, or returns sql.ErrNoRows. The count of a job's
// stored dead letters follows only what it has replayed.
func closeOne(tx *sql.Tx, now int64, which string, args ...any) error {
	var id, state string
	var replay sql.NullString
	if err := tx.QueryRow(
		`SELECT id, state, replay FROM dead_letters AS d WHERE `+which+` AND state IN ('open', 'replayed') AND decision AND
			`+hasRow,
		args...).
		Scan(&id, &state, &replay); err != nil {
		return err
	}
	if _, err := tx.Exec(`UPDATE dead_letters SET state = 'stored', changed_at = ? WHERE id = ?`, now, id); err != nil {
		return err
	}
	if state != string(domain.DeadReplayed) || !replay.Valid {
		return nil
	}
	_, err := tx.Exec(`UPDATE jobs SET stored = stored + 1 WHERE id = ?`, replay.String)
	return err
}

// CloseStored closes the next dead letters in a state that have a row; see ports.DeadLetterIndex.
func (s *Store) CloseStored(
	ctx context.Context, state domain.DeadState, after domain.Position, limit int,
) (closed int, next domain.Position, err error) {
	candidates, err := s.deadLetters(
		ctx,
		`WHERE state = ? AND decision AND (topic, partition, "offset") > (?, ?, ?) ORDER BY topic, partition, "offset" LIMIT
			?`,
		string(state),
		after.Topic,
		after.Partition,
		after.Offset,
		limit,
	)
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
				AND topic = ? AND partition = ? AND "offset" < ? LIMIT 1000) RETURNING state`,
				topic,
				partition,
				oldest,
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

// rare is how many dead letters are worth finding by their fingerprints: of more, the newest are soon met.
const rare = 50_000

// maxFingerprints is how many fingerprints are looked for one by one.
const maxFingerprints = 200

// ofDeadLetters is what a filter wants of the index. What a fingerprint stands for is looked up in the counts first: a
// path that is rare among a million dead letters is found by its fingerprints.
func (s *Store) ofDeadLetters(ctx context.Context, scope domain.Scope, f domain.Filter) (*sqlstore.Where, error) {
	w := dialect.Where()
	wanted := domain.AllOf(f.Where, scope.Expr())
	w.Span("died_at", f)
	w.Fits(domain.DeadLetterFields, wanted)
	byFingerprint := wanted.About(domain.CountedFields...)
	if byFingerprint.Op == "" {
		return w, nil
	}
	counts := dialect.Where()
	counts.Fits(domain.DeadLetterFields, byFingerprint)
	query := `SELECT fingerprint, sum(letters) FROM dead_letter_counts WHERE ` + counts.String() +
		` GROUP BY fingerprint HAVING sum(letters) > 0 LIMIT ` + counts.Param(sqlstore.Int, maxFingerprints+1)
	var fingerprints []domain.Expr
	total := int64(0)
	err := s.each(ctx, query, counts.Args, func(rows *sql.Rows) error {
		var fingerprint string
		var n int64
		err := rows.Scan(&fingerprint, &n)
		fingerprints, total = append(fingerprints, domain.Equals(domain.FieldFingerprint, fingerprint)), total+n
		return err
	})
	if err == nil && len(fingerprints) <= maxFingerprints && total <= rare {
		w.Fits(domain.DeadLetterFields, domain.AnyOf(fingerprints...))
	}
	return w, s.slow(err)
}

// deadLetters reads rows of the index.
func (s *Store) deadLetters(ctx context.Context, tail string, args ...any) (out []domain.DeadLetter, err error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	err = s.each(ctx, `SELECT `+sqlstore.DeadLetterColumns+` FROM dead_letters `+tail, args, func(rows *sql.Rows) error {
		l, err := scanDeadLetter(rows)
		out = append(out, l)
		return err
	})
	return out, s.slow(err)
}

// DeadLetters returns one page; see ports.DeadLetterReader.
func (s *Store) DeadLetters(ctx context.Context, scope domain.Scope, q domain.Query) (page domain.DeadPage, err error) {
	w, err := s.ofDeadLetters(ctx, scope, q.Filter)
	if err != nil {
		return page, err
	}
	if a := q.After; a != nil {
		w.Add("(died_at, id) < (" + w.At(a.Time) + ", " + w.Param(sqlstore.Text, a.ID) + ")")
	}
	tail := "WHERE " + w.String() + " ORDER BY died_at DESC, id DESC LIMIT " + w.Param(sqlstore.Int, q.Limit+1)
	page.Items, err = s.deadLetters(ctx, tail, w.Args...)
	if len(page.Items) > q.Limit {
		page.Items = page.Items[:q.Limit]
		last := page.Items[q.Limit-1]
		page.Next = &domain.Cursor{Time: last.DiedAt, ID: last.ID}
	}
	return page, err
}

// inScope reads the rows of the index that a condition chooses within a scope.
func (s *Store) inScope(
	ctx context.Context, scope domain.Scope, w *sqlstore.Where, tail string,
) ([]domain.DeadLetter, error) {
	w.Fits(domain.DeadLetterFields, scope.Expr())
	return s.deadLetters(ctx, "WHERE "+w.String()+tail, w.Args...)
}

// DeadLetter finds one; see ports.DeadLetterReader.
func (s *Store) DeadLetter(ctx context.Context, scope domain.Scope, id string) (domain.DeadLetter, bool, error) {
	w := dialect.Where(id)
	w.Add("id = ?1")
	found, err := s.inScope(ctx, scope, w, "")
	if p, bad := domain.ParsePosition(id); err == nil && len(found) == 0 && bad == nil {
		w := dialect.Where(p.Topic, p.Partition, p.Offset)
		w.Add(`state IN ` + anyDeadState + ` AND topic = ?1 AND partition = ?2 AND "offset" = ?3`)
		found, err = s.inScope(ctx, scope, w, "")
	}
	if err != nil || len(found) == 0 {
		return domain.DeadLetter{}, false, err
	}
	return found[0], true, nil
}

// DeadLettersOf returns those of a decision; see ports.DeadLetterReader.
func (s *Store) DeadLettersOf(ctx context.Context, scope domain.Scope, decisionID string) ([]domain.DeadLetter, error) {
	w := dialect.Where(decisionID)
	w.Add("decision_id = ?1")
	return s.inScope(ctx, scope, w, " ORDER BY died_at DESC, id DESC LIMIT 1000")
}

// CountDeadLetters counts by state; see ports.DeadLetterReader.
func (s *Store) CountDeadLetters(
	ctx context.Context, scope domain.Scope, f domain.Filter,
) (map[domain.DeadState]int64, error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	w, err := s.ofDeadLetters(ctx, scope, f)
	if err != nil {
		return nil, err
	}
	query := `SELECT state, count(*) FROM dead_letters WHERE ` + w.String() + ` GROUP BY state`
	if f.Countable() {
		query = `SELECT state, sum(letters) FROM dead_letter_counts WHERE ` + w.String() + ` GROUP BY state HAVING
			sum(letters) > 0`
	}
	out := map[domain.DeadState]int64{}
	err = s.each(ctx, query, w.Args, func(rows *sql.Rows) error {
		var state domain.DeadState
		var n int64
		err := rows.Scan(&state, &n)
		out[state] = n
		return err
	})
	return out, s.slow(err)
}

// DeadGroups returns the groups; see ports.DeadLetterReader.
func (s *Store) DeadGroups(ctx context.Context, scope domain.Scope, f domain.Filter) ([]domain.DeadGroup, error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	wanted := domain.AllOf(f.Where, scope.Expr())
	counts := dialect.Where()
	counts.Fits(domain.DeadLetterFields, wanted.About(domain.CountedFields...))
	inState := counts.And() // which chooses groups, and does not hide their others
	inState.Fits(domain.DeadLetterFields, wanted.About(domain.FieldState))
	having := inState.And()
	having.Add("sum(iif(" + inState.String() + ", letters, 0)) > 0")
	having.Span("max(last_at)", domain.Filter{Since: f.Since})
	having.Span("min(first_at)", domain.Filter{Until: f.Until})
	sample := having.And()
	sample.Fits(domain.DeadLetterFields, wanted.About(domain.FieldTenant, domain.FieldTopic))
	sum := func(state domain.DeadState) string { return fmt.Sprintf("sum(iif(state = '%s', letters, 0))", state) }
	query := `SELECT g.*, coalesce((SELECT id FROM dead_letters d WHERE d.fingerprint = g.fingerprint AND ` +
		sample.String() + `
		ORDER BY died_at DESC LIMIT 1), '') FROM (
		SELECT fingerprint, min(class), coalesce(min(code), ''), min(cause), coalesce(min(error_text), ''),
		coalesce(min(path), ''), ` +
		sum(
			domain.DeadOpen,
		) + ` AS open, ` + sum(
		domain.DeadReplayed,
	) + `, ` + sum(
		domain.DeadDiscarded,
	) + `, ` +
		sum(
			domain.DeadStored,
		) + `, min(first_at), max(last_at) FROM dead_letter_counts
		WHERE ` + counts.String() + ` GROUP BY fingerprint HAVING ` + having.String() + `
		ORDER BY open DESC, sum(letters) DESC, fingerprint LIMIT ` + fmt.Sprint(
		domain.MaxGroups,
	) + `) g`
	var out []domain.DeadGroup
	err := s.each(ctx, query, sample.Args, func(rows *sql.Rows) error {
		var g domain.DeadGroup
		var open, replayed, discarded, stored, first, last int64
		err := rows.Scan(
			&g.Fingerprint, &g.Class, &g.Code, &g.Cause, &g.Text, &g.Path, &open, &replayed, &discarded, &stored, &first,
			&last, &g.Sample,
		)
		g.Letters = map[domain.DeadState]int64{
			domain.DeadOpen: open, domain.DeadReplayed: replayed, domain.DeadDiscarded: discarded, domain.DeadStored: stored,
		}
		g.First, g.Last = time.UnixMicro(first).UTC(), time.UnixMicro(last).UTC()
		out = append(out, g)
		return err
	})
	return out, s.slow(err)
}

// scanDeadLetter reads a row of sqlstore.DeadLetterColumns.
func scanDeadLetter(rows *sql.Rows) (l domain.DeadLetter, err error) {
	var code, failure, errorText, decisionID, path, upload, origin, replay sql.NullString
	var timestamp, receivedAt, firstFailedAt sql.NullInt64
	var died, indexed, changed int64
	var sum []byte
	err = rows.Scan(
		&l.ID, &l.Topic, &l.Partition, &l.Offset, &l.State, &l.Class, &code, &l.Cause, &failure, &errorText, &l.Fingerprint,
		&l.Attempts, &l.Tenant, &decisionID, &path, &timestamp, &l.Decision, &l.Whole, &sum, &l.Bytes, &upload, &origin,
		&receivedAt, &firstFailedAt, &died, &indexed, &changed, &l.Copies, &replay, &l.Replays,
	)
	l.Code, l.Error, l.Text, l.DecisionID, l.Path = code.String, failure.String, errorText.String, decisionID.String,
		path.String
	l.Upload, l.Origin, l.Replay = upload.String, origin.String, replay.String
	l.Timestamp, l.ReceivedAt, l.FirstFailedAt = instant(timestamp), instant(receivedAt), instant(firstFailedAt)
	l.DiedAt, l.IndexedAt, l.ChangedAt = time.UnixMicro(
		died,
	).UTC(), time.UnixMicro(
		indexed,
	).UTC(), time.UnixMicro(
		changed,
	).UTC()
	if err == nil && len(sum) != sha256.Size {
		return l, domain.Errorf(
			domain.Misconfigured, "dead letter %s has a hash of %d bytes: repair the index with docket dlq reindex", l.ID,
			len(sum),
		)
	}
	copy(l.SHA256[:], sum)
	return l, err
}
