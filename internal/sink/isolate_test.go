package sink

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/docket-project/docket/internal/domain"
)

// picky is a store that refuses some rows, takes a moment for everything, and goes away after so many calls.
type picky struct {
	bad             func(n int) bool
	skipped         map[int]int // how often a row is still skipped in silence
	leaves          int         // calls until it is away; zero stays
	taken           bool        // every key is, by other bytes
	attempts, asked int
}

func (p *picky) away() bool { return p.leaves > 0 && p.attempts+p.asked > p.leaves }

func (p *picky) SaveBatch(_ context.Context, rows []domain.Decision) ([]domain.SaveStatus, error) {
	p.attempts++
	time.Sleep(time.Millisecond)
	statuses := make([]domain.SaveStatus, len(rows))
	for i, r := range rows {
		var n int
		if _, err := fmt.Sscanf(r.ID, "id-%d", &n); err != nil {
			return nil, err
		}
		if p.away() || p.bad(n) { // while it goes away it rejects rows without reason
			return nil, &domain.Error{Class: domain.Unknown, Text: "refused"}
		}
		if statuses[i] = domain.Saved; p.taken {
			statuses[i] = domain.Conflicting
		}
		if p.skipped[n] > 0 {
			statuses[i] = domain.Skipped
			p.skipped[n]--
		}
	}
	return statuses, nil
}

func (p *picky) Probe(context.Context) error {
	p.asked++
	time.Sleep(5 * time.Millisecond)
	if p.away() {
		return domain.Errorf(domain.Unavailable, "away")
	}
	return nil
}

func newPickyWriter(t *testing.T, p *picky) *Writer {
	t.Helper()
	projector, err := domain.NewProjector(nil)
	require.NoError(t, err)
	return NewWriter(
		p, NewBreaker(p, nil, slog.New(slog.DiscardHandler)), Concurrency{Ceiling: 1}, projector,
		nil, noop.NewTracerProvider().Tracer(""), nil,
	)
}

func someRecords(n int) (out []domain.Record) {
	for i := range n {
		out = append(out, domain.Record{Value: fmt.Appendf(nil, `{"decision_id":"id-%d","path":"p"}`, i)})
	}
	return out
}

// TestIsolation finds all bad rows and no other, at a price that does not explode with their share.
func TestIsolation(t *testing.T) {
	for _, c := range []struct {
		name     string
		bad      func(n int) bool
		attempts int // at most, once the share is known
	}{
		{"none", func(int) bool { return false }, 1},
		{"one in a thousand", func(n int) bool { return n == 137 }, 25},
		{"one in fifty", func(n int) bool { return n%50 == 7 }, 250},
		{"every other", func(n int) bool { return n%2 == 0 }, 1010},
		{"a block of them", func(n int) bool { return n >= 400 && n < 600 }, 900},
		{"all", func(int) bool { return true }, 1010},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := &picky{bad: c.bad}
				w := newPickyWriter(t, p)
				for range 100 { // good batches in between teach nothing that would be wrong
					w.Save(t.Context(), []domain.Record{{Value: []byte(`{"decision_id":"id-1"}`)}})
				}
				for range 6 { // it learns
					p.attempts, p.asked = 0, 0
					began := time.Now()
					for i, v := range w.Save(t.Context(), someRecords(1000)) {
						require.Equal(t, c.bad(i), v.Rejected(), "row %d: %v", i, v.Err)
						if v.Rejected() {
							require.Equal(t, "p", v.Path)
						}
					}
					require.LessOrEqual(t, p.asked, 2+int(time.Since(began)/confirmWithin), "a probe is a new connection")
				}
				require.LessOrEqual(t, p.attempts, c.attempts)
			})
		})
	}
}

// TestARowThatIsSkipped is tried alone once more, and rejected if it is skipped again.
func TestARowThatIsSkipped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &picky{bad: func(int) bool { return false }, skipped: map[int]int{3: 1, 4: 2}}
		w := newPickyWriter(t, p)
		for i, v := range w.Save(t.Context(), someRecords(10)) {
			if i == 4 {
				require.True(t, v.Rejected())
				require.ErrorIs(t, v.Err, errSkipped)
				require.Equal(t, "p", v.Path)
				continue
			}
			require.NoError(t, v.Err, "row %d", i)
			require.Equal(t, domain.Saved, v.Status, "row %d", i)
		}
		require.Equal(t, 3, p.attempts, "the batch, and each alone")

		p = &picky{bad: p.bad, skipped: map[int]int{0: 1}}
		v := newPickyWriter(t, p).Save(t.Context(), someRecords(1))[0]
		require.Equal(t, domain.Saved, v.Status, "one that was alone already is tried once more as well: %v", v.Err)

		p = &picky{bad: p.bad, skipped: map[int]int{0: 9}, leaves: 2}
		v = newPickyWriter(t, p).Save(t.Context(), someRecords(1))[0]
		require.Equal(t, domain.Unavailable, domain.ClassOf(v.Err), "a store that went away rejects nothing")
	})
}

// TestNobodyIsRejectedForAStoreThatGoesAway has the store go away at every point of the isolation.
func TestNobodyIsRejectedForAStoreThatGoesAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bad := func(n int) bool { return n%10 == 3 }
		for leaves := 1; leaves < 400; leaves++ {
			p := &picky{bad: bad, leaves: leaves}
			w := newPickyWriter(t, p)
			for i, v := range w.Save(t.Context(), someRecords(100)) {
				require.False(t, v.Rejected() && !bad(i), "row %d is good: the store left after %d calls", i, leaves)
			}
			if state, _ := w.breaker.State(); p.away() {
				require.Equal(t, "open", state, "a probe that fails is an outage, whatever the batch failed with")
			}
		}
	})
}

// TestMaskedRowsDoNotConflict: a rule or a key that changed between two deliveries makes other bytes.
func TestMaskedRowsDoNotConflict(t *testing.T) {
	records := someRecords(2)
	records[1].Headers.Masked = true
	w := newPickyWriter(t, &picky{bad: func(int) bool { return false }, taken: true})
	verdicts := w.Save(t.Context(), records)
	require.Equal(t, domain.Conflicting, verdicts[0].Status)
	require.Equal(t, domain.Duplicate, verdicts[1].Status)
}
