package postgres

import (
	"crypto/sha256"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/s2"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/testserver"
)

// phrase is what the events of these tests share.
const phrase = `{"labels":{"app":"shop","env":"prod","region":"eu-central-1"},"path":"http/authz/allow","n":"`

func phrased(n int, at time.Time) domain.Decision {
	return decision(fmt.Sprintf("id-%d", n), at, fmt.Sprintf(`%s%x"}`, phrase, sha256.Sum256(fmt.Append(nil, n))))
}

// teach keeps a dictionary of the phrase.
func teach(t *testing.T, s *Store, text string) domain.Dictionary {
	t.Helper()
	lease := domain.Lease{Name: "dictionaries", Owner: "me"}
	held, err := s.TakeLease(t.Context(), lease, time.Minute)
	require.NoError(t, err)
	require.True(t, held)
	d := domain.NewDictionary("t", s2.MakeDict([]byte(text), nil).Bytes(), 0.5)
	added, err := s.AddDictionary(t.Context(), lease, d)
	require.NoError(t, err)
	require.True(t, added)
	return d
}

// same requires that a store has these decisions as they were.
func same(t *testing.T, s *Store, decisions ...domain.Decision) {
	t.Helper()
	for _, want := range decisions {
		got, err := s.Decisions(t.Context(), domain.AllTenants(), want.ID)
		require.NoError(t, err)
		require.Len(t, got, 1)
		require.Equal(t, string(want.Event), string(got[0].Event))
	}
}

func put(t *testing.T, s *Store, decisions ...domain.Decision) {
	t.Helper()
	statuses, err := s.SaveBatch(t.Context(), decisions)
	require.NoError(t, err)
	for _, status := range statuses {
		require.Equal(t, domain.Saved, status)
	}
}

// TestDictionariesOfTwoSavers has each read what the other has packed, with dictionaries that it has not heard of, and
// a database that was restored beneath both.
func TestDictionariesOfTwoSavers(t *testing.T) {
	p := postgres(t)
	database := newDatabase(t, p)
	now := time.Now()
	a, b := newStore(t, p.URL(database, ""), nil), newStore(t, p.URL(database, ""), nil)
	put(t, b, phrased(1, now)) // it has looked for dictionaries, and found none
	teach(t, a, phrase)
	put(t, a, phrased(2, now))
	same(t, b, phrased(1, now), phrased(2, now))
	put(t, b, phrased(3, now))
	same(t, a, phrased(3, now))
	teach(t, b, phrase+"2")
	put(t, b, phrased(4, now))
	put(t, a, phrased(5, now)) // with the one before
	same(t, a, phrased(4, now), phrased(5, now))
	same(t, b, phrased(4, now), phrased(5, now))

	require.NoError(t, p.Exec(database, `DELETE FROM dictionaries`, `DELETE FROM decisions`))
	put(t, a, phrased(6, now))
	put(t, b, phrased(7, now))
	fresh := newStore(t, p.URL(database, ""), nil)
	same(t, fresh, phrased(6, now), phrased(7, now))
}

// TestEventsSwitchedUnderLoad has savers of both kinds at work on the same rows.
func TestEventsSwitchedUnderLoad(t *testing.T) {
	p := postgres(t)
	database := newDatabase(t, p)
	now := time.Now()
	s := newStore(t, p.URL(database, ""), nil)
	teach(t, s, phrase)
	var savers sync.WaitGroup
	stores := make([]*Store, 4)
	for g := range stores {
		stores[g] = newStore(t, p.URL(database, ""), func(o *Options) { o.JSON = g%2 == 0 })
	}
	for g, mine := range stores {
		savers.Go(func() {
			for n := range 40 {
				rows := []domain.Decision{phrased(1000+40*g+n, now)}
				for k := range 20 {
					rows = append(rows, phrased(n*10+k, now))
				}
				_, err := mine.SaveBatch(t.Context(), rows)
				assert.NoError(t, err)
			}
		})
	}
	savers.Wait()
	kinds := map[bool]int{}
	rows, err := s.read.Query(t.Context(), `SELECT packed IS NULL, event IS NULL, count(*) FROM decisions GROUP BY 1, 2`)
	require.NoError(t, err)
	for rows.Next() {
		var json, packed bool
		var n int
		require.NoError(t, rows.Scan(&json, &packed, &n))
		require.NotEqual(t, json, packed, "a row has one of the two")
		kinds[json] += n
	}
	require.NoError(t, rows.Err())
	require.Equal(t, 410+160, kinds[true]+kinds[false])
	require.Positive(t, kinds[true])
	require.Positive(t, kinds[false])
	for n := range 410 {
		same(t, s, phrased(n, now))
	}
	for n := range 160 {
		same(t, s, phrased(1000+n, now))
	}
}

