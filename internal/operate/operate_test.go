package operate_test

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/docket-project/docket/internal/access"
	"github.com/docket-project/docket/internal/adapters/sqlite"
	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/operate"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	viewer   = domain.Caller{Name: "vera", Tenants: domain.AllTenants(), Role: domain.Viewer}
	operator = domain.Caller{Name: "olga", Tenants: domain.AllTenants(), Role: domain.Operator}
	acme     = domain.Caller{Name: "ann", Tenants: domain.Tenants("acme"), Role: domain.Operator}
)

func newService(t *testing.T) (*operate.Service, *sqlite.Store) {
	t.Helper()
	dir, err := sqlite.OpenDir(t.TempDir())
	require.NoError(t, err)
	store, err := sqlite.OpenStore(t.Context(), dir, sqlite.StoreOptions{
		Window: domain.Window{Retention: 24 * time.Hour, Ahead: time.Hour}, Log: slog.New(slog.DiscardHandler),
		Migrate: true, Fatal: func(err error) { t.Errorf("fatal: %v", err) },
	})
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, store.Close())
		require.NoError(t, dir.Close())
	})
	return operate.New(store, access.NewGate(access.ByRole, nil, nil)), store
}

// index puts so many open dead letters of a tenant into the index.
func index(t *testing.T, store *sqlite.Store, tenant string, n int, edit ...func(*domain.DeadLetter)) {
	t.Helper()
	var letters []domain.DeadLetter
	for i := range n {
		l := domain.DeadLetter{
			Position: domain.Position{Topic: "docket.dlq", Offset: int64(i) + int64(len(tenant))*1000}, State: domain.DeadOpen,
			Class: domain.Invalid, Cause: domain.Rejected, Text: "check #", Fingerprint: "0a1b2c3d4e5f", Tenant: tenant,
			DecisionID: fmt.Sprintf("%s-%d", tenant, i), Path: "pay", Decision: true, DiedAt: time.Now().Add(-time.Minute),
			ReceivedAt: time.Now().Add(-time.Hour), Copies: 1,
		}
		for _, e := range edit {
			e(&l)
		}
		l.SHA256[0], l.SHA256[1], l.SHA256[2] = byte(i), byte(len(tenant)), byte(l.Replays)
		l.ID = l.String()
		letters = append(letters, l)
	}
	require.NoError(t, store.IndexDeadLetters(t.Context(), letters))
}

func set[T any](v T) *T { return &v }

// refused requires that an error is a refusal of a kind with a code.
func refused(t *testing.T, err error, kind operate.Kind, code string) {
	t.Helper()
	var r *operate.Refusal
	require.True(t, errors.As(err, &r), "%v", err)
	require.Equal(t, code, r.Code)
	require.Equal(t, kind, r.Kind)
}

