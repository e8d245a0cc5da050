package sink

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/docket-project/docket/internal/domain"
)

// partial is a store that is well, and refuses some rows with an answer that may concern more than them.
type partial struct {
	refuses  func(d domain.Decision) bool
	err      error
	waits    time.Duration // until it refuses
	probe    error
	attempts int
	rows     int
}

func (p *partial) SaveBatch(ctx context.Context, rows []domain.Decision) ([]domain.SaveStatus, error) {
	p.attempts++
	statuses := make([]domain.SaveStatus, len(rows))
	for i, r := range rows {
		if p.refuses(r) {
			select {
			case <-time.After(p.waits):
			case <-ctx.Done():
				return nil, ctx.Err()
			}
			return nil, p.err
		}
		statuses[i] = domain.Saved
	}
	p.rows += len(rows)
	return statuses, nil
}

func (p *partial) Probe(context.Context) error { return p.probe }

func (p *partial) writer(t *testing.T) *Writer {
	t.Helper()
	projector, err := domain.NewProjector(nil)
	require.NoError(t, err)
	return NewWriter(
		p, NewBreaker(p, nil, slog.New(slog.DiscardHandler)), Concurrency{Ceiling: 1}, projector,
		nil, noop.NewTracerProvider().Tracer(""), nil,
	)
}

// dated is a record of a tenant, so many days before today.
func dated(n int, tenant string, before int) domain.Record {
	at := time.Now().UTC().AddDate(0, 0, -before)
	return domain.Record{
		Headers: domain.Headers{Tenant: tenant},
		Value:   fmt.Appendf(nil, `{"decision_id":"id-%d","path":"p","timestamp":"%s"}`, n, at.Format(time.RFC3339Nano)),
	}
}

// mixed are n records of ten tenants, of which each tenth is of yesterday.
func mixed(n int) (out []domain.Record) {
	for i := range n {
		out = append(out, dated(i, fmt.Sprintf("t%d", i%10), (i/10)%10/9))
	}
	return out
}

func dayBefore(n int) string {
	return domain.HeldForDay(&domain.Decision{Timestamp: time.Now().UTC().AddDate(0, 0, -n)})
}

// save runs a handler's budget, and returns how many rows are held for what; all others are stored.
func (p *partial) save(t *testing.T, w *Writer, records []domain.Record) map[string]int {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	held := map[string]int{}
	for i, v := range w.Save(ctx, records) {
		switch {
		case v.HeldFor != "":
			require.ErrorIs(t, v.Err, p.err, "row %d", i)
			require.False(t, v.Rejected())
			held[v.HeldFor]++
		default:
			require.NoError(t, v.Err, "row %d", i)
			require.Equal(t, domain.Saved, v.Status, "row %d", i)
		}
	}
	state, _ := w.breaker.State()
	require.Equal(t, "closed", state)
	require.NoError(t, w.breaker.Trouble(), "it is not the store's")
	return held
}

var (
	errLocked  = &domain.Error{Class: domain.Unavailable, Answered: true, Code: "55P03", Text: "locked"}
	errNoRight = &domain.Error{Class: domain.Misconfigured, Answered: true, Code: "42501", Text: "no right"}
)

// TestNarrow finds out whose rows the store does not take, stores the others, and does not ask again for all of them.
func TestNarrow(t *testing.T) {
	fingerprint := domain.HeldForFingerprint(domain.RejectionOf(errNoRight, "t3", "p").Fingerprint)
	yesterday := func(d domain.Decision) bool { return domain.HeldForDay(&d) == dayBefore(1) }
	t3 := func(d domain.Decision) bool { return d.Tenant == "t3" }
	for _, c := range []struct {
		name    string
		records func() []domain.Record
		err     error
		waits   time.Duration
		refuses func(domain.Decision) bool
		held    func() map[string]int
		within  time.Duration
		// attempts of the first batch and of one like it, which knows already.
		attempts, again int
	}{
		{name: "a day that somebody has locked", err: errLocked, waits: 2 * time.Second, refuses: yesterday,
			held: func() map[string]int { return map[string]int{dayBefore(1): 100} }, within: 2 * time.Second,
			attempts: 2, again: 1},
		{name: "a day that cannot be made", err: errNoRight, refuses: yesterday,
			held: func() map[string]int { return map[string]int{dayBefore(1): 100} }, attempts: 6, again: 1},
		{name: "a tenant that may not", err: errNoRight, refuses: t3,
			held: func() map[string]int { return map[string]int{"tenant:t3": 100} }, attempts: 30, again: 2},
		{name: "one event of a day that cannot be made", err: errNoRight, refuses: yesterday,
			records: func() []domain.Record { return append(someOf("t3", 500, 0), dated(1000, "t3", 1)) },
			held:    func() map[string]int { return map[string]int{fingerprint: 1} }, attempts: 3, again: 3},
		{name: "one row", err: errNoRight, refuses: func(d domain.Decision) bool { return d.ID == "id-137" },
			records: func() []domain.Record { return someOf("t3", 1000, 0) },
			held:    func() map[string]int { return map[string]int{fingerprint: 1} }, attempts: 60, again: 60},
		{name: "a tenant alone that may not", err: errNoRight, refuses: t3,
			records: func() []domain.Record { return someOf("t3", 50, 0) },
			held:    func() map[string]int { return map[string]int{"tenant:t3": 50} }, attempts: 4, again: 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := &partial{err: c.err, waits: c.waits, refuses: c.refuses}
				records := mixed(1000)
				if c.records != nil {
					records = c.records()
				}
				w := p.writer(t)
				began := time.Now()
				require.Equal(t, c.held(), p.save(t, w, records))
				require.LessOrEqual(t, time.Since(began), c.within)
				require.LessOrEqual(t, p.attempts, c.attempts)
				p.attempts = 0
				began = time.Now()
				require.Equal(t, c.held(), p.save(t, w, records))
				require.Zero(t, time.Since(began), "nobody waits again")
				require.LessOrEqual(t, p.attempts, c.again)
			})
		})
	}
}

