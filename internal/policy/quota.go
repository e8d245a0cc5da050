package policy

import (
	"context"
	"fmt"
	"math"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"golang.org/x/time/rate"

	"github.com/docket-project/docket/internal/domain"
)

// Kind is what a quota bounds. It is a metric label.
type Kind string

// The kinds.
const (
	Events  Kind = "events"
	Bytes   Kind = "bytes"
	Uploads Kind = "uploads"
)

// Quotas bound what tenants and credentials send. An upload is refused before its body is read, for what came before
// it, and never for its own size: OPA sends the same upload again for ever, so one that is larger than a burst would
// never be taken. It is counted once it is durable, and what it takes beyond the quota is a debt that time pays.
//
// Each process that takes uploads allows an equal part of a rate, and all of UploadsAtOnce. It learns of the others
// from the store, so that the sum is about right, and not exact. Quotas are safe for concurrent use.
type Quotas struct {
	policies []compiled
	refused  *prometheus.CounterVec
	now      func() time.Time

	mu        sync.Mutex
	processes int
	accounts  map[account]*balance
	forgot    time.Time // when accounts were dropped last
}

// account is whose uploads are counted: a tenant's or, with a name, those of a credential.
type account struct{ tenant, how, name string }

// NewQuotas makes the quotas of policies, which Validate has passed. reg may be nil in tests.
func NewQuotas(policies []Policy, reg prometheus.Registerer) *Quotas {
	q := &Quotas{now: time.Now, processes: 1, accounts: map[account]*balance{}}
	for _, p := range policies {
		if p.Quota != nil || p.CredentialQuota != nil {
			q.policies = append(q.policies, compile(p))
		}
	}
	q.refused = promauto.With(reg).NewCounterVec(prometheus.CounterOpts{
		Name: "docket_quota_refused_total", Help: "Uploads and status reports that a quota refused, by what it bounds.",
	}, []string{"kind"})
	for _, kind := range []Kind{Events, Bytes, Uploads} {
		q.refused.WithLabelValues(string(kind))
	}
	return q
}

// maxAccounts bounds the accounts that are remembered, but for those of the others. A claim of a token may make up
// tenants.
const (
	maxAccounts = 10_000
	others      = "(others)"
)

// Admission is an upload that was let in. The zero Admission is one that nothing bounds.
type Admission struct {
	quotas   *Quotas
	balances []*balance
}

// Admit lets an upload in, or a report of an OPA's status, which counts no events. Its error is an *Exceeded. Whoever
// is let in has to call Done.
func (q *Quotas) Admit(c domain.Caller, report bool) (Admission, error) {
	if len(q.policies) == 0 {
		return Admission{}, nil
	}
	tenant := c.Tenant()
	now := q.now()
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.accounts) >= maxAccounts && now.Sub(q.forgot) > time.Second {
		q.forget(now)
	}
	a := Admission{quotas: q}
	var longest *Exceeded
	for _, of := range []account{{tenant: tenant}, {tenant, c.How, c.Name}} {
		b := q.balance(of, now)
		if b == nil {
			continue
		}
		if e := b.exceeded(now, report); e != nil && (longest == nil || e.Wait > longest.Wait) {
			longest = e
		}
		a.balances = append(a.balances, b)
	}
	if longest != nil {
		longest.Processes = q.processes
		q.refused.WithLabelValues(string(longest.Kind)).Inc()
		return Admission{}, longest
	}
	for _, b := range a.balances {
		b.open++
	}
	return a, nil
}

// Took counts what an upload brought.
func (a Admission) Took(events, bytes int) {
	if len(a.balances) == 0 {
		return
	}
	a.quotas.mu.Lock()
	defer a.quotas.mu.Unlock()
	now := a.quotas.now()
	for _, b := range a.balances {
		b.events.take(now, events)
		b.bytes.take(now, bytes)
	}
}

// Done ends the upload.
func (a Admission) Done() {
	if len(a.balances) == 0 {
		return
	}
	a.quotas.mu.Lock()
	defer a.quotas.mu.Unlock()
	for _, b := range a.balances {
		b.open--
	}
}

