package reproject

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/docket-project/docket/internal/adapters/sqlite"
	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/job"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const retention = 10 * 24 * time.Hour

// rig has a real store with decisions that were saved without a mapping. Only the clock is not real.
type rig struct {
	store *sqlite.Store
	jobs  *Jobs
}

// within runs a test with a rig: a decision an hour for eight days, one without a timestamp, and one that is ahead.
// Even ones say {"ok":true}, odd ones {"ok":false}.
func within(t *testing.T, f func(t *testing.T, r *rig)) {
	t.Helper()
	path := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(200 * 24 * time.Hour)
		dir, err := sqlite.OpenDir(path)
		require.NoError(t, err)
		store, err := sqlite.OpenStore(t.Context(), dir, sqlite.StoreOptions{
			Window: domain.Window{Retention: retention, Ahead: 24 * time.Hour}, Log: slog.New(slog.DiscardHandler),
			Migrate: true, Fatal: func(err error) { t.Errorf("fatal: %v", err) },
		})
		require.NoError(t, err)
		defer func() { // also where the test fails
			require.NoError(t, store.Close())
			require.NoError(t, dir.Close())
		}()
		require.NoError(t, store.SetRetention(t.Context(), retention))
		before, err := domain.NewProjector(nil)
		require.NoError(t, err)
		var rows []domain.Decision
		save := func(n int, stamp string) {
			event := fmt.Appendf(nil, `{"decision_id":"%d","path":"shop/pay","result":{"ok":%t}%s}`, n, n%2 == 0, stamp)
			rows = append(rows, before.Project(domain.Record{Value: event, Headers: domain.Headers{ReceivedAt: time.Now()}}))
		}
		for n := range 8 * 24 {
			save(n, `,"timestamp":"`+time.Now().Add(-time.Duration(n)*time.Hour).Format(time.RFC3339)+`"`)
		}
		save(1000, "")
		save(1001, `,"timestamp":"`+time.Now().Add(20*time.Hour).Format(time.RFC3339)+`"`)
		statuses, err := store.SaveBatch(t.Context(), rows)
		require.NoError(t, err)
		for _, s := range statuses {
			require.Equal(t, domain.Saved, s)
		}
		after, err := domain.NewProjector([]domain.Mapping{
			{Path: "shop/*", Allowed: []domain.Condition{{Pointer: "/result/ok", When: domain.WhenTrue}}},
		})
		require.NoError(t, err)
		f(t, &rig{store, &Jobs{Store: store, Projector: after}})
	})
}

// work has a process work on a job for so long, and returns what became of the job.
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
	j, found, err := r.store.Job(t.Context(), domain.AllTenants(), "r-1")
	require.NoError(t, err)
	require.True(t, found)
	return j
}

func (r *rig) create(t *testing.T, j domain.Job) {
	t.Helper()
	j.ID, j.Kind, j.State, j.CreatedAt = "r-1", domain.Reproject, domain.JobPending, time.Now().UTC()
	j.Tenants, j.Caller = domain.AllTenants(), "ann"
	_, err := r.store.CreateJob(t.Context(), j, domain.AuditEntry{})
	require.NoError(t, err)
}

// outcomes counts what is stored.
func (r *rig) outcomes(t *testing.T) map[domain.Outcome]int {
	t.Helper()
	page, err := r.store.Search(t.Context(), domain.AllTenants(), domain.Query{Limit: 1000})
	require.NoError(t, err)
	out := map[domain.Outcome]int{}
	for _, d := range page.Items {
		out[d.Outcome]++
	}
	return out
}

func TestDryRun(t *testing.T) {
	within(t, func(t *testing.T, r *rig) {
		r.create(t, domain.Job{DryRun: true, Filter: domain.Filter{Since: time.Now().Add(-365 * 24 * time.Hour)}})
		j := r.work(t, time.Minute)
		require.Equal(t, domain.JobDone, j.State, "%+v", j.Message)
		require.Equal(t, domain.Say(WouldChange, domain.Args{"rows": int64(194), "changed": int64(194)}), j.Message)
		for i := range j.Report.Changes {
			require.NotEmpty(t, j.Report.Changes[i].Sample)
			j.Report.Changes[i].Sample = ""
		}
		require.ElementsMatch(t, []domain.Change{
			{Path: "shop/pay", Column: "outcome", From: "unknown", To: "denied", Rows: 97},
			{Path: "shop/pay", Column: "outcome", From: "unknown", To: "allowed", Rows: 97},
		}, j.Report.Changes)
		require.Equal(t, map[domain.Outcome]int{domain.OutcomeUnknown: 194}, r.outcomes(t), "nothing has changed")
		require.Zero(t, j.Done)
	})
}

