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
	r.report(t, rows)
}

// report tells the ledger what other processes have judged, and reads it.
func (r *rig) report(t *testing.T, judged int64, blames ...domain.Blame) domain.BlameReport {
	t.Helper()
	report, err := r.store.ExchangeBlames(t.Context(), time.Now(), judged, blames)
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
	report := r.report(t, 0)
	require.NotEmpty(t, report.Blames)
	require.True(t, report.Stopping, "the other processes know")
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
		report = r.report(t, 0)
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
	r.report(t, 20_000, elsewhere)
	require.NoError(t, r.handle(t, batchWith(10, 1, "-bad")))
	require.Len(t, r.out.records, 1)
	require.Equal(t, topics.Parking, r.out.records[0].Topic)
}

// TestFloodOutlivesTheTraffic: that hardly anything comes is no evidence, and neither is a restart.
func TestFloodOutlivesTheTraffic(t *testing.T) {
	l := &ledger{}
	now := time.Unix(1e9, 0)
	process := func() *saver.Flood {
		f := saver.NewFlood(l, saver.NewBreaker(nil, nil, slog.New(slog.DiscardHandler)), nil, slog.New(slog.DiscardHandler))
		f.SetClock(func() time.Time { return now })
		return f
	}
	f := process()
	bad := []saver.Verdict{{Err: &domain.Error{Class: domain.Invalid, Text: "x"}, Path: "p"}}
	good := make([]saver.Verdict, 9_900)
	f.Judge(t.Context(), make([]domain.Record, len(good)), good)
	for range 101 {
		f.Judge(t.Context(), make([]domain.Record, 1), bad)
	}
	require.True(t, f.Stopping())
	require.True(t, l.on)
	l.judged, l.blames = 0, nil // ten minutes later
	now = now.Add(domain.FloodSpan)
	f.Judge(t.Context(), make([]domain.Record, 1), bad)
	require.True(t, f.Stopping(), "one row was judged, and refused")
	f = process()
	f.Judge(t.Context(), make([]domain.Record, 1), bad)
	require.True(t, f.Stopping(), "it stands in the ledger")
	f.Judge(t.Context(), make([]domain.Record, 1_500), make([]saver.Verdict, 1_500))
	now = now.Add(time.Second)
	f.Judge(t.Context(), make([]domain.Record, 1), bad)
	require.False(t, f.Stopping(), "3 of 1,503")
	require.False(t, l.on)
}

// TestFloodLedgerAway loses no count while the ledger does not answer, and buries nobody.
func TestFloodLedgerAway(t *testing.T) {
	l := &ledger{err: domain.Errorf(domain.Misconfigured, "no right to use the table")}
	f := saver.NewFlood(l, saver.NewBreaker(nil, nil, slog.New(slog.DiscardHandler)), nil, slog.New(slog.DiscardHandler))
	batch := batchWith(3, 1, "-bad")
	verdicts := []saver.Verdict{{Err: &domain.Error{Class: domain.Invalid, Text: "x"}, Path: "p"}, {Fate: domain.Saved}, {Err: domain.Errorf(domain.Unavailable, "y")}}
	f.Judge(t.Context(), batch, verdicts)
	f.Judge(t.Context(), batch, verdicts)
	blame := domain.BlameOf(verdicts[0].Err, "p")
	require.True(t, f.Stops(blame), "whether there is a flood is not known")
	l.err = nil
	f.Judge(t.Context(), batch, verdicts)
	require.EqualValues(t, 6, l.judged, "two of three are judged, three times")
	require.EqualValues(t, 3, l.blames[blame.Fingerprint].Rows)
	require.False(t, f.Stops(blame))
}

// TestFloodOfManyKinds has a text that differs from row to row.
func TestFloodOfManyKinds(t *testing.T) {
	l := &ledger{}
	f := saver.NewFlood(l, saver.NewBreaker(nil, nil, slog.New(slog.DiscardHandler)), nil, slog.New(slog.DiscardHandler))
	var verdicts []saver.Verdict
	for i := range 10_000 {
		v := saver.Verdict{Fate: domain.Saved}
		if i < 500 {
			v = saver.Verdict{Err: &domain.Error{Class: domain.Unknown, Code: "P0001", Text: "not you, " + strings.Repeat("x", i)}}
		}
		verdicts = append(verdicts, v)
	}
	f.Judge(t.Context(), make([]domain.Record, len(verdicts)), verdicts)
	require.True(t, f.Stopping())
	require.LessOrEqual(t, len(l.blames), 101)
	var rows int64
	for _, b := range l.blames {
		rows += b.Rows
	}
	require.EqualValues(t, 500, rows)
}

// ledger takes what is told and tells it.
type ledger struct {
	err    error
	judged int64
	blames map[string]domain.Blame
	on     bool
}

func (l *ledger) ExchangeBlames(_ context.Context, _ time.Time, judged int64, blames []domain.Blame) (r domain.BlameReport, err error) {
	if l.err != nil {
		return r, l.err
	}
	if l.blames == nil {
		l.blames = map[string]domain.Blame{}
	}
	l.judged += judged
	for _, b := range blames {
		b.Rows += l.blames[b.Fingerprint].Rows
		l.blames[b.Fingerprint] = b
	}
	r.Judged, r.Stopping = l.judged, l.on
	for _, b := range l.blames {
		r.Blames = append(r.Blames, b)
	}
	return r, nil
}

func (l *ledger) SetFloodStop(_ context.Context, _ time.Time, on bool) error {
	l.on = on
	return l.err
}

func (l *ledger) AcceptBlame(context.Context, domain.Acceptance) error { return l.err }
