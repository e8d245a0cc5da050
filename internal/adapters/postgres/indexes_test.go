package postgres

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/domain"
)

// fill makes rows of a day behind docket's back, as many and as narrow as it takes: each has values of its own.
func fill(t *testing.T, s *Store, day domain.Day, rows int) {
	t.Helper()
	require.NoError(t, s.PrepareDays(t.Context(), day, day))
	_, err := s.write.Exec(t.Context(), `INSERT INTO decisions (timestamp, received_at, saved_at, sanitised, unsearchable, sha256,
		tenant, decision_id, outcome, principal, resource, trace_id, requested_by, batch_decision_id, opa, packed)
		SELECT $1::timestamptz + n * interval '10 ms', now(), now(), false, false, sha256('x'), 't', 'id-' || n,
		CASE WHEN n % 12 = 0 THEN 'denied' ELSE 'allowed' END, 'principal-' || n, 'resource-' || n, 'trace-' || n,
		'address-' || n, 'batch-' || n, 'opa-' || n % 200, '\x00000000007b7d' FROM generate_series(1, $2::int) n`,
		day.Start(), rows)
	require.NoError(t, err)
	_, err = s.write.Exec(t.Context(), `ANALYZE decisions`)
	require.NoError(t, err)
}

// summarised counts the ranges that a call has to summarise.
func unsummarised(t *testing.T, s *Store, day domain.Day) (n int) {
	t.Helper()
	err := s.write.QueryRow(t.Context(), `SELECT brin_summarize_new_values(i.indexrelid) FROM pg_index i
		JOIN pg_inherits h ON h.inhrelid = i.indexrelid AND h.inhparent = 'decisions_bloom'::regclass
		WHERE i.indrelid = $1::regclass`, partitionOf(day)).Scan(&n)
	require.NoError(t, err)
	return n
}

// TestFiltersFit holds the filters of a range to what one tuple of a BRIN index takes. Their size is that of the Bloom
// filters in brin_bloom.c: n ln(1/p) / ln(2)², in bits.
func TestFiltersFit(t *testing.T) {
	s := newStore(t, postgres(t).URL(newDatabase(t, postgres(t)), ""), nil)
	rows, err := s.read.Query(t.Context(), `SELECT array_to_string(attoptions, ',') FROM pg_attribute
		WHERE attrelid = 'decisions_bloom'::regclass ORDER BY attnum`)
	require.NoError(t, err)
	options, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	require.Len(t, options, len(bloomFields))
	bytes := 0.0
	of := func(text, name string) float64 {
		_, rest, found := strings.Cut(text, name+"=")
		require.True(t, found, text)
		v, err := strconv.ParseFloat(regexp.MustCompile(`^[0-9.]+`).FindString(rest), 64)
		require.NoError(t, err)
		return v
	}
	for _, o := range options {
		n, p := of(o, "n_distinct_per_range"), of(o, "false_positive_rate")
		bytes += math.Ceil(n * math.Log(1/p) / (math.Ln2 * math.Ln2) / 8)
	}
	require.Less(t, bytes, 7.5*1024)

	// And as it is: narrow rows, and each value another one.
	today := domain.DayOf(time.Now())
	fill(t, s, today, 20_000)
	require.Positive(t, unsummarised(t, s, today))
	for n := range 200 { // into ranges that have a summary
		d := decision(fmt.Sprintf("more-%d", n), time.Now(), `{}`)
		d.Principal, d.Resource, d.TraceID, d.RequestedBy =
			fmt.Sprint(n, "p"), fmt.Sprint(n, "r"), fmt.Sprint(n, "t"), fmt.Sprint(n)
		statuses, err := s.SaveBatch(t.Context(), []domain.Decision{d})
		require.NoError(t, err)
		require.Equal(t, []domain.SaveStatus{domain.Saved}, statuses)
	}
}

