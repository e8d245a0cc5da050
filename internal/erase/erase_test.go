package erase

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/docket-project/docket/internal/adapters/sqlite"
	"github.com/docket-project/docket/internal/deadletter"
	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/job"
	"github.com/docket-project/docket/internal/sink"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var topics = domain.TopicsWithPrefix("docket.")

// rig has a real store and a real log. Only the clock is not real.
type rig struct {
	store *sqlite.Store
	log   *sqlite.Log
	index *deadletter.Index
	jobs  *Jobs
	p     *domain.Projector
}

// within runs a test with a rig: alice, bob and mallory decide once an hour for three days in two tenants, and die.
func within(t *testing.T, held time.Duration, f func(t *testing.T, r *rig)) {
	t.Helper()
	const kept = 24 * time.Hour
	path := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		logger := slog.New(slog.DiscardHandler)
		fatal := func(err error) { t.Errorf("fatal: %v", err) }
		dir, err := sqlite.OpenDir(path)
		require.NoError(t, err)
		store, err := sqlite.OpenStore(t.Context(), dir, sqlite.StoreOptions{
			Window: domain.Window{Retention: 10 * 24 * time.Hour, Ahead: 24 * time.Hour}, Log: logger, Migrate: true,
			Fatal: fatal,
		})
		require.NoError(t, err)
		log, err := sqlite.OpenLog(t.Context(), dir, sqlite.LogOptions{
			Topics: []sqlite.Topic{
				{Name: topics.Decisions, Retention: kept}, {Name: topics.Parking, Retention: kept},
				{Name: topics.Held, Retention: held}, {Name: topics.ParkingDLQ, Retention: 30 * 24 * time.Hour},
				{Name: topics.DLQ, Retention: 20 * 24 * time.Hour},
			},
			Fatal: fatal, Lost: func(domain.Loss) {}, Log: logger, Migrate: true,
		})
		require.NoError(t, err)
		defer func() { // also where the test fails
			require.NoError(t, log.Close())
			require.NoError(t, store.Close())
			require.NoError(t, dir.Close())
		}()
		p, err := domain.NewProjector(nil)
		require.NoError(t, err)
		r := &rig{
			store, log, &deadletter.Index{Store: store, Log: log, Projector: p, Topics: topics, Logger: logger},
			&Jobs{Store: store, Control: store, Log: log, Topics: topics, Projector: p}, p,
		}
		var rows []domain.Decision
		var dead []domain.Record
		for n := range 3 * 24 {
			for _, tenant := range []string{"acme", "other"} {
				for _, who := range []string{"alice", "bob", "mallory"} {
					value := fmt.Appendf(
						nil, `{"decision_id":"%s-%s-%d","path":"p","input":{"user":%q},"timestamp":%q}`, tenant, who, n, who,
						time.Now().Add(-time.Duration(n)*time.Hour).Format(time.RFC3339),
					)
					rec := domain.Record{Value: value, Headers: domain.Headers{Tenant: tenant, ReceivedAt: time.Now()}}
					if n%2 == 0 {
						rows = append(rows, p.Project(rec))
						continue
					}
					rec.Topic, rec.Headers.ErrorClass = topics.DLQ, domain.Invalid
					dead = append(dead, rec)
				}
			}
		}
		_, err = store.SaveBatch(t.Context(), rows)
		require.NoError(t, err)
		require.NoError(t, log.Publish(t.Context(), dead))
		r.read(t)
		f(t, r)
	})
}

// read indexes all of the data DLQ.
func (r *rig) read(t *testing.T) {
	t.Helper()
	var dead []domain.Record
	_, err := r.log.Read(t.Context(), topics.DLQ, 0, 0, func(rec domain.Record) bool {
		dead = append(dead, rec)
		return true
	})
	require.NoError(t, err)
	pauses, err := r.index.Handle(t.Context(), dead)
	require.NoError(t, err)
	require.Empty(t, pauses)
}

