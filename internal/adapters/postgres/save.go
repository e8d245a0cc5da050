package postgres

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/docket-project/docket/internal/adapters/sqlstore"
	"github.com/docket-project/docket/internal/domain"
)

// row is one decision of a batch.
type row struct {
	*domain.Decision
	at     int  // its index in the batch
	inside bool // of the window
}

// key is what a row is known by; timestamp is 0 outside the window.
type key struct {
	tenant, id string
	timestamp  int64
}

// The columns that both tables have, as they are inserted from an array of decision_input.
var (
	inserted = `timestamp, received_at, saved_at, sanitised, unsearchable, sha256, tenant, decision_id, outcome, ` +
		sqlstore.TextColumns("") + `, bundles, event, packed`
	selected = `u.timestamp, u.received_at, $1::timestamptz, u.sanitised, u.unsearchable, u.sha256, u.tenant,
		u.decision_id,
		u.outcome, ` + sqlstore.TextColumns(
		"u.",
	) + `, u.bundles, u.event, u.packed FROM unnest($2::decision_input[]) u`
	insertDecisions = `WITH new AS (INSERT INTO decisions (` + inserted + `) SELECT ` + selected + `
		WHERE NOT EXISTS (SELECT 1 FROM decisions_out_of_window o
			WHERE o.decision_id = u.decision_id AND o.tenant = u.tenant AND o.timestamp = u.timestamp)
		ON CONFLICT DO NOTHING RETURNING tenant, decision_id, timestamp, path, outcome, 1 AS n
		), counted AS (` + appendCounts("new") + `) SELECT tenant, decision_id, timestamp FROM new`
	insertOutOfWindow = `INSERT INTO decisions_out_of_window (time, ` + inserted + `)
		SELECT coalesce(u.timestamp, u.received_at), ` + selected + `
		WHERE NOT EXISTS (SELECT 1 FROM decisions d
			WHERE d.timestamp = u.timestamp AND d.tenant = u.tenant AND d.decision_id = u.decision_id
			AND d.timestamp BETWEEN $3 AND $4)
		ON CONFLICT DO NOTHING RETURNING tenant, decision_id`
)

// Who holds the keys that were not inserted. Out of window the key has no timestamp, so any row of the same id stands
// in the way there.
const holders = `SELECT k.n, d.sha256 FROM unnest($1::text[], $2::text[], $3::timestamptz[]) WITH ORDINALITY AS
	k(tenant, decision_id, timestamp, n)
			JOIN decisions d ON d.timestamp = k.timestamp AND d.tenant = k.tenant AND d.decision_id = k.decision_id
			WHERE d.timestamp BETWEEN $4 AND $5
		UNION ALL SELECT k.n, o.sha256 FROM unnest($1::text[], $2::text[], $3::timestamptz[], $6::boolean[]) WITH ORDINALITY
		AS k(tenant, decision_id, timestamp, inside, n)
			JOIN decisions_out_of_window o ON o.decision_id = k.decision_id AND o.tenant = k.tenant
			WHERE NOT k.inside OR o.timestamp = k.timestamp`

// SaveBatch stores decisions in one transaction and one round trip, and a second one where some were there already; see
// ports.DecisionWriter.
func (s *Store) SaveBatch(ctx context.Context, decisions []domain.Decision) ([]domain.SaveStatus, error) {
	return s.insertBatch(ctx, decisions, "COMMIT")
}

// DryRunBatch is SaveBatch, rolled back; see ports.DryRunner.
func (s *Store) DryRunBatch(ctx context.Context, decisions []domain.Decision) ([]domain.SaveStatus, error) {
	return s.insertBatch(ctx, decisions, "ROLLBACK")
}

func (s *Store) insertBatch(ctx context.Context, decisions []domain.Decision, end string) ([]domain.SaveStatus, error) {
	if err := s.learn(ctx); err != nil {
		return nil, err
	}
	s.learnDictionaries(ctx)
	statuses := make([]domain.SaveStatus, len(decisions))
	inside, outside, twins := s.classify(decisions, statuses)
	if len(inside)+len(outside) == 0 {
		return statuses, nil
	}
	err := atOnce(func() error { return s.save(ctx, inside, outside, end, statuses) })
	if lacksDictionary(err) {
		if err = s.restoreDictionaries(ctx); err == nil {
			err = s.save(ctx, inside, outside, end, statuses)
		}
	}
	if noPartition(err) { // it was dropped behind our back
		s.forgetDays()
		err = s.save(ctx, inside, outside, end, statuses)
	}
	if errors.Is(err, errDayGone) { // by the retention: the rows of that day are too old, as is known now
		return s.insertBatch(ctx, decisions, end)
	}
	if err != nil {
		return nil, misplaced(err)
	}
	if end != "COMMIT" {
		likeTheirFirst(slices.Concat(inside, outside), twins, statuses)
	}
	if err := s.explain(ctx, slices.Concat(inside, outside, twins), statuses); err != nil {
		return nil, err
	}
	return statuses, nil
}

