package search

import (
	"context"
	"errors"
	"net/url"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/domain"
)

// slowStore has so many decisions a second, and takes its time for every scan.
type slowStore struct {
	takes  time.Duration
	values int // principals of each second
	same   int // so many different ones in all; 0 is another one each time
	counts domain.Counts
	newest time.Time
	slices []domain.Filter
}

func (s *slowStore) CountDecisions(context.Context, domain.Scope, domain.CountQuery) (domain.Counts, error) {
	return s.counts, nil
}

func (s *slowStore) Scan(
	ctx context.Context, _ domain.Scope, f domain.Filter, _ []domain.Expr, visit func(*domain.Decision) bool,
) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(s.takes):
	}
	s.slices = append(s.slices, f)
	until := f.Until
	if until.IsZero() {
		until = s.newest
	}
	for at := f.Since.Truncate(time.Second); at.Before(until); at = at.Add(time.Second) {
		for v := range s.values {
			d := domain.Decision{Timestamp: at, Principal: strconv.FormatInt(at.Unix(), 10) + "/" + strconv.Itoa(v)}
			if s.same > 0 {
				d.Principal = strconv.FormatInt(at.Unix()%int64(s.same), 10)
			}
			if !at.Before(f.Since) && !visit(&d) {
				return nil
			}
		}
	}
	return nil
}

func TestCountStopsInTime(t *testing.T) {
	for _, c := range []struct {
		name     string
		store    slowStore
		by       string
		total    int64
		partial  bool
		reached  time.Duration // back from now
		failsFor error
	}{
		{name: "quick", store: slowStore{takes: time.Millisecond, values: 1}, by: "principal", total: 86_400},
		{
			// 10, 4, 1.6 seconds: as much as is counted in a second
			name: "slow", store: slowStore{takes: 2500 * time.Millisecond, values: 1}, by: "principal", total: 15, partial: true,
			reached: 15600 * time.Millisecond,
		},
		{
			name: "slower than all the time there is", store: slowStore{takes: 9 * time.Second, values: 1}, by: "principal",
			failsFor: context.DeadlineExceeded,
		},
		{
			name: "too many values", store: slowStore{takes: time.Millisecond, values: 1000}, by: "principal", total: 90_000,
			partial: true, reached: 90 * time.Second,
		},
		{ // the same ones in every slice
			name: "many values, again and again", store: slowStore{takes: time.Millisecond, values: 1, same: 60_000},
			by: "principal", total: 86_400,
		},
		{
			name: "counted", by: "outcome", total: 9,
			store: slowStore{counts: domain.Counts{Complete: true, Items: []domain.DecisionCount{
				{Outcome: "denied", Decisions: 9},
			}}},
		},
		{
			name: "others", by: "path", total: 9, partial: true,
			store: slowStore{counts: domain.Counts{Items: []domain.DecisionCount{
				{Path: domain.OtherPaths, Decisions: 9},
			}}},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				now := time.Now()
				c.store.newest = now
				asked, err := ParseStats(url.Values{"by": {c.by}}.Encode(), now)
				require.NoError(t, err)
				got, err := Count(t.Context(), &c.store, domain.AllTenants(), asked, now)
				if c.failsFor != nil {
					require.ErrorIs(t, err, c.failsFor)
					return
				}
				require.NoError(t, err)
				require.Equal(t, c.total, got.Total)
				require.Equal(t, c.partial, got.Why != "", got.Why)
				if c.reached > 0 {
					require.Equal(t, now.Add(-c.reached), got.Since.UTC().Truncate(0).In(now.Location()))
				} else {
					require.Equal(t, asked.Since, got.Since)
				}
				require.LessOrEqual(t, time.Since(now), statsTime)
				for i, s := range c.store.slices[:max(0, len(c.store.slices)-1)] {
					require.Equal(t, s.Since, c.store.slices[i+1].Until, "no gap between slices")
				}
			})
		})
	}
}

func TestCountIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		asked, err := ParseStats("by=principal", time.Now())
		require.NoError(t, err)
		_, err = Count(ctx, &slowStore{takes: 2 * time.Second, values: 1}, domain.AllTenants(), asked, time.Now())
		require.True(t, errors.Is(err, context.DeadlineExceeded), "whoever asked is gone: %v", err)
	})
}
