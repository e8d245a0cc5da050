package sink

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/docket-project/docket/internal/domain"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var topics = domain.TopicsWithPrefix("docket.")

func newRouter(s *stats, metrics *Metrics) *Router {
	logger := slog.New(slog.DiscardHandler)
	return &Router{
		Topics: topics, Retry: Retry{MaxAttempts: 3, BackoffMin: time.Second, BackoffMax: 4 * time.Second},
		Guard: NewGuard(s, NewBreaker(nil, nil, logger), nil, logger), Metrics: metrics,
	}
}

func failing(class domain.Class) Verdict {
	return Verdict{Err: &domain.Error{Class: class, Code: "X", Text: "no"}, Path: "p"}
}

// TestRoute is the whole table from a verdict to a record's next home, for both roles, with the guard off and on.
func TestRoute(t *testing.T) {
	at := time.Unix(1e9, 0).UTC()
	decisions, parked := topics.Decisions, topics.Parking
	for _, c := range []struct {
		name    string
		from    string
		attempt int
		guard   bool
		verdict Verdict
		action  Action
		to      string
		status  domain.SaveStatus
		cause   domain.Cause
		spent   int // attempts afterwards
	}{
		{name: "saved", from: decisions, verdict: Verdict{Status: domain.Saved}, action: Done, status: domain.Saved},
		{name: "a duplicate", from: parked, verdict: Verdict{Status: domain.Duplicate}, action: Done,
			status: domain.Duplicate},
		{name: "a conflict", from: decisions, verdict: Verdict{Status: domain.Conflicting}, action: Leave, to: topics.DLQ,
			status: domain.Conflicting, cause: domain.Conflict},
		{name: "an expired row", from: parked, verdict: Verdict{Status: domain.TooOld}, action: Leave, to: topics.DLQ,
			status: domain.TooOld, cause: domain.Expired},
		{name: "a conflict while the guard is on", from: decisions, guard: true, verdict: Verdict{Status: domain.Conflicting},
			action: Leave, to: topics.DLQ, status: domain.Conflicting, cause: domain.Conflict},
		{name: "an invalid row", from: decisions, verdict: failing(domain.Invalid), action: Leave, to: topics.DLQ,
			status: domain.Dead},
		{name: "an invalid row that was parked", from: parked, attempt: 1, verdict: failing(domain.Invalid), action: Leave,
			to: topics.DLQ, status: domain.Dead, spent: 1},
		{name: "an invalid row while the guard is on", from: decisions, guard: true, verdict: failing(domain.Invalid),
			action: Leave, to: topics.Held, status: domain.Held},
		{name: "a held row that is rejected again while the guard is on", from: topics.Held, guard: true,
			verdict: failing(domain.Invalid), action: Leave, to: topics.Held, status: domain.Held},
		{name: "a held row that is rejected again", from: topics.Held, verdict: failing(domain.Invalid), action: Leave,
			to: topics.DLQ, status: domain.Dead},
		{name: "a held row that fails again", from: topics.Held, verdict: failing(domain.Unknown), action: Leave, to: parked,
			status: domain.Parked, spent: 1},
		{name: "a row of a day in trouble", from: decisions, action: Leave, to: topics.Held, status: domain.Held,
			verdict: Verdict{HeldFor: "day:none", Err: failing(domain.Unavailable).Err}},
		{name: "a row of a tenant in trouble, parked already", from: parked, attempt: 2, spent: 2, action: Leave,
			to: topics.Held, status: domain.Held, verdict: Verdict{HeldFor: "tenant:t", Err: failing(domain.Misconfigured).Err}},
		{name: "a store that is away, held already", from: topics.Held, verdict: failing(domain.Unavailable), action: Wait},
		{name: "an unknown failure", from: decisions, verdict: failing(domain.Unknown), action: Leave, to: parked,
			status: domain.Parked, spent: 1},
		{name: "an unknown failure again", from: parked, attempt: 1, verdict: failing(domain.Unknown), action: Leave,
			to: parked, status: domain.Parked, spent: 2},
		{name: "the last attempt", from: parked, attempt: 2, verdict: failing(domain.Unknown), action: Leave,
			to: topics.ParkingDLQ, status: domain.Dead, spent: 3},
		{name: "the last attempt while the guard is on", from: parked, attempt: 2, guard: true,
			verdict: failing(domain.Unknown), action: Leave, to: topics.Held, status: domain.Held, spent: 2},
		{name: "a store that is away", from: decisions, verdict: failing(domain.Unavailable), action: Leave, to: parked,
			status: domain.Parked},
		{name: "a store that is away, parked already", from: parked, attempt: 1, verdict: failing(domain.Unavailable),
			action: Wait},
		{name: "a store that is misconfigured", from: decisions, verdict: failing(domain.Misconfigured), action: Wait},
		{name: "a store that is misconfigured, parked already", from: parked, verdict: failing(domain.Misconfigured),
			action: Wait},
		{name: "docket stops", from: decisions, verdict: failing(domain.Canceled), action: Stop},
		{name: "docket stops, parked already", from: parked, verdict: failing(domain.Canceled), action: Stop},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRouter(&stats{on: c.guard}, nil)
			r.Guard.exchange(t.Context())
			require.Equal(t, c.guard, r.Guard.On())
			rec := domain.Record{
				Topic: c.from, Partition: 3, Offset: 7, Key: "k", Value: []byte("v"), WrittenAt: at.Add(-time.Hour),
				Headers: domain.Headers{Attempt: c.attempt},
			}
			got := r.Route(rec, c.verdict, at)
			require.Equal(t, c.action, got.Action)
			require.Equal(t, c.status, got.Status)
			if c.action != Leave {
				require.Empty(t, got.Next.Topic)
				return
			}
			require.Equal(t, c.to, got.Next.Topic)
			require.Equal(t, "k", got.Next.Key)
			require.Equal(t, []byte("v"), got.Next.Value)
			require.Equal(t, c.cause, got.Next.Headers.Reason)
			require.Equal(t, c.spent, got.Next.Headers.Attempt)
			require.Equal(t, c.from+"/3/7", got.Next.Headers.Origin)
			require.Equal(t, rec.WrittenAt, got.Next.Headers.LoggedAt)
			require.Equal(t, at, got.Next.Headers.FirstFailedAt.UTC())
			wait := got.Next.Headers.NotBefore.Sub(at)
			switch {
			case c.to == topics.Held:
				want := c.verdict.HeldFor
				if want == "" {
					want = domain.HeldForFingerprint(c.verdict.Rejection().Fingerprint)
				}
				require.Equal(t, want, got.Next.Headers.HeldFor)
				require.True(t, got.Next.Headers.NotBefore.IsZero())
			case got.Class == domain.Unknown:
				require.LessOrEqual(t, wait, r.Retry.BackoffMax)
			default:
				require.True(t, got.Next.Headers.NotBefore.IsZero())
			}
		})
	}
}

