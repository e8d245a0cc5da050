package ingest

import (
	"cmp"
	"context"
	"encoding/json"
	"log/slog"
	"sync"
	"time"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/ports"
)

const (
	// maxInventory bounds the OPAs remembered between two reports, so that invented ids cost no memory.
	maxInventory = 10_000
	// maxStatus is the longest status body that is kept, and maxStatuses the most of all bodies between two reports.
	maxStatus   = 64 << 10
	maxStatuses = 16 << 20
	// reportEvery is how stale the store's picture may be.
	reportEvery = time.Second
)

// Inventory observes which OPAs uploaded since the last report, and reports to the store. The store being away costs
// nothing but freshness: observations add up until it is back. They are figures for people; a kill loses the last
// second.
type Inventory struct {
	store ports.OPARecorder
	log   *slog.Logger

	mu       sync.Mutex
	seen     map[inventoryKey]*domain.Observation
	statuses int // bytes
	full     bool
	read     map[string]labels // by their JSON: an OPA sends the same ones with every event
}

type inventoryKey struct{ tenant, opa string }

// NewInventory makes an empty Inventory that reports to store.
func NewInventory(store ports.OPARecorder, log *slog.Logger) *Inventory {
	return &Inventory{store: store, log: log, seen: map[inventoryKey]*domain.Observation{}, read: map[string]labels{}}
}

// Run reports until ctx is done, and once more then.
func (i *Inventory) Run(ctx context.Context) {
	tick := time.NewTicker(reportEvery)
	defer tick.Stop()
	for failing := false; ; {
		done := ctx.Err() != nil
		report, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
		err := i.report(report)
		cancel()
		if err != nil && !failing {
			i.log.Warn("the list of OPAs was not updated; it is tried again every second", "error", err)
		}
		failing = err != nil
		if done {
			return
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
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
	i.seen, i.statuses, i.full = map[inventoryKey]*domain.Observation{}, 0, false
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
	newer := i.seen[key]
	if newer == nil && len(i.seen) >= maxInventory {
		return
	}
	i.boundStatus(&older)
	if newer != nil {
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

// add merges a observation.
func (i *Inventory) add(s domain.Observation) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.boundStatus(&s)
	key := inventoryKey{s.Tenant, s.OPA}
	if known := i.seen[key]; known != nil {
		known.Merge(s)
		return
	}
	if len(i.seen) >= maxInventory {
		if !i.full {
			i.full = true
			i.log.Warn("too many different OPA ids within a second; some are not listed", "limit", maxInventory)
		}
		return
	}
	i.seen[key] = &s
}

// labels are what an OPA says of itself, in events and in status reports.
type labels struct {
	ID      string `json:"id"`
	Version string `json:"version"`
}

// saw notes an upload that was acknowledged, once for every OPA in it.
func (i *Inventory) saw(u Upload, a Assembly) {
	if a.Receipt.Accepted+a.Receipt.Quarantined == 0 {
		return
	}
	if len(a.Senders) == 0 { // nothing was accepted, but something came
		a.Senders = []domain.Sender{{}}
	}
	seen := make(map[string]bool, 1)
	for _, from := range a.Senders {
		l := i.labelsOf(from.Labels)
		s := domain.Observation{
			Tenant: u.Tenant, OPA: domain.Name(l.ID), Version: domain.Name(cmp.Or(l.Version, u.Version)),
			First: u.ReceivedAt, Last: u.ReceivedAt, Events: int64(from.Events),
		}
		if !seen[s.OPA] {
			seen[s.OPA] = true
			s.Uploads = 1
		}
		i.add(s)
	}
}

// maxRead bounds the labels that are remembered, in number and in bytes of each.
const (
	maxRead      = 4096
	maxReadBytes = 1024
)

// labelsOf reads labels. Odd ones leave the OPA without a name.
func (i *Inventory) labelsOf(raw []byte) (l labels) {
	if raw == nil {
		return l
	}
	i.mu.Lock()
	l, known := i.read[string(raw)]
	i.mu.Unlock()
	if known {
		return l
	}
	_ = json.Unmarshal(raw, &l)
	if len(raw) > maxReadBytes {
		return l
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if len(i.read) >= maxRead {
		clear(i.read)
	}
	i.read[string(raw)] = l
	return l
}

// Status keeps the newest status report of an OPA. Content is never an error: a body that names no OPA, or is longer
// than 64 KiB, is not kept.
func (i *Inventory) Status(tenant, version string, body []byte, at time.Time) {
	var report struct {
		Labels labels `json:"labels"`
	}
	if len(body) > maxStatus || json.Unmarshal(body, &report) != nil || report.Labels.ID == "" {
		return
	}
	i.add(domain.Observation{
		Tenant: tenant, OPA: domain.Name(report.Labels.ID), Version: domain.Name(cmp.Or(report.Labels.Version, version)),
		Status: body, StatusAt: at,
	})
}