// left counts what is there of somebody: rows and dead letters.
func (r *rig) left(t *testing.T, tenant, who string) (n [2]int) {
	t.Helper()
	page, err := r.store.Search(t.Context(), domain.Tenants(tenant), domain.Query{
		Filter: domain.Filter{Where: domain.Equals(domain.FieldPrincipal, who)}, Limit: 1000,
	})
	require.NoError(t, err)
	n[0] = len(page.Items)
	letters, err := r.store.DeadLetters(t.Context(), domain.Tenants(tenant), domain.Query{
		Filter: domain.Filter{Where: domain.HasPrefix(domain.FieldDecisionID, tenant+"-"+who)}, Limit: 1000,
	})
	require.NoError(t, err)
	n[1] = len(letters.Items)
	return n
}

func (r *rig) create(t *testing.T, dryRun bool, tenants domain.Scope, who string) {
	t.Helper()
	key, err := r.store.ErasureKey(t.Context())
	require.NoError(t, err)
	j := domain.Job{
		ID: "e-1", Kind: domain.Erase, DryRun: dryRun, Tenants: tenants, Caller: "ann", State: domain.JobPending,
		Filter: domain.Filter{Where: domain.Equals(domain.FieldPrincipal, who)}, CreatedAt: time.Now().UTC(),
	}
	if !dryRun {
		j.Erasure = &domain.Erasure{
			Job: j.ID, Subjects: []domain.Subject{domain.SubjectOf(key, who)}, Tenants: tenants, At: j.CreatedAt,
		}
	}
	_, err = r.store.CreateJob(t.Context(), j, domain.AuditEntry{})
	require.NoError(t, err)
}

// work has a process work on the job for so long.
func (r *rig) work(t *testing.T, d time.Duration) domain.Job {
	t.Helper()
	runner := job.New(r.store, "one", slog.New(slog.DiscardHandler))
	r.jobs.Register(runner)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		runner.Run(ctx)
	}()
	time.Sleep(d)
	cancel()
	<-ended
	j, found, err := r.store.Job(t.Context(), domain.AllTenants(), "e-1")
	require.NoError(t, err)
	require.True(t, found)
	return j
}

var everything, nothing = [2]int{36, 36}, [2]int{}

func TestErase(t *testing.T) {
	within(t, 3*24*time.Hour, func(t *testing.T, r *rig) {
		at := time.Now().UTC()
		r.create(t, false, domain.Tenants("acme"), "alice")
		j := r.work(t, sink.ErasuresTakeEffect-time.Second)
		require.Equal(t, Spreading, j.Message.Code)
		require.Equal(t, everything, r.left(t, "acme", "alice"), "somebody may not have heard of it")
		j = r.work(t, time.Minute)
		require.Equal(t, domain.JobDone, j.State, "%+v", j.Message)
		require.Equal(t, nothing, r.left(t, "acme", "alice"))
		for _, other := range [][2]string{{"acme", "bob"}, {"acme", "mallory"}, {"other", "alice"}} {
			require.Equal(t, everything, r.left(t, other[0], other[1]), "%v", other)
		}
		require.Equal(t, Done, j.Message.Code)
		require.Equal(t, []int64{36, 36}, []int64{j.Message.Args.Count("rows"), j.Message.Args.Count("letters")})
		require.NotContains(t, fmt.Sprintf("%+v", j), "alice")
		day := 24 * time.Hour
		require.Equal(t, []domain.Expiry{
			{Topic: topics.Decisions, At: at.Add(day)}, {Topic: topics.Parking, At: at.Add(day)},
			{Topic: topics.Held, At: at.Add(3 * day)}, {Topic: topics.ParkingDLQ, At: at.Add(30 * day)},
			{Topic: topics.DLQ, At: at.Add(20 * day)},
		}, j.Report.Expiries)
		require.Equal(t, at.Add(55*day).Format(time.RFC3339), j.Message.Args.Text("until"), "one topic after the other")
		entries, err := r.store.Audits(t.Context(), domain.AllTenants(), time.Time{}, 10)
		require.NoError(t, err)
		require.NotContains(t, fmt.Sprintf("%+v", entries), "alice")

		r.index.Erasures = sink.NewErasures(r.store)
		upload := []byte(`{"decision_id":"acme-alice-u","input":{"user":"alice"}}` + "\n" + `{"decision_id":"acme-bob-u"}`)
		require.NoError(t, r.log.Publish(t.Context(), []domain.Record{{
			Topic: topics.DLQ, Value: upload, Headers: domain.Headers{
				Tenant: "acme", ReceivedAt: at, Reason: domain.NotArray, Upload: fmt.Sprintf("%x", sha256.Sum256(upload)),
			},
		}}))
		r.read(t)
		require.Equal(t, nothing, r.left(t, "acme", "alice"), "reindexing does not bring them back")
		letters, err := r.store.DeadLetters(t.Context(), domain.Tenants("acme"), domain.Query{Limit: 1})
		require.NoError(t, err)
		require.True(t, letters.Items[0].Whole, "an upload has decisions about others as well")
		require.Equal(t, everything, r.left(t, "acme", "bob"))
		in, err := r.store.Erasures(t.Context())
		require.NoError(t, err)
		require.Len(t, in, 1)
		require.Equal(t, at.Add(55*day).Truncate(time.Microsecond), in[0].Until)
	})
}

