package postgres

import (
	"context"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/docket-project/docket/internal/adapters/sqlstore"
	"github.com/docket-project/docket/internal/domain"
)

// inIndexOrder makes the changes of the index wait for each other: they touch the same counts.
const inIndexOrder = `SELECT pg_advisory_xact_lock(hashtext('docket dead letters'))`

// indexDeadLetters takes in dead letters by column, and counts those that came back for their jobs. One whose place was
// taken by what failed in another class later stays out.
var indexDeadLetters = `WITH came AS (INSERT INTO dead_letters AS d (` + sqlstore.DeadLetterColumns + `)
	SELECT u.id, u.topic, u.partition, u."offset", 'open', u.class, nullif(u.code, ''), u.cause, nullif(u.error, ''),
		nullif(u.error_text, ''), u.fingerprint, u.attempts, u.tenant, nullif(u.decision_id, ''), nullif(u.path, ''),
		u.timestamp, u.decision, u.whole, u.sha256, u.bytes, nullif(u.upload, ''), nullif(u.origin, ''), u.received_at,
		u.first_failed_at, u.died_at, $1::timestamptz, $1::timestamptz, u.copies, nullif(u.replay, ''), u.replays
	FROM unnest($2::text[], $3::text[], $4::int[], $5::bigint[], $6::text[], $7::text[], $8::text[], $9::text[],
		$10::text[], $11::text[], $12::int[], $13::text[], $14::text[], $15::text[], $16::timestamptz[], $17::boolean[],
		$18::boolean[], $19::bytea[], $20::int[], $21::text[], $22::text[], $23::timestamptz[], $24::timestamptz[],
		$25::timestamptz[], $26::int[], $27::text[], $28::int[])
		AS u(id, topic, partition, "offset", class, code, cause, error, error_text, fingerprint, attempts, tenant,
		decision_id, path, timestamp, decision, whole, sha256, bytes, upload, origin, received_at, first_failed_at, died_at,
		copies, replay, replays)
	WHERE NOT EXISTS (SELECT FROM dead_letters n WHERE (n.sha256, n.tenant) = (u.sha256, u.tenant)
		AND n.class <> u.class AND n.replay IS NOT NULL AND n.died_at > u.died_at)` + dialect.WhereKnown() + `)
	UPDATE jobs r SET failed = r.failed + c.n
	FROM (SELECT replay, count(*) AS n FROM came
		WHERE replay IS NOT NULL AND changed_at = $1::timestamptz GROUP BY replay) c
	WHERE r.id = c.replay`

// forgetOthers removes rows whose position has other bytes now: the topic was made anew.
const forgetOthers = `DELETE FROM dead_letters d USING unnest($1::text[], $2::bytea[], $3::text[], $4::text[])
	AS u(id, sha256, tenant, class)
	WHERE d.id = u.id AND (d.sha256, d.tenant, d.class) <> (u.sha256, u.tenant, u.class)`

// supersede removes what a job has replayed and what has failed in another class since: the same bytes under a new
// identity.
const supersede = `DELETE FROM dead_letters d USING unnest($1::bytea[], $2::text[], $3::text[], $4::text[],
	$5::timestamptz[]) AS u(sha256, tenant, class, replay, died_at)
	WHERE u.replay <> '' AND (d.sha256, d.tenant) = (u.sha256, u.tenant) AND d.class <> u.class AND d.died_at < u.died_at
	AND d.state IN ('open', 'replayed')`

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
		b.Queue(supersede, u.sum, u.tenant, u.class, u.replay, u.diedAt)
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

	partition, attempts, bytes, copies, replays []int32

	offset                                       []int64
	timestamp, receivedAt, firstFailedAt, diedAt []pgtype.Timestamptz
	decision, whole                              []bool
	sum                                          [][]byte
}

func (u *deadColumnsOf) add(l domain.DeadLetter) {
	u.id = append(u.id, l.ID)
	u.topic = append(u.topic, l.Topic)
	u.partition = append(u.partition, l.Partition)
	u.offset = append(u.offset, l.Offset)
	u.class = append(u.class, string(l.Class))
	u.code = append(u.code, l.Code)
	u.cause = append(u.cause, string(l.Cause))
	u.failure = append(u.failure, l.Error)
	u.text = append(u.text, l.Text)
	u.fingerprint = append(u.fingerprint, l.Fingerprint)
	u.attempts = append(u.attempts, int32(l.Attempts))
	u.tenant = append(u.tenant, l.Tenant)
	u.decisionID = append(u.decisionID, l.DecisionID)
	u.path = append(u.path, l.Path)
	u.timestamp = append(u.timestamp, timestamptz(l.Timestamp))
	u.decision = append(u.decision, l.Decision)
	u.whole = append(u.whole, l.Whole)
	u.sum = append(u.sum, l.SHA256[:])
	u.bytes = append(u.bytes, int32(l.Bytes))
	u.upload = append(u.upload, l.Upload)
	u.origin = append(u.origin, l.Origin)
	u.receivedAt = append(u.receivedAt, timestamptz(l.ReceivedAt))
	u.firstFailedAt = append(u.firstFailedAt, timestamptz(l.FirstFailedAt))
	u.diedAt = append(u.diedAt, timestamptz(l.DiedAt))
	u.copies = append(u.copies, int32(l.Copies))
	u.replay = append(u.replay, l.Replay)
	u.replays = append(u.replays, int32(l.Replays))
}

func (u *deadColumnsOf) args() []any {
	return []any{
		u.id, u.topic, u.partition, u.offset, u.class, u.code, u.cause, u.failure, u.text, u.fingerprint, u.attempts,
		u.tenant, u.decisionID, u.path, u.timestamp, u.decision, u.whole, u.sum, u.bytes, u.upload, u.origin, u.receivedAt,
		u.firstFailedAt, u.diedAt, u.copies, u.replay, u.replays,
	}
}

// The count of a job's stored dead letters follows only what it has replayed.
const closeDeadLetters = `WITH was AS (SELECT d.id, d.state, d.replay FROM dead_letters d
		JOIN unnest($2::bytea[], $3::text[], $4::text[]) AS u(sha256, tenant, class)
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
	w := dialect.Where()
	w.Add("decision AND state = " + w.Param(sqlstore.Text, string(state)))
	tail := w.NextPositions(after, limit)
	letters, err := s.deadLetters(ctx, "look for dead letters that are stored", tail, w.Args...)
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

const forgetDeadLetters = `WITH gone AS (DELETE FROM dead_letters WHERE id IN (
	SELECT id FROM dead_letters WHERE state = ANY($4::text[]) AND topic = $1::text AND partition = $2::int
	AND "offset" < $3::bigint LIMIT $5::int) RETURNING state)
	SELECT state, count(*) FROM gone GROUP BY state`

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
			b.Queue(forgetDeadLetters, topic, partition, oldest, deadStates(), step).Query(func(rows pgx.Rows) error {
				return eachCount(rows, func(state domain.DeadState, n int64) {
					gone[state] += n
					removed += n
				})
			})
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
