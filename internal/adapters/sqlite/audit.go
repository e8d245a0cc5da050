package sqlite

import (
	"context"
	"database/sql"
	"strings"
	"time"

	"github.com/docket-project/docket/internal/adapters/sqlstore"
	"github.com/docket-project/docket/internal/domain"
)

// Audit adds an entry; see ports.AuditWriter.
func (s *Store) Audit(ctx context.Context, e domain.AuditEntry) error {
	return s.checked("write to the audit in "+storeFile, s.inTx(ctx, func(tx *sql.Tx) error { return audit(tx, e) }))
}

var insertAudit = `INSERT INTO audit (` + sqlstore.AuditColumns + `) VALUES (` +
	placeholders(sqlstore.Columns(sqlstore.AuditColumns)) + `)`

// placeholders are so many parameters.
func placeholders(n int) string { return strings.TrimSuffix(strings.Repeat("?, ", n), ", ") }

// audit adds an entry, unless it has no action.
func audit(tx *sql.Tx, e domain.AuditEntry) error {
	if e.Action == "" {
		return nil
	}
	t := sqlstore.TextsOf(e)
	_, err := tx.Exec(
		insertAudit, e.At.UnixMicro(), e.Caller, text(t.Tenants), e.Action, e.Target, t.Filter, e.Matched, e.Done, e.Failed,
		e.Comment, t.Outcome,
	)
	return err
}

// Audits lists entries; see ports.AuditReader.
func (s *Store) Audits(
	ctx context.Context, scope domain.Scope, before time.Time, limit int,
) (out []domain.AuditEntry, err error) {
	w := dialect.Where()
	w.Owned(scope)
	w.Span("at", domain.Filter{Until: before})
	query := `SELECT ` + sqlstore.AuditColumns + ` FROM audit WHERE ` + w.String() + ` ORDER BY at DESC LIMIT ` +
		w.Param(sqlstore.Int, limit)
	err = s.each(ctx, query, w.Args, func(rows *sql.Rows) error {
		var e domain.AuditEntry
		var t sqlstore.AuditTexts
		var tenants sql.NullString
		var at int64
		if err := rows.Scan(
			&at, &e.Caller, &tenants, &e.Action, &e.Target, &t.Filter, &e.Matched, &e.Done, &e.Failed, &e.Comment, &t.Outcome,
		); err != nil {
			return err
		}
		e.At, t.Tenants = instantOf(at), tenants.String
		err := t.Into(&e)
		out = append(out, e)
		return err
	})
	return out, s.checked("read the audit in "+storeFile, err)
}
