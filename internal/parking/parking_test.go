package parking

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/ports"
	"github.com/docket-project/docket/internal/sink"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var topics = domain.TopicsWithPrefix("docket.")

// bench is a Parking whose store answers as the test says, and that keeps what is published.
type bench struct {
	*Parking
	answer func(domain.Record) sink.Verdict
	tried  []string
	out    []domain.Record
	err    error
	busy   bool
	stats  stats
}

func (b *bench) Publish(_ context.Context, records []domain.Record) error {
	if b.err == nil {
		b.out = append(b.out, records...)
	}
	return b.err
}

func newBench() *bench {
	b := &bench{answer: func(domain.Record) sink.Verdict { return sink.Verdict{Status: domain.Saved} }}
	save := func(_ context.Context, records []domain.Record) []sink.Verdict {
		var out []sink.Verdict
		for _, r := range records {
			b.tried = append(b.tried, r.Key)
			out = append(out, b.answer(r))
		}
		return out
	}
	retry := sink.Retry{MaxAttempts: 3, BackoffMin: time.Second, BackoffMax: 4 * time.Second}
	logger := slog.New(slog.DiscardHandler)
	b.Parking = New(Parts{
		Save: save, Busy: func() bool { return b.busy }, Log: b, Logger: logger,
		Router: &sink.Router{
			Topics: topics, Retry: retry, Guard: sink.NewGuard(&b.stats, sink.NewBreaker(nil, nil, logger), nil, logger),
			Metrics: sink.NewMetrics(nil),
		},
		Concurrency: sink.Concurrency{Ceiling: 2, Adaptive: true},
	}, nil)
	return b
}

// stats tells what the other processes have judged.
type stats struct {
	ports.RejectionStats
	report domain.RejectionReport
}

func (s *stats) ExchangeRejections(context.Context, time.Time, domain.RejectionTally) (domain.RejectionReport, error) {
	return s.report, nil
}

func (s *stats) SetGuard(context.Context, time.Time, bool) error { return nil }

func parked(offset int64, key string, h domain.Headers) domain.Record {
	h.Origin = "docket.decisions/0/1"
	return domain.Record{Topic: topics.Parking, Offset: offset, Key: key, Value: []byte(key), Headers: h}
}

func failing(class domain.Class) sink.Verdict {
	return sink.Verdict{Err: &domain.Error{Class: class, Code: "X", Text: "no"}}
}

func TestSavesWhatIsDue(t *testing.T) {
	b := newBench()
	pauses, err := b.Handle(
		t.Context(),
		[]domain.Record{parked(0, "a", domain.Headers{}), parked(1, "b", domain.Headers{Attempt: 1})},
	)
	require.NoError(t, err)
	require.Empty(t, pauses)
	require.Equal(t, []string{"a", "b"}, b.tried)
	require.Empty(t, b.out)
}

func TestStoreWait(t *testing.T) {
	for _, class := range []domain.Class{domain.Unavailable, domain.Misconfigured} {
		t.Run(string(class), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench()
				b.answer = func(r domain.Record) sink.Verdict {
					if r.Key == "a" {
						return sink.Verdict{Status: domain.Saved}
					}
					return failing(class)
				}
				batch := []domain.Record{
					parked(0, "a", domain.Headers{}), parked(1, "b", domain.Headers{}), parked(2, "c", domain.Headers{}),
				}
				longest := time.Duration(0)
				for range 100 { // an outage of minutes
					pauses, err := b.Handle(t.Context(), batch)
					require.NoError(t, err)
					require.Len(t, pauses, 1)
					require.EqualValues(t, 1, pauses[0].Offset, "what is saved in front is done")
					wait := time.Until(pauses[0].Until)
					require.Positive(t, wait)
					require.LessOrEqual(t, wait, storeWaitMax)
					longest = max(longest, wait)
					time.Sleep(wait)
				}
				require.Greater(t, longest, 2*time.Second, "it backs off")
				require.Empty(t, b.out, "nothing is written, and no attempt is spent")
				b.answer = func(domain.Record) sink.Verdict { return sink.Verdict{Status: domain.Duplicate} }
				pauses, err := b.Handle(t.Context(), batch[1:])
				require.NoError(t, err)
				require.Empty(t, pauses)
			})
		})
	}
}

func TestRecordBackoffAndLastAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench()
		b.answer = func(domain.Record) sink.Verdict { return failing(domain.Unknown) }
		first := time.Now().Add(-time.Hour)
		r := parked(0, "a", domain.Headers{Attempt: 1, FirstFailedAt: first})
		for attempt := 2; attempt < 3; attempt++ {
			pauses, err := b.Handle(t.Context(), []domain.Record{r})
			require.NoError(t, err)
			require.Empty(t, pauses)
			next := b.out[len(b.out)-1]
			require.Equal(t, topics.Parking, next.Topic)
			require.Equal(t, attempt, next.Headers.Attempt)
			require.LessOrEqual(t, time.Until(next.Headers.NotBefore), 2*time.Second)
			require.Equal(t, first.UTC(), next.Headers.FirstFailedAt.UTC())
			require.Equal(t, "docket.decisions/0/1", next.Headers.Origin)
			require.Equal(t, []byte("a"), next.Value)
			next.Offset = r.Offset + 1
			r = next
			time.Sleep(time.Until(r.Headers.NotBefore))
		}
		_, err := b.Handle(t.Context(), []domain.Record{r})
		require.NoError(t, err)
		dead := b.out[len(b.out)-1]
		require.Equal(t, topics.ParkingDLQ, dead.Topic)
		require.Equal(t, 3, dead.Headers.Attempt)
		require.True(t, dead.Headers.NotBefore.IsZero())
		require.Equal(t, domain.Unknown, dead.Headers.ErrorClass)
	})
}

func TestInvalidConflictAndExpiredAreDeadLettered(t *testing.T) {
	b := newBench()
	b.answer = func(r domain.Record) sink.Verdict {
		switch r.Key {
		case "invalid":
			return failing(domain.Invalid)
		case "conflict":
			return sink.Verdict{Status: domain.Conflicting}
		default:
			return sink.Verdict{Status: domain.TooOld}
		}
	}
	_, err := b.Handle(
		t.Context(),
		[]domain.Record{
			parked(0, "invalid", domain.Headers{}), parked(1, "conflict", domain.Headers{}),
			parked(2, "expired", domain.Headers{}),
		},
	)
	require.NoError(t, err)
	require.Len(t, b.out, 3)
	for i, reason := range []domain.Cause{"", domain.Conflict, domain.Expired} {
		require.Equal(t, topics.DLQ, b.out[i].Topic)
		require.Equal(t, reason, b.out[i].Headers.Reason)
	}
}

func TestNotYetDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench()
		soon, later := time.Now().Add(500*time.Millisecond), time.Now().Add(3*time.Second)
		batch := []domain.Record{
			parked(5, "later", domain.Headers{Attempt: 1, NotBefore: later}),
			parked(6, "soon", domain.Headers{Attempt: 2, NotBefore: soon}),
		}

		pauses, err := b.Handle(t.Context(), batch)
		require.NoError(t, err)
		require.Equal(
			t, []ports.Pause{{Topic: topics.Parking, Offset: 5, Until: soon}}, pauses, "in place until the first is due",
		)
		require.Empty(t, b.tried)

		pauses, err = b.Handle(t.Context(), batch[:1])
		require.NoError(t, err)
		require.Equal(t, time.Now().Add(recheck), pauses[0].Until, "never for long: others may be parked behind it")

		time.Sleep(500 * time.Millisecond)
		pauses, err = b.Handle(t.Context(), batch)
		require.NoError(t, err)
		require.Empty(t, pauses)
		require.Equal(t, []string{"soon"}, b.tried)
		require.Len(t, b.out, 1, "the other makes way for what is behind it")
		require.Equal(t, batch[0].Headers, b.out[0].Headers, "unchanged")
	})
}

func TestAClockThatWasSetBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench()
		pauses, err := b.Handle(
			t.Context(),
			[]domain.Record{parked(0, "a", domain.Headers{Attempt: 1, NotBefore: time.Now().Add(24 * time.Hour)})},
		)
		require.NoError(t, err)
		require.Empty(t, pauses)
		require.Equal(t, []string{"a"}, b.tried, "no backoff is a day long")
	})
}

func TestRecordsBehindAPauseAreJudgedOnce(t *testing.T) {
	b := newBench()
	b.answer = func(r domain.Record) sink.Verdict {
		if r.Key == "away" {
			return failing(domain.Unavailable)
		}
		return failing(domain.Invalid)
	}
	pauses, err := b.Handle(
		t.Context(),
		[]domain.Record{
			parked(0, "x", domain.Headers{}), parked(1, "away", domain.Headers{}), parked(2, "y", domain.Headers{}),
		},
	)
	require.NoError(t, err)
	require.Len(t, pauses, 1)
	require.EqualValues(t, 1, pauses[0].Offset)
	require.Len(t, b.out, 1, "y is delivered again and judged then")
	require.Equal(t, "x", b.out[0].Key)
}

