package sqlstore

import (
	"time"

	"github.com/docket-project/docket/internal/domain"
)

// EndOf is where a filter's span ends: behind all that a store can spell, where it has no end of its own.
func EndOf(f domain.Filter) time.Time {
	if f.Until.IsZero() {
		return time.Date(10_000, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	return f.Until
}

// Told are the columns tenant, path and outcome, but for those that are not told apart.
func Told(q domain.CountQuery) string {
	names := ""
	for _, f := range []domain.Field{domain.FieldTenant, domain.FieldPath, domain.FieldOutcome} {
		name := "''"
		if q.Tells(f) {
			name = string(f)
		}
		names += ", " + name
	}
	return names[2:]
}
