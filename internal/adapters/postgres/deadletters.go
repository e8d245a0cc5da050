package postgres

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/docket-project/docket/internal/adapters/sqlstore"
	"github.com/docket-project/docket/internal/domain"
)

// inIndexOrder makes the changes of the index wait for each other: they touch the same counts.
const inIndexOrder = `SELECT pg_advisory_xact_lock(hashtext('docket dead letters'))`

const (
	// A record that is known is read again, and everything else is as it was; a copy is behind it.
	isCopy = `(CASE WHEN (excluded.topic, excluded.partition) = (d.topic, d.partition) THEN excluded."offset" >
		d."offset" ELSE excluded.died_at > d.died_at END)`
	indexDeadLetters = `WITH came AS (INSERT INTO dead_letters AS d (` + sqlstore.DeadLetterColumns + `)
		SELECT u.id, u.topic, u.partition, u."offset", 'open', u.class, nullif(u.code, ''), u.cause, nullif(u.error, ''),
		nullif(u.error_text, ''), u.fingerprint,
			u.attempts, u.tenant, nullif(u.decision_id, ''), nullif(u.path, ''), u.timestamp, u.decision, u.whole, u.sha256,
			u.bytes, nullif(u.upload, ''),
			nullif(u.origin, ''), u.received_at, u.first_failed_at, u.died_at, $1::timestamptz, $1::timestamptz, u.copies,
			nullif(u.replay, ''), u.replays
		FROM unnest($2::text[], $3::text[], $4::int[], $5::bigint[], $6::text[], $7::text[], $8::text[], $9::text[],
		$10::text[], $11::text[], $12::int[],
			$13::text[], $14::text[], $15::text[], $16::timestamptz[], $17::boolean[], $18::boolean[], $19::bytea[], $20::int[],
			$21::text[], $22::text[],
			$23::timestamptz[], $24::timestamptz[], $25::timestamptz[], $26::int[], $27::text[], $28::int[])
			AS u(id, topic, partition, "offset", class, code, cause, error, error_text, fingerprint, attempts, tenant,
			decision_id, path, timestamp, decision, whole,
			sha256, bytes, upload, origin, received_at, first_failed_at, died_at, copies, replay, replays)
		ON CONFLICT (sha256, tenant, class) DO UPDATE SET
			topic = excluded.topic, partition = excluded.partition, "offset" = excluded."offset", code = excluded.code, cause =
			excluded.cause,
			error = excluded.error, error_text = excluded.error_text, fingerprint = excluded.fingerprint, attempts =
			excluded.attempts,
			decision_id = excluded.decision_id, path = excluded.path, timestamp = excluded.timestamp, decision =
			excluded.decision, whole = excluded.whole,
			upload = excluded.upload, origin = excluded.origin, died_at = greatest(d.died_at, excluded.died_at),
			state = CASE WHEN ` + isCopy + ` AND excluded.replay IS NOT NULL AND d.state <> 'stored' THEN 'open' ELSE d.state
			END,
			changed_at = CASE WHEN ` + isCopy + ` AND excluded.replay IS NOT NULL AND d.state <> 'stored' THEN
			excluded.changed_at ELSE d.changed_at END,
			indexed_at = CASE WHEN ` + isCopy + ` THEN excluded.indexed_at ELSE d.indexed_at END,
			copies = CASE WHEN ` + isCopy + ` THEN d.copies + excluded.copies ELSE greatest(d.copies, excluded.copies) END,
			replay = coalesce(excluded.replay, d.replay), replays = greatest(d.replays, excluded.replays)
			WHERE ` + isCopy + ` OR (excluded.topic, excluded.partition, excluded."offset") = (d.topic, d.partition, d."offset")
		RETURNING replay, changed_at)
		UPDATE jobs r SET failed = r.failed + c.n
			FROM (SELECT replay, count(*) AS n FROM came WHERE replay IS NOT NULL AND changed_at = $1::timestamptz GROUP BY
			replay) c WHERE r.id = c.replay`
)

