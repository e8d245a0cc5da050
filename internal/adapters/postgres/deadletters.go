package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/docket-project/docket/internal/adapters/sqlstore"
	"github.com/docket-project/docket/internal/domain"
)

// ofDeadLetters is what a filter wants of the index, its fingerprints looked up in the counts first; see
// sqlstore.Dialect's DeadLetters.
func (s *Store) ofDeadLetters(ctx context.Context, scope domain.Scope, f domain.Filter) (*sqlstore.Where, error) {
	w, counts := dialect.DeadLetters(scope, f)
	if counts == nil {
		return w, nil
	}
	sql, fingerprints := counts.Fingerprints(), []string{}
	err := s.query(ctx, "look for fingerprints", sql, counts.Args, func(rows pgx.Rows) error {
		var fingerprint string
		var n int64
		_, err := pgx.ForEachRow(rows, []any{&fingerprint, &n}, func() error {
			fingerprints = append(fingerprints, fingerprint)
			return nil
		})
		return err
	})
	if err == nil && len(fingerprints) <= sqlstore.MaxFingerprints {
		w.Add("fingerprint = ANY(" + w.Param("text[]", fingerprints) + ")")
	}
	return w, err
}

// deadLetters reads rows of the index.
func (s *Store) deadLetters(ctx context.Context, op, tail string, args ...any) (out []domain.DeadLetter, err error) {
	sql := `SELECT ` + sqlstore.DeadLetterColumns + ` FROM dead_letters ` + tail
	err = s.query(ctx, op, sql, args, func(rows pgx.Rows) (err error) {
		out, err = pgx.CollectRows(rows, scanDeadLetter)
		return err
	})
	return out, err
}

// DeadLetters returns one page; see ports.DeadLetterReader.
func (s *Store) DeadLetters(ctx context.Context, scope domain.Scope, q domain.Query) (page domain.DeadPage, err error) {
	w, err := s.ofDeadLetters(ctx, scope, q.Filter)
	if err != nil {
		return page, err
	}
	tail := w.DeadPage(q)
	items, err := s.deadLetters(ctx, "search dead letters", tail, w.Args...)
	page.Items, page.Next = sqlstore.Page(items, q.Limit, domain.DeadCursorOf)
	return page, err
}

// DeadLetter finds one; see ports.DeadLetterReader.
func (s *Store) DeadLetter(ctx context.Context, scope domain.Scope, id string) (domain.DeadLetter, bool, error) {
	w := dialect.Where(id)
	which := "id = $1::text"
	if p, err := domain.ParsePosition(id); err == nil {
		which += ` OR (state = ANY(` + w.Param("text[]", deadStates()) + `) AND (topic, partition, "offset") = (` +
			w.Param(sqlstore.Text, p.Topic) + `, ` + w.Param(sqlstore.Int, p.Partition) + `, ` +
			w.Param(sqlstore.Bigint, p.Offset) + `))`
	}
	w.Add("(" + which + ")")
	w.Fits(domain.DeadLetterFields, scope.Expr())
	tail := "WHERE " + w.String() + " ORDER BY id <> $1::text LIMIT 1"
	found, err := s.deadLetters(ctx, "find a dead letter", tail, w.Args...)
	if err != nil || len(found) == 0 {
		return domain.DeadLetter{}, false, err
	}
	return found[0], true, nil
}

// DeadLettersOf returns those of a decision; see ports.DeadLetterReader.
func (s *Store) DeadLettersOf(ctx context.Context, scope domain.Scope, decisionID string) ([]domain.DeadLetter, error) {
	w := dialect.Where(decisionID)
	w.Add("decision_id = $1::text")
	w.Fits(domain.DeadLetterFields, scope.Expr())
	tail := "WHERE " + w.String() + " ORDER BY died_at DESC, id DESC LIMIT 1000"
	return s.deadLetters(ctx, "find dead letters", tail, w.Args...)
}

// CountDeadLetters counts by state; see ports.DeadLetterReader.
func (s *Store) CountDeadLetters(
	ctx context.Context, scope domain.Scope, f domain.Filter,
) (map[domain.DeadState]int64, error) {
	w, err := s.ofDeadLetters(ctx, scope, f)
	if err != nil {
		return nil, err
	}
	out := map[domain.DeadState]int64{}
	err = s.query(ctx, "count dead letters", w.CountByState(f), w.Args, func(rows pgx.Rows) error {
		return eachCount(rows, func(state domain.DeadState, n int64) { out[state] = n })
	})
	return out, err
}

// DeadGroups returns the groups; see ports.DeadLetterReader.
func (s *Store) DeadGroups(ctx context.Context, scope domain.Scope, f domain.Filter) ([]domain.DeadGroup, error) {
	sql, args := dialect.DeadGroups(scope, f)
	var out []domain.DeadGroup
	err := s.query(ctx, "group dead letters", sql, args, func(rows pgx.Rows) (err error) {
		out, err = pgx.CollectRows(rows, scanGroup)
		return err
	})
	return out, err
}

func scanGroup(row pgx.CollectableRow) (g domain.DeadGroup, err error) {
	var open, replayed, discarded, stored int64
	err = row.Scan(&g.Fingerprint, &g.Class, &g.Code, &g.Cause, &g.Text, &g.Path, &open, &replayed, &discarded, &stored,
		&g.First, &g.Last, &g.Sample)
	g.Letters = map[domain.DeadState]int64{
		domain.DeadOpen: open, domain.DeadReplayed: replayed, domain.DeadDiscarded: discarded, domain.DeadStored: stored,
	}
	g.First, g.Last = g.First.UTC(), g.Last.UTC()
	return g, err
}

// scanDeadLetter reads a row of deadColumns.
func scanDeadLetter(row pgx.CollectableRow) (l domain.DeadLetter, err error) {
	var code, failure, text, decisionID, path, upload, origin, replay pgtype.Text
	var timestamp, receivedAt, firstFailedAt pgtype.Timestamptz
	var died, indexed, changed time.Time
	var sum []byte
	err = row.Scan(
		&l.ID, &l.Topic, &l.Partition, &l.Offset, &l.State, &l.Class, &code, &l.Cause, &failure, &text, &l.Fingerprint,
		&l.Attempts, &l.Tenant, &decisionID, &path, &timestamp, &l.Decision, &l.Whole, &sum, &l.Bytes, &upload, &origin,
		&receivedAt, &firstFailedAt, &died, &indexed, &changed, &l.Copies, &replay, &l.Replays,
	)
	l.Code, l.Error, l.Text, l.DecisionID, l.Path = code.String, failure.String, text.String, decisionID.String,
		path.String
	l.Upload, l.Origin, l.Replay = upload.String, origin.String, replay.String
	l.Timestamp, l.ReceivedAt, l.FirstFailedAt = instant(timestamp), instant(receivedAt), instant(firstFailedAt)
	l.DiedAt, l.IndexedAt, l.ChangedAt = died.UTC(), indexed.UTC(), changed.UTC()
	if err == nil {
		err = sqlstore.SetHash(&l, sum)
	}
	return l, err
}
