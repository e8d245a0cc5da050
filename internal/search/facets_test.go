package search

import (
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/domain"
)

func TestFacets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now().UTC().Truncate(time.Second)
		store := &slowStore{takes: time.Millisecond, values: 1, same: 4, newest: now, counts: domain.Counts{
			Complete: true, Items: []domain.DecisionCount{
				{Tenant: "acme", Path: "a/b", Outcome: domain.OutcomeDenied, Decisions: 7},
			},
		}}
		asked, err := ParseFacets([]string{"principal", "outcome", "action"}, "limit=2&since=1h", now)
		require.NoError(t, err)
		found, err := Facets(t.Context(), store, domain.AllTenants(), asked, now)
		require.NoError(t, err)
		require.Len(t, found, 3)

		require.EqualValues(t, 3600, found[0].Total)
		require.Len(t, found[0].Items, 2)
		require.Equal(t, 2, found[0].More)
		require.EqualValues(t, 900, found[0].Items[0].Count)
		require.WithinDuration(t, now.Add(-time.Hour), found[0].Items[0].First, 4*time.Second)
		require.Empty(t, found[0].Why)

		require.EqualValues(t, 7, found[1].Total, "the store had counted that")
		require.Equal(t, "denied", found[1].Items[0].Values[0].Text)

		require.EqualValues(t, 3600, found[2].Absent)
		require.Empty(t, found[2].Items)
		looked := time.Duration(0)
		for _, s := range store.slices {
			looked += now.Sub(s.Since)
			if !s.Until.IsZero() {
				looked -= now.Sub(s.Until)
			}
		}
		require.Equal(t, time.Hour, looked, "all of it was looked at once")
	})
}

func TestFacetsStopInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now().UTC().Truncate(time.Second)
		store := &slowStore{takes: 100 * time.Millisecond, values: 1, same: 4, newest: now}
		asked, err := ParseFacets([]string{"principal"}, "since=30d", now)
		require.NoError(t, err)
		began := time.Now()
		found, err := Facets(t.Context(), store, domain.AllTenants(), asked, now)
		require.NoError(t, err)
		require.LessOrEqual(t, time.Since(began), facetTime+store.takes)
		require.Positive(t, found[0].Total)
		require.WithinDuration(
			t, now.Add(-time.Duration(found[0].Total)*time.Second), found[0].Since, time.Second, "it says from when on",
		)
		require.NotEmpty(t, found[0].Why)
	})
}

func TestFacetsOfMuch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now().UTC().Truncate(time.Second)
		store := &slowStore{takes: time.Millisecond, values: 5, newest: now} // another principal each time
		asked, err := ParseFacets([]string{"principal", "action"}, "since=1h", now)
		require.NoError(t, err)
		found, err := Facets(t.Context(), store, domain.AllTenants(), asked, now)
		require.NoError(t, err)
		require.Equal(t, maxTold, found[0].More+len(found[0].Items))
		require.Contains(t, found[0].Why, "more than 10000 values")
		require.EqualValues(t, 18_000, found[1].Absent, "one field with many values does not keep others from being counted")
		require.Empty(t, found[1].Why)
	})
}

func TestFacetsAreRemembered(t *testing.T) {
	now := time.Now().UTC().Truncate(time.Second)
	store := &slowStore{takes: time.Millisecond, values: 1, same: 4, newest: now}
	s := NewStatistics(store, nil, slog.New(slog.DiscardHandler))
	defer s.Stop()
	for range 3 {
		q, err := s.Facets(domain.AllTenants(), []string{"principal", "action"}, "since=1m")
		require.NoError(t, err)
		counted, err := s.Count(t.Context(), q, false, admitted)
		require.NoError(t, err)
		require.Len(t, counted.Facets, 2)
	}
	looked := len(store.slices)
	q, err := s.Facets(domain.Tenants("acme"), []string{"principal", "action"}, "since=1m")
	require.NoError(t, err)
	_, err = s.Count(t.Context(), q, false, admitted)
	require.NoError(t, err)
	require.Greater(t, len(store.slices), looked, "of other tenants it is another question")
	one, err := s.Question(domain.AllTenants(), "principal", "since=1m")
	require.NoError(t, err)
	counted, err := s.Count(t.Context(), one, false, admitted)
	require.NoError(t, err)
	require.Empty(t, counted.Facets)
	require.NotEmpty(t, counted.Stats.Items)
}

func TestFacetsThatAreNone(t *testing.T) {
	for _, c := range []struct{ field, raw string }{
		{"colour", ""}, {"id", ""}, {"principal", "cursor=x"}, {"principal", "limit=0"}, {"principal", "q=("},
		{"principal", "by=outcome"},
	} {
		_, err := ParseFacets([]string{c.field}, c.raw, time.Now())
		require.Error(t, err, "%s %s", c.field, c.raw)
	}
}