// TestDeparturesCountWhatIsDurable counts nothing that could not be published, and what is parked again as well.
func TestDeparturesCountWhatIsDurable(t *testing.T) {
	reg := prometheus.NewRegistry()
	r := newRouter(&stats{}, NewMetrics(reg))
	r.Guard.exchange(t.Context())
	again := domain.Record{Topic: topics.Parking, Headers: domain.Headers{Attempt: 1}}
	count := func(metric, label string) float64 {
		t.Helper()
		families, err := reg.Gather()
		require.NoError(t, err)
		for _, f := range families {
			for _, m := range f.GetMetric() {
				if f.GetName() == metric && m.GetLabel()[0].GetValue() == label {
					return m.GetCounter().GetValue()
				}
			}
		}
		require.Fail(t, "no such series", "%s %s", metric, label)
		return 0
	}
	for _, failure := range []error{domain.Errorf(domain.Unavailable, "the log is away"), nil} {
		out := r.Departures()
		out.Add(r.Route(again, failing(domain.Unknown), time.Now()))
		out.Add(r.Route(again, failing(domain.Invalid), time.Now()))
		out.Add(r.Route(again, Verdict{Status: domain.Saved}, time.Now()))
		require.ErrorIs(t, out.Publish(t.Context(), publisher{failure}), failure)
		want := 1.0
		if failure != nil {
			want = 0
		}
		for _, result := range []domain.SaveStatus{domain.Parked, domain.Dead, domain.Saved} {
			require.Equal(t, want, count("docket_save_records_total", string(result)), result)
		}
		require.Equal(t, want, count("docket_parked_records_total", string(domain.Unknown)))
	}
}

