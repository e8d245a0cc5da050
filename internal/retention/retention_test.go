package retention

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/docket-project/docket/internal/config"
	"github.com/docket-project/docket/internal/domain"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// days is a store that keeps days only, and fails as it is told.
type days struct {
	mu          sync.Mutex
	have        []domain.Day
	keep        map[domain.Day]error // why a day cannot be dropped
	first, last domain.Day
	oldest      time.Time
	err         error
	state       domain.RetentionState
	dropped     int
}

func (d *days) RetentionState(context.Context) (domain.RetentionState, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	state := d.state
	if state.Now.IsZero() {
		state.Now = time.Now()
	}
	return state, nil
}

func (d *days) SetRetention(_ context.Context, retention time.Duration) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.state.InForce = retention
	return nil
}

func (d *days) PrepareDays(_ context.Context, first, last domain.Day) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.first, d.last = first, last
	return d.err
}

func (d *days) Days(context.Context) ([]domain.Day, error) { return slices.Clone(d.have), nil }

func (d *days) DropDay(_ context.Context, day domain.Day, atMost int) (bool, error) {
	if err := d.keep[day]; err != nil {
		return false, err
	}
	if d.dropped >= atMost {
		return false, nil
	}
	d.dropped++
	d.have = slices.DeleteFunc(d.have, func(have domain.Day) bool { return have == day })
	return true, nil
}

func (d *days) DropReceivedBefore(_ context.Context, oldest time.Time) error {
	d.oldest = oldest
	return nil
}

var window = domain.Window{Retention: 10 * 24 * time.Hour, Ahead: time.Hour}

func newRetention(d *days, now time.Time) *Retention {
	r := New(d, window, nil, slog.New(slog.DiscardHandler))
	r.now = func() time.Time { return now }
	d.state.Now = now
	return r
}

// TestOnlyWholeDaysGo looks at both ends of the day that the retention ends in.
func TestOnlyWholeDaysGo(t *testing.T) {
	today := domain.DayOf(time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC))
	for _, c := range []struct {
		name string
		now  time.Time
		kept domain.Day // the oldest that stays
	}{
		{"at midnight", today.Start(), today - 10},
		{"in the evening", today.End().Add(-time.Second), today - 10},
		{"a nanosecond before midnight", today.End().Add(-1), today - 10},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := &days{have: []domain.Day{today - 12, today - 11, today - 10, today - 1, today, today + 1}}
			require.NoError(t, newRetention(d, c.now).Apply(t.Context()))
			require.Equal(t, c.kept, d.have[0])
			require.Len(t, d.have, 4)
			require.Equal(t, []domain.Day{today, today + daysAhead}, []domain.Day{d.first, d.last})
			require.Equal(t, c.now.Add(-window.Retention), d.oldest)
		})
	}
}

func TestAFailureEndsATurn(t *testing.T) {
	today := domain.DayOf(time.Now())
	locked := errors.New("a lock")
	d := &days{have: []domain.Day{today - 30, today - 20, today}, keep: map[domain.Day]error{today - 20: locked}}
	require.ErrorIs(t, newRetention(d, time.Now()).Apply(t.Context()), locked)
	require.Equal(t, []domain.Day{today - 20, today}, d.have, "what was dropped before stays dropped")
	require.True(t, d.oldest.IsZero())
	away := errors.New("away")
	d = &days{have: []domain.Day{today - 30}, err: away}
	require.ErrorIs(t, newRetention(d, time.Now()).Apply(t.Context()), away)
	require.Len(t, d.have, 1, "nothing is dropped where nothing could be prepared")
}

func TestRunTriesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		today := domain.DayOf(time.Now())
		d := &days{have: []domain.Day{today - 30}, err: errors.New("away")}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			New(d, window, nil, slog.New(slog.DiscardHandler)).Run(ctx)
		}()
		synctest.Wait()
		require.Len(t, d.have, 1)
		d.mu.Lock()
		d.err = nil
		d.mu.Unlock()
		time.Sleep(Every)
		synctest.Wait()
		require.Empty(t, d.have)
		cancel()
		<-ended
	})
}

// TestNothingGoesByAClockThatMayBeWrong, nor by a setting that was a mistake.
func TestNothingGoesByAClockThatMayBeWrong(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	today := domain.DayOf(now)
	for _, c := range []struct {
		name     string
		docket   time.Time // its clock
		database time.Time
		newest   time.Time
		inForce  time.Duration
		dropped  int
		err      string
	}{
		{name: "in step", docket: now, database: now, inForce: window.Retention, dropped: 2},
		{name: "a saver whose clock is 100 days ahead", docket: now.AddDate(0, 0, 100), database: now,
			inForce: window.Retention, err: "are 2400h0m0s apart"},
		{name: "a database whose clock is ahead", docket: now, database: now.Add(10 * time.Minute),
			inForce: window.Retention, err: "apart"},
		{name: "an embedded log whose newest record is of yesterday", docket: now, database: now,
			newest: now.Add(-25 * time.Hour), inForce: window.Retention, err: "newest record"},
		{name: "an embedded log in use", docket: now, database: now, newest: now.Add(-time.Hour),
			inForce: window.Retention, dropped: 2},
		{name: "a shorter setting by mistake", docket: now, database: now, inForce: 60 * 24 * time.Hour, dropped: 2},
		{name: "a longer setting", docket: now, database: now, inForce: 24 * time.Hour, dropped: 2},
		{name: "a first start", docket: now, database: now, dropped: 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := &days{state: domain.RetentionState{InForce: c.inForce}}
			for day := today - 70; day <= today; day++ {
				d.have = append(d.have, day)
			}
			r := newRetention(d, c.database)
			r.now = func() time.Time { return c.docket }
			if !c.newest.IsZero() {
				r.newest = func() time.Time { return c.newest }
			}
			err := r.Apply(t.Context())
			require.Equal(t, c.dropped, d.dropped)
			require.Len(t, d.have, 71-c.dropped)
			if c.err != "" {
				require.ErrorContains(t, err, c.err)
				require.Equal(t, domain.Misconfigured, domain.ClassOf(err))
				require.True(t, d.oldest.IsZero())
				require.NotZero(t, d.last, "room for the days ahead is made all the same")
				return
			}
			require.NoError(t, err)
			require.Equal(t, max(c.inForce, window.Retention), d.state.InForce)
			require.Equal(t, c.database.Add(-d.state.InForce), d.oldest)
		})
	}
}

func TestConfig(t *testing.T) {
	require.NoError(t, Default().Validate())
	require.Equal(t, 90*24*time.Hour, Default().Window().Retention)
	require.ErrorContains(t, Config{}.Validate(), "retention")
	require.Equal(t, 7*24*time.Hour, Config{Retention: config.Duration(7 * 24 * time.Hour)}.Window().Retention)
}
