package postgres

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/docket-project/docket/internal/domain"
)

// searchColumn maps fields to columns; revision is inside bundles.
var searchColumn = map[domain.Field]string{
	domain.FieldOutcome: "outcome", domain.FieldPath: "path", domain.FieldTenant: "tenant", domain.FieldPrincipal: "principal",
	domain.FieldAction: "action", domain.FieldResource: "resource", domain.FieldOPA: "opa", domain.FieldApp: "app",
	domain.FieldTraceID: "trace_id", domain.FieldError: "error",
}

// condition is a WHERE clause under construction. Column names come from this file, texts only as parameters; TIME stands
// for each table's own column.
type condition struct {
	clauses []string
	args    []any
}

// arg adds a parameter and returns its name.
func (c *condition) arg(v any) string {
	c.args = append(c.args, v)
	return fmt.Sprintf("$%d", len(c.args))
}

func (c *condition) add(clause string) { c.clauses = append(c.clauses, clause) }

// match spells one wanted text of a field, whose column is one of columns.
func (c *condition) match(columns map[domain.Field]string, f domain.Field, m domain.Match) string {
	column, wrap := columns[f], func(s string) string { return s }
	if f == domain.FieldRevision {
		column = "b.value"
		wrap = func(s string) string { return "EXISTS (SELECT 1 FROM jsonb_each_text(bundles) b WHERE " + s + ")" }
	}
	var clause string
	switch {
	case m.Prefix && m.Text == "":
		clause = column + " IS NOT NULL"
	case m.Prefix:
		clause = "starts_with(" + column + ", " + c.arg(m.Text) + "::text)"
	default:
		clause = column + " = " + c.arg(m.Text) + "::text"
	}
	clause = wrap(clause)
	if m.Not {
		clause = "(" + clause + ") IS NOT TRUE" // a row without the field passes
	}
	return clause
}

func where(q domain.Query) *condition {
	c := &condition{}
	c.within("TIME", q)
	if a := q.After; a != nil {
		at := c.arg(a.Time) + "::timestamptz"
		c.add("TIME <= " + at + " AND (TIME < " + at + " OR (tenant, decision_id) > (" + c.arg(a.Tenant) + "::text, " + c.arg(a.ID) + "::text))")
	}
	c.terms(searchColumn, q.Terms)
	return c
}

// within bounds a column by the query's times.
func (c *condition) within(column string, q domain.Query) {
	if !q.Since.IsZero() {
		c.add(column + " >= " + c.arg(q.Since) + "::timestamptz")
	}
	if !q.Until.IsZero() {
		c.add(column + " < " + c.arg(q.Until) + "::timestamptz")
	}
}

// terms adds what is wanted of the fields, each of which has a column.
func (c *condition) terms(columns map[domain.Field]string, terms []domain.Term) {
	for _, t := range terms {
		var anyOf []string
		for _, m := range t.Matches {
			clause := c.match(columns, t.Field, m)
			if m.Not {
				c.add(clause)
				continue
			}
			anyOf = append(anyOf, clause)
		}
		if len(anyOf) > 0 {
			c.add("(" + strings.Join(anyOf, " OR ") + ")")
		}
	}
}

// String joins the clauses.
func (c *condition) String() string {
	if len(c.clauses) == 0 {
		return "true"
	}
	return strings.Join(c.clauses, " AND ")
}

// columns are those of a decision without its event, in the order of scan.
const columns = `timestamp, TIME AS time, received_at, saved_at, sanitised, unsearchable, sha256, tenant, decision_id, outcome, path, reason, principal,
	action, resource, opa, app, trace_id, requested_by, error, bundles::text AS bundles`

// The tables, and what each orders by.
var tables = []struct{ name, time string }{{"decisions", "timestamp"}, {"decisions_out_of_window", "time"}}

// bothTables repeats a query for each of the tables and joins the answers.
func bothTables(query string) string {
	parts := make([]string, len(tables))
	for i, t := range tables {
		parts[i] = "(" + strings.NewReplacer("TABLE", t.name, "TIME", t.time).Replace(query) + ")"
	}
	return strings.Join(parts, " UNION ALL ")
}

// queryTimeout is how long a search waits for a connection; the statement's timeout ends one that looks too far.
const queryTimeout = 3 * time.Second