func TestReproject(t *testing.T) {
	within(t, func(t *testing.T, r *rig) {
		r.create(t, domain.Job{Filter: domain.Filter{
			Since: time.Now().Add(-49*time.Hour - time.Minute), Where: domain.Equals(domain.FieldOutcome, "unknown"),
		}})
		j := r.work(t, time.Minute)
		require.Equal(t, domain.JobDone, j.State, "%+v", j.Message)
		require.Equal(t, domain.Say(Done, domain.Args{"rows": int64(52), "changed": int64(52)}), j.Message,
			"50 hours, the one without a timestamp, and the one that is ahead")
		require.Equal(t, int64(52), j.Done)
		require.Equal(t, map[domain.Outcome]int{
			domain.OutcomeUnknown: 142, domain.OutcomeAllowed: 26, domain.OutcomeDenied: 26,
		}, r.outcomes(t))
		audit, err := r.store.Audits(t.Context(), domain.AllTenants(), time.Time{}, 10)
		require.NoError(t, err)
		require.Equal(t, "reproject.done", audit[0].Action)
		require.Equal(t, int64(52), audit[0].Done)
	})
}

// TestResume stops a slow job in the middle: another process goes on where it was.
func TestResume(t *testing.T) {
	within(t, func(t *testing.T, r *rig) {
		r.create(t, domain.Job{Rate: 1, Filter: domain.Filter{
			Since: time.Now().Add(-8 * 24 * time.Hour), Until: time.Now().Add(-time.Minute),
		}})
		j := r.work(t, 100*time.Second)
		require.Equal(t, domain.JobRunning, j.State)
		require.Equal(t, Progress, j.Message.Code, "also while it rests")
		done := j.Done
		require.Greater(t, done, int64(90))
		require.Less(t, done, int64(150))
		require.Equal(t, int(done), 194-r.outcomes(t)[domain.OutcomeUnknown])

		time.Sleep(job.Lease)
		j = r.work(t, 10*time.Minute)
		require.Equal(t, domain.JobDone, j.State, "%+v", j.Message)
		require.Equal(t, int64(191), j.Done, "each row once")
		require.Zero(t, j.Skipped)
		require.Equal(t, 3, r.outcomes(t)[domain.OutcomeUnknown], "now, without a timestamp, and ahead")
	})
}

// TestResumeToday stops a job again and again in the day that it was made on, and without an end in its filter.
func TestResumeToday(t *testing.T) {
	within(t, func(t *testing.T, r *rig) {
		time.Sleep(23 * time.Hour)
		var rows []domain.Decision
		before, err := domain.NewProjector(nil)
		require.NoError(t, err)
		for n := range 1200 {
			event := fmt.Appendf(nil, `{"decision_id":"t%d","path":"shop/pay","result":{"ok":true},"timestamp":"%s"}`, n,
				time.Now().Add(-time.Duration(n)*time.Second).Format(time.RFC3339))
			rows = append(rows, before.Project(domain.Record{Value: event, Headers: domain.Headers{ReceivedAt: time.Now()}}))
		}
		_, err = r.store.SaveBatch(t.Context(), rows)
		require.NoError(t, err)
		r.create(t, domain.Job{DryRun: true, Rate: 10, Filter: domain.Filter{
			Since: time.Now().Add(-time.Hour), Where: domain.HasPrefix(domain.FieldDecisionID, "t"),
		}})
		for range 3 {
			require.Equal(t, domain.JobRunning, r.work(t, 20*time.Second).State)
			time.Sleep(job.Lease)
		}
		j := r.work(t, 10*time.Minute)
		require.Equal(t, domain.JobDone, j.State, "%+v", j.Message)
		require.Equal(t, int64(1200), j.Report.Rows, "each row once")
	})
}

// TestUnchanged: what does not differ is not written.
func TestUnchanged(t *testing.T) {
	within(t, func(t *testing.T, r *rig) {
		same, err := domain.NewProjector(nil)
		require.NoError(t, err)
		r.jobs.Projector = same
		r.create(t, domain.Job{Filter: domain.Filter{Since: time.Now().Add(-24 * time.Hour)}})
		j := r.work(t, time.Minute)
		require.Equal(t, domain.JobDone, j.State)
		require.Zero(t, j.Done)
		require.Equal(t, int64(27), j.Skipped)
		require.Empty(t, j.Report.Changes)
	})
}