// forgetOthers removes rows whose position has other bytes now: the topic was made anew.
const forgetOthers = `DELETE FROM dead_letters d USING unnest($1::text[], $2::bytea[], $3::text[], $4::text[]) AS u(id,
	sha256, tenant, class)
	WHERE d.id = u.id AND (d.sha256, d.tenant, d.class) <> (u.sha256, u.tenant, u.class)`

// IndexDeadLetters takes in dead letters; see ports.DeadLetterIndex.
func (s *Store) IndexDeadLetters(ctx context.Context, letters []domain.DeadLetter) error {
	folded := domain.FoldDeadLetters(letters)
	slices.SortFunc(folded, func(a, b domain.DeadLetter) int { return strings.Compare(a.ID, b.ID) })
	var u deadColumnsOf
	for _, l := range folded {
		u.add(l)
	}
	err := s.change(ctx, "index dead letters", func(b *pgx.Batch) {
		b.Queue(inIndexOrder)
		b.Queue(forgetOthers, u.id, u.sum, u.tenant, u.class)
		b.Queue(indexDeadLetters, append([]any{s.opts.Now().UTC()}, u.args()...)...)
	})
	if err != nil {
		return err
	}
	_, err = s.closeStored(ctx, folded)
	return err
}

// deadColumnsOf are dead letters by column, as unnest takes them.
type deadColumnsOf struct {
	id, topic, class, code, cause, failure, text, fingerprint, tenant, decisionID, path, upload, origin, replay []string
	partition, attempts, bytes, copies, replays                                                                 []int32
	offset                                                                                                      []int64
	timestamp, receivedAt, firstFailedAt,
	diedAt []pgtype.Timestamptz
	decision, whole []bool
	sum             [][]byte
}

func (u *deadColumnsOf) add(l domain.DeadLetter) {
	u.id, u.topic, u.partition, u.offset = append(
		u.id,
		l.ID,
	), append(
		u.topic,
		l.Topic,
	), append(
		u.partition,
		l.Partition,
	), append(
		u.offset,
		l.Offset,
	)
	u.class, u.code, u.cause = append(u.class, string(l.Class)), append(u.code, l.Code), append(u.cause, string(l.Cause))
	u.failure, u.text, u.fingerprint = append(
		u.failure,
		l.Error,
	), append(
		u.text,
		l.Text,
	), append(
		u.fingerprint,
		l.Fingerprint,
	)
	u.attempts, u.tenant, u.decisionID = append(
		u.attempts,
		int32(l.Attempts),
	), append(
		u.tenant,
		l.Tenant,
	), append(
		u.decisionID,
		l.DecisionID,
	)
	u.path, u.timestamp = append(u.path, l.Path), append(u.timestamp, timestamptz(l.Timestamp))
	u.decision, u.whole = append(u.decision, l.Decision), append(u.whole, l.Whole)
	u.sum, u.bytes, u.upload, u.origin = append(
		u.sum,
		l.SHA256[:],
	), append(
		u.bytes,
		int32(l.Bytes),
	), append(
		u.upload,
		l.Upload,
	), append(
		u.origin,
		l.Origin,
	)
	u.receivedAt, u.firstFailedAt = append(
		u.receivedAt,
		timestamptz(l.ReceivedAt),
	), append(
		u.firstFailedAt,
		timestamptz(l.FirstFailedAt),
	)
	u.diedAt, u.copies = append(u.diedAt, timestamptz(l.DiedAt)), append(u.copies, int32(l.Copies))
	u.replay, u.replays = append(u.replay, l.Replay), append(u.replays, int32(l.Replays))
}

