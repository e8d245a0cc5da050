package saver_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/saver"
)

// refuseSuffix makes the store refuse every row whose id ends so, and returns what mends it.
func (r *rig) refuseSuffix(t *testing.T, suffix string) (mend func()) {
	t.Helper()
	_, err := r.raw.ExecContext(t.Context(), `CREATE TABLE IF NOT EXISTS refused (id TEXT CHECK (id IS NULL))`)
	require.NoError(t, err)
	_, err = r.raw.ExecContext(t.Context(), `CREATE TRIGGER flood BEFORE INSERT ON decisions_out_of_window WHEN NEW.decision_id LIKE '%`+suffix+`'
		BEGIN INSERT INTO refused VALUES ('x'); END`)
	require.NoError(t, err)
	return func() {
		_, err := r.raw.ExecContext(context.Background(), `DROP TRIGGER flood`)
		require.NoError(t, err)
	}
}

// judged lets all processes have judged so many rows within the last minutes, none of them blamed.
func (r *rig) judged(t *testing.T, rows int64) {
	t.Helper()
	require.NoError(t, r.store.RecordBlames(t.Context(), time.Now(), rows, nil))
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

func TestFloodStop(t *testing.T) {
	r := newRig(t)
	mend := r.refuseSuffix(t, "-bad")
	r.judged(t, 9_700)
	require.NoError(t, r.handle(t, batchWith(200, 5, "-bad")))
	require.Len(t, r.out.records, 5)
	for _, got := range r.out.records {
		require.Equal(t, topics.DLQ, got.Topic, "9,900 rows are too few to speak of a flood")
	}
	require.False(t, r.flood.Stopping())

	r.out.records = nil
	require.NoError(t, r.handle(t, batchWith(300, 110, "-new-bad")))
	require.True(t, r.flood.Stopping(), "115 of 10,200")
	require.Len(t, r.out.records, 110)
	for _, got := range r.out.records {
		require.Equal(t, topics.Parking, got.Topic)
		require.Equal(t, domain.Invalid, got.Headers.ErrorClass)
		require.Zero(t, got.Headers.Attempt, "a flood is not the row's fault")
		wait := time.Until(got.Headers.NotBefore)
		require.Greater(t, wait, 29*time.Minute, "%s", wait)
		require.LessOrEqual(t, wait, time.Hour)
	}
	report, err := r.store.Blames(t.Context(), time.Now())
	require.NoError(t, err)
	require.NotEmpty(t, report.Blames)
	require.Equal(t, "http/authz/allow", report.Blames[0].Path)

	// What was parked is judged again and again, and counts once.
	judged := report.Judged
	r.out.records = nil
	parked := batchWith(50, 50, "-new-bad")
	for i := range parked {
		parked[i].Headers.ErrorClass = domain.Invalid
	}
	require.NoError(t, r.handle(t, parked))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); r.flood.Run(ctx) }()
	require.Eventually(t, func() bool {
		report, err = r.store.Blames(t.Context(), time.Now())
		require.NoError(t, err)
		return report.Judged >= 10_200
	}, 10*time.Second, 20*time.Millisecond)
	require.EqualValues(t, 10_200, report.Judged, "before: %d", judged)
	require.EqualValues(t, 115, report.Blamed())

	// An operator has looked.
	for _, b := range report.Blames {
		require.NoError(t, r.store.AcceptBlame(t.Context(), domain.Acceptance{Fingerprint: b.Fingerprint, At: time.Now(), Until: time.Now().Add(time.Hour), Who: "ann", Reason: "x"}))
	}
	require.Eventually(t, func() bool { return !r.flood.Stopping() }, 10*time.Second, 20*time.Millisecond)
	r.out.records = nil
	require.NoError(t, r.handle(t, parked))
	require.Equal(t, topics.DLQ, r.out.records[0].Topic)
	cancel()
	<-done

	mend()
	r.out.records = nil
	require.NoError(t, r.handle(t, parked))
	require.Empty(t, r.out.records)
}

// TestFloodEndsByItself has a cause that was mended: the ratio falls as good rows come.
func TestFloodEndsByItself(t *testing.T) {
	r := newRig(t)
	r.refuseSuffix(t, "-bad")
	r.judged(t, 10_000)
	require.NoError(t, r.handle(t, batchWith(300, 110, "-bad")))
	require.True(t, r.flood.Stopping())
	r.judged(t, 5_000)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); r.flood.Run(ctx) }()
	require.Eventually(t, func() bool { return !r.flood.Stopping() }, 10*time.Second, 20*time.Millisecond)
	cancel()
	<-done
}

// TestFloodIsHeardOf has another process that saw the flood: the first row that this one blames is parked.
func TestFloodIsHeardOf(t *testing.T) {
	r := newRig(t)
	r.refuseSuffix(t, "-bad")
	elsewhere := domain.BlameOf(&domain.Error{Class: domain.Invalid, Code: "1", Text: "elsewhere"}, "p")
	elsewhere.Rows = 5_000
	require.NoError(t, r.store.RecordBlames(t.Context(), time.Now(), 20_000, []domain.Blame{elsewhere}))
	require.NoError(t, r.handle(t, batchWith(10, 1, "-bad")))
	require.Len(t, r.out.records, 1)
	require.Equal(t, topics.Parking, r.out.records[0].Topic)
}

// TestFloodLedgerAway loses no count while the store is away.
func TestFloodLedgerAway(t *testing.T) {
	l := &ledger{err: domain.Errorf(domain.Unavailable, "away")}
	f := saver.NewFlood(l, saver.NewBreaker(nil, nil, slog.New(slog.DiscardHandler)), nil, slog.New(slog.DiscardHandler))
	batch := batchWith(3, 1, "-bad")
	verdicts := []saver.Verdict{{Err: &domain.Error{Class: domain.Invalid, Text: "x"}, Path: "p"}, {Fate: domain.Saved}, {Err: domain.Errorf(domain.Unavailable, "y")}}
	f.Judge(t.Context(), batch, verdicts)
	f.Judge(t.Context(), batch, verdicts)
	l.err = nil
	f.Judge(t.Context(), batch, verdicts)
	require.EqualValues(t, 6, l.judged, "two of three are judged, three times")
	require.EqualValues(t, 3, l.blames[0].Rows)
	require.False(t, strings.Contains(l.blames[0].Text, "y"))
}

// ledger takes what is told.
type ledger struct {
	err    error
	judged int64
	blames []domain.Blame
}

func (l *ledger) RecordBlames(_ context.Context, _ time.Time, judged int64, blames []domain.Blame) error {
	if l.err == nil {
		l.judged, l.blames = judged, blames
	}
	return l.err
}

func (l *ledger) Blames(context.Context, time.Time) (domain.BlameReport, error) {
	return domain.BlameReport{}, l.err
}

func (l *ledger) AcceptBlame(context.Context, domain.Acceptance) error { return l.err }
