package policy

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/docket-project/docket/internal/config"
	"github.com/docket-project/docket/internal/domain"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func callerOf(tenant, name string) domain.Caller {
	return domain.Caller{Name: name, How: domain.ByToken, Tenants: domain.Tenants(tenant)}
}

func burstOf(d time.Duration) *config.Duration {
	burst := config.Duration(d)
	return &burst
}

// upload lets an upload in and counts it.
func upload(q *Quotas, c domain.Caller, events, bytes int) error {
	a, err := q.Admit(c, false)
	if err != nil {
		return err
	}
	a.Took(events, bytes)
	a.Done()
	return nil
}

func refusal(t *testing.T, err error) *Exceeded {
	t.Helper()
	var e *Exceeded
	require.ErrorAs(t, err, &e)
	return e
}

func TestQuotas(t *testing.T) {
	tenPerSecond := &Quota{EventsPerSecond: 10, Burst: burstOf(10 * time.Second)}
	a := callerOf("a", "edge")
	t.Run("nothing is bounded without a quota", func(t *testing.T) {
		q := NewQuotas([]Policy{{Name: "p", Tenants: []string{"b"}, Quota: tenPerSecond}}, nil)
		for range 1000 {
			require.NoError(t, upload(q, a, 1000, 0))
		}
	})
	t.Run("a burst is taken, and paid back by time", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			q := NewQuotas([]Policy{{Name: "p", Quota: tenPerSecond}}, nil)
			require.NoError(t, upload(q, a, 99, 0))
			require.NoError(t, upload(q, a, 51, 0), "one event was left; an upload is never refused for its size")
			e := refusal(t, upload(q, a, 1, 0))
			require.Equal(t, "quota of the tenant a (policy p): burst: 150 events came within 1 s; 10 a second are allowed, "+
				"and those of 10s at once after a pause. Uploads are taken again in 5s. OPA sends it again by itself; see "+
				"\"A quota\" in "+
				"docs/runbook.md", e.Error())
			time.Sleep(e.Wait)
			require.Error(t, upload(q, a, 1, 0), "the debt is paid, and nothing is left")
			time.Sleep(100 * time.Millisecond)
			require.NoError(t, upload(q, a, 1, 0))
			require.NoError(t, upload(q, callerOf("b", "edge"), 100, 0), "another tenant")
		})
	})
	t.Run("who sends too much all the time is told so", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			q := NewQuotas([]Policy{{Name: "p", Quota: tenPerSecond}}, nil)
			taken := 0
			var last error
			for range 60 {
				if err := upload(q, a, 20, 0); err == nil {
					taken += 20
				} else {
					last = err
				}
				time.Sleep(time.Second)
			}
			require.InDelta(t, 100+60*10, taken, 20)
			require.Contains(t, refusal(t, last).Error(), "rate: 680 events came within 58 s; 10 a second")
		})
	})
	t.Run("an upload larger than a burst is taken", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			q := NewQuotas([]Policy{{Name: "p", Quota: tenPerSecond}}, nil)
			require.NoError(t, upload(q, a, 50_000, 0))
			e := refusal(t, upload(q, a, 1, 0))
			require.Equal(t, maxDebt, e.Wait, "and what would take longer to pay back is let off")
		})
	})
	t.Run("bytes", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			mebibyte := &Quota{BytesPerSecond: 1 << 20, Burst: burstOf(time.Second)}
			q := NewQuotas([]Policy{{Name: "p", Quota: mebibyte}}, nil)
			require.NoError(t, upload(q, a, 1, 64<<20))
			e := refusal(t, upload(q, a, 1, 1))
			require.Equal(t, Bytes, e.Kind)
			require.Equal(t, 63*time.Second, e.Wait)
		})
	})
	t.Run("uploads at once", func(t *testing.T) {
		q := NewQuotas([]Policy{{Name: "p", Quota: &Quota{UploadsAtOnce: 2}}}, nil)
		first, err := q.Admit(a, false)
		require.NoError(t, err)
		_, err = q.Admit(a, true)
		require.NoError(t, err)
		_, err = q.Admit(a, false)
		require.Equal(t, "quota of the tenant a (policy p): 2 uploads at once are open, and no more may be. OPA sends it "+
			"again by itself; see \"A quota\" in docs/runbook.md", refusal(t, err).Error())
		first.Done()
		require.NoError(t, upload(q, a, 1, 1))
	})
	t.Run("a credential, beside its tenant", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			q := NewQuotas([]Policy{
				{Name: "each", CredentialQuota: tenPerSecond},
				{Name: "all", Quota: &Quota{EventsPerSecond: 25, Burst: burstOf(10 * time.Second)}},
			}, nil)
			for n := range 2 {
				require.NoError(t, upload(q, callerOf("a", fmt.Sprint(n)), 110, 0))
				e := refusal(t, upload(q, callerOf("a", fmt.Sprint(n)), 1, 0))
				require.Contains(t, e.Error(), fmt.Sprintf("quota of the credential %d of tenant a (policy each): burst", n))
			}
			require.NoError(t, upload(q, callerOf("a", "2"), 30, 0))
			require.Contains(t, refusal(t, upload(q, callerOf("a", "3"), 1, 0)).Error(), "quota of the tenant a (policy all)")
		})
	})
	t.Run("of two quotas the one is told that lasts longer", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			q := NewQuotas([]Policy{{
				Name: "p", Quota: &Quota{EventsPerSecond: 10, BytesPerSecond: 1, Burst: burstOf(10 * time.Second)},
				CredentialQuota: &Quota{EventsPerSecond: 5, Burst: burstOf(4 * time.Second)},
			}}, nil)
			require.NoError(t, upload(q, a, 150, 11))
			e := refusal(t, upload(q, a, 1, 0))
			require.Equal(t, 26*time.Second, e.Wait)
			require.Equal(t, Events, e.Kind)
			require.Contains(t, e.Error(), "credential edge of tenant a")
			time.Sleep(20 * time.Second)
			require.Contains(t, refusal(t, upload(q, a, 1, 0)).Error(), "burst: 150 events came within 1 s")
			time.Sleep(6*time.Second + time.Millisecond)
			require.NoError(t, upload(q, a, 1, 0))
		})
	})
	t.Run("the first policy with a quota counts", func(t *testing.T) {
		q := NewQuotas([]Policy{
			{Name: "masks", Masks: []Mask{{Remove: "/input"}}},
			{Name: "big", Tenants: []string{"big-*"}, Quota: &Quota{UploadsAtOnce: 1000}},
			{Name: "rest", Quota: &Quota{UploadsAtOnce: 1}},
		}, nil)
		for range 10 {
			_, err := q.Admit(callerOf("big-a", "x"), false)
			require.NoError(t, err)
		}
		_, err := q.Admit(callerOf("small", "x"), false)
		require.NoError(t, err)
		_, err = q.Admit(callerOf("small", "x"), false)
		require.Contains(t, refusal(t, err).Error(), "(policy rest)")
	})
	t.Run("a status report counts no events", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			q := NewQuotas([]Policy{{Name: "p", Quota: tenPerSecond}}, nil)
			require.NoError(t, upload(q, a, 500, 0))
			_, err := q.Admit(a, true)
			require.NoError(t, err)
		})
	})
	t.Run("what is not durable is not counted", func(t *testing.T) {
		q := NewQuotas([]Policy{{Name: "p", Quota: tenPerSecond}}, nil)
		for range 1000 {
			admission, err := q.Admit(a, false)
			require.NoError(t, err)
			admission.Done()
		}
	})
}

