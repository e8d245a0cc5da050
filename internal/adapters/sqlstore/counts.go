package sqlstore

import (
	"strconv"
	"strings"
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

// CountStatement completes a statement that counts. MOST is one more than domain.MaxCounts. SCOPE is what has to hold.
// BUCKET is where the span of time begins that a row is in, by its time, or no time where none are asked for. TOLD and
// ROWTOLD are the columns tenant, path and outcome of counts and of rows, those that are not told apart left empty.
// BEGINS is what counts are put together by first: the same as BUCKET of their at where no count can be longer than
// that, which is a day at most, and otherwise at. GROUPED is that, with the columns that are told apart: an empty one
// would be looked at for every count.
func CountStatement(statement string, q domain.CountQuery, scope, bucket, noTime string) string {
	begins := "at"
	switch {
	case q.Every == 0:
		bucket, begins = noTime, noTime
	case q.Every%(24*time.Hour) == 0:
		begins = strings.ReplaceAll(bucket, "time", "at")
	}
	grouped := begins
	for _, f := range []domain.Field{domain.FieldTenant, domain.FieldPath, domain.FieldOutcome} {
		if q.Tells(f) {
			grouped += ", " + string(f)
		}
	}
	return strings.NewReplacer(
		"MOST", strconv.Itoa(domain.MaxCounts+1), "SCOPE", scope, "BUCKET", bucket, "BEGINS", begins, "GROUPED", grouped,
		"ROWTOLD", told(q, "coalesce(path, '')"), "TOLD", told(q, "path"),
	).Replace(statement)
}

func told(q domain.CountQuery, path string) string {
	var columns []string
	for _, c := range []struct {
		field  domain.Field
		column string
	}{{domain.FieldTenant, "tenant"}, {domain.FieldPath, path}, {domain.FieldOutcome, "outcome"}} {
		if !q.Tells(c.field) {
			c.column = "''"
		}
		columns = append(columns, c.column+" AS "+string(c.field))
	}
	return strings.Join(columns, ", ")
}