type publisher struct{ err error }

func (p publisher) Publish(context.Context, []domain.Record) error { return p.err }

func TestErrorsStayReachable(t *testing.T) {
	cause := errors.New("cause")
	r := Forward(
		"x", domain.Record{Topic: topics.Decisions, Offset: 5}, time.Now(), domain.Errorf(domain.Unknown, "x: %w", cause),
	)
	require.Equal(t, topics.Decisions+"/0/5", r.Headers.Origin)
	again := Forward("y", domain.Record{Topic: "x", Offset: 9, Headers: r.Headers}, time.Now(), cause)
	require.Equal(t, r.Headers.Origin, again.Headers.Origin, "the first position stays")
}

func TestBackoff(t *testing.T) {
	c := Retry{BackoffMin: time.Second, BackoffMax: 60 * time.Second}
	for attempt, ceiling := range map[int]time.Duration{1: time.Second, 2: 2 * time.Second, 5: 16 * time.Second,
		7: 60 * time.Second, 1000: 60 * time.Second} {
		low, high := ceiling, time.Duration(0)
		for range 500 {
			d := c.Backoff(attempt)
			require.GreaterOrEqual(t, d, time.Duration(0))
			require.LessOrEqual(t, d, ceiling+time.Nanosecond)
			low, high = min(low, d), max(high, d)
		}
		require.Less(t, low, ceiling/4, "full jitter reaches down")
		require.Greater(t, high, ceiling*3/4, "and up")
	}
}

func TestOneAttemptOnly(t *testing.T) {
	r := newRouter(&stats{}, nil)
	r.Guard.exchange(t.Context())
	r.Retry.MaxAttempts = 1
	got := r.Route(domain.Record{Topic: topics.Decisions}, failing(domain.Unknown), time.Now())
	require.Equal(t, topics.ParkingDLQ, got.Next.Topic)
	require.Equal(t, 1, got.Next.Headers.Attempt)
}

// narrow is a log that takes no record above a limit.
type narrow struct {
	limit   int
	records []domain.Record
}

func (n *narrow) Publish(_ context.Context, records []domain.Record) error {
	for _, r := range records {
		if len(r.Value) > n.limit {
			return domain.Errorf(domain.Invalid, "too large")
		}
	}
	n.records = append(n.records, records...)
	return nil
}

// TestARecordThatIsTooLarge for its next home does not come again for ever, and keeps nobody.
func TestARecordThatIsTooLarge(t *testing.T) {
	r := newRouter(&stats{}, nil)
	r.Metrics = NewMetrics(nil)
	depart := func(log *narrow, upload string) error {
		d := r.Departures()
		for i, size := range []int{1000, 20 << 20, 1000} {
			rec := domain.Record{
				Topic: topics.Decisions, Offset: int64(i), Key: "k", Value: make([]byte, size),
				Headers: domain.Headers{Upload: upload},
			}
			d.Add(r.Route(rec, failing(domain.Unavailable), time.Now()))
		}
		return d.Publish(t.Context(), log)
	}
	log := &narrow{limit: 16 << 20}
	require.NoError(t, depart(log, ""), "another program's")
	require.Len(t, log.records, 5, "two parked, and three parts")
	bytes := 0
	for _, got := range log.records {
		bytes += len(got.Value)
		if got.Headers.Part != "" {
			require.Equal(t, topics.DLQ, got.Topic)
		} else {
			require.Equal(t, topics.Parking, got.Topic)
		}
	}
	require.Equal(t, 2000+20<<20, bytes)

	err := depart(&narrow{limit: 16 << 20}, "ab12")
	require.Equal(t, domain.Misconfigured, domain.ClassOf(err), "docket's own: %v", err)
	require.ErrorContains(t, err, "max.message.bytes")
	err = depart(&narrow{limit: 1 << 20}, "")
	require.Equal(t, domain.Misconfigured, domain.ClassOf(err), "not even a part fits: %v", err)
}
