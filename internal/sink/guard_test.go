package sink

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/domain"
)

// TestGuardOutlivesTheTraffic: that hardly anything comes is no evidence, and neither is a restart.
func TestGuardOutlivesTheTraffic(t *testing.T) {
	l := &stats{}
	now := time.Unix(1e9, 0)
	process := func() *Guard {
		g := NewGuard(l, NewBreaker(nil, nil, slog.New(slog.DiscardHandler)), nil, slog.New(slog.DiscardHandler))
		g.now = func() time.Time { return now }
		return g
	}
	g := process()
	bad := []Verdict{{Err: &domain.Error{Class: domain.Invalid, Text: "x"}, Path: "p"}}
	good := make([]Verdict, 9_900)
	g.Judge(t.Context(), make([]domain.Record, len(good)), good)
	for range 101 {
		g.Judge(t.Context(), make([]domain.Record, 1), bad)
	}
	require.True(t, g.On())
	require.True(t, l.on)
	l.judged, l.rejections = 0, nil // ten minutes later
	now = now.Add(domain.GuardSpan)
	g.Judge(t.Context(), make([]domain.Record, 1), bad)
	require.True(t, g.On(), "one row was judged, and refused")
	g = process()
	g.Judge(t.Context(), make([]domain.Record, 1), bad)
	require.True(t, g.On(), "the store keeps it")
	g.Judge(t.Context(), make([]domain.Record, 1_500), make([]Verdict, 1_500))
	now = now.Add(time.Second)
	g.Judge(t.Context(), make([]domain.Record, 1), bad)
	require.False(t, g.On(), "3 of 1,503")
	require.False(t, l.on)
}

// TestGuardStatsAway loses no count while the store does not answer, and dead-letters no row.
func TestGuardStatsAway(t *testing.T) {
	l := &stats{err: domain.Errorf(domain.Misconfigured, "no right to use the table")}
	g := NewGuard(l, NewBreaker(nil, nil, slog.New(slog.DiscardHandler)), nil, slog.New(slog.DiscardHandler))
	batch := make([]domain.Record, 3)
	verdicts := []Verdict{
		{Err: &domain.Error{Class: domain.Invalid, Text: "x"}, Path: "p"},
		{Status: domain.Saved},
		{Err: domain.Errorf(domain.Unavailable, "y")},
	}
	g.Judge(t.Context(), batch, verdicts)
	g.Judge(t.Context(), batch, verdicts)
	rejection := domain.RejectionOf(verdicts[0].Err, domain.DefaultTenant, "p")
	require.True(t, g.Guards(rejection), "whether the guard is on is not known")
	l.err = nil
	g.Judge(t.Context(), batch, verdicts)
	require.EqualValues(t, 6, l.judged, "two of three are judged, three times")
	require.EqualValues(t, 3, l.rejections[rejection.Fingerprint].Rows)
	require.False(t, g.Guards(rejection))
}

// TestGuardOfManyKinds has a text that differs from row to row.
func TestGuardOfManyKinds(t *testing.T) {
	l := &stats{}
	g := NewGuard(l, NewBreaker(nil, nil, slog.New(slog.DiscardHandler)), nil, slog.New(slog.DiscardHandler))
	var verdicts []Verdict
	for i := range 10_000 {
		v := Verdict{Status: domain.Saved}
		if i < 500 {
			v = Verdict{Err: &domain.Error{Class: domain.Unknown, Code: "P0001", Text: "not you, " + strings.Repeat("x", i)}}
		}
		verdicts = append(verdicts, v)
	}
	g.Judge(t.Context(), make([]domain.Record, len(verdicts)), verdicts)
	require.True(t, g.On())
	require.LessOrEqual(t, len(l.rejections), 101)
	var rows int64
	for _, b := range l.rejections {
		rows += b.Rows
	}
	require.EqualValues(t, 500, rows)
}

// TestGuardOfManyTenants has one broken constraint that many tenants meet: it is one way to fail.
func TestGuardOfManyTenants(t *testing.T) {
	l := &stats{}
	g := NewGuard(l, NewBreaker(nil, nil, slog.New(slog.DiscardHandler)), nil, slog.New(slog.DiscardHandler))
	var batch []domain.Record
	var verdicts []Verdict
	for i := range 3 * maxFingerprints {
		batch = append(batch, domain.Record{Headers: domain.Headers{Tenant: fmt.Sprint("tenant-", i)}})
		verdicts = append(verdicts, Verdict{Err: &domain.Error{Class: domain.Invalid, Text: "check"}, Path: "p"})
	}
	batch = append(batch, domain.Record{Headers: domain.Headers{Tenant: "caf\xe9\x00"}})
	verdicts = append(verdicts, verdicts[0])
	g.Judge(t.Context(), batch, verdicts)
	require.Len(t, l.rejections, 1, "by fingerprint")
	for _, tenant := range l.tenants {
		require.True(t, utf8.ValidString(tenant) && !strings.Contains(tenant, "\x00"), "%q is no text for a store", tenant)
	}
	require.Len(t, l.tenants, len(batch))
}

// stats keeps what it is told, and tells it.
type stats struct {
	err        error
	judged     int64
	rejections map[string]domain.Rejection
	tenants    []string
	on         bool
}

func (s *stats) ExchangeRejections(
	_ context.Context, _ time.Time, tally domain.RejectionTally,
) (r domain.RejectionReport, err error) {
	if s.err != nil {
		return r, s.err
	}
	if s.rejections == nil {
		s.rejections = map[string]domain.Rejection{}
	}
	for tenant, n := range tally.Judged {
		s.judged += n
		s.tenants = append(s.tenants, tenant)
	}
	for _, b := range tally.Rejections {
		b.Rows += s.rejections[b.Fingerprint].Rows
		s.rejections[b.Fingerprint] = b
	}
	r.Judged, r.On = s.judged, s.on
	for _, b := range s.rejections {
		r.Rejections = append(r.Rejections, b)
	}
	return r, nil
}

func (s *stats) SetGuard(_ context.Context, _ time.Time, on bool) error {
	s.on = on
	return s.err
}
