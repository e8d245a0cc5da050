package sqlstore

import (
	"crypto/sha256"
	"fmt"
	"strings"

	"github.com/docket-project/docket/internal/domain"
)

// MaxFingerprints is how many fingerprints a store looks for one by one.
const MaxFingerprints = 200

// isCopy is that a record that came is a copy behind the one that the index knows. Where it is not, a record that is
// known is read again, and everything else is as it was.
const isCopy = `(CASE WHEN (excluded.topic, excluded.partition) = (d.topic, d.partition)
	THEN excluded."offset" > d."offset" ELSE excluded.died_at > d.died_at END)`

// cameBack is that a dead letter was replayed, and the record that came is what became of it.
const cameBack = isCopy + ` AND excluded.replay IS NOT NULL AND d.state <> 'stored'`

// WhereKnown is what an INSERT INTO dead_letters AS d does with a dead letter that the index knows. It leaves out those
// that lie before what is known.
func (d *Dialect) WhereKnown() string {
	return strings.NewReplacer("COPY", isCopy, "BACK", cameBack, "GREATEST", d.Greatest).Replace(`
		ON CONFLICT (sha256, tenant, class) DO UPDATE SET
		topic = excluded.topic, partition = excluded.partition, "offset" = excluded."offset", code = excluded.code,
		cause = excluded.cause, error = excluded.error, error_text = excluded.error_text,
		fingerprint = excluded.fingerprint, attempts = excluded.attempts, decision_id = excluded.decision_id,
		path = excluded.path, timestamp = excluded.timestamp, decision = excluded.decision, whole = excluded.whole,
		upload = excluded.upload, origin = excluded.origin, died_at = GREATEST(d.died_at, excluded.died_at),
		state = CASE WHEN BACK THEN 'open' ELSE d.state END,
		changed_at = CASE WHEN BACK THEN excluded.changed_at ELSE d.changed_at END,
		indexed_at = CASE WHEN COPY THEN excluded.indexed_at ELSE d.indexed_at END,
		copies = CASE WHEN COPY THEN d.copies + excluded.copies ELSE GREATEST(d.copies, excluded.copies) END,
		replay = coalesce(excluded.replay, d.replay), replays = GREATEST(d.replays, excluded.replays)
		WHERE COPY OR (excluded.topic, excluded.partition, excluded."offset") = (d.topic, d.partition, d."offset")
		RETURNING replay, changed_at`)
}

// TallyLetters are the columns of domain.Tally, for a WHERE and TallyOrder behind them.
const (
	TallyLetters = `SELECT cause, coalesce(path, ''), class, coalesce(code, ''), coalesce(error_text, ''), count(*)
		FROM dead_letters WHERE `
	TallyOrder = ` GROUP BY 1, 2, 3, 4, 5 ORDER BY 6 DESC, 1, 2 LIMIT 100`
)

// DeadLetters is what a filter wants of the dead letters within a scope. The second clause is over dead_letter_counts,
// where the filter says anything of what a fingerprint stands for: a path that is rare among a million dead letters is
// found by its fingerprints, and one that is not there is known at once.
func (d *Dialect) DeadLetters(scope domain.Scope, f domain.Filter) (letters, counts *Where) {
	wanted := domain.AllOf(f.Where, scope.Expr())
	letters = d.Where()
	letters.Span("died_at", f)
	letters.Fits(domain.DeadLetterFields, wanted)
	if counted := wanted.About(domain.CountedFields...); counted.Op != "" {
		counts = d.Where()
		counts.Fits(domain.DeadLetterFields, counted)
	}
	return letters, counts
}

// Fingerprints asks for the fingerprints that counts fits and how many dead letters each has: one more than
// MaxFingerprints where there are too many to look for.
func (w *Where) Fingerprints() string {
	return `SELECT fingerprint, CAST(sum(letters) AS bigint) FROM dead_letter_counts WHERE ` + w.String() +
		` GROUP BY fingerprint HAVING sum(letters) > 0 LIMIT ` + w.Param(Int, MaxFingerprints+1)
}

// ToDo adds that a dead letter is still to be dealt with by a job.
func (w *Where) ToDo(j domain.Job) {
	w.Add("state <> 'stored' AND replay IS DISTINCT FROM " + w.Param(Text, j.ID) + " AND died_at <= " + w.At(j.CreatedAt))
	if j.Kind == domain.Replay {
		w.Add("replays < " + w.Param(Int, j.MaxReplays))
	}
}