// likeTheirFirst judges rows whose key comes twice in a batch that was rolled back: what would stand in their way is
// not there.
func likeTheirFirst(rows, twins []row, statuses []domain.SaveStatus) {
	for _, t := range twins {
		i := slices.IndexFunc(rows, func(r row) bool {
			return statuses[r.at] == domain.Saved && r.Tenant == t.Tenant && r.ID == t.ID &&
				(!r.inside || r.Timestamp.Equal(t.Timestamp))
		})
		if i < 0 {
			continue
		}
		if statuses[t.at] = domain.Conflicting; rows[i].SHA256 == t.SHA256 {
			statuses[t.at] = domain.Duplicate
		}
	}
}

// classify sorts a batch: rows of each table in the order of its key, so that two batches never wait for each other,
// and rows whose key comes twice. What is too old has its status already.
func (s *Store) classify(decisions []domain.Decision, statuses []domain.SaveStatus) (inside, outside, twins []row) {
	now := s.opts.Now()
	seen := make(map[key]bool, len(decisions))
	inside = make([]row, 0, len(decisions))
	for i := range decisions {
		d := &decisions[i]
		k := key{tenant: d.Tenant, id: d.ID}
		into, in := &outside, false
		switch s.placement(d, now) {
		case domain.BeforeWindow:
			statuses[i] = domain.TooOld
			continue
		case domain.Inside:
			k.timestamp, into, in = d.Timestamp.UnixMicro(), &inside, true
		case domain.Outside:
		}
		if seen[k] {
			into = &twins
		}
		seen[k] = true
		*into = append(*into, row{d, i, in})
	}
	slices.SortFunc(inside, func(a, b row) int {
		return cmp.Or(a.Timestamp.Compare(b.Timestamp), cmp.Compare(a.Tenant, b.Tenant), cmp.Compare(a.ID, b.ID))
	})
	slices.SortFunc(
		outside,
		func(a, b row) int { return cmp.Or(cmp.Compare(a.ID, b.ID), cmp.Compare(a.Tenant, b.Tenant)) },
	)
	return inside, outside, twins
}

// save inserts rows and sets the status of those that are new.
func (s *Store) save(ctx context.Context, inside, outside []row, end string, statuses []domain.SaveStatus) error {
	conn, err := s.acquire(ctx)
	if err != nil {
		return s.settle("save to the database", nil, err)
	}
	defer conn.Release()
	if err := s.ensureDays(ctx, conn.Conn(), inside); err != nil {
		return err
	}
	var inserts []insertion
	if len(inside) > 0 {
		inserts = append(inserts, insertion{insertDecisions, inside, true})
	}
	if len(outside) > 0 {
		inserts = append(inserts, insertion{insertOutOfWindow, outside, false})
	}
	err = s.insert(ctx, conn.Conn(), s.settings, end, inserts, statuses)
	if err != nil {
		for _, r := range slices.Concat(inside, outside) {
			statuses[r.at] = ""
		}
	}
	return s.settle("save to the database", conn.Conn(), err)
}

// insertion is a statement that inserts rows and returns the keys of those that are new: tenant, decision id and, with
// timestamps, the timestamp.
type insertion struct {
	sql        string
	rows       []row
	timestamps bool
}

// insert runs insertions in one transaction of one round trip. The types of the parameters are given, so that the
// server is not asked for them first: that would wait for the table's lock before the settings are in force.
func (s *Store) insert(
	ctx context.Context, conn *pgx.Conn, settings, end string, inserts []insertion, statuses []domain.SaveStatus,
) error {
	ctx, cancel := context.WithTimeout(ctx, s.opts.StatementTimeout+answerMargin)
	defer cancel()
	element, err := s.inputType(ctx, conn)
	if err != nil {
		return err
	}
	now := instantParam(s.opts.Now())
	packing := s.packing()
	encoded := make([]*wire, len(inserts))
	for n, i := range inserts {
		encoded[n] = encode(element, i.rows, packing)
	}
	var batch pgconn.Batch
	batch.ExecParams(begin, nil, nil, nil, nil)
	batch.ExecParams(settings, nil, nil, nil, nil)
	ahead := 2 // statements in front of the insertions
	if packing != nil && len(packing.Used()) > 0 {
		needDictionaries(&batch, packing.Used())
		ahead++
	}
	for n, i := range inserts {
		params, types := [][]byte{now, *encoded[n]}, []uint32{pgtype.TimestamptzOID, 0}
		if !i.timestamps {
			first, last := span(i.rows)
			params = append(params, instantParam(first), instantParam(last))
			types = append(types, pgtype.TimestamptzOID, pgtype.TimestamptzOID)
		}
		batch.ExecParams(i.sql, params, types, binaryFormat, binaryFormat) // copies the array
		encoded[n].giveBack()
	}
	batch.ExecParams(end, nil, nil, nil, nil)
	results := conn.PgConn().ExecBatch(ctx, &batch)
	for n := 0; results.NextResult(); n++ {
		if i := n - ahead; i >= 0 && i < len(inserts) {
			inserts[i].saved(results.ResultReader(), statuses)
		}
		if _, err := results.ResultReader().Close(); err != nil {
			break // Close has it too
		}
	}
	err = results.Close()
	if unknownType(err) {
		s.input.Store(0) // the type was made anew
	}
	return err
}

