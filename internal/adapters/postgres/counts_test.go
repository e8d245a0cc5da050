package postgres

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/domain"
)

// TestCountsWhileTheyAreFolded has two savers with half of their rows in common, whose servers' processes are killed
// now and then, while the counts are folded and read.
func TestCountsWhileTheyAreFolded(t *testing.T) {
	p := postgres(t)
	database := newDatabase(t, p)
	s := newStore(t, p.URL(database, ""), nil)
	now := time.Now()
	saving, stop := context.WithCancel(t.Context())
	var savers, others sync.WaitGroup
	for g := range 2 {
		savers.Go(func() {
			for n := range 60 {
				var rows []domain.Decision
				for k := range 50 {
					id := (n*50 + k) / 2 * 2
					if k%2 == 1 {
						id = id*2 + g
					}
					d := decision(fmt.Sprintf("%d-%d", k%2, id), now.Add(-time.Duration(n)*time.Minute), `{}`)
					d.Path = fmt.Sprintf("path/%d", k%7)
					rows = append(rows, d)
				}
				for try := 0; ; try++ {
					_, err := s.SaveBatch(t.Context(), rows)
					if err == nil {
						break
					}
					if !assert.Equal(t, domain.Unavailable, domain.ClassOf(err), "%v", err) || try == 50 {
						return
					}
				}
			}
		})
	}
	others.Go(func() {
		for n := 0; saving.Err() == nil; n++ {
			err := s.foldCounts(t.Context(), domain.DayOf(now), n%2 == 0)
			assert.True(t, err == nil || domain.ClassOf(err) == domain.Unavailable, "%v", err)
			if n%5 == 4 {
				assert.NoError(t, p.Exec("postgres", `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
					WHERE datname = '`+database+`' AND query LIKE '%decision%' AND pid <> pg_backend_pid()`))
			}
		}
	})
	savers.Wait()
	stop()
	others.Wait()
	// A connection whose server process was killed while it was idle says so to whoever uses it next.
	again := func(what func() error) {
		t.Helper()
		err := what()
		for try := 0; try < 50 && domain.ClassOf(err) == domain.Unavailable; try++ {
			err = what()
		}
		require.NoError(t, err)
	}
	count := func(where string, args ...any) (rows int64) {
		t.Helper()
		again(func() error {
			return classify("count rows", s.read.QueryRow(t.Context(),
				`SELECT count(*) FROM decisions `+where, args...).Scan(&rows))
		})
		return rows
	}
	for range 2 { // as it is, and folded
		var got domain.Counts
		again(func() (err error) {
			got, err = s.CountDecisions(t.Context(), domain.AllTenants(), domain.CountQuery{
				Filter: domain.Filter{Since: now.Add(-24 * time.Hour), Until: now.Add(time.Hour)},
				By:     []domain.Field{domain.FieldTenant, domain.FieldPath, domain.FieldOutcome},
			})
			return err
		})
		sum := int64(0)
		for _, c := range got.Items {
			sum += c.Decisions
			require.Equal(t, count(`WHERE path = $1`, c.Path), c.Decisions, c.Path)
		}
		require.Equal(t, count(``), sum)
		require.Greater(t, sum, int64(3000))
		again(func() error { return s.foldCounts(t.Context(), domain.DayOf(now), true) })
	}
}
