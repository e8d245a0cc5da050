package sqlite

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/docket-project/docket/internal/domain"
)

// searchColumn maps fields to columns; revision is inside bundles.
var searchColumn = map[domain.Field]string{
	domain.FieldOutcome: "outcome", domain.FieldPath: "path", domain.FieldTenant: "tenant", domain.FieldPrincipal: "principal",
	domain.FieldAction: "action", domain.FieldResource: "resource", domain.FieldOPA: "opa", domain.FieldApp: "app",
	domain.FieldTraceID: "trace_id", domain.FieldError: "error",
}

// condition is a WHERE clause under construction. Column names come from this file, texts only as parameters.
type condition struct {
	clauses []string
	args    []any
}

func (c *condition) add(clause string, args ...any) {
	c.clauses = append(c.clauses, clause)
	c.args = append(c.args, args...)
}

// match spells one wanted text of a field, whose column is one of columns.
func match(columns map[domain.Field]string, f domain.Field, m domain.Match) (string, []any) {
	column, wrap := columns[f], func(s string) string { return s }
	if f == domain.FieldRevision {
		column = "e.value"
		wrap = func(s string) string { return "EXISTS (SELECT 1 FROM json_each(bundles) e WHERE " + s + ")" }
	}
	clause, args := column+" = ?", []any{m.Text}
	switch {
	case m.Prefix && m.Text == "":
		clause, args = column+" IS NOT NULL", nil
	case m.Prefix:
		clause, args = "substr("+column+", 1, length(?)) = ?", []any{m.Text, m.Text}
	}
	clause = wrap(clause)
	if m.Not {
		clause = "NOT coalesce(" + clause + ", 0)" // a row without the field passes
	}
	return clause, args
}

func where(q domain.Query) condition {
	var c condition
	c.within("time", q)
	if a := q.After; a != nil {
		c.add("time <= ? AND (time < ? OR (tenant, decision_id) > (?, ?))", a.Time.UnixMicro(), a.Time.UnixMicro(), a.Tenant, a.ID)
	}
	c.terms(searchColumn, q.Terms)
	return c
}

// within bounds a column by the query's times.
func (c *condition) within(column string, q domain.Query) {
	if !q.Since.IsZero() {
		c.add(column+" >= ?", q.Since.UnixMicro())
	}
	if !q.Until.IsZero() {
		c.add(column+" < ?", q.Until.UnixMicro())
	}
}

// String joins the clauses.
func (c *condition) String() string {
	if len(c.clauses) == 0 {
		return "true"
	}
	return strings.Join(c.clauses, " AND ")
}

// terms adds what is wanted of the fields, each of which has a column.
func (c *condition) terms(columns map[domain.Field]string, terms []domain.Term) {
	for _, t := range terms {
		var anyOf []string
		var anyArgs []any
		for _, m := range t.Matches {
			clause, args := match(columns, t.Field, m)
			if m.Not {
				c.add(clause, args...)
				continue
			}
			anyOf, anyArgs = append(anyOf, clause), append(anyArgs, args...)
		}
		if len(anyOf) > 0 {
			c.add("("+strings.Join(anyOf, " OR ")+")", anyArgs...)
		}
	}
}

// queryTimeout ends a search that looks too far: while it reads, the write-ahead file cannot shrink.
const queryTimeout = 10 * time.Second

// slow tells a person what to do about a search that took too long.
func (s *Store) slow(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return &domain.Error{Class: domain.Unavailable, Text: fmt.Sprintf("the search took longer than %s: narrow the time with since and until, or name more", queryTimeout), Err: err}
	}
	return s.checked("search", err)
}

// Search returns one page; see ports.DecisionReader.
func (s *Store) Search(ctx context.Context, q domain.Query) (domain.Page, error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	c := where(q)
	var parts []string
	var args []any
	for _, t := range []string{"decisions", "decisions_out_of_window"} {
		parts = append(parts, `SELECT * FROM (SELECT `+columns+` FROM `+t+` WHERE `+c.String()+`
			ORDER BY time DESC, tenant, decision_id LIMIT ?)`)
		args = append(append(args, c.args...), q.Limit+1)
	}
	rows, err := s.read.QueryContext(ctx, strings.Join(parts, " UNION ALL ")+` ORDER BY time DESC, tenant, decision_id LIMIT ?`,
		append(args, q.Limit+1)...)
	if err != nil {
		return domain.Page{}, s.slow(err)
	}
	defer rows.Close()
	var page domain.Page
	for rows.Next() {
		d, err := scanDecision(rows)
		if err != nil {
			return domain.Page{}, s.slow(err)
		}
		page.Items = append(page.Items, d)
	}
	if err := rows.Err(); err != nil {
		return domain.Page{}, s.slow(err)
	}
	if len(page.Items) > q.Limit {
		page.Items = page.Items[:q.Limit]
		page.Next = domain.CursorOf(&page.Items[q.Limit-1])
	}
	return page, nil
}