func (u *deadColumnsOf) args() []any {
	return []any{
		u.id,
		u.topic,
		u.partition,
		u.offset,
		u.class,
		u.code,
		u.cause,
		u.failure,
		u.text,
		u.fingerprint,
		u.attempts,
		u.tenant,
		u.decisionID,
		u.path,
		u.timestamp,
		u.decision,
		u.whole,
		u.sum,
		u.bytes,
		u.upload,
		u.origin,
		u.receivedAt,
		u.firstFailedAt,
		u.diedAt,
		u.copies,
		u.replay,
		u.replays,
	}
}

// The count of a job's stored dead letters follows only what it has replayed.
const closeDeadLetters = `WITH was AS (SELECT d.id, d.state, d.replay FROM dead_letters d JOIN unnest($2::bytea[],
	$3::text[], $4::text[]) AS u(sha256, tenant, class)
		ON (d.sha256, d.tenant, d.class) = (u.sha256, u.tenant, u.class) WHERE d.state IN ('open', 'replayed')),
	closed AS (UPDATE dead_letters d SET state = 'stored', changed_at = $1::timestamptz FROM was WHERE d.id = was.id
	RETURNING was.state, was.replay)
	UPDATE jobs r SET stored = r.stored + c.n
		FROM (SELECT replay, count(*) AS n FROM closed WHERE state = 'replayed' AND replay IS NOT NULL GROUP BY replay) c
		WHERE r.id = c.replay`

// visitStored tells of those of the dead letters whose row exists with the same bytes.
func (s *Store) visitStored(ctx context.Context, letters []domain.DeadLetter, visit func(at int)) error {
	now := s.opts.Now()
	var rows []row
	for i := range letters {
		l := &letters[i]
		if !l.Decision {
			continue
		}
		d := &domain.Decision{Tenant: l.Tenant, ID: l.DecisionID, Timestamp: l.Timestamp, SHA256: l.SHA256}
		rows = append(rows, row{d, i, s.opts.Window.Classify(l.Timestamp, now) != domain.Outside})
	}
	if len(rows) == 0 {
		return nil
	}
	return notTheRows(s.visitHolders(ctx, rows, func(r row, same bool) {
		if same {
			visit(r.at)
		}
	}))
}

// closeStored closes those of the dead letters that are stored.
func (s *Store) closeStored(ctx context.Context, letters []domain.DeadLetter) (int, error) {
	var u deadColumnsOf
	err := s.visitStored(ctx, letters, func(i int) { u.add(letters[i]) })
	if err != nil || len(u.id) == 0 {
		return 0, err
	}
	return len(u.id), s.change(ctx, "close dead letters", func(b *pgx.Batch) {
		b.Queue(inIndexOrder)
		b.Queue(closeDeadLetters, s.opts.Now().UTC(), u.sum, u.tenant, u.class)
	})
}

// CloseStored closes the next dead letters in a state that have a row; see ports.DeadLetterIndex.
func (s *Store) CloseStored(
	ctx context.Context, state domain.DeadState, after domain.Position, limit int,
) (int, domain.Position, error) {
	letters, err := s.deadLetters(
		ctx,
		"look for dead letters that are stored",
		`WHERE state = $1::text AND decision AND (topic, partition, "offset") > ($2::text, $3::int, $4::bigint)
		ORDER BY topic, partition, "offset" LIMIT $5::int`,
		string(state),
		after.Topic,
		after.Partition,
		after.Offset,
		limit,
	)
	if err != nil || len(letters) == 0 {
		return 0, domain.Position{}, err
	}
	closed, err := s.closeStored(ctx, letters)
	next := letters[len(letters)-1].Position
	if len(letters) < limit {
		next = domain.Position{}
	}
	return closed, next, err
}