// balance is that of an account; nil where nothing bounds it. The first policy with such a quota counts.
func (q *Quotas) balance(of account, now time.Time) *balance {
	if b, ok := q.accounts[of]; ok {
		return b
	}
	if len(q.accounts) >= maxAccounts { // those that there is no room for share one
		of.tenant = others
		if of.name != "" {
			of.how, of.name = "", others
		}
		if b, ok := q.accounts[of]; ok {
			return b
		}
	}
	var b *balance
	for _, p := range q.policies {
		quota := p.Quota
		if of.name != "" {
			quota = p.CredentialQuota
		}
		if quota != nil && (of.tenant == others || p.tenants.match(of.tenant)) {
			b = newBalance(p.Name, of, *quota, q.processes, now)
			break
		}
	}
	q.accounts[of] = b
	return b
}

// forget drops accounts that owe nothing and have nothing open: they begin anew as they are.
func (q *Quotas) forget(now time.Time) {
	q.forgot = now
	for of, b := range q.accounts {
		if b == nil || b.open == 0 && b.events.full(now) && b.bytes.full(now) {
			delete(q.accounts, of)
		}
	}
}

// countEvery is how often the processes that share a quota are counted.
const countEvery = 10 * time.Second

// Run counts the processes that take uploads, until ctx is done. Where that fails, the last count stands.
func (q *Quotas) Run(ctx context.Context, count func(context.Context) (int, error)) {
	if len(q.policies) == 0 {
		return
	}
	tick := time.NewTicker(countEvery)
	defer tick.Stop()
	for {
		if n, err := count(ctx); err == nil {
			q.share(max(n, 1)) // this one may not have told of itself yet
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// share parts every quota by so many processes.
func (q *Quotas) share(n int) {
	now := q.now()
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.processes == n {
		return
	}
	q.processes = n
	for _, b := range q.accounts {
		if b != nil {
			b.events.share(n, now)
			b.bytes.share(n, now)
		}
	}
}

// balance is what an account may still send. The lock of its Quotas guards it.
type balance struct {
	policy        string
	of            account
	quota         Quota
	open          int
	events, bytes *meter // nil where they are not bounded
}

func newBalance(policy string, of account, q Quota, processes int, now time.Time) *balance {
	burst := defaultBurst
	if q.Burst != nil {
		burst = time.Duration(*q.Burst)
	}
	return &balance{
		policy: policy, of: of, quota: q,
		events: newMeter(q.EventsPerSecond, burst, processes, now),
		bytes:  newMeter(float64(q.BytesPerSecond), burst, processes, now),
	}
}

// defaultBurst is a quota's burst unless it says another.
const defaultBurst = time.Minute

// exceeded is what keeps the next upload out for longest, or nil.
func (b *balance) exceeded(now time.Time, report bool) (longest *Exceeded) {
	if b.quota.UploadsAtOnce > 0 && float64(b.open) >= b.quota.UploadsAtOnce {
		longest = &Exceeded{Kind: Uploads, Policy: b.policy, Limit: b.quota.UploadsAtOnce, account: b.of}
	}
	for _, m := range []struct {
		kind  Kind
		meter *meter
	}{{Events, b.events}, {Bytes, b.bytes}} {
		if m.meter == nil || report && m.kind == Events {
			continue
		}
		if e := m.meter.exceeded(now); e != nil && (longest == nil || e.Wait > longest.Wait) {
			e.Kind, e.Policy, e.account = m.kind, b.policy, b.of
			longest = e
		}
	}
	return longest
}

// meter is the bucket of one rate.
type meter struct {
	rate    float64 // of all processes
	burst   time.Duration
	limiter *rate.Limiter
	// since it is not full, what was taken since, and when the last of it was.
	since, last time.Time
	taken       float64
}

func newMeter(perSecond float64, burst time.Duration, processes int, now time.Time) *meter {
	if perSecond == 0 {
		return nil
	}
	m := &meter{rate: perSecond, burst: burst, since: now}
	m.limiter = rate.NewLimiter(rate.Limit(perSecond/float64(processes)), m.size(processes)) // it begins full
	return m
}

const (
	// maxBucket is more than any burst is, and exact as a float64.
	maxBucket = 1 << 53
	// maxDebt is the longest that uploads are refused for what was taken at once. What is beyond it is let off: uploads
	// that are let in together may bring what a small quota would need days for.
	maxDebt = time.Hour
)

// size is how much a bucket of one process holds.
func (m *meter) size(processes int) int {
	return int(min(max(m.rate*m.burst.Seconds()/float64(processes), 1), maxBucket))
}

func (m *meter) share(processes int, now time.Time) {
	if m == nil {
		return
	}
	m.limiter.SetLimitAt(now, rate.Limit(m.rate/float64(processes)))
	m.limiter.SetBurstAt(now, m.size(processes))
}

func (m *meter) full(now time.Time) bool {
	return m == nil || m.limiter.TokensAt(now) >= float64(m.limiter.Burst())
}

// take counts n, into debt if need be.
func (m *meter) take(now time.Time, n int) {
	if m == nil {
		return
	}
	if m.full(now) {
		m.since, m.taken = now, 0
	}
	m.taken, m.last = m.taken+float64(n), now
	n = int(min(float64(n), max(m.limiter.TokensAt(now)+float64(m.limiter.Limit())*maxDebt.Seconds(), 0)))
	for n > 0 { // a reservation is at most a bucket
		part := min(n, m.limiter.Burst())
		m.limiter.ReserveN(now, part)
		n -= part
	}
}

// exceeded is nil while something may be sent.
func (m *meter) exceeded(now time.Time) *Exceeded {
	tokens := m.limiter.TokensAt(now)
	if tokens > 0 {
		return nil
	}
	wait := time.Duration(-tokens / float64(m.limiter.Limit()) * float64(time.Second))
	e := &Exceeded{Limit: m.rate, Burst: m.burst, Sent: m.taken, For: now.Sub(m.since), Wait: max(wait, time.Millisecond)}
	if came := m.last.Sub(m.since); came < m.burst {
		e.InBurst, e.For = true, came
	}
	return e
}

// Exceeded is an upload that a quota refused.
type Exceeded struct {
	account
	Kind   Kind
	Policy string
	// Limit is the quota, a second or at once, and Burst how long a pause it counts.
	Limit float64
	Burst time.Duration
	// Sent is what was taken in the time For, at once or all the time, and Wait how long it takes until something is taken
	// again.
	Sent      float64
	InBurst   bool
	For, Wait time.Duration
	// Processes share the quota.
	Processes int
}

// Error says whose quota it is, how much that is and how much was sent, whether in a burst or all the time, and where
// to read on.
func (e *Exceeded) Error() string {
	whose := "tenant " + e.tenant
	if e.name != "" {
		whose = fmt.Sprintf("credential %s of tenant %s", e.name, e.tenant)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "quota of the %s (policy %s): ", whose, e.Policy)
	if e.Kind == Uploads {
		fmt.Fprintf(&b, "%.0f uploads at once are open, and no more may be", e.Limit)
	} else {
		how := "rate"
		if e.InBurst {
			how = "burst"
		}
		fmt.Fprintf(&b, "%s: %.0f %s came within %.0f s; %g a second are allowed", how, e.Sent, e.Kind,
			math.Ceil(max(e.For.Seconds(), 1)), e.Limit)
		if e.Processes > 1 {
			fmt.Fprintf(
				&b, " (%.3g of them here: %d processes take uploads, and each allows an equal part of what comes to it)",
				e.Limit/float64(e.Processes), e.Processes,
			)
		}
		fmt.Fprintf(
			&b, ", and those of %s at once after a pause. Uploads are taken again in %s", e.Burst,
			e.Wait.Round(time.Millisecond),
		)
	}
	b.WriteString(`. OPA sends it again by itself; see "A quota" in docs/runbook.md`)
	return b.String()
}