func TestRequestsAreChecked(t *testing.T) {
	s, store := newService(t)
	index(t, store, "acme", 3)
	for _, c := range []struct {
		name string
		who  domain.Caller
		req  operate.JobRequest
		kind operate.Kind
		code string
	}{
		{"a viewer", viewer, operate.JobRequest{}, operate.NotAllowed, operate.RoleMissing},
		{"nobody", domain.Caller{}, operate.JobRequest{}, operate.NotAllowed, operate.RoleMissing},
		{"a limit", operator, operate.JobRequest{Filter: map[string][]string{"limit": {"7"}}}, operate.Mistaken,
			operate.FilterPaged},
		{
			"a filter that is none", operator, operate.JobRequest{Filter: map[string][]string{"colour": {"red"}}},
			operate.Mistaken, operate.FilterInvalid,
		},
		{"a rate of 0", operator, operate.JobRequest{Rate: set(0.0)}, operate.Mistaken, operate.RateRange},
		{"a rate beyond reason", operator, operate.JobRequest{Rate: set(1e9)}, operate.Mistaken, operate.RateRange},
		{"a max of 0", operator, operate.JobRequest{Max: set(int64(0))}, operate.Mistaken, operate.MaxRange},
		{"no replays", operator, operate.JobRequest{MaxReplays: set(0)}, operate.Mistaken, operate.MaxReplaysRange},
		{"a share of 0", operator, operate.JobRequest{StopRatio: set(0.0)}, operate.Mistaken, operate.StopRatioRange},
		{"a share above 1", operator, operate.JobRequest{StopRatio: set(1.1)}, operate.Mistaken, operate.StopRatioRange},
		{"no comment", operator, operate.JobRequest{DryRun: set(false)}, operate.Mistaken, operate.CommentMissing},
		{
			"a comment of spaces", operator, operate.JobRequest{DryRun: set(false), Comment: " \n"},
			operate.Mistaken, operate.CommentMissing,
		},
		{
			"a comment without end", operator,
			operate.JobRequest{DryRun: set(false), Comment: strings.Repeat("x", operate.MaxComment+1)},
			operate.Mistaken, operate.CommentMissing,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.req.Kind = domain.Replay
			_, err := s.CreateJob(t.Context(), c.who, c.req)
			refused(t, err, c.kind, c.code)
		})
	}
	_, err := s.CreateJob(t.Context(), operator, operate.JobRequest{
		Kind: domain.Reindex, Filter: map[string][]string{"class": {"invalid"}},
	})
	refused(t, err, operate.Mistaken, operate.ReindexFiltered)
	jobs, err := s.Jobs(t.Context(), domain.AllTenants())
	require.NoError(t, err)
	require.Empty(t, jobs, "nothing was made")
	audit, err := store.Audits(t.Context(), domain.AllTenants(), time.Time{}, 10)
	require.NoError(t, err)
	require.Empty(t, audit)
}

// TestNobodyWorks tells an operator that a job will wait.
func TestNobodyWorks(t *testing.T) {
	s, store := newService(t)
	index(t, store, "acme", 1)
	require.NoError(t, store.BeatProcess(t.Context(), domain.Process{Name: "a", Role: "saver"}))
	j, err := s.CreateJob(t.Context(), operator, operate.JobRequest{Kind: domain.Replay})
	require.NoError(t, err)
	require.Equal(t, operate.NobodyWorks, j.Message.Code)
}

func TestReprojectionsAreChecked(t *testing.T) {
	s, store := newService(t)
	require.NoError(t, store.BeatProcess(t.Context(), domain.Process{Name: "a", Role: "serve"}))
	since := map[string][]string{"since": {"7d"}, "outcome": {"unknown"}}
	_, err := s.CreateJob(t.Context(), operator, operate.JobRequest{Kind: domain.Reproject})
	refused(t, err, operate.Mistaken, operate.FilterInvalid)
	req := operate.JobRequest{Kind: domain.Reproject, Filter: since, Max: set(int64(1))}
	_, err = s.CreateJob(t.Context(), operator, req)
	refused(t, err, operate.Mistaken, operate.ReprojectBounded)
	req = operate.JobRequest{Kind: domain.Reproject, Filter: since, DryRun: set(false)}
	_, err = s.CreateJob(t.Context(), operator, req)
	refused(t, err, operate.Mistaken, operate.CommentMissing)
	j, err := s.CreateJob(t.Context(), operator, operate.JobRequest{
		Kind: domain.Reproject, Filter: since, DryRun: set(false), Comment: "a mapping",
	})
	require.NoError(t, err)
	require.Equal(t, domain.JobPending, j.State)
	require.Equal(t, operate.Waiting, j.Message.Code)
	got, err := s.Job(t.Context(), domain.AllTenants(), j.ID)
	require.NoError(t, err)
	require.Equal(t, j.Filter, got.Filter, "of fields of decisions")
	audit, err := store.Audits(t.Context(), domain.AllTenants(), time.Time{}, 1)
	require.NoError(t, err)
	require.Equal(t, "reproject.create", audit[0].Action)
	require.Equal(t, j.Filter, audit[0].Filter)
}

