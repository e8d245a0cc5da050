package ingest

import (
	"cmp"
	"context"
	"encoding/json"
	"hash/maphash"
	"log/slog"
	"sync"
	"time"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/ports"
)

const (
	// freely is how many OPAs of a tenant are told apart at their first upload. From there on an id has to come again
	// after a report, which one that was made up does not, so that real OPAs find room.
	freely = 1000
	// maxCandidates bounds the ids that wait to come again, in each tenant.
	maxCandidates = 50_000
	// quietFor is when an OPA makes room for others, once a tenant has nearly as many as it may.
	quietFor = time.Hour
	// maxStatus is the longest status body that is kept, and maxStatuses the most of all bodies between two reports.
	maxStatus   = 64 << 10
	maxStatuses = 16 << 20
	// reportEvery is how often the store is told at most, and lookEvery how soon of what is new after a pause.
	reportEvery = 10 * time.Second
	lookEvery   = time.Second
	// maxUnread is how many labels of an upload are read that were not seen lately.
	maxUnread = 8
)

// Inventory observes which OPAs uploaded since the last report, and reports to the store. The store being away costs
// nothing but freshness: observations add up until it is back. They are figures for people; a kill loses those since
// the last report.
type Inventory struct {
	store ports.OPARecorder
	log   *slog.Logger

	mu       sync.Mutex
	seen     map[inventoryKey]*domain.Observation
	tenants  map[string]*tenantOPAs
	statuses int                      // bytes
	read     map[string]domain.Labels // by their JSON: an OPA sends the same ones with every event
}

type inventoryKey struct{ tenant, opa string }

// tenantOPAs are the OPAs of a tenant that are told apart, by when they were seen last, and the ids that came once:
// since the last report, and before.
type tenantOPAs struct {
	known         map[string]time.Time
	came, earlier map[uint64]struct{}
	full          bool
}

// NewInventory makes an empty Inventory that reports to store.
func NewInventory(store ports.OPARecorder, log *slog.Logger) *Inventory {
	return &Inventory{
		store: store, log: log, seen: map[inventoryKey]*domain.Observation{}, tenants: map[string]*tenantOPAs{},
		read: map[string]domain.Labels{},
	}
}

// Run reports until ctx is done, and once more then.
func (i *Inventory) Run(ctx context.Context) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	var last time.Time
	for failing := false; ; {
		done := ctx.Err() != nil
		if done || time.Since(last) >= reportEvery && i.any() {
			last = time.Now()
			report, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
			err := i.report(report)
			cancel()
			if err != nil && !failing {
				i.log.Warn("the list of OPAs was not updated; it is tried again every second", "error", err)
			}
			if failing = err != nil; failing {
				last = time.Time{}
			}
		}
		if done {
			return
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

func (i *Inventory) any() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return len(i.seen) > 0
}

var idSeed = maphash.MakeSeed()

// admit says under which name an OPA is counted.
func (i *Inventory) admit(tenant, opa string, now time.Time) string {
	t := i.tenants[tenant]
	if t == nil {
		t = &tenantOPAs{known: map[string]time.Time{}, came: map[uint64]struct{}{}, earlier: map[uint64]struct{}{}}
		i.tenants[tenant] = t
	}
	_, known := t.known[opa]
	if !known && len(t.known) >= freely {
		if !t.cameBefore(maphash.String(idSeed, opa)) || len(t.known) >= domain.MaxOPAs {
			if !t.full {
				t.full = true
				i.log.Warn(
					"so many different OPA ids (labels.id) that those which come once are counted together, as (others)",
					"tenant", tenant, "told_apart", len(t.known),
				)
			}
			return domain.OtherOPAs
		}
	}
	t.known[opa] = now
	return opa
}

// cameBefore reports that something, by its hash, came before the last report already, and notes that it came.
func (t *tenantOPAs) cameBefore(hash uint64) bool {
	_, again := t.earlier[hash]
	if len(t.came) < maxCandidates {
		t.came[hash] = struct{}{}
	}
	return again
}

// turn begins with the ids that come until the next report, and lets quiet OPAs go where there is little room.
func (t *tenantOPAs) turn(now time.Time) {
	t.came, t.earlier = map[uint64]struct{}{}, t.came
	if len(t.known) < domain.MaxOPAs*9/10 {
		return
	}
	for opa, last := range t.known {
		if now.Sub(last) > quietFor {
			delete(t.known, opa)
		}
	}
}

// report hands everything that was seen to the store, and takes it back if the store refuses.
func (i *Inventory) report(ctx context.Context) error {
	i.mu.Lock()
	if len(i.seen) == 0 {
		i.mu.Unlock()
		return nil
	}
	taken := i.seen
	i.seen, i.statuses = map[inventoryKey]*domain.Observation{}, 0
	now := time.Now()
	for _, t := range i.tenants {
		t.turn(now)
	}
	i.mu.Unlock()

	observations := make([]domain.Observation, 0, len(taken))
	for _, s := range taken {
		observations = append(observations, *s)
	}
	err := i.store.RecordOPAs(ctx, observations)
	if err != nil {
		for _, older := range observations {
			i.restore(older)
		}
	}
	return err
}

// restore puts an older observation back beneath what was seen since.
func (i *Inventory) restore(older domain.Observation) {
	i.mu.Lock()
	defer i.mu.Unlock()
	key := inventoryKey{older.Tenant, older.OPA}
	i.boundStatus(&older)
	if newer := i.seen[key]; newer != nil {
		older.Merge(*newer)
	}
	i.seen[key] = &older
}

// boundStatus drops a status body that there is no room for.
func (i *Inventory) boundStatus(s *domain.Observation) {
	if i.statuses+len(s.Status) > maxStatuses {
		s.Status, s.StatusAt = nil, time.Time{}
	}
	i.statuses += len(s.Status)
}

// add merges an observation.
func (i *Inventory) add(s domain.Observation) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if s.OPA != domain.OtherOPAs {
		s.OPA = i.admit(s.Tenant, s.OPA, time.Now())
	}
	if s.OPA == domain.OtherOPAs {
		s.Version, s.App, s.Status, s.StatusAt = "", "", nil, time.Time{}
		if s.Uploads+s.Events == 0 {
			return
		}
	}
	i.boundStatus(&s)
	key := inventoryKey{s.Tenant, s.OPA}
	if known := i.seen[key]; known != nil {
		known.Merge(s)
		return
	}
	i.seen[key] = &s
}