// A filter that outgrows its page is no row's fault, and no row is dead-lettered for it.
func TestFiltersThatDoNotFitAreMisconfigured(t *testing.T) {
	for name, c := range map[string]struct {
		distinct int
		code     string
	}{"one of them": {30_000, "XX000"}, "all of them together": {5000, "54000"}} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t, postgres(t).URL(newDatabase(t, postgres(t)), ""), nil)
			for _, statement := range []string{
				`DROP INDEX decisions_bloom`,
				fmt.Sprintf(`CREATE INDEX decisions_large ON decisions USING brin (principal text_bloom_ops
					(n_distinct_per_range = %[1]d), resource text_bloom_ops (n_distinct_per_range = %[1]d),
					trace_id text_bloom_ops (n_distinct_per_range = %[1]d))`, c.distinct),
			} {
				_, err := s.write.Exec(t.Context(), statement)
				require.NoError(t, err)
			}
			var rows []domain.Decision
			for n := range 1000 { // an empty filter is small, compressed
				d := decision(fmt.Sprintf("id-%d", n), time.Now(), `{}`)
				d.Principal, d.Resource, d.TraceID = fmt.Sprint(n, "p"), fmt.Sprint(n, "r"), fmt.Sprint(n, "t")
				rows = append(rows, d)
			}
			_, err := s.SaveBatch(t.Context(), rows) // an empty range has a summary
			require.Equal(t, c.code, domain.CodeOf(err), "%v", err)
			require.Equal(t, domain.Misconfigured, domain.ClassOf(err))
		})
	}
}

// TestTendWaitsForNoVacuum has somebody hold the lock that a vacuum holds: the turn goes on, and leaves the other
// alone.
func TestTendWaitsForNoVacuum(t *testing.T) {
	s := newStore(t, postgres(t).URL(newDatabase(t, postgres(t)), ""), nil)
	today := domain.DayOf(time.Now())
	fill(t, s, today, 3000)
	fill(t, s, today-1, 3000)
	tx, err := s.write.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), `LOCK TABLE `+partitionOf(today-1)+` IN SHARE UPDATE EXCLUSIVE MODE`)
	require.NoError(t, err)
	start := time.Now()
	require.NoError(t, s.Tend(t.Context(), "me"))
	require.Less(t, time.Since(start), 5*time.Second)
	require.NoError(t, tx.Rollback(t.Context()))
	require.Zero(t, unsummarised(t, s, today))
	require.NoError(t, s.Tend(t.Context(), "me"))
	require.Zero(t, unsummarised(t, s, today-1), "the next turn does it")
}

func TestTendSummarisesWhatWasWritten(t *testing.T) {
	s := newStore(t, postgres(t).URL(newDatabase(t, postgres(t)), ""), nil)
	today := domain.DayOf(time.Now())
	for _, day := range []domain.Day{today, today - 1, today - 20} {
		fill(t, s, day, 5000)
	}
	require.NoError(t, s.Tend(t.Context(), "me"))
	for _, day := range []domain.Day{today, today - 1, today - 20} {
		require.Zero(t, unsummarised(t, s, day), day)
	}
	// Late rows of an old day are noticed; another owner waits for the lease.
	_, err := s.write.Exec(t.Context(), `INSERT INTO decisions SELECT (jsonb_populate_record(d, jsonb_build_object('decision_id',
		d.decision_id || '-again'))).* FROM decisions d WHERE timestamp >= $1`, (today - 20).Start())
	require.NoError(t, err)
	require.NoError(t, s.Tend(t.Context(), "another"))
	require.Eventually(t, func() bool { // the statistics are a second late
		require.NoError(t, s.Tend(t.Context(), "me"))
		written, err := s.insertions(t.Context())
		require.NoError(t, err)
		return written[today-20] == 10_000
	}, 20*time.Second, 50*time.Millisecond)
	require.NoError(t, s.Tend(t.Context(), "me"))
	require.Zero(t, unsummarised(t, s, today-20))
}

