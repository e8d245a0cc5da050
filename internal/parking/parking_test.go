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
	"github.com/docket-project/docket/internal/saver"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var topics = domain.TopicsWithPrefix("docket.")

// bench is a Parking whose store answers as the test says, and that keeps what is published.
type bench struct {
	*Parking
	answer func(domain.Record) saver.Verdict
	tried  []string
	out    []domain.Record
	err    error
	busy   bool
	ledger ledger
}

func (b *bench) Publish(_ context.Context, records []domain.Record) error {
	if b.err == nil {
		b.out = append(b.out, records...)
	}
	return b.err
}

func newBench() *bench {
	b := &bench{answer: func(domain.Record) saver.Verdict { return saver.Verdict{Fate: domain.Saved} }}
	save := func(_ context.Context, records []domain.Record) []saver.Verdict {
		var out []saver.Verdict
		for _, r := range records {
			b.tried = append(b.tried, r.Key)
			out = append(out, b.answer(r))
		}
		return out
	}
	retry := saver.Retry{Topics: topics, MaxAttempts: 3, BackoffMin: time.Second, BackoffMax: 4 * time.Second}
	logger := slog.New(slog.DiscardHandler)
	b.Parking = New(Config{
		Save: save, Busy: func() bool { return b.busy }, Log: b, Retry: retry, Flood: saver.NewFlood(&b.ledger, saver.NewBreaker(nil, nil, logger), nil, logger),
		Concurrency: saver.Concurrency{Ceiling: 2, Adaptive: true}, Metrics: saver.NewMetrics(nil), Logger: logger,
	}, nil)
	return b
}

// ledger tells what the other processes have judged.
type ledger struct {
	ports.BlameLedger
	report domain.BlameReport
}

func (l *ledger) ExchangeBlames(context.Context, time.Time, int64, []domain.Blame) (domain.BlameReport, error) {
	return l.report, nil
}

func (l *ledger) SetFloodStop(context.Context, time.Time, bool) error { return nil }

func parked(offset int64, key string, h domain.Headers) domain.Record {
	h.Origin = "docket.decisions/0/1"
	return domain.Record{Topic: topics.Parking, Offset: offset, Key: key, Value: []byte(key), Headers: h}
}

func failing(class domain.Class) saver.Verdict {
	return saver.Verdict{Err: &domain.Error{Class: class, Code: "X", Text: "no"}}
}

func TestSavesWhatIsDue(t *testing.T) {
	b := newBench()
	holds, err := b.Handle(t.Context(), []domain.Record{parked(0, "a", domain.Headers{}), parked(1, "b", domain.Headers{Attempt: 1})})
	require.NoError(t, err)
	require.Empty(t, holds)
	require.Equal(t, []string{"a", "b"}, b.tried)
	require.Empty(t, b.out)
}

func TestStoreWait(t *testing.T) {
	for _, class := range []domain.Class{domain.Unavailable, domain.Misconfigured} {
		t.Run(string(class), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench()
				b.answer = func(r domain.Record) saver.Verdict {
					if r.Key == "a" {
						return saver.Verdict{Fate: domain.Saved}
					}
					return failing(class)
				}
				batch := []domain.Record{parked(0, "a", domain.Headers{}), parked(1, "b", domain.Headers{}), parked(2, "c", domain.Headers{})}
				longest := time.Duration(0)
				for range 100 { // an outage of minutes
					holds, err := b.Handle(t.Context(), batch)
					require.NoError(t, err)
					require.Len(t, holds, 1)
					require.EqualValues(t, 1, holds[0].Offset, "what is saved in front is done")
					wait := time.Until(holds[0].Until)
					require.Positive(t, wait)
					require.LessOrEqual(t, wait, storeWaitMax)
					longest = max(longest, wait)
					time.Sleep(wait)
				}
				require.Greater(t, longest, 2*time.Second, "it backs off")
				require.Empty(t, b.out, "nothing is written, and no attempt is spent")
				b.answer = func(domain.Record) saver.Verdict { return saver.Verdict{Fate: domain.Duplicate} }
				holds, err := b.Handle(t.Context(), batch[1:])
				require.NoError(t, err)
				require.Empty(t, holds)
			})
		})
	}
}

func TestRecordBackoffAndLastAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench()
		b.answer = func(domain.Record) saver.Verdict { return failing(domain.Unknown) }
		first := time.Now().Add(-time.Hour)
		r := parked(0, "a", domain.Headers{Attempt: 1, FirstFailedAt: first})
		for attempt := 2; attempt < 3; attempt++ {
			holds, err := b.Handle(t.Context(), []domain.Record{r})
			require.NoError(t, err)
			require.Empty(t, holds)
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

func TestInvalidConflictAndExpiredAreBuried(t *testing.T) {
	b := newBench()
	b.answer = func(r domain.Record) saver.Verdict {
		switch r.Key {
		case "invalid":
			return failing(domain.Invalid)
		case "conflict":
			return saver.Verdict{Fate: domain.Conflicting}
		default:
			return saver.Verdict{Fate: domain.TooOld}
		}
	}
	_, err := b.Handle(t.Context(), []domain.Record{parked(0, "invalid", domain.Headers{}), parked(1, "conflict", domain.Headers{}), parked(2, "expired", domain.Headers{})})
	require.NoError(t, err)
	require.Len(t, b.out, 3)
	for i, reason := range []domain.Reason{"", domain.Conflict, domain.Expired} {
		require.Equal(t, topics.DLQ, b.out[i].Topic)
		require.Equal(t, reason, b.out[i].Headers.Reason)
	}
}

func TestNotYetDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench()
		soon, later := time.Now().Add(500*time.Millisecond), time.Now().Add(3*time.Second)
		batch := []domain.Record{parked(5, "later", domain.Headers{Attempt: 1, NotBefore: later}), parked(6, "soon", domain.Headers{Attempt: 2, NotBefore: soon})}

		holds, err := b.Handle(t.Context(), batch)
		require.NoError(t, err)
		require.Equal(t, []ports.Hold{{Topic: topics.Parking, Offset: 5, Until: soon}}, holds, "in place until the first is due")
		require.Empty(t, b.tried)

		holds, err = b.Handle(t.Context(), batch[:1])
		require.NoError(t, err)
		require.Equal(t, time.Now().Add(recheck), holds[0].Until, "never for long: others may be parked behind it")

		time.Sleep(500 * time.Millisecond)
		holds, err = b.Handle(t.Context(), batch)
		require.NoError(t, err)
		require.Empty(t, holds)
		require.Equal(t, []string{"soon"}, b.tried)
		require.Len(t, b.out, 1, "the other makes way for what is behind it")
		require.Equal(t, batch[0].Headers, b.out[0].Headers, "unchanged")
	})
}

func TestAClockThatWasSetBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench()
		holds, err := b.Handle(t.Context(), []domain.Record{parked(0, "a", domain.Headers{Attempt: 1, NotBefore: time.Now().Add(24 * time.Hour)})})
		require.NoError(t, err)
		require.Empty(t, holds)
		require.Equal(t, []string{"a"}, b.tried, "no backoff is a day long")
	})
}

func TestHeldRecordsAreNotSettledTwice(t *testing.T) {
	b := newBench()
	b.answer = func(r domain.Record) saver.Verdict {
		if r.Key == "away" {
			return failing(domain.Unavailable)
		}
		return failing(domain.Invalid)
	}
	holds, err := b.Handle(t.Context(), []domain.Record{parked(0, "x", domain.Headers{}), parked(1, "away", domain.Headers{}), parked(2, "y", domain.Headers{})})
	require.NoError(t, err)
	require.Len(t, holds, 1)
	require.EqualValues(t, 1, holds[0].Offset)
	require.Len(t, b.out, 1, "y is delivered again and judged then")
	require.Equal(t, "x", b.out[0].Key)
}

func TestPublishFailureIsNotDone(t *testing.T) {
	b := newBench()
	b.err = domain.Errorf(domain.Unavailable, "the log is away")
	b.answer = func(domain.Record) saver.Verdict { return failing(domain.Invalid) }
	_, err := b.Handle(t.Context(), []domain.Record{parked(0, "x", domain.Headers{})})
	require.ErrorIs(t, err, b.err)
}

func TestShutdown(t *testing.T) {
	b := newBench()
	b.answer = func(domain.Record) saver.Verdict { return failing(domain.Canceled) }
	_, err := b.Handle(t.Context(), []domain.Record{parked(0, "x", domain.Headers{})})
	require.Equal(t, domain.Canceled, domain.ClassOf(err))
	require.Empty(t, b.out)
}

// flooded makes the processes together see a flood.
func (b *bench) flooded(t *testing.T, now bool) {
	t.Helper()
	b.ledger.report = domain.BlameReport{Judged: 20_000}
	if now {
		b.ledger.report.Blames = []domain.Blame{{Fingerprint: "other", Rows: 5_000}}
	}
	b.Flood.Judge(t.Context(), []domain.Record{parked(0, "x", domain.Headers{})}, []saver.Verdict{failing(domain.Unknown)})
	require.Equal(t, now, b.Flood.Stopping())
}

