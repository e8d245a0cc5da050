package postgres

import (
	"context"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/search"
)

// TestSearchRole searches with a role that can read, and nothing else.
func TestSearchRole(t *testing.T) {
	p := postgres(t)
	database := newDatabase(t, p)
	owner := newStore(t, p.URL(database, ""), nil)
	now := time.Now()
	_, err := owner.SaveBatch(t.Context(), []domain.Decision{decision("one", now, `{"input":{"x":1}}`)})
	require.NoError(t, err)
	role := database + "_search"
	require.NoError(t, p.Exec(
		database, "CREATE ROLE "+role+" LOGIN", "GRANT SELECT ON ALL TABLES IN SCHEMA public TO "+role,
		"ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO "+role,
	))
	t.Cleanup(func() { require.NoError(t, p.Exec(database, "DROP OWNED BY "+role, "DROP ROLE "+role)) })
	s := newStore(t, p.URL(database, ""), func(o *Options) { o.SearchURL = p.URL(database, role) })
	later := now.Add(-30 * 24 * time.Hour) // a day that is made behind the grant
	_, err = s.SaveBatch(t.Context(), []domain.Decision{decision("two", later, `{"input":{"x":1}}`)})
	require.NoError(t, err)
	asked, err := search.Parse("input.x:1 since:60d", now)
	require.NoError(t, err)
	page, err := s.Search(t.Context(), domain.AllTenants(), domain.Query{Filter: asked.Filter, Limit: 10})
	require.NoError(t, err)
	require.Len(t, page.Items, 2)
	rows, err := s.Decisions(t.Context(), domain.AllTenants(), "one")
	require.NoError(t, err)
	require.Len(t, rows, 1)
	counted, err := s.CountDecisions(t.Context(), domain.AllTenants(), domain.CountQuery{Filter: domain.Filter{
		Since: asked.Since,
	}})
	require.NoError(t, err)
	require.Equal(t, int64(2), counted.Items[0].Decisions)
	_, err = s.read.Exec(t.Context(), "DELETE FROM decisions")
	require.ErrorContains(t, err, "permission denied")

	_, err = Open(Options{URL: p.URL(database, ""), SearchURL: "postgres://a:b@c@d/e"})
	require.ErrorContains(t, err, "DOCKET_SEARCH_DATABASE_URL")
}

// TestDropDayBesideSearches has searches, six at a time and each longer than docket lets any be, in the way of a
// day that is past. A dump is in the way as well, which nobody may end.
func TestDropDayBesideSearches(t *testing.T) {
	p := postgres(t)
	database := newDatabase(t, p)
	s := newStore(t, p.URL(database, ""), func(o *Options) { o.StatementTimeout = time.Minute })
	old := time.Now().Add(-80 * 24 * time.Hour)
	_, err := s.SaveBatch(t.Context(), []domain.Decision{decision("old", old, `{}`), decision("new", time.Now(), `{}`)})
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	var ended atomic.Int64
	var searching sync.WaitGroup
	for n := range 6 {
		searching.Go(func() {
			for ; ctx.Err() == nil; n++ {
				from := []string{"decisions", partitionOf(domain.DayOf(old)), countsOf(domain.DayOf(old))}[n%3]
				err := s.query(ctx, "search", `SELECT pg_sleep(20), tenant FROM `+from, nil, func(rows pgx.Rows) error {
					rows.Close()
					return rows.Err()
				})
				if ctx.Err() == nil && domain.ClassOf(err) == domain.Unavailable {
					ended.Add(1)
				}
			}
		})
	}
	locked := func() (n int) {
		require.NoError(t, s.write.QueryRow(t.Context(), `SELECT count(*) FROM pg_stat_activity a JOIN pg_locks l USING (pid)
			WHERE a.query LIKE '%pg_sleep(20)%' AND a.pid <> pg_backend_pid() AND l.relation = 'decisions'::regclass`).Scan(&n))
		return n
	}
	require.Eventually(t, func() bool { return locked() > 1 }, 10*time.Second, 10*time.Millisecond)
	began := time.Now()
	dropped, err := s.DropDay(t.Context(), domain.DayOf(old), 0)
	require.NoError(t, err)
	require.True(t, dropped)
	require.Less(t, time.Since(began), 10*time.Second)
	told := func() bool { return ended.Load() > 0 } // which they may hear of a moment later
	require.Eventually(t, told, 10*time.Second, time.Millisecond, "the searches were told")
	stop()
	searching.Wait()

	dump, err := pgx.Connect(t.Context(), p.URL(database, ""))
	require.NoError(t, err)
	defer dump.Close(context.Background())
	tx, err := dump.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), `SELECT tenant FROM decisions`)
	require.NoError(t, err)
	next := domain.DayOf(old) + 1
	require.NoError(t, s.PrepareDays(t.Context(), next, next))
	_, err = s.DropDay(t.Context(), next, 0)
	require.Equal(t, "55P03", domain.CodeOf(err), "%v", err)
	_, err = tx.Exec(t.Context(), `SELECT 1`)
	require.NoError(t, err, "nobody has ended it")
	require.NoError(t, tx.Rollback(t.Context()))
}

// TestSlowRows looks at rows that come slowly: whatever has come when the time is over was looked at.
func TestSlowRows(t *testing.T) {
	p := postgres(t)
	database := newDatabase(t, p)
	owner := newStore(t, p.URL(database, ""), nil)
	now := time.Now()
	const rows = 400
	var all []domain.Decision
	for i := range rows {
		at := now.Add(-time.Duration(i) * time.Second)
		all = append(all, decision(strconv.Itoa(i), at, `{"input":{"x":`+strconv.Itoa(i)+`}}`))
	}
	_, err := owner.SaveBatch(t.Context(), all)
	require.NoError(t, err)
	role := database + "_slow"
	require.NoError(t, p.Exec(
		database, "ANALYZE decisions", "CREATE ROLE "+role+" LOGIN", "GRANT SELECT ON ALL TABLES IN SCHEMA public TO "+role,
		`CREATE FUNCTION slow() RETURNS boolean VOLATILE LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.005); RETURN true; END'`,
		"ALTER TABLE decisions ENABLE ROW LEVEL SECURITY",
		"CREATE POLICY slow ON decisions FOR SELECT TO "+role+" USING (slow())",
	))
	t.Cleanup(func() { require.NoError(t, p.Exec(database, "DROP OWNED BY "+role, "DROP ROLE "+role)) })
	s := newStore(t, p.URL(database, ""), func(o *Options) {
		o.SearchURL, o.SearchTime = p.URL(database, role), 300*time.Millisecond
	})
	asked, err := search.Parse("input.x<3", now)
	require.NoError(t, err)
	q, looked, pages := domain.Query{Filter: asked.Filter, Limit: 10}, 0, 0
	var found []string
	for {
		page, err := s.Search(t.Context(), domain.AllTenants(), q)
		require.NoError(t, err)
		pages++
		looked += page.LookedAt
		for _, d := range page.Items {
			found = append(found, d.ID)
		}
		if page.Next == nil {
			break
		}
		require.False(t, page.Complete)
		require.Greater(t, page.LookedAt, 8, "rows that had come")
		q.After = page.Next
	}
	require.Equal(t, []string{"0", "1", "2"}, found)
	require.Equal(t, rows, looked, "each once")
	require.Greater(t, pages, 3)
}
