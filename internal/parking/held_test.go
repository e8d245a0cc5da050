package parking

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/ports"
	"github.com/docket-project/docket/internal/sink"
)

// heldBench is a Held whose topic is a slice, and whose store answers by what a record waits for.
type heldBench struct {
	*Held
	topic []domain.Record
	at    int64            // the first that is not done
	away  bool             // the store
	stays map[string]error // what the store does not take
	tried map[string]int
	saved map[string]int // by decision
	out   []domain.Record
	stats stats
}

func newHeldBench() *heldBench {
	b := &heldBench{stays: map[string]error{}, tried: map[string]int{}, saved: map[string]int{}}
	logger := slog.New(slog.DiscardHandler)
	b.Held = NewHeld(HeldParts{Save: b.save, Log: b, Logger: logger, Router: &sink.Router{
		Topics: topics, Retry: sink.Retry{MaxAttempts: 3, BackoffMin: time.Second, BackoffMax: 4 * time.Second},
		Guard: sink.NewGuard(&b.stats, sink.NewBreaker(nil, nil, logger), nil, logger), Metrics: sink.NewMetrics(nil),
	}})
	return b
}

func (b *heldBench) save(_ context.Context, records []domain.Record) []sink.Verdict {
	out := make([]sink.Verdict, len(records))
	for i, r := range records {
		key := r.Headers.HeldFor
		b.tried[key]++
		err := b.stays[key]
		switch {
		case b.away:
			out[i] = failing(domain.Unavailable)
		case err == nil:
			b.saved[r.Key]++
			out[i] = sink.Verdict{Status: domain.Saved}
		case domain.ClassOf(err) == domain.Invalid:
			out[i] = sink.Verdict{Err: err}
		default:
			out[i] = sink.Verdict{Err: err, HeldFor: key}
		}
	}
	return out
}

func (b *heldBench) Publish(_ context.Context, records []domain.Record) error {
	for _, r := range records {
		if r.Topic == topics.Held {
			b.hold(r.Headers.HeldFor, r.Key)
		} else {
			b.out = append(b.out, r)
		}
	}
	return nil
}

func (b *heldBench) hold(key, id string) {
	b.topic = append(b.topic, domain.Record{
		Topic: topics.Held, Offset: int64(len(b.topic)), Key: id, Value: []byte("{}"), Headers: domain.Headers{HeldFor: key},
	})
}

func (b *heldBench) holdMany(key string, n int) {
	for i := range n {
		b.hold(key, fmt.Sprint(key, "/", i))
	}
}

func (b *heldBench) Read(
	_ context.Context, _ string, _ int32, from int64, visit func(domain.Record) bool,
) (int64, error) {
	for _, r := range b.topic[from:] {
		if !visit(r) {
			return r.Offset + 1, nil
		}
	}
	return int64(len(b.topic)), nil
}

// run delivers batches as a log does, for so long.
func (b *heldBench) run(t *testing.T, d time.Duration) {
	t.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); {
		batch := b.topic[b.at:min(int(b.at)+100, len(b.topic))]
		if len(batch) == 0 {
			time.Sleep(time.Second)
			continue
		}
		ctx, cancel := context.WithTimeout(t.Context(), ports.HandlerBudget)
		pauses, err := b.Handle(ctx, batch)
		cancel()
		require.NoError(t, err)
		b.at += int64(len(batch))
		for _, p := range pauses {
			b.at = p.Offset
			time.Sleep(time.Until(p.Until))
		}
	}
}

var errStays = domain.Errorf(domain.Unavailable, "locked")

// TestHeldRestsWhileNothingChanges tries samples, and writes nothing.
func TestHeldRestsWhileNothingChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newHeldBench()
		b.stays = map[string]error{"day:2026-07-30": errStays, "tenant:a": errStays}
		b.holdMany("day:2026-07-30", 1000)
		b.holdMany("tenant:a", 5)
		b.run(t, time.Hour)
		require.Len(t, b.topic, 1005, "nothing is written anew")
		require.Zero(t, b.at)
		require.LessOrEqual(t, b.tried["day:2026-07-30"], 61*sampleSize)
		require.GreaterOrEqual(t, b.tried["day:2026-07-30"], 50*sampleSize)
		require.Empty(t, b.out)
	})
}

// TestHeldGoesThroughOnce when a sample leaves: what waits for the same follows, wherever it stands, and the rest is
// written anew once.
func TestHeldGoesThroughOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newHeldBench()
		b.stays = map[string]error{"day:2026-07-30": errStays, "tenant:a": errStays}
		b.holdMany("day:2026-07-30", 1000)
		b.holdMany("tenant:a", 300)
		b.holdMany("day:2026-07-30", 50)
		b.run(t, 3*time.Minute)
		delete(b.stays, "tenant:a")
		b.run(t, heldEvery+2*heldRest)
		require.Len(t, b.saved, 300)
		require.Len(t, b.topic, 1350+1050, "the others, once")
		b.run(t, time.Hour)
		require.Len(t, b.topic, 1350+1050)
		require.Less(t, b.tried["day:2026-07-30"], 70*sampleSize)
		b.holdMany("tenant:a", 10) // more of what is over
		b.run(t, 2*heldEvery)
		delete(b.stays, "day:2026-07-30")
		b.run(t, 2*heldEvery)
		require.Len(t, b.saved, 1300)
		require.EqualValues(t, len(b.topic), b.at, "all of it is gone")
		written := len(b.topic)
		b.run(t, time.Hour)
		require.Len(t, b.topic, written)
	})
}