var binaryFormat = []int16{pgx.BinaryFormatCode}

// saved marks the rows whose keys the insertion returns.
func (i insertion) saved(returned *pgconn.ResultReader, statuses []domain.SaveStatus) {
	keys := make(map[key]bool, len(i.rows))
	for returned.NextRow() {
		v := returned.Values()
		k := key{tenant: string(v[0]), id: string(v[1])}
		if i.timestamps {
			k.timestamp = int64(binary.BigEndian.Uint64(v[2])) + epoch
		}
		keys[k] = true
	}
	for _, r := range i.rows {
		k := key{tenant: r.Tenant, id: r.ID}
		if i.timestamps {
			k.timestamp = r.Timestamp.UnixMicro()
		}
		if keys[k] {
			statuses[r.at] = domain.Saved
		}
	}
}

// epoch is where PostgreSQL's timestamps count from: 2000-01-01, in microseconds since 1970.
const epoch = 946_684_800_000_000

// explain tells duplicates from conflicts among the rows that were not inserted. One that nobody stands in the way of
// was skipped in silence, or what stood there is gone.
func (s *Store) explain(ctx context.Context, rows []row, statuses []domain.SaveStatus) error {
	rows = slices.DeleteFunc(rows, func(r row) bool { return statuses[r.at] != "" })
	if len(rows) == 0 {
		return nil
	}
	for _, r := range rows {
		statuses[r.at] = domain.Skipped
	}
	return s.visitHolders(ctx, rows, func(r row, same bool) {
		if same {
			statuses[r.at] = domain.Duplicate
		} else if statuses[r.at] == domain.Skipped {
			statuses[r.at] = domain.Conflicting
		}
	})
}

// visitHolders tells of every row that holds the key of one of these, and whether it has the same bytes. It asks for
// one day at a time: a day that somebody has locked concerns no other.
func (s *Store) visitHolders(ctx context.Context, rows []row, visit func(r row, same bool)) error {
	byDay := map[domain.Day][]row{}
	for _, r := range rows {
		day := domain.DayOf(r.Timestamp) // of no partition, where there is no timestamp
		byDay[day] = append(byDay[day], r)
	}
	conn, err := s.acquire(ctx)
	if err != nil {
		return s.settle("look for duplicates", nil, err)
	}
	defer conn.Release()
	err = s.inTx(ctx, conn.Conn(), beginReadOnly, func(b *pgx.Batch) {
		for _, rows := range byDay {
			queueHolders(b, rows, visit)
		}
	})
	return s.settle("look for duplicates", conn.Conn(), err)
}

// queueHolders asks for the holders of keys.
func queueHolders(b *pgx.Batch, rows []row, visit func(r row, same bool)) {
	n := len(rows)
	tenants, ids := make([]string, n), make([]string, n)
	timestamps, inside := make([]pgtype.Timestamptz, n), make([]bool, n)
	for i, r := range rows {
		tenants[i], ids[i], timestamps[i], inside[i] = r.Tenant, r.ID, timestamptz(r.Timestamp), r.inside
	}
	first, last := span(rows)
	b.Queue(holders, tenants, ids, timestamps, first, last, inside).Query(
		func(found pgx.Rows) error {
			var at int64
			var sum []byte
			_, err := pgx.ForEachRow(found, []any{&at, &sum}, func() error {
				r := rows[at-1]
				visit(r, string(sum) == string(r.SHA256[:]))
				return nil
			})
			return err
		},
	)
}

// span is the first and the last timestamp of rows. Partitions outside of it are not even locked; where no row has a
// timestamp, it is where no partition is.
func span(rows []row) (first, last time.Time) {
	for _, r := range rows {
		if r.Timestamp.IsZero() {
			continue
		}
		if first.IsZero() || r.Timestamp.Before(first) {
			first = r.Timestamp
		}
		if r.Timestamp.After(last) {
			last = r.Timestamp
		}
	}
	return first, last
}

// instantParam is a parameter in the binary format.
func instantParam(t time.Time) []byte {
	return binary.BigEndian.AppendUint64(nil, uint64(t.UnixMicro()-epoch))
}

func timestamptz(t time.Time) pgtype.Timestamptz {
	return pgtype.Timestamptz{Time: t, Valid: !t.IsZero()}
}
