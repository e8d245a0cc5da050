package search

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/docket-project/docket/internal/domain"
)

// fieldWord is a field as it stands in front of a colon.
var fieldWord = regexp.MustCompile(`(?s)^(?:[^\s()":<>=\-]|` + quoted + `)` + inName + `*$`)

// ParseField reads the name of a field, and returns it as a term that asks whether it is there.
func ParseField(name string) (domain.Expr, error) {
	if !utf8.ValidString(name) || strings.IndexByte(name, 0) >= 0 || !fieldWord.MatchString(name) {
		return domain.Expr{}, fmt.Errorf("%.60q is no field: there are %s", name, fieldList)
	}
	steps, _, whole := splitField(name + ":")
	r := reader{text: name}
	f, err := r.field(&term{Field: name}, steps, whole)
	if err != nil {
		return domain.Expr{}, fmt.Errorf("there is no field %.60q: there are %s", name, fieldList)
	}
	f.Op = domain.OpPresent
	return f, nil
}

// parseGroup is ParseField of a field to count by. It refuses those whose every value is another decision's.
func parseGroup(name string) (domain.Expr, error) {
	f, err := ParseField(name)
	if err != nil {
		return f, err
	}
	switch f.Field {
	case domain.FieldDecisionID, domain.FieldTraceID, domain.FieldBatchID, domain.FieldLatency:
		return f, fmt.Errorf(
			"%s has another value for nearly every decision: count by what several have in common", FieldName(f),
		)
	default:
		return f, nil
	}
}

// Value is one value of a field; the zero Value is that there is none.
type Value struct {
	Text  string
	There bool
}

// maxValues bounds how many values of one field of one decision are told apart.
const maxValues = 100

// valuesOf returns what reads the values of a field: several where it is an array in the event, or the revisions of
// several bundles, and an absent one where there is none. A text is cut as columns are. The answer is written over by
// the next.
func valuesOf(f domain.Expr) func(*domain.Decision) []Value {
	var buffer []Value
	add := func(text string) bool {
		v := Value{domain.Name(text), true}
		if !slices.Contains(buffer, v) {
			buffer = append(buffer, v)
		}
		return len(buffer) < maxValues
	}
	read := func(d *domain.Decision) {
		if text := columnOf(f.Field)(d); text != "" {
			add(text)
		}
	}
	switch f.Field {
	case domain.FieldRevision:
		read = func(d *domain.Decision) {
			for _, b := range d.Bundles {
				if b.Revision != "" && !add(b.Revision) {
					return
				}
			}
		}
	case domain.FieldEvent:
		read = func(d *domain.Decision) {
			v := valueAt(d, f.Path, nil)
			if v == nil {
				return
			}
			domain.Elements(v, func(element jsontext.Value) bool {
				text, ok := ScalarText(element)
				return !ok || add(text)
			})
		}
	default:
	}
	return func(d *domain.Decision) []Value {
		buffer = buffer[:0]
		if read(d); len(buffer) == 0 {
			buffer = append(buffer, Value{})
		}
		return buffer
	}
}

// ColumnText is the text of a field that is a column; "" where a decision has none, or there is no such column.
func ColumnText(d *domain.Decision, f domain.Field) string { return columnOf(f)(d) }

// columnOf returns what reads the text of a field that is a column.
func columnOf(f domain.Field) func(*domain.Decision) string {
	switch f {
	case domain.FieldTenant:
		return func(d *domain.Decision) string { return d.Tenant }
	case domain.FieldDecisionID:
		return func(d *domain.Decision) string { return d.ID }
	case domain.FieldOutcome:
		return func(d *domain.Decision) string { return string(d.Outcome) }
	default:
	}
	if of := domain.TextColumnOf(string(f)); of != nil {
		return func(d *domain.Decision) string { return *of(d) }
	}
	return func(*domain.Decision) string { return "" }
}

// ScalarText spells a value that is no object and no array; null is none. Numbers that are equal are spelled alike.
func ScalarText(v jsontext.Value) (string, bool) {
	if text, ok := domain.TextOf(v); ok {
		return text, true
	}
	switch v.Kind() {
	case '0':
		return plainNumber(v), true
	case 't', 'f':
		return string(v), true
	default:
		return "", false
	}
}
