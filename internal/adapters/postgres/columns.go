package postgres

import (
	"context"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/docket-project/docket/internal/domain"
)

// StoredEvents returns one page of rows with their events; see ports.DecisionColumns.
func (s *Store) StoredEvents(ctx context.Context, scope domain.Scope, q domain.Query) (domain.Page, error) {
	return s.page(ctx, scope, q, true)
}

// setColumns updates rows of a table from an array of decision_input. The span that follows lets the planner leave out
// partitions.
var setColumns = `UPDATE TABLE d SET outcome = u.outcome, sanitised = u.sanitised, unsearchable = u.unsearchable,
		bundles = u.bundles, ` + assignments("u.") + `
	FROM unnest($1::decision_input[]) u
	WHERE d.decision_id = u.decision_id AND d.tenant = u.tenant AND d.sha256 = u.sha256 AND `

// assignments sets every projected text to that of a prefix.
func assignments(prefix string) string {
	parts := make([]string, len(domain.TextColumns))
	for i, c := range domain.TextColumns {
		parts[i] = c.Name + " = " + prefix + c.Name
	}
	return strings.Join(parts, ", ")
}

// recount takes rows that get another path or outcome out of the counts, and puts them in as what they become. It locks
// them: who saves or changes the same waits.
var recount = `WITH changed AS (
		SELECT d.timestamp, d.tenant, d.path, d.outcome, u.path AS new_path, u.outcome AS new_outcome
		FROM decisions d JOIN unnest($2::decision_input[]) u ON d.timestamp = u.timestamp AND d.tenant = u.tenant
			AND d.decision_id = u.decision_id AND d.sha256 = u.sha256
		WHERE d.timestamp BETWEEN $3 AND $4
			AND (d.path, d.outcome) IS DISTINCT FROM (u.path COLLATE "C", u.outcome COLLATE "C")
		FOR UPDATE OF d
	) ` + appendCounts(`(SELECT timestamp, tenant, path, outcome, -1 AS n FROM changed
		UNION ALL SELECT timestamp, tenant, new_path, new_outcome, 1 FROM changed) b`)

// eraseInside removes rows of days, and takes them out of the counts; eraseOutside removes those out of the window.
var (
	eraseInside = `WITH gone AS (DELETE FROM decisions d USING unnest($2::decision_input[]) u
		WHERE d.timestamp = u.timestamp AND d.tenant = u.tenant AND d.decision_id = u.decision_id AND d.sha256 = u.sha256
			AND d.timestamp BETWEEN $3 AND $4
		RETURNING d.timestamp, d.tenant, d.path, d.outcome, -1 AS n
	) ` + appendCounts("gone")
	eraseOutside = `DELETE FROM decisions_out_of_window d USING unnest($1::decision_input[]) u
		WHERE d.decision_id = u.decision_id AND d.tenant = u.tenant AND d.sha256 = u.sha256
			AND d.timestamp IS NOT DISTINCT FROM u.timestamp`
)

// SetColumns gives rows other columns; see ports.DecisionColumns.
func (s *Store) SetColumns(ctx context.Context, decisions []domain.Decision) error {
	return s.changeRows(ctx, "change columns", decisions, func(b *pgconn.Batch, array, now, first, last []byte) {
		b.ExecParams(recount, [][]byte{now, array, first, last}, countedParams, binaryFormat, binaryFormat)
		b.ExecParams(
			strings.ReplaceAll(setColumns, "TABLE", "decisions")+
				`d.timestamp = u.timestamp AND d.timestamp BETWEEN $2 AND $3`,
			[][]byte{array, first, last}, []uint32{0, pgtype.TimestamptzOID, pgtype.TimestamptzOID}, binaryFormat, binaryFormat,
		)
		b.ExecParams(
			strings.ReplaceAll(setColumns, "TABLE", "decisions_out_of_window")+
				`d.timestamp IS NOT DISTINCT FROM u.timestamp`,
			[][]byte{array}, []uint32{0}, binaryFormat, binaryFormat,
		)
	})
}

// EraseDecisions removes rows; see ports.DecisionEraser.
func (s *Store) EraseDecisions(ctx context.Context, decisions []domain.Decision) error {
	return s.changeRows(ctx, "erase decisions", decisions, func(b *pgconn.Batch, array, now, first, last []byte) {
		b.ExecParams(eraseInside, [][]byte{now, array, first, last}, countedParams, binaryFormat, binaryFormat)
		b.ExecParams(eraseOutside, [][]byte{array}, []uint32{0}, binaryFormat, binaryFormat)
	})
}

// countedParams are those of statements that change counts: now, rows, and the span of their timestamps.
var countedParams = []uint32{pgtype.TimestamptzOID, 0, pgtype.TimestamptzOID, pgtype.TimestamptzOID}

// changeRows makes one transaction of statements about rows, which are given as an array of decision_input without
// their events.
func (s *Store) changeRows(
	ctx context.Context, op string, decisions []domain.Decision,
	queue func(b *pgconn.Batch, array, now, first, last []byte),
) error {
	if len(decisions) == 0 {
		return nil
	}
	rows := make([]row, len(decisions))
	for i := range decisions {
		d := decisions[i]
		d.Event = nil // it stays as it is
		rows[i] = row{Decision: &d, at: i}
	}
	conn, err := s.acquire(ctx)
	if err != nil {
		return s.settle(op, nil, err)
	}
	defer conn.Release()
	err = atOnce(func() error { return s.update(ctx, conn.Conn(), rows, queue) })
	return s.settle(op, conn.Conn(), err)
}

func (s *Store) update(
	ctx context.Context, conn *pgx.Conn, rows []row, queue func(b *pgconn.Batch, array, now, first, last []byte),
) error {
	ctx, cancel := context.WithTimeout(ctx, s.opts.StatementTimeout+answerMargin)
	defer cancel()
	element, err := s.inputType(ctx, conn)
	if err != nil {
		return err
	}
	var batch pgconn.Batch
	batch.ExecParams(begin, nil, nil, nil, nil)
	batch.ExecParams(s.settings, nil, nil, nil, nil)
	array := encode(element, rows, nil)
	defer array.giveBack()
	first, last := span(rows)
	queue(&batch, *array, instantParam(s.opts.Now()), instantParam(first), instantParam(last))
	batch.ExecParams("COMMIT", nil, nil, nil, nil)
	_, err = conn.PgConn().ExecBatch(ctx, &batch).ReadAll()
	if unknownType(err) {
		s.input.Store(0) // the type was made anew
	}
	return err
}
