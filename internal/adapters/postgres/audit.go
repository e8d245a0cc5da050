package postgres

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/docket-project/docket/internal/adapters/sqlstore"
	"github.com/docket-project/docket/internal/domain"
)

// audited writes an entry down, once, if a change returned a row.
const audited = `audit AS (INSERT INTO audit (` + sqlstore.AuditColumns + `) SELECT E::timestamptz, E::text,
	nullif(E::text, '')::jsonb, E::text, E::text, E::text, E::bigint, E::bigint, E::bigint, E::text, E::text
	WHERE EXISTS (SELECT 1 FROM changed) AND E::text <> '')`

// withAudit makes a change, which returns something where it changed anything, and writes an entry of the audit with
// it.
func withAudit(change string, e domain.AuditEntry, args ...any) (string, []any) {
	sql := audited
	for _, v := range append(auditValues(e), e.Action) {
		args = append(args, v)
		sql = strings.Replace(sql, "E::", fmt.Sprintf("$%d::", len(args)), 1)
	}
	return `WITH changed AS (` + change + `), ` + sql + ` SELECT true FROM changed`, args
}

// auditValues are an entry's, in the order of sqlstore.AuditColumns.
func auditValues(e domain.AuditEntry) []any {
	t := sqlstore.TextsOf(e)
	return []any{
		timestamptz(e.At),
		e.Caller,
		t.Tenants,
		e.Action,
		e.Target,
		t.Filter,
		e.Matched,
		e.Done,
		e.Failed,
		e.Comment,
		t.Outcome,
	}
}

// one reads a truth from rows, if there are any.
func one(into *bool) func(pgx.Rows) error {
	return func(rows pgx.Rows) error {
		_, err := pgx.ForEachRow(rows, []any{into}, func() error { return nil })
		return err
	}
}

// Audit adds an entry; see ports.AuditWriter.
func (s *Store) Audit(ctx context.Context, e domain.AuditEntry) error {
	return s.change(ctx, "write to the audit", func(b *pgx.Batch) {
		b.Queue(
			`INSERT INTO audit (`+sqlstore.AuditColumns+`) VALUES ($1::timestamptz, $2::text, nullif($3::text, '')::jsonb,
				$4::text,
			$5::text, $6::text, $7::bigint, $8::bigint, $9::bigint, $10::text, $11::text)`,
			auditValues(e)...)
	})
}

// Audits lists entries; see ports.AuditReader.
func (s *Store) Audits(
	ctx context.Context, scope domain.Scope, before time.Time, limit int,
) (out []domain.AuditEntry, err error) {
	w := dialect.Where()
	w.Owned(scope)
	w.Span("at", domain.Filter{Until: before})
	sql := `SELECT at, caller, tenants::text, action, target, filter, matched, done, failed, comment, outcome FROM audit
		WHERE ` + w.String() + ` ORDER BY at DESC LIMIT ` + w.Param(sqlstore.Int, limit)
	err = s.query(ctx, "read the audit", sql, w.Args, func(rows pgx.Rows) (err error) {
		out, err = pgx.CollectRows(rows, scanAudit)
		return err
	})
	return out, err
}

func scanAudit(row pgx.CollectableRow) (e domain.AuditEntry, err error) {
	var t sqlstore.AuditTexts
	var tenants pgtype.Text
	if err := row.Scan(
		&e.At, &e.Caller, &tenants, &e.Action, &e.Target, &t.Filter, &e.Matched, &e.Done, &e.Failed, &e.Comment, &t.Outcome,
	); err != nil {
		return e, err
	}
	e.At, t.Tenants = e.At.UTC(), tenants.String
	return e, t.Into(&e)
}
