package postgres

import (
	"cmp"
	"context"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/docket-project/docket/internal/domain"
)

// RecordCredentials adds what was seen of credentials; see ports.CredentialRecorder.
func (s *Store) RecordCredentials(ctx context.Context, credentials []domain.Credential) error {
	const upsert = `INSERT INTO credentials AS c
		(listener, how, name, id, tenant, role, expires, listed, first_used, last_used, uses, address)
		VALUES ($1::text, $2::text, $3::text, $4::text, $5::text, $6::text, $7::timestamptz, $8::timestamptz,
			$9::timestamptz, $10::timestamptz, $11::bigint, $12::text)
		ON CONFLICT (listener, how, name, id, tenant) DO UPDATE SET
		role = excluded.role, expires = excluded.expires, listed = greatest(c.listed, excluded.listed),
		first_used = least(c.first_used, excluded.first_used), last_used = greatest(c.last_used, excluded.last_used),
		uses = c.uses + excluded.uses,
		address = CASE WHEN c.last_used IS NULL OR excluded.last_used >= c.last_used THEN excluded.address
			ELSE c.address END`
	sorted := slices.Clone(credentials) // several processes report the same ones
	slices.SortFunc(sorted, func(a, b domain.Credential) int {
		return cmp.Or(
			cmp.Compare(a.Listener, b.Listener), cmp.Compare(a.How, b.How), cmp.Compare(a.Name, b.Name),
			cmp.Compare(a.ID, b.ID), cmp.Compare(a.Tenant, b.Tenant),
		)
	})
	return s.change(ctx, "record credentials", func(b *pgx.Batch) {
		for _, c := range sorted {
			b.Queue(
				upsert, c.Listener, c.How, c.Name, c.ID, c.Tenant, string(c.Role), timestamptz(c.Expires),
				timestamptz(c.Listed), timestamptz(c.First), timestamptz(c.Last), c.Uses, c.Address,
			)
		}
		b.Queue(`DELETE FROM credentials WHERE greatest(last_used, listed) < now() - $1::interval`, domain.CredentialsKept)
	})
}

// Credentials lists them; see ports.CredentialReader.
func (s *Store) Credentials(ctx context.Context, scope domain.Scope) (out []domain.Credential, err error) {
	w := dialect.Where()
	w.Fits(domain.DecisionFields, scope.Expr())
	sql := `SELECT listener, how, name, id, tenant, role, expires, listed, first_used, last_used, uses, address
		FROM credentials WHERE ` + w.String() + ` ORDER BY last_used DESC NULLS LAST, listener, how, name, id, tenant
		LIMIT 1000`
	err = s.query(ctx, "list credentials", sql, w.Args, func(rows pgx.Rows) (err error) {
		out, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (c domain.Credential, err error) {
			var expires, listed, first, last pgtype.Timestamptz
			err = row.Scan(
				&c.Listener, &c.How, &c.Name, &c.ID, &c.Tenant, &c.Role, &expires, &listed, &first, &last, &c.Uses, &c.Address,
			)
			c.Expires, c.Listed, c.First, c.Last = instant(expires), instant(listed), instant(first), instant(last)
			return c, err
		})
		return err
	})
	return out, err
}