// TestPlans says which index a search takes, on a day that is large enough for the planner to think that a scan is as
// good.
func TestPlans(t *testing.T) {
	for _, analyzed := range []bool{true, false} {
		t.Run(fmt.Sprintf("with statistics: %t", analyzed), func(t *testing.T) { plans(t, analyzed) })
	}
}

func plans(t *testing.T, analyzed bool) {
	s := newStore(t, postgres(t).URL(newDatabase(t, postgres(t)), ""), nil)
	today := domain.DayOf(time.Now())
	fill(t, s, today, 30_000)
	fill(t, s, today-1, 30_000)
	if !analyzed {
		_, err := s.write.Exec(t.Context(), `DELETE FROM pg_statistic WHERE starelid::regclass::text LIKE 'decisions%'`)
		require.NoError(t, err)
	}
	require.NoError(t, s.Tend(t.Context(), "me"))
	plan := func(where domain.Expr) string {
		in := tables
		if filtered(where) {
			in = daysIn([]domain.Day{today - 1, today}, (today - 1).Start(), today.End())
		}
		sql, args := pageQuery(domain.Tenants("t"), domain.Query{
			Filter: domain.Filter{Where: where, Since: (today - 1).Start(), Until: today.End()},
		}, columns, 51, in)
		tx, err := s.read.Begin(t.Context())
		require.NoError(t, err)
		defer func() { _ = tx.Rollback(t.Context()) }()
		if filtered(where) {
			_, err = tx.Exec(t.Context(), useFilters)
			require.NoError(t, err)
		}
		rows, err := tx.Query(t.Context(), "EXPLAIN "+sql, args...)
		require.NoError(t, err)
		lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
		require.NoError(t, err)
		return strings.Join(lines, "\n")
	}
	equal := func(f domain.Field, v string) domain.Expr { return domain.Expr{Op: domain.OpEqual, Field: f, Value: v} }
	for _, f := range bloomFields {
		t.Run(string(f), func(t *testing.T) {
			got := plan(equal(f, "x"))
			for _, day := range []domain.Day{today, today - 1} {
				require.Regexp(t, `Bitmap Index Scan on `+partitionOf(day)+`_principal_resource`, got)
			}
			require.NotContains(t, got, "Seq Scan on decisions_2")
		})
	}
	t.Run("one of several, of what is denied", func(t *testing.T) {
		got := plan(domain.AllOf(
			domain.Expr{Op: domain.OpOr, Args: []domain.Expr{
				equal(domain.FieldPrincipal, "a"), equal(domain.FieldPrincipal, "b"),
			}},
			equal(domain.FieldOutcome, "denied"),
		))
		require.Contains(t, got, "Bitmap Index Scan")
		require.NotContains(t, got, "Seq Scan on decisions_2")
	})
	t.Run("what is denied", func(t *testing.T) {
		if !analyzed {
			return // the key does as well
		}
		got := plan(equal(domain.FieldOutcome, "denied"))
		require.Contains(t, got, partitionOf(today)+"_timestamp_idx")
	})
	t.Run("what is allowed", func(t *testing.T) {
		if !analyzed {
			return
		}
		require.Contains(t, plan(equal(domain.FieldOutcome, "allowed")), partitionOf(today)+"_pkey")
	})
	for _, e := range []domain.Expr{
		{}, equal(domain.FieldPath, "x"), {Op: domain.OpPrefix, Field: domain.FieldPrincipal, Value: "x"},
		{Op: domain.OpNot, Args: []domain.Expr{equal(domain.FieldPrincipal, "x")}},
		{Op: domain.OpOr, Args: []domain.Expr{equal(domain.FieldPrincipal, "x"), equal(domain.FieldPath, "y")}},
	} {
		require.False(t, filtered(e), "%v", e)
	}
}