// TestABlockOfRows has something of its own in common: the others of its tenant do not wait with it.
func TestABlockOfRows(t *testing.T) {
	p := &partial{err: errNoRight, refuses: func(d domain.Decision) bool { return strings.HasPrefix(d.ID, "id-4") }}
	w := p.writer(t)
	held := p.save(t, w, someOf("t3", 1000, 0))
	require.Len(t, held, 1)
	require.Empty(t, w.Troubles())
	for key, n := range held {
		require.Contains(t, key, "fingerprint:")
		require.GreaterOrEqual(t, n, 111)
		require.LessOrEqual(t, n, 200, "some that stood between them")
	}
}

// someOf are n records of one tenant and day.
func someOf(tenant string, n, before int) (out []domain.Record) {
	for i := range n {
		out = append(out, dated(i, tenant, before))
	}
	return out
}

// TestTroubles are remembered, tried by samples once a minute, and forgotten when one is stored.
func TestTroubles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		locked := true
		p := &partial{err: errLocked, waits: 2 * time.Second, refuses: func(d domain.Decision) bool {
			return locked && domain.HeldForDay(&d) == dayBefore(1)
		}}
		w := p.writer(t)
		p.save(t, w, mixed(1000))
		troubles := w.Troubles()
		require.Len(t, troubles, 1)
		require.Equal(t, dayBefore(1), troubles[0].Key)
		require.ErrorIs(t, troubles[0].Err, errLocked)
		since := troubles[0].Since

		time.Sleep(trialEvery)
		p.attempts = 0
		require.Equal(t, map[string]int{dayBefore(1): 100}, p.save(t, w, mixed(1000)))
		require.Equal(t, 2, p.attempts, "the others, and a sample")
		require.Equal(t, since, w.Troubles()[0].Since, "it is the same trouble")
		p.attempts = 0
		p.save(t, w, mixed(1000))
		require.Equal(t, 1, p.attempts, "once a minute")

		locked = false
		require.Equal(t, map[string]int{dayBefore(1): 100}, p.save(t, w, mixed(1000)), "nobody has tried yet")
		time.Sleep(trialEvery)
		p.rows = 0
		require.Equal(t, map[string]int{dayBefore(1): 100 - trialSize}, p.save(t, w, mixed(1000)))
		require.Equal(t, 900+trialSize, p.rows)
		require.Empty(t, w.Troubles())
		require.Empty(t, p.save(t, w, mixed(1000)))

		locked = true
		p.save(t, w, mixed(1000))
		require.Len(t, w.Troubles(), 1)
		time.Sleep(troubleFor + time.Second)
		require.Empty(t, w.Troubles(), "nothing of it comes any more")
	})
}

// TestATroubleThatWasMisjudged is of one tenant, and looked like one of the day at first.
func TestATroubleThatWasMisjudged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &partial{err: errNoRight, refuses: func(d domain.Decision) bool { return d.Tenant == "t3" }}
		w := p.writer(t)
		require.Equal(t, map[string]int{dayBefore(1): 50}, p.save(t, w, someOf("t3", 50, 1)))
		time.Sleep(trialEvery)
		var both []domain.Record
		for i := range 20 {
			both = append(both, dated(i, fmt.Sprintf("t%d", 3+i%2), 1))
		}
		require.Equal(t, map[string]int{"tenant:t3": 10}, p.save(t, w, both))
		require.Len(t, w.Troubles(), 1)
		require.Equal(t, "tenant:t3", w.Troubles()[0].Key)
	})
}

// TestARefusalOfAStoreThatIsAway is an outage: the probe tells.
func TestARefusalOfAStoreThatIsAway(t *testing.T) {
	for _, c := range []struct {
		name  string
		err   error
		probe error
		state string
	}{
		{"a lock of everything", errLocked, errLocked, "open"},
		{"no right to insert at all", errNoRight, errNoRight, "closed"},
		{"an error that the store did not answer with", domain.Errorf(domain.Unavailable, "no connection"), nil, "open"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := &partial{err: c.err, probe: c.probe, refuses: func(domain.Decision) bool { return true }}
			w := p.writer(t)
			for _, v := range w.Save(t.Context(), mixed(100)) {
				require.ErrorIs(t, v.Err, c.err)
				require.Empty(t, v.HeldFor)
			}
			state, _ := w.breaker.State()
			require.Equal(t, c.state, state)
			require.Error(t, w.breaker.Trouble())
			require.Empty(t, w.Troubles())
			require.Equal(t, 1, p.attempts)
		})
	}
}

// TestNoTimeToNarrow holds what is left: the store takes others meanwhile.
func TestNoTimeToNarrow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one := func(d domain.Decision) bool { return d.ID == "id-137" }
		p := &partial{err: errLocked, waits: 2 * time.Second, refuses: one}
		w := p.writer(t)
		held := p.save(t, w, someOf("t3", 1000, 0))
		require.Len(t, held, 1)
		for key, n := range held {
			require.Contains(t, key, "fingerprint:")
			require.Less(t, n, 1000)
		}
	})
}