// query runs a query in a transaction that can only read.
func (s *Store) query(ctx context.Context, op, sql string, args []any, read func(pgx.Rows) error) error {
	limit, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	conn, err := s.read.Acquire(limit)
	if err != nil {
		return settleOn(s.read, s.opts.Log, op, nil, err)
	}
	defer conn.Release()
	err = s.inTx(ctx, conn.Conn(), "BEGIN READ ONLY", func(b *pgx.Batch) { b.Queue(sql, args...).Query(read) })
	err = settleOn(s.read, s.opts.Log, op, conn.Conn(), err)
	var e *domain.Error
	if errors.As(err, &e) && (e.Code == "57014" || errors.Is(err, context.DeadlineExceeded)) {
		e.Class, e.Text = domain.Unavailable, fmt.Sprintf("it took longer than %s: narrow the time with since and until, or name more", s.opts.StatementTimeout)
	}
	return err
}

// Search returns one page; see ports.DecisionReader.
func (s *Store) Search(ctx context.Context, q domain.Query) (domain.Page, error) {
	c := where(q)
	limit := c.arg(q.Limit + 1)
	sql := bothTables(`SELECT `+columns+` FROM TABLE WHERE `+c.String()+` ORDER BY TIME DESC, tenant, decision_id LIMIT `+limit+`::int`) +
		` ORDER BY time DESC, tenant, decision_id LIMIT ` + limit + `::int`
	var page domain.Page
	err := s.query(ctx, "search", sql, c.args, func(rows pgx.Rows) (err error) {
		page.Items, err = pgx.CollectRows(rows, scan)
		return err
	})
	if err != nil {
		return domain.Page{}, err
	}
	if len(page.Items) > q.Limit {
		page.Items = page.Items[:q.Limit]
		page.Next = domain.CursorOf(&page.Items[q.Limit-1])
	}
	if len(page.Items) == 0 {
		page.Items = nil
	}
	return page, nil
}

// Decisions returns the rows with this id; see ports.DecisionReader.
func (s *Store) Decisions(ctx context.Context, id string) ([]domain.Decision, error) {
	var out []domain.Decision
	err := s.query(ctx, "find a decision", bothTables(`SELECT `+columns+` FROM TABLE WHERE decision_id = $1::text`)+` ORDER BY time DESC, tenant LIMIT 1000`,
		[]any{id}, func(rows pgx.Rows) (err error) {
			out, err = pgx.CollectRows(rows, scan)
			return err
		})
	if err != nil || len(out) == 0 {
		return nil, err
	}
	newest := &out[0]
	err = s.query(ctx, "read a decision's event", bothTables(`SELECT event::text FROM TABLE WHERE decision_id = $1::text AND tenant = $2::text AND
		timestamp IS NOT DISTINCT FROM $3::timestamptz AND TIME = $4::timestamptz`),
		[]any{newest.ID, newest.Tenant, timestamptz(newest.Timestamp), newest.Time()}, func(rows pgx.Rows) error {
			events, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
			if err == nil && len(events) == 0 {
				err = domain.Errorf(domain.Unavailable, "decision %s was dropped meanwhile: it is past its retention", id)
			}
			if err == nil {
				newest.Event = events[0]
			}
			return err
		})
	if err != nil {
		return nil, err
	}
	if sha256.Sum256(newest.Event) != newest.SHA256 {
		return nil, domain.Errorf(domain.Misconfigured, "decision %s is damaged in the database: its bytes do not have the hash they were stored with; restore them from a backup", id)
	}
	return out, nil
}

// scan reads a row of columns.
func scan(row pgx.CollectableRow) (d domain.Decision, err error) {
	var timestamp pgtype.Timestamptz
	var ordered time.Time
	var sum []byte
	var path, reason, principal, action, resource, opa, app, traceID, requestedBy, failure, bundles pgtype.Text
	if err := row.Scan(&timestamp, &ordered, &d.ReceivedAt, &d.SavedAt, &d.Sanitised, &d.Unsearchable, &sum, &d.Tenant, &d.ID, &d.Outcome, &path, &reason,
		&principal, &action, &resource, &opa, &app, &traceID, &requestedBy, &failure, &bundles); err != nil {
		return d, err
	}
	if timestamp.Valid {
		d.Timestamp = timestamp.Time.UTC()
	}
	d.ReceivedAt, d.SavedAt = d.ReceivedAt.UTC(), d.SavedAt.UTC()
	d.Path, d.Reason, d.Principal, d.Action, d.Resource = path.String, reason.String, principal.String, action.String, resource.String
	d.OPA, d.App, d.TraceID, d.RequestedBy, d.Error = opa.String, app.String, traceID.String, requestedBy.String, failure.String
	copy(d.SHA256[:], sum)
	d.Bundles, err = domain.DecodeBundles(bundles.String)
	return d, err
}
