package sqlite

import (
	"context"
	"database/sql"

	"github.com/docket-project/docket/internal/domain"
)

// RecordCredentials adds what was seen of credentials; see ports.CredentialRecorder.
func (s *Store) RecordCredentials(ctx context.Context, credentials []domain.Credential) error {
	const upsert = `INSERT INTO credentials AS c
		(listener, how, name, id, tenant, role, expires, listed, first_used, last_used, uses, address)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT DO UPDATE SET
		role = excluded.role, expires = excluded.expires,
		listed = coalesce(max(c.listed, excluded.listed), c.listed, excluded.listed),
		first_used = coalesce(min(c.first_used, excluded.first_used), c.first_used, excluded.first_used),
		last_used = coalesce(max(c.last_used, excluded.last_used), c.last_used, excluded.last_used),
		uses = c.uses + excluded.uses,
		address = CASE WHEN c.last_used IS NULL OR excluded.last_used >= c.last_used THEN excluded.address
			ELSE c.address END`
	err := s.inTx(ctx, func(tx *sql.Tx) error {
		for _, c := range credentials {
			_, err := tx.Exec(
				upsert, c.Listener, c.How, c.Name, c.ID, c.Tenant, string(c.Role), micros(c.Expires), micros(c.Listed),
				micros(c.First), micros(c.Last), c.Uses, c.Address,
			)
			if err != nil {
				return err
			}
		}
		_, err := tx.Exec(
			`DELETE FROM credentials WHERE max(coalesce(last_used, 0), coalesce(listed, 0)) < ?`,
			s.opts.Now().Add(-domain.CredentialsKept).UnixMicro(),
		)
		return err
	})
	return s.checked("record credentials in "+storeFile, err)
}

// Credentials lists them; see ports.CredentialReader.
func (s *Store) Credentials(ctx context.Context, scope domain.Scope) (out []domain.Credential, err error) {
	w := dialect.Where()
	w.Fits(domain.DecisionFields, scope.Expr())
	list := `SELECT listener, how, name, id, tenant, role, expires, listed, first_used, last_used, uses, address
		FROM credentials WHERE ` + w.String() + `
		ORDER BY last_used DESC NULLS LAST, listener, how, name, id, tenant LIMIT 1000`
	err = s.each(ctx, list, w.Args, func(rows *sql.Rows) error {
		var c domain.Credential
		var expires, listed, first, last sql.NullInt64
		err := rows.Scan(
			&c.Listener, &c.How, &c.Name, &c.ID, &c.Tenant, &c.Role, &expires, &listed, &first, &last, &c.Uses, &c.Address,
		)
		c.Expires, c.Listed, c.First, c.Last = instant(expires), instant(listed), instant(first), instant(last)
		out = append(out, c)
		return err
	})
	return out, s.checked("list credentials in "+storeFile, err)
}