// TestFloodParksAgain has rows that would be buried, and one at its last attempt.
func TestFloodParksAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench()
		b.flooded(t, true)
		b.answer = func(r domain.Record) saver.Verdict { return failing(r.Headers.ErrorClass) }
		var batch []domain.Record
		for i := range 50 {
			class := []domain.Class{domain.Invalid, domain.Unknown}[i%2]
			batch = append(batch, parked(int64(i), "bad", domain.Headers{ErrorClass: class, Attempt: 2}))
		}
		holds, err := b.Handle(t.Context(), batch)
		require.NoError(t, err)
		require.Equal(t, []ports.Hold{{Topic: topics.Parking, Offset: 50, Until: time.Now().Add(floodPause)}}, holds, "all of it is done, and not so soon again")
		require.Len(t, b.tried, 2*sampleSize, "of each reason; the others are spared the search")
		require.Len(t, b.out, 50)
		for _, r := range b.out {
			require.Equal(t, topics.Parking, r.Topic)
			require.Equal(t, 2, r.Headers.Attempt, "nothing is spent")
			require.GreaterOrEqual(t, time.Until(r.Headers.NotBefore), 2*time.Second)
			require.LessOrEqual(t, time.Until(r.Headers.NotBefore), 4*time.Second)
		}
		// One of two causes is mended: its sample shows it, and its others follow at once.
		b.answer = func(r domain.Record) saver.Verdict {
			if r.Headers.ErrorClass == domain.Invalid {
				return saver.Verdict{Fate: domain.Saved}
			}
			return failing(domain.Unknown)
		}
		b.tried, b.out = nil, nil
		_, err = b.Handle(t.Context(), batch)
		require.NoError(t, err)
		require.Len(t, b.tried, 25+sampleSize)
		require.Len(t, b.out, 25)
		// And then the other.
		b.answer, b.tried, b.out = func(domain.Record) saver.Verdict { return saver.Verdict{Fate: domain.Saved} }, nil, nil
		_, err = b.Handle(t.Context(), batch)
		require.NoError(t, err)
		require.Len(t, b.tried, 50)
		require.Empty(t, b.out)
		// It is over: they are dealt with as ever.
		time.Sleep(time.Minute)
		b.flooded(t, false)
		b.answer = func(r domain.Record) saver.Verdict { return failing(r.Headers.ErrorClass) }
		_, err = b.Handle(t.Context(), batch[:2])
		require.NoError(t, err)
		require.Equal(t, topics.DLQ, b.out[0].Topic)
		require.Equal(t, topics.ParkingDLQ, b.out[1].Topic)
	})
}

// TestFloodAndOutage has the store go away in the middle of a flood: everything that is due waits in place.
func TestFloodAndOutage(t *testing.T) {
	b := newBench()
	b.flooded(t, true)
	b.answer = func(domain.Record) saver.Verdict { return failing(domain.Unavailable) }
	var batch []domain.Record
	for i := range 50 {
		batch = append(batch, parked(int64(i), "bad", domain.Headers{ErrorClass: domain.Invalid}))
	}
	holds, err := b.Handle(t.Context(), batch)
	require.NoError(t, err)
	require.Len(t, holds, 1)
	require.Zero(t, holds[0].Offset)
	require.Empty(t, b.out, "nothing is written")
}

// TestAClockThatWasSetForward makes everything due.
func TestAClockThatWasSetForward(t *testing.T) {
	b := newBench()
	b.now = func() time.Time { return time.Now().Add(24 * time.Hour) }
	holds, err := b.Handle(t.Context(), []domain.Record{parked(0, "a", domain.Headers{Attempt: 1, NotBefore: time.Now().Add(4 * time.Second)})})
	require.NoError(t, err)
	require.Empty(t, holds)
	require.Equal(t, []string{"a"}, b.tried)
}

// TestYieldHoldsInPlace is what the log sees of the yield.
func TestYieldHoldsInPlace(t *testing.T) {
	b := newBench()
	b.busy = true
	holds, err := b.Handle(t.Context(), []domain.Record{parked(3, "a", domain.Headers{})})
	require.NoError(t, err)
	require.Len(t, holds, 1)
	require.EqualValues(t, 3, holds[0].Offset)
	require.LessOrEqual(t, time.Until(holds[0].Until), turnWait)
	require.Empty(t, b.tried)
	require.Empty(t, b.out)
}
