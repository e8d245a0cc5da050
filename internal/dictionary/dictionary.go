// Package dictionary makes what the store packs events with: for each tenant that has enough decisions, of values that
// many of its events share, and again when they pack worse than they did. One process at a time does so. The stores
// pack and unpack, and keep dictionaries for good.
package dictionary

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/klauspost/compress/s2"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/ports"
)

const (
	// firstLook is how soon after the start dictionaries are looked at, and every how often afterwards.
	firstLook = time.Minute
	every     = 10 * time.Minute
	// sampled is how many events of a tenant are looked at, and enough how many it has to have: fewer share too little.
	sampled = 4000
	enough  = 1000
	// span is how far back they are taken from, in so many places.
	span   = 24 * time.Hour
	places = 8
	// known is the part of all decisions that a tenant has to have: a dictionary for fewer saves nothing that matters.
	known = 0.02
	// age is how old a dictionary has to be before another one may follow.
	age = 24 * time.Hour
	// grown is how much worse than at first a dictionary has to pack before it is made anew, and better how much the new
	// one has to save.
	grown, better = 1.2, 0.95
	// leaseFor is more than a look takes.
	leaseFor = 5 * time.Minute
	page     = 500
)

// leaseName is what processes agree by.
const leaseName = "dictionaries"

// Store is what a Maker asks of a store.
type Store interface {
	ports.Dictionaries
	Search(ctx context.Context, scope domain.Scope, q domain.Query) (domain.Page, error)
	StoredEvents(ctx context.Context, scope domain.Scope, q domain.Query) (domain.Page, error)
}

// Maker makes dictionaries. Several processes may have one.
type Maker struct {
	store  Store
	owner  string
	logger *slog.Logger
	now    func() time.Time
	tried  map[string]time.Time // tenants whose events share too little
}

// New makes a Maker; owner tells its process from others.
func New(store Store, owner string, logger *slog.Logger) *Maker {
	return &Maker{store: store, owner: owner, logger: logger, now: time.Now, tried: map[string]time.Time{}}
}

// Run looks until ctx is done.
func (m *Maker) Run(ctx context.Context) {
	next := time.NewTimer(firstLook)
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-next.C:
		}
		if err := m.Look(ctx); err != nil && ctx.Err() == nil && domain.ClassOf(err) != domain.Unavailable {
			m.logger.Warn("dictionaries could not be made; events are packed as before", "error", err)
		}
		next.Reset(every)
	}
}

// Look makes the dictionaries that are due. Errors: those of the store.
func (m *Maker) Look(ctx context.Context) error {
	lease := domain.Lease{Name: leaseName, Owner: m.owner}
	if held, err := m.store.TakeLease(ctx, lease, leaseFor); err != nil || !held {
		return err
	}
	newest, err := m.store.NewestDictionaries(ctx)
	if err != nil {
		return err
	}
	tenants, err := m.tenants(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, tenant := range tenants {
		current, has := newest[tenant]
		if has && m.now().Sub(current.MadeAt) < age || m.now().Sub(m.tried[tenant]) < age/24 {
			continue
		}
		errs = append(errs, m.make(ctx, lease, tenant, current))
	}
	return errors.Join(errs...)
}

// make makes a tenant's dictionary, if it is worth it.
func (m *Maker) make(ctx context.Context, lease domain.Lease, tenant string, current domain.Dictionary) error {
	samples, err := m.sample(ctx, tenant)
	if err != nil {
		return err
	}
	if len(samples) < enough {
		return nil // it may have as many soon
	}
	m.tried[tenant] = m.now()
	made, due := m.decide(ctx, tenant, samples, current)
	if !due {
		return ctx.Err()
	}
	if held, err := m.store.TakeLease(ctx, lease, leaseFor); err != nil || !held {
		return err
	}
	added, err := m.store.AddDictionary(ctx, lease, made)
	if added {
		m.logger.Info(
			"events are packed with a new dictionary", "tenant", tenant, "bytes", len(made.Bytes), "ratio", made.Ratio,
		)
	}
	return err
}

// decide makes a dictionary of samples, and says whether it is worth to be kept.
func (m *Maker) decide(
	ctx context.Context, tenant string, samples []sample, current domain.Dictionary,
) (made domain.Dictionary, due bool) {
	// Every fourth is what it is tried with.
	var tried, taught []sample
	for i, s := range samples {
		if i%4 == 3 {
			tried = append(tried, s)
		} else {
			taught = append(taught, s)
		}
	}
	before := ratio(current.Bytes, tried)
	if current.Bytes != nil && before < grown*current.Ratio {
		return made, false
	}
	b := train(ctx, taught)
	if b == nil {
		return made, false
	}
	after := ratio(b, tried)
	return domain.NewDictionary(tenant, b, after), after < better*before
}

// ratio is what samples shrink to with a dictionary, or without one.
func ratio(dictionary []byte, samples []sample) float64 {
	d := s2.NewDict(dictionary)
	plain, packed := 1, 0
	for _, s := range samples {
		plain += len(s.event)
		if d == nil {
			packed += len(s2.Encode(nil, s.event))
		} else {
			packed += len(d.Encode(nil, s.event))
		}
	}
	return float64(packed) / float64(plain)
}

// tenants are those that have a part of the newest decisions worth a dictionary.
func (m *Maker) tenants(ctx context.Context) (out []string, err error) {
	counts, all := map[string]int{}, 0
	err = m.visit(ctx, domain.AllTenants(), m.store.Search, sampled, func(d *domain.Decision) {
		if counts[d.Tenant]++; counts[d.Tenant] == 1 {
			out = append(out, d.Tenant)
		}
		all++
	})
	kept := out[:0]
	for _, tenant := range out {
		if float64(counts[tenant]) >= known*float64(all) {
			kept = append(kept, tenant)
		}
	}
	return kept, err
}

// Long events are left out of samples, and so are those that come once there are so many bytes.
const (
	longEvent   = 32 << 10
	sampleBytes = 24 << 20
)

func (m *Maker) sample(ctx context.Context, tenant string) (out []sample, err error) {
	size := 0
	err = m.visit(ctx, domain.Tenants(tenant), m.store.StoredEvents, sampled, func(d *domain.Decision) {
		if len(d.Event) > longEvent || size > sampleBytes {
			return
		}
		size += len(d.Event)
		out = append(out, sample{d.Event, []byte(d.Principal)})
	})
	return out, err
}

// key tells decisions apart.
type key struct {
	tenant, id string
	at         int64
}

// visit looks at so many decisions: some in several places of the last day, and the newest for the rest. What it has
// seen before counts as well: it reads no more than so many rows twice.
func (m *Maker) visit(
	ctx context.Context, scope domain.Scope, read func(context.Context, domain.Scope, domain.Query) (domain.Page, error),
	want int, visit func(*domain.Decision),
) error {
	now := m.now()
	seen, rows := map[key]bool{}, 0
	for k := places - 1; k >= 0; k-- {
		q := domain.Query{Limit: min(page, want/places)}
		q.Since = now.Add(-span)
		if k > 0 {
			q.Until = now.Add(-time.Duration(k) * span / places)
		}
		for len(seen) < want && rows < 2*want {
			found, err := read(ctx, scope, q)
			if err != nil {
				return errors.Join(err, ctx.Err())
			}
			rows += len(found.Items)
			for i := range found.Items {
				d := &found.Items[i]
				if is := (key{d.Tenant, d.ID, d.Timestamp.UnixMicro()}); !seen[is] {
					seen[is] = true
					visit(d)
				}
			}
			if q.After = found.Next; k > 0 || found.Next == nil {
				break
			}
		}
	}
	return nil
}