// Decisions returns the rows with this id; see ports.DecisionReader.
func (s *Store) Decisions(ctx context.Context, id string) ([]domain.Decision, error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	rows, err := s.read.QueryContext(ctx, `SELECT `+columns+` FROM decisions WHERE decision_id = ?
		UNION ALL SELECT `+columns+` FROM decisions_out_of_window WHERE decision_id = ?
		ORDER BY time DESC, tenant LIMIT 1000`, id, id)
	if err != nil {
		return nil, s.checked("find a decision", err)
	}
	defer rows.Close()
	var out []domain.Decision
	for rows.Next() {
		d, err := scanDecision(rows)
		if err != nil {
			return nil, s.checked("find a decision", err)
		}
		out = append(out, d)
	}
	if err := rows.Err(); err != nil || len(out) == 0 {
		return nil, s.checked("find a decision", err)
	}
	newest := &out[0]
	row := s.read.QueryRowContext(ctx, `SELECT event FROM decisions WHERE decision_id = ?1 AND tenant = ?2 AND timestamp IS ?3
		UNION ALL SELECT event FROM decisions_out_of_window WHERE decision_id = ?1 AND tenant = ?2 AND timestamp IS ?3`,
		newest.ID, newest.Tenant, micros(newest.Timestamp))
	if err := row.Scan(&newest.Event); err != nil {
		return nil, s.checked("read a decision's event", err)
	}
	if sha256.Sum256(newest.Event) != newest.SHA256 {
		return nil, domain.Errorf(domain.Misconfigured, "decision %s is damaged in %s: its bytes do not have the hash they were stored with; restore the file from a backup", id, storeFile)
	}
	return out, nil
}

func scanDecision(rows *sql.Rows) (d domain.Decision, err error) {
	var timestamp sql.NullInt64
	var at, receivedAt, savedAt int64
	var path, reason, principal, action, resource, opa, app, traceID, requestedBy, failure, bundles sql.NullString
	var sum []byte
	into := []any{
		&d.Tenant, &d.ID, &timestamp, &at, &receivedAt, &savedAt, &d.Outcome, &path, &reason, &principal, &action,
		&resource, &opa, &app, &traceID, &requestedBy, &failure, &bundles, &d.Sanitised, &d.Unsearchable, &sum,
	}
	if err := rows.Scan(into...); err != nil {
		return d, err
	}
	if timestamp.Valid {
		d.Timestamp = time.UnixMicro(timestamp.Int64).UTC()
	}
	d.ReceivedAt, d.SavedAt = time.UnixMicro(receivedAt).UTC(), time.UnixMicro(savedAt).UTC()
	d.Path, d.Reason, d.Principal, d.Action, d.Resource = path.String, reason.String, principal.String, action.String, resource.String
	d.OPA, d.App, d.TraceID, d.RequestedBy, d.Error = opa.String, app.String, traceID.String, requestedBy.String, failure.String
	copy(d.SHA256[:], sum)
	d.Bundles, err = domain.DecodeBundles(bundles.String)
	return d, err
}

// OPAs returns every OPA seen; see ports.OPARegistry.
func (s *Store) OPAs(ctx context.Context) ([]domain.OPA, error) {
	rows, err := s.read.QueryContext(ctx, `SELECT tenant, opa, version, first_upload, last_upload, interval, uploads, events, status_at, status
		FROM opas ORDER BY last_upload DESC, opa LIMIT 1000`)
	if err != nil {
		return nil, s.checked("list OPAs", err)
	}
	defer rows.Close()
	var out []domain.OPA
	for rows.Next() {
		var o domain.OPA
		var first, last, statusAt sql.NullInt64
		var interval int64
		if err := rows.Scan(&o.Tenant, &o.OPA, &o.Version, &first, &last, &interval, &o.Uploads, &o.Events, &statusAt, &o.Status); err != nil {
			return nil, s.checked("list OPAs", err)
		}
		o.First, o.Last, o.StatusAt = instant(first), instant(last), instant(statusAt)
		o.Interval = time.Duration(interval) * time.Microsecond
		out = append(out, o)
	}
	return out, s.checked("list OPAs", rows.Err())
}

func instant(micros sql.NullInt64) time.Time {
	if !micros.Valid {
		return time.Time{}
	}
	return time.UnixMicro(micros.Int64).UTC()
}