// NextPositions is the clause with the next positions of the log, oldest first.
func (w *Where) NextPositions(after domain.Position, limit int) string {
	w.Add(`(topic, partition, "offset") > (` + w.Param(Text, after.Topic) + `, ` + w.Param(Int, after.Partition) + `, ` +
		w.Param(Bigint, after.Offset) + `)`)
	return `WHERE ` + w.String() + ` ORDER BY topic, partition, "offset" LIMIT ` + w.Param(Int, limit)
}

// DeadPage is the clause with the page behind a cursor, newest first, and one dead letter more.
func (w *Where) DeadPage(q domain.Query) string {
	if a := q.After; a != nil {
		w.Add("(died_at, id) < (" + w.At(a.Time) + ", " + w.Param(Text, a.ID) + ")")
	}
	return "WHERE " + w.String() + " ORDER BY died_at DESC, id DESC LIMIT " + w.Param(Int, q.Limit+1)
}

// CountByState asks how many of the dead letters are in each state: the counts know it where the filter is countable.
func (w *Where) CountByState(f domain.Filter) string {
	if f.Countable() {
		return `SELECT state, CAST(sum(letters) AS bigint) FROM dead_letter_counts WHERE ` + w.String() +
			` GROUP BY state HAVING sum(letters) > 0`
	}
	return `SELECT state, count(*) FROM dead_letters WHERE ` + w.String() + ` GROUP BY state`
}

// DeadGroups asks for the groups: fingerprint, class, code, cause, text, path, how many are open, replayed, discarded
// and stored, first, last and a sample.
func (d *Dialect) DeadGroups(scope domain.Scope, f domain.Filter) (query string, args []any) {
	wanted := domain.AllOf(f.Where, scope.Expr())
	counts := d.Where()
	counts.Fits(domain.DeadLetterFields, wanted.About(domain.CountedFields...))
	inState := counts.And() // which chooses groups, and does not hide their others
	inState.Fits(domain.DeadLetterFields, wanted.About(domain.FieldState))
	having := inState.And()
	having.Add("sum(letters) FILTER (WHERE " + inState.String() + ") > 0")
	having.Span("max(last_at)", domain.Filter{Since: f.Since})
	having.Span("min(first_at)", domain.Filter{Until: f.Until})
	sample := having.And()
	sample.Fits(domain.DeadLetterFields, wanted.About(domain.FieldTenant, domain.FieldTopic))
	sum := func(state domain.DeadState) string {
		return fmt.Sprintf("CAST(coalesce(sum(letters) FILTER (WHERE state = '%s'), 0) AS bigint)", state)
	}
	query = `SELECT g.*, coalesce((SELECT id FROM dead_letters d WHERE d.fingerprint = g.fingerprint AND ` +
		sample.String() + ` ORDER BY died_at DESC LIMIT 1), '') FROM (
		SELECT fingerprint, min(class), coalesce(min(code), ''), min(cause), coalesce(min(error_text), ''),
		coalesce(min(path), ''), ` + sum(domain.DeadOpen) + ` AS open, ` + sum(domain.DeadReplayed) + `, ` +
		sum(domain.DeadDiscarded) + `, ` + sum(domain.DeadStored) + `, min(first_at), max(last_at)
		FROM dead_letter_counts WHERE ` + counts.String() + ` GROUP BY fingerprint HAVING ` + having.String() + `
		ORDER BY open DESC, sum(letters) DESC, fingerprint LIMIT ` + fmt.Sprint(domain.MaxGroups) + `) g`
	return query, sample.Args
}

// SetHash takes the hash of a dead letter from its column.
func SetHash(l *domain.DeadLetter, sum []byte) error {
	if len(sum) != sha256.Size {
		return domain.Errorf(
			domain.Misconfigured, "dead letter %s has a hash of %d bytes: repair the index with docket dlq reindex", l.ID,
			len(sum),
		)
	}
	copy(l.SHA256[:], sum)
	return nil
}

// Page parts what a page holds from the one item more that shows that another follows, and returns the cursor behind
// it; nil on the last page.
func Page[T any](items []T, limit int, cursor func(*T) *domain.Cursor) ([]T, *domain.Cursor) {
	if len(items) <= limit {
		return items, nil
	}
	return items[:limit], cursor(&items[limit-1])
}
