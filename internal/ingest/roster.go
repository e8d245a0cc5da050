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
	// maxRoster bounds the OPAs remembered between two reports, so that invented ids cost no memory.
	maxRoster = 10_000
	// maxStatus is the longest status body that is kept, and maxStatuses the most of all bodies between two reports.
	maxStatus   = 64 << 10
	maxStatuses = 16 << 20
	// reportEvery is how stale the store's picture may be.
	reportEvery = time.Second
)

// Roster remembers which OPAs uploaded since the last report, and reports to the store. The store being away costs
// nothing but freshness: sightings add up until it is back. They are figures for people; a kill loses the last second.
type Roster struct {
	store ports.OPARegistry
	log   *slog.Logger

	mu       sync.Mutex
	seen     map[rosterKey]*domain.Sighting
	statuses int // bytes
	full     bool
	read     map[string]labels // by their JSON: an OPA sends the same ones with every event
}

type rosterKey struct{ tenant, opa string }

// NewRoster makes an empty roster that reports to store.
func NewRoster(store ports.OPARegistry, log *slog.Logger) *Roster {
	return &Roster{store: store, log: log, seen: map[rosterKey]*domain.Sighting{}, read: map[string]labels{}}
}

// Run reports until ctx is done, and once more then.
func (r *Roster) Run(ctx context.Context) {
	tick := time.NewTicker(reportEvery)
	defer tick.Stop()
	for failing := false; ; {
		done := ctx.Err() != nil
		report, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
		err := r.report(report)
		cancel()
		if err != nil && !failing {
			r.log.Warn("the list of OPAs was not updated; it is tried again every second", "error", err)
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
func (r *Roster) report(ctx context.Context) error {
	r.mu.Lock()
	if len(r.seen) == 0 {
		r.mu.Unlock()
		return nil
	}
	taken := r.seen
	r.seen, r.statuses, r.full = map[rosterKey]*domain.Sighting{}, 0, false
	r.mu.Unlock()

	sightings := make([]domain.Sighting, 0, len(taken))
	for _, s := range taken {
		sightings = append(sightings, *s)
	}
	err := r.store.RecordOPAs(ctx, sightings)
	if err != nil {
		for _, older := range sightings {
			r.restore(older)
		}
	}
	return err
}

// restore puts an older sighting back beneath what was seen since.
func (r *Roster) restore(older domain.Sighting) {
	r.mu.Lock()
	defer r.mu.Unlock()
	key := rosterKey{older.Tenant, older.OPA}
	newer := r.seen[key]
	if newer == nil && len(r.seen) >= maxRoster {
		return
	}
	r.boundStatus(&older)
	if newer != nil {
		older.Merge(*newer)
	}
	r.seen[key] = &older
}

// boundStatus drops a status body that there is no room for.
func (r *Roster) boundStatus(s *domain.Sighting) {
	if r.statuses+len(s.Status) > maxStatuses {
		s.Status, s.StatusAt = nil, time.Time{}
	}
	r.statuses += len(s.Status)
}

// add merges a sighting.
func (r *Roster) add(s domain.Sighting) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.boundStatus(&s)
	key := rosterKey{s.Tenant, s.OPA}
	if known := r.seen[key]; known != nil {
		known.Merge(s)
		return
	}
	if len(r.seen) >= maxRoster {
		if !r.full {
			r.full = true
			r.log.Warn("too many different OPA ids within a second; some are not listed", "limit", maxRoster)
		}
		return
	}
	r.seen[key] = &s
}

// labels are what an OPA says of itself, in events and in status reports.
type labels struct {
	ID      string `json:"id"`
	Version string `json:"version"`
}

// saw notes an upload that was acknowledged, once for every OPA in it.
func (r *Roster) saw(u Upload, batch domain.Batch, receipt Receipt) {
	if receipt.Accepted+receipt.Quarantined == 0 {
		return
	}
	if len(batch.Senders) == 0 { // nothing was accepted, but something came
		batch.Senders = []domain.Sender{{}}
	}
	seen := make(map[string]bool, 1)
	for _, from := range batch.Senders {
		l := r.labelsOf(from.Labels)
		s := domain.Sighting{
			Tenant: u.Tenant, OPA: domain.Name(l.ID), Version: domain.Name(cmp.Or(l.Version, u.Version)),
			First: u.ReceivedAt, Last: u.ReceivedAt, Events: int64(from.Events),
		}
		if !seen[s.OPA] {
			seen[s.OPA] = true
			s.Uploads = 1
		}
		r.add(s)
	}
}

// maxRead bounds the labels that are remembered, in number and in bytes of each.
const (
	maxRead      = 4096
	maxReadBytes = 1024
)

// labelsOf reads labels. Odd ones leave the OPA without a name.
func (r *Roster) labelsOf(raw []byte) (l labels) {
	if raw == nil {
		return l
	}
	r.mu.Lock()
	l, known := r.read[string(raw)]
	r.mu.Unlock()
	if known {
		return l
	}
	_ = json.Unmarshal(raw, &l)
	if len(raw) > maxReadBytes {
		return l
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.read) >= maxRead {
		clear(r.read)
	}
	r.read[string(raw)] = l
	return l
}

// Status keeps the newest status report of an OPA. Content is never an error: a body that names no OPA, or is longer
// than 64 KiB, is not kept.
func (r *Roster) Status(tenant, version string, body []byte, at time.Time) {
	var report struct {
		Labels labels `json:"labels"`
	}
	if len(body) > maxStatus || json.Unmarshal(body, &report) != nil || report.Labels.ID == "" {
		return
	}
	r.add(domain.Sighting{
		Tenant: tenant, OPA: domain.Name(report.Labels.ID), Version: domain.Name(cmp.Or(report.Labels.Version, version)),
		Status: body, StatusAt: at,
	})
}