// TestQuotaIsShared: each process allows an equal part, also once another has come or gone.
func TestQuotaIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var processes atomic.Int64 // less than 0: nobody knows
		processes.Store(4)
		count := func(context.Context) (int, error) {
			if n := processes.Load(); n >= 0 {
				return int(n), nil
			}
			return 0, errors.New("away")
		}
		q := NewQuotas([]Policy{{Name: "p", Quota: &Quota{EventsPerSecond: 100, Burst: burstOf(time.Second)}}}, nil)
		a := callerOf("a", "x")
		done := make(chan struct{})
		go func() { defer close(done); q.Run(ctx, count) }()
		synctest.Wait()
		rate := func() (taken int) {
			for range 1000 { // 100 s
				if upload(q, a, 20, 0) == nil {
					taken += 20
				}
				time.Sleep(100 * time.Millisecond)
			}
			return taken
		}
		require.InDelta(t, 25*100, rate(), 50)
		e := refusal(t, errors.Join(upload(q, a, 100, 0), upload(q, a, 100, 0)))
		require.Contains(t, e.Error(), "100 a second are allowed (25 of them here: 4 processes take uploads, and each allows")
		processes.Store(2)
		time.Sleep(countEvery + time.Second)
		require.InDelta(t, 50*100, rate(), 100)
		processes.Store(-1)
		time.Sleep(countEvery + time.Second)
		require.InDelta(t, 50*100, rate(), 100, "the last count stands")
		processes.Store(0)
		time.Sleep(countEvery + time.Second)
		require.InDelta(t, 100*100, rate(), 200, "this process is one")
		cancel()
		<-done
	})
}