// saw notes an upload that was acknowledged, once for every OPA in it.
func (i *Inventory) saw(u Upload, a Assembly) {
	if a.Receipt.Accepted+a.Receipt.Quarantined == 0 {
		return
	}
	if len(a.Senders) == 0 { // nothing was accepted, but something came
		a.Senders = []domain.Sender{{}}
	}
	var seen map[string]bool
	if len(a.Senders) > 1 { // OPA itself sends its own events only
		seen = map[string]bool{}
	}
	tenant, unread := u.Caller.Tenant(), 0
	for _, from := range a.Senders {
		l := domain.Labels{ID: domain.OtherOPAs}
		if unread < maxUnread {
			var fresh bool
			if l, fresh = i.labelsOf(tenant, from.Labels); fresh {
				unread++
			}
		}
		s := domain.Observation{
			Tenant: tenant, OPA: domain.Name(l.ID), Version: domain.Name(cmp.Or(l.Version, u.Version)),
			App: domain.Name(l.App), First: u.ReceivedAt, Last: u.ReceivedAt, Events: int64(from.Events),
		}
		if !seen[s.OPA] {
			s.Uploads = 1
		}
		if seen != nil {
			seen[s.OPA] = true
		}
		i.add(s)
	}
}

// maxRead bounds the labels that are remembered, in number and in bytes of each.
const (
	maxRead      = 4096
	maxReadBytes = 1024
)

// labelsOf reads labels; fresh says that it had to. Odd ones leave the OPA without a name. In a crowd, labels that come
// for the first time are not read at all: their OPA would not be told apart in any case.
func (i *Inventory) labelsOf(tenant string, raw []byte) (l domain.Labels, fresh bool) {
	if raw == nil {
		return l, false
	}
	i.mu.Lock()
	l, known := i.read[string(raw)]
	t := i.tenants[tenant]
	crowded := !known && t != nil && len(t.known) >= freely
	stranger := crowded && !t.cameBefore(maphash.Bytes(idSeed, raw))
	i.mu.Unlock()
	if known {
		return l, false
	}
	if stranger {
		return domain.Labels{ID: domain.OtherOPAs}, false
	}
	l = domain.ReadLabels(raw)
	if len(raw) > maxReadBytes {
		return l, true
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if crowded {
		t.earlier[maphash.String(idSeed, domain.Name(l.ID))] = struct{}{} // as its labels have
	}
	if len(i.read) >= maxRead {
		clear(i.read)
	}
	i.read[string(raw)] = l
	return l, true
}

// Status keeps the newest status report of an OPA. Content is never an error: a body that names no OPA, or is longer
// than 64 KiB, is not kept. Its error is a ForeignOPA.
func (i *Inventory) Status(caller domain.Caller, version string, body []byte, at time.Time) error {
	if len(body) > maxStatus || !json.Valid(body) {
		return nil
	}
	raw := domain.ValueAt(body, []string{"labels"})
	l := domain.ReadLabels(raw)
	if l.ID == "" {
		return nil
	}
	if err := allowed(context.Background(), caller, []domain.Sender{{Labels: raw}}); err != nil {
		return err
	}
	i.add(domain.Observation{
		Tenant: caller.Tenant(), OPA: domain.Name(l.ID), Version: domain.Name(cmp.Or(l.Version, version)),
		App: domain.Name(l.App), Status: body, StatusAt: at,
	})
	return nil
}