func TestDryRun(t *testing.T) {
	within(t, 0, func(t *testing.T, r *rig) {
		r.create(t, true, domain.AllTenants(), "alice")
		j := r.work(t, 10*time.Second)
		require.Equal(t, domain.JobDone, j.State, "%+v", j.Message)
		require.Equal(t, WouldErase, j.Message.Code)
		require.Equal(t, []int64{72, 72, 0}, []int64{j.Report.Rows, j.Report.Letters, j.Report.Unclear})
		require.Empty(t, j.Message.Args.Text("until"), "a topic keeps what nobody has done")
		require.Len(t, j.Report.Expiries, 4)
		require.Equal(t, everything, r.left(t, "acme", "alice"))
		require.NotContains(t, fmt.Sprintf("%+v", j), "alice")
		in, err := r.store.Erasures(t.Context())
		require.NoError(t, err)
		require.Empty(t, in)
	})
}

// TestTakenUpAgain goes on where it was, also among the dead letters.
func TestTakenUpAgain(t *testing.T) {
	for _, c := range []struct {
		name, after string
		left        [2]int
	}{
		{"through with the decisions", inLetters, [2]int{36, 0}},
		{"through with some of the dead letters", inLetters + domain.CursorBefore(time.Unix(0, 0)).String(), [2]int{36, 36}},
	} {
		t.Run(c.name, func(t *testing.T) {
			within(t, 0, func(t *testing.T, r *rig) {
				r.create(t, false, domain.Tenants("acme"), "alice")
				_, found, err := r.store.ClaimJob(
					t.Context(), domain.ErasureJobs, "gone", time.Now(), time.Now().Add(time.Second),
				)
				require.NoError(t, err)
				require.True(t, found)
				_, err = r.store.AdvanceJob(t.Context(), domain.JobStep{
					Job: "e-1", Owner: "gone", At: time.Now(), LeaseUntil: time.Now().Add(time.Second),
					After:  domain.Position{Topic: c.after},
					Report: &domain.DryRunReport{Rows: 7, Letters: 3, Statuses: map[domain.SaveStatus]int{}},
				})
				require.NoError(t, err)
				j := r.work(t, 2*time.Minute)
				require.Equal(t, domain.JobDone, j.State, "%+v", j.Message)
				require.Equal(t, c.left, r.left(t, "acme", "alice"))
				require.Equal(t, int64(7), j.Report.Rows)
				require.Equal(t, int64(3+everything[1]-c.left[1]), j.Report.Letters)
			})
		})
	}
}