// TestAccountsAreForgotten: tenants and names that a token's claims make up take no memory for ever, no debt is
// forgotten, and nobody gets past a quota by them.
func TestAccountsAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		each := &Quota{EventsPerSecond: 1, Burst: burstOf(time.Minute)}
		q := NewQuotas([]Policy{{Name: "p", Quota: each, CredentialQuota: each}}, nil)
		owes := callerOf("owes", "x")
		require.NoError(t, upload(q, owes, 1_000_000, 0))
		for n := range maxAccounts {
			require.NoError(t, upload(q, callerOf(fmt.Sprint(n), "x"), 0, 0))
			time.Sleep(time.Millisecond)
		}
		require.LessOrEqual(t, len(q.accounts), maxAccounts+2)
		require.Error(t, upload(q, owes, 1, 0))
		for n := range maxAccounts { // none of these can be forgotten
			_ = upload(q, callerOf(fmt.Sprint("debtor-", n), "x"), 3600, 0)
		}
		require.LessOrEqual(t, len(q.accounts), maxAccounts+2)
		taken := 0
		for n := range 200 {
			if upload(q, callerOf("one", fmt.Sprint(n)), 1000, 0) == nil {
				taken++
			}
		}
		require.LessOrEqual(t, taken, 1, "a name for every upload is of no use")
	})
}

// TestHerd is 500 OPAs after an outage: each has a backlog in chunks, posts one after the other, and waits as OPA does
// once it is refused (its plugin's exponential backoff, from 100 ms to its max_delay_seconds). They come through at the
// quota's pace: no second without, and none with much more.
func TestHerd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const opas, chunks, events, perSecond = 500, 20, 200, 20_000
		q := NewQuotas([]Policy{{
			Name: "p", Quota: &Quota{EventsPerSecond: perSecond, Burst: burstOf(5 * time.Second)},
		}}, nil)
		random := rand.New(rand.NewPCG(1, 2))
		began := time.Now()
		var bySecond [300]int
		refused, done := 0, make(chan struct{})
		var wait [opas]time.Duration
		for n := range opas {
			wait[n] = time.Duration(random.Int64N(int64(time.Second))) // they do not come in the same instant
		}
		jitter := make(chan float64)
		stop := make(chan struct{})
		go func() {
			for {
				select {
				case jitter <- random.Float64():
				case <-stop:
					return
				}
			}
		}()
		for n := range opas {
			go func() {
				defer func() { done <- struct{}{} }()
				time.Sleep(wait[n])
				c := callerOf("a", fmt.Sprint(n))
				for left, failed := chunks, 0; left > 0; {
					admission, err := q.Admit(c, false)
					if err == nil {
						time.Sleep(5 * time.Millisecond)
						admission.Took(events, 0)
						admission.Done()
						q.mu.Lock()
						bySecond[int(time.Since(began).Seconds())] += events
						q.mu.Unlock()
						left, failed = left-1, 0
						continue
					}
					q.mu.Lock()
					refused++
					q.mu.Unlock()
					delay := 100 * time.Millisecond
					for range failed {
						delay = min(delay*16/10, 30*time.Second)
					}
					failed++
					time.Sleep(time.Duration(float64(delay) * (0.8 + 0.4*<-jitter)))
				}
			}()
		}
		for range opas {
			<-done
		}
		close(stop)
		took := time.Since(began).Seconds()
		const all = opas * chunks * events
		ideal := (all - 5*perSecond) / float64(perSecond)
		t.Logf("%d events in %.0f s, %.0f at best; %d refusals", all, took, ideal, refused)
		var windows []int // of five seconds, between the burst and the last ones
		for at := 5; at+5 < int(ideal*0.9); at += 5 {
			sum := 0
			for _, n := range bySecond[at : at+5] {
				sum += n
			}
			windows = append(windows, sum/5)
		}
		t.Logf("events a second, each five seconds: %v", windows)
		require.GreaterOrEqual(t, len(windows), 10)
		require.Less(t, slices.Max(windows), perSecond*5/4)
		require.Greater(t, slices.Min(windows), perSecond*3/4)
		require.Less(t, took, ideal*1.5)
	})
}
