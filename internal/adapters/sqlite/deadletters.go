package sqlite

import (
	"context"
	"database/sql"

	"github.com/docket-project/docket/internal/adapters/sqlstore"
	"github.com/docket-project/docket/internal/domain"
)

// rare is how many dead letters are worth finding by their fingerprints: of more, the newest are soon met.
const rare = 50_000

// ofDeadLetters is what a filter wants of the index, its fingerprints looked up in the counts first; see
// sqlstore.Dialect's DeadLetters.
func (s *Store) ofDeadLetters(ctx context.Context, scope domain.Scope, f domain.Filter) (*sqlstore.Where, error) {
	w, counts := dialect.DeadLetters(scope, f)
	if counts == nil {
		return w, nil
	}
	query := counts.Fingerprints()
	var fingerprints []domain.Expr
	total := int64(0)
	err := s.each(ctx, query, counts.Args, func(rows *sql.Rows) error {
		var fingerprint string
		var n int64
		err := rows.Scan(&fingerprint, &n)
		fingerprints, total = append(fingerprints, domain.Equals(domain.FieldFingerprint, fingerprint)), total+n
		return err
	})
	if err == nil && len(fingerprints) <= sqlstore.MaxFingerprints && total <= rare {
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
	tail := w.DeadPage(q)
	items, err := s.deadLetters(ctx, tail, w.Args...)
	page.Items, page.Next = sqlstore.Page(items, q.Limit, domain.DeadCursorOf)
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
	out := map[domain.DeadState]int64{}
	err = s.each(ctx, w.CountByState(f), w.Args, func(rows *sql.Rows) error {
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
	query, args := dialect.DeadGroups(scope, f)
	var out []domain.DeadGroup
	err := s.each(ctx, query, args, func(rows *sql.Rows) error {
		var g domain.DeadGroup
		var open, replayed, discarded, stored, first, last int64
		err := rows.Scan(
			&g.Fingerprint, &g.Class, &g.Code, &g.Cause, &g.Text, &g.Path, &open, &replayed, &discarded, &stored, &first,
			&last, &g.Sample,
		)
		g.Letters = map[domain.DeadState]int64{
			domain.DeadOpen: open, domain.DeadReplayed: replayed, domain.DeadDiscarded: discarded, domain.DeadStored: stored,
		}
		g.First, g.Last = instantOf(first), instantOf(last)
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
	l.DiedAt, l.IndexedAt, l.ChangedAt = instantOf(died), instantOf(indexed), instantOf(changed)
	if err == nil {
		err = sqlstore.SetHash(&l, sum)
	}
	return l, err
}