func TestDefaultsOfAJob(t *testing.T) {
	s, store := newService(t)
	require.NoError(t, store.BeatProcess(t.Context(), domain.Process{Name: "a", Role: "parking"}))
	index(t, store, "acme", 3)
	j, err := s.CreateJob(t.Context(), operator, operate.JobRequest{Kind: domain.Replay})
	require.NoError(t, err)
	require.True(t, j.DryRun, "unless told otherwise, nothing moves")
	require.Equal(t, domain.JobPending, j.State)
	require.Equal(t, operate.Waiting, j.Message.Code)
	require.EqualValues(t, 3, j.Matched)
	require.Equal(t, domain.Equals(domain.FieldState, "open"), j.Filter.Where)
	require.Equal(t, []any{3, 0.1, 0.0, int64(0)}, []any{j.MaxReplays, j.StopRatio, j.Rate, j.Max})
	require.Equal(t, "olga", j.Caller)
	require.Equal(t, domain.AllTenants(), j.Tenants)
	again, err := s.CreateJob(t.Context(), operator, operate.JobRequest{Kind: domain.Discard})
	require.NoError(t, err)
	require.Equal(t, domain.Say(operate.WaitingFor, domain.Args{"job": j.ID}), again.Message, "one dry run at a time")
}

// TestJobsOfAScope has an operator of one tenant beside one of all.
func TestJobsOfAScope(t *testing.T) {
	s, store := newService(t)
	index(t, store, "acme", 2)
	index(t, store, "initech", 3)
	theirs, err := s.CreateJob(t.Context(), operator, operate.JobRequest{
		Kind: domain.Discard, DryRun: set(false), Comment: "x",
	})
	require.NoError(t, err)
	require.EqualValues(t, 5, theirs.Matched)
	mine, err := s.CreateJob(t.Context(), acme, operate.JobRequest{Kind: domain.Discard, DryRun: set(false), Comment: "x"})
	require.NoError(t, err, "the same filter over other tenants is another job")
	require.EqualValues(t, 2, mine.Matched)
	require.Equal(t, operate.WaitingForOthers, mine.Message.Code, "the other job is not named")
	_, err = s.Job(t.Context(), acme.Tenants, theirs.ID)
	refused(t, err, operate.Absent, operate.NoJob)
	_, err = s.MoveJob(t.Context(), acme, theirs.ID, domain.Cancel)
	refused(t, err, operate.Absent, operate.NoJob)
	_, err = s.MoveJob(t.Context(), operator, mine.ID, domain.Cancel)
	require.NoError(t, err)
	_, err = s.CreateJob(t.Context(), acme, operate.JobRequest{Kind: domain.Reindex})
	refused(t, err, operate.NotAllowed, operate.ReindexScoped)
}

// TestAcceptancesOfOthers has one of all tenants: it counts for each of them, and is not theirs to end.
func TestAcceptancesOfOthers(t *testing.T) {
	s, _ := newService(t)
	const fingerprint = "0a1b2c3d4e5f"
	_, err := s.Accept(t.Context(), operator, fingerprint, "a secret")
	require.NoError(t, err)
	report, err := s.Rejections(t.Context(), acme.Tenants)
	require.NoError(t, err)
	require.Len(t, report.Acceptances, 1)
	require.Empty(t, report.Acceptances[0].Caller+report.Acceptances[0].Comment)
	_, err = s.Revoke(t.Context(), acme, fingerprint)
	refused(t, err, operate.NotAllowed, operate.AcceptanceOfOthers)
}

