package dictionary

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/docket-project/docket/internal/adapters/sqlite"
	"github.com/docket-project/docket/internal/domain"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig has a real store. Only the clock is not real.
type rig struct {
	*testing.T
	store *sqlite.Store
	rng   *rand.Rand
	n     int
}

func within(t *testing.T, f func(r *rig)) {
	t.Helper()
	path := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(200 * 24 * time.Hour)
		dir, err := sqlite.OpenDir(path)
		require.NoError(t, err)
		store, err := sqlite.OpenStore(t.Context(), dir, sqlite.StoreOptions{
			Window: domain.Window{Retention: 90 * 24 * time.Hour, Ahead: 24 * time.Hour}, Log: slog.New(slog.DiscardHandler),
			Migrate: true, Fatal: func(err error) { t.Errorf("fatal: %v", err) },
		})
		require.NoError(t, err)
		defer func() { // also where the test fails
			require.NoError(t, store.Close())
			require.NoError(t, dir.Close())
		}()
		f(&rig{t, store, rand.New(rand.NewPCG(1, 2)), 0})
	})
}

func (r *rig) maker(owner string) *Maker { return New(r.store, owner, slog.New(slog.DiscardHandler)) }

// save stores so many decisions of a tenant, a second apart. Their events share what is around a word and a number.
func (r *rig) save(tenant string, n int, around string) {
	var rows []domain.Decision
	for range n {
		r.n++
		event := fmt.Appendf(nil, `{"decision_id":"%d","labels":{"app":"%[2]s"},"path":"%[2]s/authz/allow","input":{"user":"u-%[3]x",`+
			`"department":"%[2]s department %[4]d"},"result":{"reason":"%[2]s says no"}}`, r.n, around, r.rng.Uint64(), r.rng.IntN(9))
		at := time.Now().Add(-time.Duration(n-len(rows)) * time.Second)
		rows = append(rows, domain.Decision{
			Tenant: tenant, ID: fmt.Sprint(r.n), Timestamp: at, ReceivedAt: at, Outcome: domain.OutcomeDenied, Event: event,
			SHA256: sha256.Sum256(event),
		})
	}
	statuses, err := r.store.SaveBatch(r.Context(), rows)
	require.NoError(r, err)
	require.NotContains(r, statuses, domain.Duplicate)
}

func (r *rig) look(m *Maker) map[string]domain.Dictionary {
	r.Helper()
	require.NoError(r, m.Look(r.Context()))
	newest, err := r.store.NewestDictionaries(r.Context())
	require.NoError(r, err)
	return newest
}

func TestATenantWithEnoughDecisionsGetsADictionary(t *testing.T) {
	within(t, func(r *rig) {
		m := r.maker("me")
		require.Empty(t, r.look(m), "there is nothing yet")
		r.save("small", 900, "tiny")
		require.Empty(t, r.look(m), "they are too few")
		r.save("large", 5000, "shop")
		newest := r.look(m)
		require.Len(r, newest, 1, "the small one has none")
		require.Less(t, newest["large"].Ratio, 0.6)
		require.Contains(r, string(newest["large"].Bytes), `shop says no`)
		require.NotContains(t, string(newest["large"].Bytes), `tiny`)
		r.save("small", 900, "tiny")
		require.Len(r, r.look(m), 2, "as soon as it has enough")
	})
}

func TestADictionaryIsMadeAnewWhenItPacksWorse(t *testing.T) {
	within(t, func(r *rig) {
		m := r.maker("me")
		r.save("t", 3000, "the first policy that anybody wrote")
		first := r.look(m)["t"]
		require.NotEmpty(t, first.Bytes)
		time.Sleep(12 * time.Hour)
		r.save("t", 5000, "another policy which nobody knew")
		require.Equal(t, first.SHA256, r.look(m)["t"].SHA256, "one a day at most")
		time.Sleep(13 * time.Hour)
		r.save("t", 5000, "the first policy that anybody wrote")
		require.Equal(t, first.SHA256, r.look(m)["t"].SHA256, "it packs as it did")
		time.Sleep(25 * time.Hour)
		r.save("t", 5000, "another policy which nobody knew")
		second := r.look(m)["t"]
		require.NotEqual(t, first.SHA256, second.SHA256)
		require.Contains(r, string(second.Bytes), "nobody knew")
		rows, err := r.store.Decisions(r.Context(), domain.AllTenants(), "1")
		require.NoError(r, err)
		require.Contains(r, string(rows[0].Event), "the first policy", "what was packed with the first is read")
	})
}

func TestOneProcessMakesDictionaries(t *testing.T) {
	within(t, func(r *rig) {
		r.save("t", 3000, "shop")
		held, err := r.store.TakeLease(r.Context(), domain.Lease{Name: leaseName, Owner: "another"}, leaseFor)
		require.NoError(r, err)
		require.True(r, held)
		require.Empty(t, r.look(r.maker("me")))
		time.Sleep(leaseFor + time.Second)
		require.Len(r, r.look(r.maker("me")), 1, "the other one is gone")
	})
}

// thief takes the lease away while a dictionary is being made.
type thief struct {
	*sqlite.Store
	t *testing.T
}

func (s thief) StoredEvents(ctx context.Context, scope domain.Scope, q domain.Query) (domain.Page, error) {
	mine := domain.Lease{Name: leaseName, Owner: "me"}
	_, err := s.TakeLease(ctx, mine, -time.Second)
	require.NoError(s.t, err)
	_, err = s.TakeLease(ctx, domain.Lease{Name: leaseName, Owner: "thief"}, time.Hour)
	require.NoError(s.t, err)
	return s.Store.StoredEvents(ctx, scope, q)
}

func TestALostLease(t *testing.T) {
	within(t, func(r *rig) {
		r.save("t", 3000, "shop")
		m := New(thief{r.store, r.T}, "me", slog.New(slog.DiscardHandler))
		require.Empty(t, r.look(m))
	})
}

func TestEventsThatShareNothingHaveNoDictionary(t *testing.T) {
	within(t, func(r *rig) {
		var rows []domain.Decision
		for n := range 2000 {
			event := fmt.Appendf(nil, `"%x%x%x"`, r.rng.Uint64(), r.rng.Uint64(), r.rng.Uint64())
			rows = append(rows, domain.Decision{
				Tenant: "t", ID: fmt.Sprint(n), Timestamp: time.Now(), ReceivedAt: time.Now(), Event: event,
				SHA256: sha256.Sum256(event),
			})
		}
		_, err := r.store.SaveBatch(r.Context(), rows)
		require.NoError(r, err)
		require.Empty(t, r.look(r.maker("me")))
	})
}

func TestRunLooksByItself(t *testing.T) {
	within(t, func(r *rig) {
		ctx, cancel := context.WithCancel(r.Context())
		done := make(chan struct{})
		go func() {
			r.maker("me").Run(ctx)
			close(done)
		}()
		time.Sleep(30 * time.Second)
		r.save("t", 3000, "shop")
		time.Sleep(firstLook)
		newest, err := r.store.NewestDictionaries(r.Context())
		require.NoError(r, err)
		require.Len(r, newest, 1)
		cancel()
		<-done
	})
}