// A statement with a scan that was turned off costs so much that it would be compiled for a second.
func TestSearchesAreNotCompiled(t *testing.T) {
	s := newStore(t, postgres(t).URL(newDatabase(t, postgres(t)), ""), nil)
	var jit string
	require.NoError(t, s.query(t.Context(), "look", `SELECT current_setting('jit')`, nil, func(rows pgx.Rows) error {
		_, err := pgx.ForEachRow(rows, []any{&jit}, func() error { return nil })
		return err
	}))
	require.Equal(t, "off", jit)
}

// TestSlices has a search for a rare value look at each moment once, the newest first, and come to an end.
func TestSlices(t *testing.T) {
	now := time.Now().UTC()
	today := domain.DayOf(now)
	days := []domain.Day{today - 90, today - 20, today - 1, today, today + 1}
	never := time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		since, until time.Time
		days         []domain.Day
		most         int
	}{
		"no bounds":            {days: days, most: 10},
		"no days":              {most: 1},
		"all in the past":      {days: days[:1], most: 5},
		"an hour":              {since: now.Add(-time.Hour), until: now, days: days, most: 4},
		"two weeks":            {since: now.Add(-14 * 24 * time.Hour), days: days, most: 8},
		"before every day":     {until: now.Add(-100 * 24 * time.Hour), days: days, most: 1},
		"the future":           {since: now.Add(time.Hour), days: days, most: 1},
		"until the year 9999":  {until: never, days: days, most: 10},
		"since the year 1":     {since: time.Time{}.Add(time.Hour), until: never, days: days, most: 10},
		"the year 9999 itself": {since: never.Add(-time.Hour), until: never, days: days, most: 1},
		"an empty span":        {since: now, until: now, days: days, most: 1},
		"an impossible one":    {since: now, until: now.Add(-time.Hour), days: days, most: 1},
	} {
		t.Run(name, func(t *testing.T) {
			until := c.until
			parts := 0
			for span := firstSlice; ; span = min(sliceGrows*span, lastSlice) {
				parts++
				require.LessOrEqual(t, parts, c.most)
				since := sliceSince(c.since, until, span, c.days, now)
				if since.Equal(c.since) {
					break
				}
				require.True(t, until.IsZero() || since.Before(until), "it gets on")
				until = since
			}
		})
	}
}

// A search with a cursor or an end that lies ahead of all rows ends, too, and finds each row once.
func TestSearchesForRareValuesAheadOfTheirTime(t *testing.T) {
	s := newStore(t, postgres(t).URL(newDatabase(t, postgres(t)), ""), nil)
	never := time.Date(9999, 12, 31, 23, 0, 0, 0, time.UTC)
	now := time.Now().UTC().Truncate(time.Microsecond)
	var rows []domain.Decision
	for n, at := range []time.Time{
		never, now.Add(time.Hour), now, now.Add(-24 * time.Hour), now.Add(-50 * 24 * time.Hour), {},
	} {
		d := decision(fmt.Sprint("id-", n), now, `{}`)
		d.Timestamp, d.Principal = at, "alice"
		if at.IsZero() {
			d.ReceivedAt = now.Add(-80 * 24 * time.Hour)
		}
		rows = append(rows, d)
	}
	put(t, s, rows...)
	for _, until := range []time.Time{{}, never.Add(time.Hour)} {
		q := domain.Query{Limit: 1, Filter: domain.Filter{
			Until: until, Where: domain.Expr{Op: domain.OpEqual, Field: domain.FieldPrincipal, Value: "alice"},
		}}
		var found []string
		for range 10 {
			page, err := s.Search(t.Context(), domain.AllTenants(), q)
			require.NoError(t, err)
			for _, d := range page.Items {
				found = append(found, d.ID)
			}
			if q.After = page.Next; q.After == nil {
				break
			}
		}
		require.Equal(t, []string{"id-0", "id-1", "id-2", "id-3", "id-4", "id-5"}, found)
	}
}