// ForgetDeadLetters removes what has fallen off the log; see ports.DeadLetterIndex.
func (s *Store) ForgetDeadLetters(
	ctx context.Context, topic string, partition int32, oldest int64,
) (map[domain.DeadState]int64, error) {
	gone := map[domain.DeadState]int64{}
	const step = 1000
	for removed := int64(step); removed == step; {
		removed = 0
		err := s.change(ctx, "forget dead letters that have fallen off the log", func(b *pgx.Batch) {
			b.Queue(inIndexOrder)
			b.Queue(
				`WITH gone AS (DELETE FROM dead_letters WHERE id IN (SELECT id FROM dead_letters WHERE state = ANY($4::text[]) AND
					topic = $1::text AND partition = $2::int
				AND "offset" < $3::bigint LIMIT 1000) RETURNING state) SELECT state, count(*) FROM gone GROUP BY state`,
				topic,
				partition,
				oldest,
				deadStates(),
			).Query(
				func(rows pgx.Rows) error {
					return eachCount(rows, func(state domain.DeadState, n int64) {
						gone[state] += n
						removed += n
					})
				},
			)
		})
		if err != nil {
			return gone, err
		}
	}
	return gone, nil
}

func deadStates() []string {
	out := make([]string, len(domain.DeadStates))
	for i, s := range domain.DeadStates {
		out[i] = string(s)
	}
	return out
}

func eachCount(rows pgx.Rows, visit func(domain.DeadState, int64)) error {
	var state domain.DeadState
	var n int64
	_, err := pgx.ForEachRow(rows, []any{&state, &n}, func() error {
		visit(state, n)
		return nil
	})
	return err
}

// maxFingerprints is how many fingerprints are looked for one by one.
const maxFingerprints = 200

// ofDeadLetters is what a filter wants of the index. What a fingerprint stands for is looked up in the counts first: a
// path that is rare among a million dead letters is found by its fingerprints, and one that is not there is known at
// once.
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
	sql := `SELECT fingerprint FROM dead_letter_counts WHERE ` + counts.String() +
		` GROUP BY fingerprint HAVING sum(letters) > 0 LIMIT ` + counts.Param(sqlstore.Int, maxFingerprints+1)
	var fingerprints []string
	err := s.query(ctx, "look for fingerprints", sql, counts.Args, func(rows pgx.Rows) (err error) {
		fingerprints, err = pgx.CollectRows(rows, pgx.RowTo[string])
		return err
	})
	if err == nil && len(fingerprints) <= maxFingerprints {
		w.Add("fingerprint = ANY(" + w.Param("text[]", fingerprints) + ")")
	}
	return w, err
}

// deadLetters reads rows of the index.
func (s *Store) deadLetters(ctx context.Context, op, tail string, args ...any) (out []domain.DeadLetter, err error) {
	err = s.query(
		ctx,
		op,
		`SELECT `+sqlstore.DeadLetterColumns+` FROM dead_letters `+tail,
		args,
		func(rows pgx.Rows) (err error) {
			out, err = pgx.CollectRows(rows, scanDeadLetter)
			return err
		},
	)
	return out, err
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
	page.Items, err = s.deadLetters(ctx, "search dead letters", tail, w.Args...)
	if len(page.Items) > q.Limit {
		page.Items = page.Items[:q.Limit]
		last := page.Items[q.Limit-1]
		page.Next = &domain.Cursor{Time: last.DiedAt, ID: last.ID}
	}
	return page, err
}

// DeadLetter finds one; see ports.DeadLetterReader.
func (s *Store) DeadLetter(ctx context.Context, scope domain.Scope, id string) (domain.DeadLetter, bool, error) {
	w := dialect.Where(id)
	which := "id = $1::text"
	if p, err := domain.ParsePosition(id); err == nil {
		which += ` OR (state = ANY(` + w.Param("text[]", deadStates()) + `) AND (topic, partition, "offset") = (` +
			w.Param(
				sqlstore.Text,
				p.Topic,
			) + `, ` + w.Param(sqlstore.Int, p.Partition) + `, ` + w.Param(sqlstore.Bigint, p.Offset) + `))`
	}
	w.Add("(" + which + ")")
	w.Fits(domain.DeadLetterFields, scope.Expr())
	found, err := s.deadLetters(
		ctx,
		"find a dead letter",
		"WHERE "+w.String()+" ORDER BY id <> $1::text LIMIT 1",
		w.Args...)
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
	return s.deadLetters(
		ctx,
		"find dead letters",
		"WHERE "+w.String()+" ORDER BY died_at DESC, id DESC LIMIT 1000",
		w.Args...)
}

