// Package sqlstore is what the two stores spell alike: a filter as SQL in two dialects, the lists of columns, and how
// filters, messages and reports stand in a column. It runs no statement: connections, transactions and errors are the
// stores' own.
package sqlstore

import (
	"fmt"
	"strings"
	"time"

	"github.com/docket-project/docket/internal/domain"
)

// Dialect is how the SQL of a store differs from the other's.
type Dialect struct {
	// Param spells the n-th parameter, from 1, as a value of a type.
	Param func(n int, t Type) string
	// Instant is a time as the driver takes it.
	Instant func(time.Time) any
	// StartsWith is a condition on a column (the first argument) and a text.
	StartsWith string
	// AnyRevision is a condition over the bundles of a row; its argument is a condition on RevisionColumn.
	AnyRevision    string
	RevisionColumn string
	// Greatest is the function that returns the greatest of its arguments.
	Greatest string
	// OwnedBy is a condition that a row's column tenants is within a JSON array of tenants.
	OwnedBy string
}

// Type is what a parameter is.
type Type string

// The types of parameters, by PostgreSQL's names.
const (
	Text    Type = "text"
	Int     Type = "int"
	Bigint  Type = "bigint"
	Instant Type = "timestamptz"
)

// Where is a WHERE clause under construction. Names of columns come from the field tables, values only as parameters.
type Where struct {
	dialect *Dialect
	clauses []string
	// Args are the parameters so far.
	Args []any
}

// Where begins a clause whose first parameters are taken already.
func (d *Dialect) Where(args ...any) *Where { return &Where{dialect: d, Args: args} }

// And begins another clause of the same statement, which goes on with its parameters.
func (w *Where) And() *Where { return &Where{dialect: w.dialect, Args: w.Args} }

// Param adds a parameter and returns its name.
func (w *Where) Param(t Type, v any) string {
	w.Args = append(w.Args, v)
	return w.dialect.Param(len(w.Args), t)
}

// At adds a time as a parameter and returns its name.
func (w *Where) At(t time.Time) string { return w.Param(Instant, w.dialect.Instant(t)) }

// Add adds a condition that has to hold as well.
func (w *Where) Add(condition string) { w.clauses = append(w.clauses, condition) }

// Span bounds a column by the times of a filter.
func (w *Where) Span(column string, f domain.Filter) {
	if !f.Since.IsZero() {
		w.Add(column + " >= " + w.At(f.Since))
	}
	if !f.Until.IsZero() {
		w.Add(column + " < " + w.At(f.Until))
	}
}

// Behind adds that a decision lies behind a cursor, if there is one, or in front of it where it goes back: the newest
// come first, and those of one time by tenant and id.
func (w *Where) Behind(column string, c *domain.Cursor) {
	if c == nil {
		return
	}
	older, greater := "<", ">"
	if c.Back {
		older, greater = ">", "<"
	}
	at := w.At(c.Time)
	w.Add(column + " " + older + "= " + at + " AND (" + column + " " + older + " " + at + " OR (tenant, decision_id) " +
		greater + " (" + w.Param(Text, c.Tenant) + ", " + w.Param(Text, c.ID) + "))")
}

// Order is the order of decisions, from a cursor on: the newest first and, on the way back, the other way round.
func Order(column string, c *domain.Cursor) string {
	if c != nil && c.Back {
		return " ORDER BY " + column + ", tenant DESC, decision_id DESC"
	}
	return " ORDER BY " + column + " DESC, tenant, decision_id"
}

// Fits adds what a filter wants of the fields in a table.
func (w *Where) Fits(table []domain.FieldInfo, e domain.Expr) {
	for _, c := range e.Conjuncts() {
		w.Add(w.Condition(table, c))
	}
}

// Owned bounds rows that belong to the tenants in their column tenants.
func (w *Where) Owned(scope domain.Scope) {
	if !scope.All() {
		w.Add(fmt.Sprintf(w.dialect.OwnedBy, w.Param(Text, EncodeScope(scope))))
	}
}

// String joins the conditions.
func (w *Where) String() string {
	if len(w.clauses) == 0 {
		return "true"
	}
	return strings.Join(w.clauses, " AND ")
}

// Condition spells an expression. One about a field that is not in the table fits nothing: whoever reads filters has
// refused it before.
func (w *Where) Condition(table []domain.FieldInfo, e domain.Expr) string {
	switch e.Op {
	case "":
		return "true"
	case domain.OpAnd:
		return w.joined(table, e.Args, " AND ", "true")
	case domain.OpOr:
		return w.joined(table, e.Args, " OR ", "false")
	case domain.OpNot:
		return "(" + w.joined(table, e.Args, " AND ", "true") + ") IS NOT TRUE" // a row without the field fits
	case domain.OpEqual, domain.OpPrefix, domain.OpPresent:
		return w.comparison(table, e)
	case domain.OpGlob, domain.OpLess, domain.OpAtMost, domain.OpAtLeast, domain.OpMore, domain.OpText:
		// search.Plan has not left any: they are judged in the rows.
	}
	return "false"
}

func (w *Where) joined(table []domain.FieldInfo, args []domain.Expr, operator, none string) string {
	if len(args) == 0 {
		return none
	}
	parts := make([]string, len(args))
	for i, a := range args {
		parts[i] = w.Condition(table, a)
	}
	return "(" + strings.Join(parts, operator) + ")"
}

func (w *Where) comparison(table []domain.FieldInfo, e domain.Expr) string {
	f, known := domain.FieldOf(table, e.Field)
	if !known {
		return "false"
	}
	column := f.Column
	if f.Kind == domain.Revisions {
		column = w.dialect.RevisionColumn
	}
	var condition string
	switch e.Op {
	case domain.OpEqual:
		condition = column + " = " + w.Param(Text, e.Value)
	case domain.OpPrefix:
		condition = fmt.Sprintf(w.dialect.StartsWith, column, w.Param(Text, e.Value))
	default:
		condition = column + " IS NOT NULL"
		if f.Kind == domain.Revisions { // a bundle without one is there as well
			condition = column + " <> ''"
		}
	}
	if f.Kind == domain.Revisions {
		condition = fmt.Sprintf(w.dialect.AnyRevision, condition)
	}
	return condition
}