// TestHeldIsHeldAgain when only the sample was taken.
func TestHeldIsHeldAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newHeldBench()
		b.stays["day:2026-07-30"] = errStays
		b.holdMany("day:2026-07-30", 200)
		b.run(t, time.Minute)
		save := b.Save
		b.Save = func(ctx context.Context, records []domain.Record) []sink.Verdict {
			if len(records) == sampleSize {
				delete(b.stays, "day:2026-07-30")
				defer func() { b.stays["day:2026-07-30"] = errStays }()
			}
			return save(ctx, records)
		}
		b.run(t, time.Hour)
		require.LessOrEqual(t, len(b.topic), 200*62, "no more than once a minute")
		b.Save = save
		delete(b.stays, "day:2026-07-30")
		b.run(t, 2*heldEvery)
		require.EqualValues(t, len(b.topic), b.at)
		require.Len(t, b.saved, 200)
	})
}

// TestHeldUntilAccepted leaves for the DLQ as soon as an operator accepts, and by itself when the guard goes off.
func TestHeldUntilAccepted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newHeldBench()
		err := domain.Errorf(domain.Invalid, "check")
		key := domain.HeldForFingerprint(domain.RejectionOf(err, "", "").Fingerprint)
		b.stays = map[string]error{key: err, "day:2026-07-30": errStays}
		guard := func() {
			b.Router.Guard.Judge(
				t.Context(), []domain.Record{{Headers: domain.Headers{}}}, []sink.Verdict{failing(domain.Unknown)},
			)
		}
		b.stats.report = domain.RejectionReport{
			Judged: 20_000, Rejections: []domain.Rejection{{Fingerprint: "other", Rows: 5_000}},
		}
		guard()
		require.True(t, b.Router.Guard.On())
		b.holdMany("day:2026-07-30", 50)
		b.holdMany(key, 500)
		hear := func(d time.Duration) { // a process hears of the others all the time
			for range int(d / time.Second) {
				guard()
				b.run(t, time.Second)
			}
		}
		hear(90 * time.Second)
		require.Empty(t, b.out)
		b.stats.report.Acceptances = []domain.Acceptance{{
			Fingerprint: domain.RejectionOf(err, "", "").Fingerprint, Tenants: domain.AllTenants(),
		}}
		hear(3 * heldRest)
		require.Len(t, b.out, 500)
		for _, r := range b.out {
			require.Equal(t, topics.DLQ, r.Topic)
			require.Empty(t, r.Headers.HeldFor)
		}
		require.LessOrEqual(t, len(b.topic), 550+50, "the others, once")
	})
}

// TestHeldWaitsForTheStore in place.
func TestHeldWaitsForTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newHeldBench()
		b.away = true
		b.holdMany("day:2026-07-30", 300)
		b.run(t, time.Hour)
		require.Len(t, b.topic, 300)
		require.Zero(t, b.at)
		b.away = false
		b.run(t, 2*heldRest)
		require.Len(t, b.saved, 300, "as soon as it is back")
		require.Empty(t, b.out)
	})
}

// TestHeldWaitsForAStoreThatGoesAway while a partition is gone through: nothing is passed over.
func TestHeldWaitsForAStoreThatGoesAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newHeldBench()
		b.stays["tenant:a"] = errStays
		b.holdMany("tenant:a", 10)
		b.holdMany("day:2026-07-30", 80)
		save := b.Save
		b.Save = func(ctx context.Context, records []domain.Record) []sink.Verdict {
			b.away = len(records) > 2*sampleSize // whoever goes through meets an outage
			return save(ctx, records)
		}
		b.run(t, 10*heldRest)
		b.Save = save
		b.away = false
		b.run(t, 3*heldEvery)
		require.Len(t, b.saved, 80)
		require.EqualValues(t, 10, int64(len(b.topic))-b.at, "what stays")
	})
}

// TestHeldOfAnotherProgram has no header: it is tried.
func TestHeldOfAnotherProgram(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newHeldBench()
		b.stays["day:2026-07-30"] = errStays
		b.holdMany("day:2026-07-30", 150)
		b.hold("", "foreign")
		for i := range 2 * maxWaits {
			b.hold(fmt.Sprint("fingerprint:", i), fmt.Sprint("one-", i))
		}
		b.run(t, 3*heldEvery)
		require.Contains(t, b.saved, "foreign")
		require.Len(t, b.saved, 1+2*maxWaits, "more than is told apart")
		b.run(t, 10*heldEvery)
		require.EqualValues(t, 150, int64(len(b.topic))-b.at, "what stays")
	})
}