func TestPublishFailureIsNotDone(t *testing.T) {
	b := newBench()
	b.err = domain.Errorf(domain.Unavailable, "the log is away")
	b.answer = func(domain.Record) sink.Verdict { return failing(domain.Invalid) }
	_, err := b.Handle(t.Context(), []domain.Record{parked(0, "x", domain.Headers{})})
	require.ErrorIs(t, err, b.err)
}

func TestShutdown(t *testing.T) {
	b := newBench()
	b.answer = func(domain.Record) sink.Verdict { return failing(domain.Canceled) }
	_, err := b.Handle(t.Context(), []domain.Record{parked(0, "x", domain.Headers{})})
	require.Equal(t, domain.Canceled, domain.ClassOf(err))
	require.Empty(t, b.out)
}

// guarded has the processes together turn the guard on.
func (b *bench) guarded(t *testing.T, now bool) {
	t.Helper()
	b.stats.report = domain.RejectionReport{Judged: 20_000}
	if now {
		b.stats.report.Rejections = []domain.Rejection{{Fingerprint: "other", Rows: 5_000}}
	}
	b.Router.Guard.Judge(
		t.Context(), []domain.Record{parked(0, "x", domain.Headers{})}, []sink.Verdict{failing(domain.Unknown)},
	)
	require.Equal(t, now, b.Router.Guard.On())
}

// TestGuardHolds has rows that would be dead-lettered, some at their last attempt.
func TestGuardHolds(t *testing.T) {
	synctest.Test(t, guardHolds)
}

func guardHolds(t *testing.T) {
	b := newBench()
	b.guarded(t, true)
	b.answer = func(r domain.Record) sink.Verdict { return failing(r.Headers.ErrorClass) }
	var batch []domain.Record
	for i := range 50 {
		class := []domain.Class{domain.Invalid, domain.Unknown}[i%2]
		batch = append(batch, parked(int64(i), "bad", domain.Headers{ErrorClass: class, Attempt: 2}))
	}
	pauses, err := b.Handle(t.Context(), batch)
	require.NoError(t, err)
	require.Empty(t, pauses, "all of it is done")
	require.Len(t, b.out, 50)
	for _, r := range b.out {
		require.Equal(t, topics.Held, r.Topic)
		require.Contains(t, r.Headers.HeldFor, "fingerprint:")
		require.Equal(t, 2, r.Headers.Attempt, "nothing is spent")
	}
	// It is over: they are dealt with as ever.
	time.Sleep(time.Minute)
	b.guarded(t, false)
	b.out = nil
	_, err = b.Handle(t.Context(), batch[:2])
	require.NoError(t, err)
	require.Equal(t, topics.DLQ, b.out[0].Topic)
	require.Equal(t, topics.ParkingDLQ, b.out[1].Topic)
}

// TestGuardAndOutage has the store go away while the guard is on: everything that is due waits in place.
func TestGuardAndOutage(t *testing.T) {
	b := newBench()
	b.guarded(t, true)
	b.answer = func(domain.Record) sink.Verdict { return failing(domain.Unavailable) }
	var batch []domain.Record
	for i := range 50 {
		batch = append(batch, parked(int64(i), "bad", domain.Headers{ErrorClass: domain.Invalid}))
	}
	pauses, err := b.Handle(t.Context(), batch)
	require.NoError(t, err)
	require.Len(t, pauses, 1)
	require.Zero(t, pauses[0].Offset)
	require.Empty(t, b.out, "nothing is written")
}

// TestAClockThatWasSetForward makes everything due.
func TestAClockThatWasSetForward(t *testing.T) {
	b := newBench()
	b.now = func() time.Time { return time.Now().Add(24 * time.Hour) }
	pauses, err := b.Handle(
		t.Context(),
		[]domain.Record{parked(0, "a", domain.Headers{Attempt: 1, NotBefore: time.Now().Add(4 * time.Second)})},
	)
	require.NoError(t, err)
	require.Empty(t, pauses)
	require.Equal(t, []string{"a"}, b.tried)
}

// TestThrottledBatchesWaitInPlace is what the log sees of the throttle.
func TestThrottledBatchesWaitInPlace(t *testing.T) {
	b := newBench()
	b.busy = true
	pauses, err := b.Handle(t.Context(), []domain.Record{parked(3, "a", domain.Headers{})})
	require.NoError(t, err)
	require.Len(t, pauses, 1)
	require.EqualValues(t, 3, pauses[0].Offset)
	require.LessOrEqual(t, time.Until(pauses[0].Until), turnWait)
	require.Empty(t, b.tried)
	require.Empty(t, b.out)
}
