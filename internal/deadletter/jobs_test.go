package deadletter

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
	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/ingest"
	"github.com/docket-project/docket/internal/job"
	"github.com/docket-project/docket/internal/sink"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var topics = domain.TopicsWithPrefix("docket.")

// rig works on jobs with a real store and a real log, which nobody else consumes. Only the clock is not real.
type rig struct {
	store *sqlite.Store
	log   *sqlite.Log
	jobs  *Jobs
}

// within runs a test with a rig.
func within(t *testing.T, f func(t *testing.T, r *rig)) {
	t.Helper()
	path := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		logger := slog.New(slog.DiscardHandler)
		fatal := func(err error) { t.Errorf("fatal: %v", err) }
		dir, err := sqlite.OpenDir(path)
		require.NoError(t, err)
		store, err := sqlite.OpenStore(t.Context(), dir, sqlite.StoreOptions{
			Window: domain.Window{Retention: 24 * time.Hour, Ahead: time.Hour}, Log: logger, Migrate: true, Fatal: fatal,
		})
		require.NoError(t, err)
		log, err := sqlite.OpenLog(t.Context(), dir, sqlite.LogOptions{
			Topics: []sqlite.Topic{
				{Name: topics.Decisions}, {Name: topics.Parking}, {Name: topics.ParkingDLQ}, {Name: topics.DLQ},
			},
			Fatal: fatal, Lost: func(domain.Loss) {}, Log: logger, Migrate: true,
		})
		require.NoError(t, err)
		p, err := domain.NewProjector(nil)
		require.NoError(t, err)
		defer func() { // also where the test fails
			require.NoError(t, log.Close())
			require.NoError(t, store.Close())
			require.NoError(t, dir.Close())
		}()
		f(t, &rig{store, log, &Jobs{
			Letters: store, Log: log, Topics: topics,
			Index:     &Index{Store: store, Log: log, Projector: p, Topics: topics, Logger: logger},
			Assembler: ingest.Assembler{Topics: topics, Limits: domain.DefaultLimits},
		}})
	})
}

// die puts records into the data DLQ and the index.
func (r *rig) die(t *testing.T, records ...domain.Record) {
	t.Helper()
	for i := range records {
		records[i].Topic = topics.DLQ
		records[i].Headers.ErrorClass = domain.Invalid
		records[i].Headers.ReceivedAt = time.Now()
		records[i].Headers.Tenant = "acme"
	}
	require.NoError(t, r.log.Publish(t.Context(), records))
	_, err := r.jobs.Index.Handle(t.Context(), r.read(t, topics.DLQ))
	require.NoError(t, err)
}

// read is all of a topic.
func (r *rig) read(t *testing.T, topic string) (records []domain.Record) {
	t.Helper()
	_, err := r.log.Read(t.Context(), topic, 0, 0, func(rec domain.Record) bool {
		records = append(records, rec)
		return true
	})
	require.NoError(t, err)
	return records
}