// TestLogicalReplication has a replica of all tables, which needs the dictionaries as well as the rows; docket goes on
// to change every table meanwhile.
func TestLogicalReplication(t *testing.T) {
	p, err := testserver.StartPostgres("", "fsync=off", "wal_level=logical")
	testserver.Need(t, err)
	t.Cleanup(func() { require.NoError(t, p.Close()) })
	now := time.Now()
	source, replica := newDatabase(t, p), newDatabase(t, p)
	a, b := newStore(t, p.URL(source, ""), nil), newStore(t, p.URL(replica, ""), nil)
	require.NoError(t, p.Exec(source, `CREATE PUBLICATION everything FOR ALL TABLES WITH (publish_via_partition_root)`,
		`SELECT pg_create_logical_replication_slot('everything', 'pgoutput')`))
	require.NoError(t, p.Exec(replica, `CREATE SUBSCRIPTION everything CONNECTION 'host=127.0.0.1 port=`+
		p.Addr()[len("127.0.0.1:"):]+` user=postgres dbname=`+source+`' PUBLICATION everything
		WITH (create_slot = false, slot_name = 'everything', copy_data = false)`))
	t.Cleanup(func() {
		_ = p.Exec(replica, `ALTER SUBSCRIPTION everything DISABLE`, `ALTER SUBSCRIPTION everything SET (slot_name = NONE)`,
			`DROP SUBSCRIPTION everything`)
		_ = p.Exec(source, `SELECT pg_drop_replication_slot('everything')`)
	})
	teach(t, a, phrase)
	var rows []domain.Decision
	for n := range 50 {
		rows = append(rows, phrased(n, now))
	}
	put(t, a, rows...)
	require.NoError(t, a.Tend(t.Context(), "me"))
	changed := rows[3]
	changed.Outcome = domain.OutcomeDenied
	require.NoError(t, a.SetColumns(t.Context(), []domain.Decision{changed}))
	require.NoError(t, a.SetGuard(t.Context(), now, true))
	require.NoError(t, a.SetGuard(t.Context(), now, false))
	require.NoError(t, a.NoteLoss(t.Context(), domain.Loss{Topic: "x", First: 1, Last: 2}))
	require.NoError(t, a.NoteLoss(t.Context(), domain.Loss{Topic: "x", First: 1, Last: 2}))
	put(t, a, phrased(99, now))
	require.Eventually(t, func() bool {
		found, err := b.Decisions(t.Context(), domain.AllTenants(), "id-99")
		return err == nil && len(found) == 1
	}, 30*time.Second, 50*time.Millisecond)
	same(t, b, append(rows, phrased(99, now))...)
	for _, s := range []*Store{a, b} {
		counts, err := s.CountDecisions(t.Context(), domain.AllTenants(), domain.CountQuery{
			Filter: domain.Filter{Since: now.Add(-time.Hour), Until: now.Add(time.Hour)},
			By:     []domain.Field{domain.FieldTenant, domain.FieldOutcome},
		})
		require.NoError(t, err)
		require.Equal(t, []domain.DecisionCount{
			{Tenant: "t", Outcome: domain.OutcomeAllowed, Decisions: 50},
			{Tenant: "t", Outcome: domain.OutcomeDenied, Decisions: 1},
		}, counts.Items)
	}
}