// CountDeadLetters counts by state; see ports.DeadLetterReader.
func (s *Store) CountDeadLetters(
	ctx context.Context, scope domain.Scope, f domain.Filter,
) (map[domain.DeadState]int64, error) {
	w, err := s.ofDeadLetters(ctx, scope, f)
	if err != nil {
		return nil, err
	}
	sql := `SELECT state, count(*) FROM dead_letters WHERE ` + w.String() + ` GROUP BY state`
	if f.Countable() {
		sql = `SELECT state, sum(letters)::bigint FROM dead_letter_counts WHERE ` + w.String() + ` GROUP BY state HAVING
			sum(letters) > 0`
	}
	out := map[domain.DeadState]int64{}
	err = s.query(ctx, "count dead letters", sql, w.Args, func(rows pgx.Rows) error {
		return eachCount(rows, func(state domain.DeadState, n int64) { out[state] = n })
	})
	return out, err
}

// DeadGroups returns the groups; see ports.DeadLetterReader.
func (s *Store) DeadGroups(ctx context.Context, scope domain.Scope, f domain.Filter) ([]domain.DeadGroup, error) {
	wanted := domain.AllOf(f.Where, scope.Expr())
	counts := dialect.Where()
	counts.Fits(domain.DeadLetterFields, wanted.About(domain.CountedFields...))
	inState := counts.And()
	inState.Fits(domain.DeadLetterFields, wanted.About(domain.FieldState))
	having := inState.And()
	having.Add("sum(letters) FILTER (WHERE " + inState.String() + ") > 0")
	having.Span("max(last_at)", domain.Filter{Since: f.Since})
	having.Span("min(first_at)", domain.Filter{Until: f.Until})
	sample := having.And()
	sample.Fits(domain.DeadLetterFields, wanted.About(domain.FieldTenant, domain.FieldTopic))
	sum := func(state domain.DeadState) string {
		return fmt.Sprintf("coalesce(sum(letters) FILTER (WHERE state = '%s'), 0)::bigint", state)
	}
	sql := `SELECT g.*, coalesce((SELECT id FROM dead_letters d WHERE d.fingerprint = g.fingerprint AND ` +
		sample.String() + `
		ORDER BY died_at DESC LIMIT 1), '') FROM (
		SELECT fingerprint, min(class) AS class, coalesce(min(code), ''), min(cause) AS cause, coalesce(min(error_text), ''),
		coalesce(min(path), ''), ` + sum(
		domain.DeadOpen,
	) + ` AS open, ` + sum(
		domain.DeadReplayed,
	) + `, ` +
		sum(
			domain.DeadDiscarded,
		) + `, ` + sum(
		domain.DeadStored,
	) + `, min(first_at), max(last_at) FROM dead_letter_counts
		WHERE ` + counts.String() + ` GROUP BY fingerprint HAVING ` + having.String() + `
		ORDER BY sum(letters) FILTER (WHERE state = 'open') DESC NULLS LAST, sum(letters) DESC, fingerprint
		LIMIT ` + fmt.Sprint(
		domain.MaxGroups,
	) + `) g`
	var out []domain.DeadGroup
	err := s.query(ctx, "group dead letters", sql, sample.Args, func(rows pgx.Rows) (err error) {
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
	if err == nil && len(sum) != sha256.Size {
		return l, domain.Errorf(
			domain.Misconfigured, "dead letter %s has a hash of %d bytes: repair the index with docket dlq reindex", l.ID,
			len(sum),
		)
	}
	copy(l.SHA256[:], sum)
	return l, err
}