func TestTwinsAndMoves(t *testing.T) {
	s, store := newService(t)
	index(t, store, "acme", 3)
	req := operate.JobRequest{Kind: domain.Replay, DryRun: set(false), Comment: "  fixed\x00 "}
	j, err := s.CreateJob(t.Context(), operator, req)
	require.NoError(t, err)
	require.Equal(t, "fixed\uFFFD", j.Comment)
	_, err = s.CreateJob(t.Context(), operator, req)
	refused(t, err, operate.Conflicting, operate.JobTwin)

	_, err = s.MoveJob(t.Context(), viewer, j.ID, domain.Pause)
	refused(t, err, operate.NotAllowed, operate.RoleMissing)
	for _, c := range []struct {
		move domain.JobMove
		want domain.JobState
		code string
	}{
		{domain.Pause, domain.JobPaused, operate.Paused}, {domain.Resume, domain.JobPending, operate.Resumed},
		{domain.Cancel, domain.JobCanceled, operate.Canceled},
	} {
		j, err = s.MoveJob(t.Context(), operator, j.ID, c.move)
		require.NoError(t, err)
		require.Equal(t, c.want, j.State)
		require.Equal(t, domain.Say(c.code, domain.Args{"caller": "olga"}), j.Message)
	}
	_, err = s.MoveJob(t.Context(), operator, j.ID, domain.Resume)
	refused(t, err, operate.Conflicting, operate.JobState)
	_, err = s.CreateJob(t.Context(), operator, req)
	require.NoError(t, err, "what is over does not keep the same from being made")

	entries, err := store.Audits(t.Context(), domain.AllTenants(), time.Time{}, 10)
	require.NoError(t, err)
	var actions []string
	for _, e := range entries {
		require.Equal(t, "olga", e.Caller)
		require.Equal(t, "fixed\uFFFD", e.Comment)
		actions = append(actions, e.Action)
	}
	require.Equal(t, []string{"replay.create", "replay.cancel", "replay.resume", "replay.pause", "replay.create"}, actions)
}

// TestNothingToDo says why a job has nothing to do, and makes it over at once.
func TestNothingToDo(t *testing.T) {
	s, store := newService(t)
	ask := func(filter map[string][]string) domain.Message {
		t.Helper()
		j, err := s.CreateJob(t.Context(), operator, operate.JobRequest{
			Kind: domain.Replay, DryRun: set(false), Comment: "x", Filter: filter,
		})
		require.NoError(t, err)
		require.Equal(t, domain.JobDone, j.State)
		require.False(t, j.FinishedAt.IsZero())
		return j.Message
	}
	require.Equal(t, domain.NothingMatches, ask(nil).Code)
	index(t, store, "acme", 2, func(l *domain.DeadLetter) { l.Replays = 3 })
	require.Equal(t, domain.Say(operate.ReplayedTooOften, domain.Args{"matched": int64(2), "max_replays": int64(3)}),
		ask(nil))
	left := ask(map[string][]string{"state": {"discarded"}})
	require.Equal(t, operate.NothingLeft, left.Code)
	require.EqualValues(t, 2, left.Args.Count("open"))
}

// TestAcceptances are written down together with their entries in the audit.
func TestAcceptances(t *testing.T) {
	s, store := newService(t)
	const fingerprint = "0a1b2c3d4e5f"
	_, err := s.Accept(t.Context(), viewer, fingerprint, "x")
	refused(t, err, operate.NotAllowed, operate.RoleMissing)
	_, err = s.Accept(t.Context(), operator, "all", "x")
	refused(t, err, operate.Mistaken, operate.NoFingerprint)
	_, err = s.Accept(t.Context(), operator, fingerprint, "")
	refused(t, err, operate.Mistaken, operate.CommentMissing)
	_, err = s.Revoke(t.Context(), operator, fingerprint)
	refused(t, err, operate.Absent, operate.NoAcceptance)

	report, err := s.Accept(t.Context(), acme, fingerprint, "looked")
	require.NoError(t, err)
	require.Len(t, report.Acceptances, 1)
	a := report.Acceptances[0]
	require.Equal(t, domain.AcceptanceTerm, a.Until.Sub(a.At))
	require.Equal(t, acme.Tenants, a.Tenants, "it counts for the caller's tenants")
	require.Equal(t, []string{"ann", "looked"}, []string{a.Caller, a.Comment})
	_, err = s.Revoke(t.Context(), acme, fingerprint)
	require.NoError(t, err)
	report, err = s.Rejections(t.Context(), domain.AllTenants())
	require.NoError(t, err)
	require.Empty(t, report.Acceptances)

	entries, err := store.Audits(t.Context(), acme.Tenants, time.Time{}, 10)
	require.NoError(t, err)
	require.Len(t, entries, 2)
	require.Equal(t, []string{"guard.revoke", "guard.accept"}, []string{entries[0].Action, entries[1].Action})
}
