package saver_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/domain"
)

// refuseSuffix makes the store refuse every row whose id ends so, and returns what ends that.
func (r *rig) refuseSuffix(t *testing.T, suffix string) (restore func()) {
	t.Helper()
	_, err := r.raw.ExecContext(t.Context(), `CREATE TABLE IF NOT EXISTS refused (id TEXT CHECK (id IS NULL))`)
	require.NoError(t, err)
	_, err = r.raw.ExecContext(
		t.Context(),
		`CREATE TRIGGER refuse BEFORE INSERT ON decisions_out_of_window WHEN NEW.decision_id LIKE '%`+suffix+`'
		BEGIN INSERT INTO refused VALUES ('x'); END`,
	)
	require.NoError(t, err)
	return func() {
		_, err := r.raw.ExecContext(context.Background(), `DROP TRIGGER refuse`)
		require.NoError(t, err)
	}
}

// judged lets all processes have judged so many rows within the last minutes, none of them rejected.
func (r *rig) judged(t *testing.T, rows int64) {
	t.Helper()
	r.report(t, rows)
}

// report adds what other processes have judged, and returns what all of them have.
func (r *rig) report(t *testing.T, judged int64, rejections ...domain.Rejection) domain.RejectionReport {
	t.Helper()
	report, err := r.store.ExchangeRejections(t.Context(), time.Now(), domain.RejectionTally{
		Judged: map[string]int64{"t": judged}, Rejections: rejections,
	})
	require.NoError(t, err)
	return report
}

func batchWith(n, bad int, suffix string) []domain.Record {
	var out []domain.Record
	for i := range n {
		r := record(i)
		if i < bad {
			r.Key += suffix
			r.Value = fmt.Appendf(nil, `{"decision_id":%q,"path":"http/authz/allow"}`, r.Key)
		}
		out = append(out, r)
	}
	return out
}

func TestGuardGoesOn(t *testing.T) {
	r := newRig(t)
	restore := r.refuseSuffix(t, "-bad")
	r.judged(t, 9_700)
	require.NoError(t, r.handle(t, batchWith(200, 5, "-bad")))
	require.Len(t, r.out.records, 5)
	for _, got := range r.out.records {
		require.Equal(t, topics.DLQ, got.Topic, "9,900 rows are too few for the guard")
	}
	require.False(t, r.guard.On())

	r.out.records = nil
	require.NoError(t, r.handle(t, batchWith(300, 110, "-new-bad")))
	require.True(t, r.guard.On(), "115 of 10,200")
	require.Len(t, r.out.records, 110)
	for _, got := range r.out.records {
		require.Equal(t, topics.Held, got.Topic)
		require.Contains(t, got.Headers.HeldFor, "fingerprint:")
		require.Equal(t, domain.Invalid, got.Headers.ErrorClass)
		require.Zero(t, got.Headers.Attempt, "what the guard holds is not counted as an attempt")
	}
	report := r.report(t, 0)
	require.NotEmpty(t, report.Rejections)
	require.True(t, report.On, "the other processes know")
	require.Equal(t, "http/authz/allow", report.Rejections[0].Path)

	// What was held is judged again and again, and counts once.
	judged := report.Judged
	r.out.records = nil
	parked := batchWith(50, 50, "-new-bad")
	for i := range parked {
		parked[i].Headers.ErrorClass = domain.Invalid
	}
	require.NoError(t, r.handle(t, parked))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); r.guard.Run(ctx) }()
	require.Eventually(t, func() bool {
		report = r.report(t, 0)
		return report.Judged >= 10_200
	}, 10*time.Second, 20*time.Millisecond)
	require.EqualValues(t, 10_200, report.Judged, "before: %d", judged)
	require.EqualValues(t, 115, report.Rejected())

	// An operator has looked.
	for _, b := range report.Rejections {
		require.NoError(t, r.store.AcceptRejections(t.Context(), domain.Acceptance{
			Fingerprint: b.Fingerprint, Tenants: domain.AllTenants(), At: time.Now(), Until: time.Now().Add(time.Hour),
			Caller: "ann", Comment: "x",
		}, domain.AuditEntry{}))
	}
	require.Eventually(t, func() bool { return !r.guard.On() }, 10*time.Second, 20*time.Millisecond)
	r.out.records = nil
	require.NoError(t, r.handle(t, parked))
	require.Equal(t, topics.DLQ, r.out.records[0].Topic)
	cancel()
	<-done

	restore()
	r.out.records = nil
	require.NoError(t, r.handle(t, parked))
	require.Empty(t, r.out.records)
}

// TestGuardGoesOffByItself has a cause that was fixed: the ratio falls as good rows come.
func TestGuardGoesOffByItself(t *testing.T) {
	r := newRig(t)
	r.refuseSuffix(t, "-bad")
	r.judged(t, 10_000)
	require.NoError(t, r.handle(t, batchWith(300, 110, "-bad")))
	require.True(t, r.guard.On())
	r.judged(t, 5_000)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); r.guard.Run(ctx) }()
	require.Eventually(t, func() bool { return !r.guard.On() }, 10*time.Second, 20*time.Millisecond)
	cancel()
	<-done
}

// TestGuardIsHeardOf has another process that turned the guard on: the first row that this one rejects is held.
func TestGuardIsHeardOf(t *testing.T) {
	r := newRig(t)
	r.refuseSuffix(t, "-bad")
	elsewhere := domain.RejectionOf(&domain.Error{Class: domain.Invalid, Code: "1", Text: "elsewhere"}, "t", "p")
	elsewhere.Rows = 5_000
	r.report(t, 20_000, elsewhere)
	require.NoError(t, r.handle(t, batchWith(10, 1, "-bad")))
	require.Len(t, r.out.records, 1)
	require.Equal(t, topics.Held, r.out.records[0].Topic)
}