// work has a process work on a job for so long, and returns what became of the job.
func (r *rig) work(t *testing.T, j domain.Job, d time.Duration) domain.Job {
	t.Helper()
	j.ID, j.State, j.CreatedAt = "r-1", domain.JobPending, time.Now().UTC()
	j.Tenants, j.MaxReplays, j.StopRatio, j.Caller = domain.AllTenants(), 3, 0.1, "ann"
	twin, err := r.store.CreateJob(t.Context(), j, domain.AuditEntry{})
	require.NoError(t, err)
	require.Empty(t, twin)
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

// row is a decision that was rejected, and body an upload that was quarantined.
func row(id string) domain.Record {
	return domain.Record{Key: id, Value: fmt.Appendf(nil, `{"decision_id":"%s"}`, id), Headers: domain.Headers{
		Error: "check", Attempt: 1, Origin: "docket.decisions/0/1",
	}}
}

func body(text string) domain.Record {
	return domain.Record{Key: "sha256:x", Value: []byte(text), Headers: domain.Headers{
		Reason: domain.TooManyEvents, Upload: fmt.Sprintf("%x", sha256.Sum256([]byte(text))),
	}}
}

// TestReplay sends rows as they are, and the decisions of a body that can be read now; what cannot stays.
func TestReplay(t *testing.T) {
	within(t, func(t *testing.T, r *rig) {
		r.die(t, row("a"), body(`[{"decision_id":"b"},{"decision_id":"c"}]`), body(`[{"decision_id":"d"},{`))
		j := r.work(t, domain.Job{Kind: domain.Replay}, 5*time.Minute)
		require.Equal(t, domain.JobDone, j.State, "%v", j.Message)
		require.Equal(t, ReplayDone, j.Message.Code)
		parked := r.read(t, topics.Parking)
		var keys []string
		for _, rec := range parked {
			keys = append(keys, rec.Key)
			require.Equal(t, "r-1", rec.Headers.Replay)
			require.Equal(t, 1, rec.Headers.ReplayCount)
			require.Empty(t, rec.Headers.Reason, "the next failure may be another")
			require.Equal(t, "acme", rec.Headers.Tenant)
		}
		require.ElementsMatch(t, []string{"a", "b", "c", "d"}, keys)
		for _, rec := range parked {
			if rec.Key == "a" {
				require.Equal(t, row("a").Value, rec.Value, "the bytes stay")
				require.Equal(t, 1, rec.Headers.Attempt, "and the attempts")
			}
		}
		require.EqualValues(t, 3, j.Done)
		counts, err := r.store.CountDeadLetters(t.Context(), domain.AllTenants(), domain.Filter{})
		require.NoError(t, err)
		require.EqualValues(t, 1, counts[domain.DeadOpen], "the body that still cannot be read to its end")
	})
}

// TestReplayWaitsForTheFirst sends a hundred, and no more while nobody knows what becomes of them.
func TestReplayWaitsForTheFirst(t *testing.T) {
	within(t, func(t *testing.T, r *rig) {
		var records []domain.Record
		for i := range 3 * canary {
			records = append(records, row(fmt.Sprint("row-", i)))
		}
		r.die(t, records...)
		j := r.work(t, domain.Job{Kind: domain.Replay}, canaryWait/2)
		require.Equal(t, domain.JobRunning, j.State)
		require.Equal(t, ReplayCanary, j.Message.Code)
		require.Len(t, r.read(t, topics.Parking), canary)
	})
}

func TestDiscard(t *testing.T) {
	within(t, func(t *testing.T, r *rig) {
		r.die(t, row("a"), row("b"), body("["))
		j := r.work(t, domain.Job{
			Kind: domain.Discard, Filter: domain.Filter{Where: domain.Equals(domain.FieldDecisionID, "a")},
		}, time.Minute)
		require.Equal(t, domain.JobDone, j.State)
		require.EqualValues(t, 1, j.Done)
		require.Empty(t, r.read(t, topics.Parking), "nothing is sent")
		require.Len(t, r.read(t, topics.DLQ), 3, "and nothing is deleted")
		counts, err := r.store.CountDeadLetters(t.Context(), domain.AllTenants(), domain.Filter{})
		require.NoError(t, err)
		require.Equal(t, map[domain.DeadState]int64{domain.DeadOpen: 2, domain.DeadDiscarded: 1}, counts)
	})
}

// TestDryRun has a store that would take some, and tells what would become of all.
func TestDryRun(t *testing.T) {
	for _, c := range []struct {
		name    string
		fails   func(id string) bool
		verdict string
		code    string
	}{
		{"all would be stored", func(string) bool { return false }, "safe", Safe},
		{"one would fail", func(id string) bool { return id == "b" }, "some_fail", SomeFail},
	} {
		t.Run(c.name, func(t *testing.T) {
			within(t, func(t *testing.T, r *rig) {
				r.jobs.DryRun = func(_ context.Context, records []domain.Record) (verdicts []sink.Verdict) {
					for _, rec := range records {
						v := sink.Verdict{Status: domain.Saved}
						if c.fails(rec.Key) {
							v = sink.Verdict{Err: &domain.Error{Class: domain.Invalid, Code: "23514", Text: "check"}, Tenant: "acme"}
						}
						verdicts = append(verdicts, v)
					}
					return verdicts
				}
				r.die(t, row("a"), row("b"), body(`[{"decision_id":"c"}]`))
				j := r.work(t, domain.Job{Kind: domain.Replay, DryRun: true, Matched: 3}, time.Minute)
				require.Equal(t, domain.JobDone, j.State)
				require.Equal(t, c.code, j.Message.Code)
				require.Equal(t, c.verdict, j.Report.Verdict)
				require.Equal(t, 3, j.Report.Tried)
				require.Equal(t, []int{1, 1, 0}, []int{j.Report.Bodies, j.Report.Events, j.Report.Broken})
				require.Empty(t, r.read(t, topics.Parking), "nothing moves")
				if c.verdict == "some_fail" {
					require.Len(t, j.Report.Failures, 1)
					require.Equal(t, "23514", j.Report.Failures[0].Code)
				}
			})
		})
	}
}

// TestReindex brings back what the index has lost, and keeps what an operator has decided.
func TestReindex(t *testing.T) {
	within(t, func(t *testing.T, r *rig) {
		r.die(t, row("a"), row("b"))
		_, err := r.store.ForgetDeadLetters(t.Context(), topics.DLQ, 0, 1)
		require.NoError(t, err)
		j := r.work(t, domain.Job{Kind: domain.Reindex}, time.Minute)
		require.Equal(t, domain.JobDone, j.State)
		require.EqualValues(t, 2, j.Done)
		counts, err := r.store.CountDeadLetters(t.Context(), domain.AllTenants(), domain.Filter{})
		require.NoError(t, err)
		require.EqualValues(t, 2, counts[domain.DeadOpen])
	})
}
