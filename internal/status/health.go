package status

import (
	"errors"
	"sync"
	"time"

	"github.com/docket-project/docket/internal/domain"
)

// Codes of why a role is not well.
const (
	// Starting: docket is starting. The other codes of starting say what it waits for.
	Starting = "starting"
	// StartingLog: it verifies the embedded log.
	StartingLog = "starting_log"
	// StartingDatabase: it looks at the database.
	StartingDatabase = "starting_database"
	// StartingKafka: it waits for Kafka. Args: brokers.
	StartingKafka = "starting_kafka"
	// Stopping: it was told to stop.
	Stopping = "stopping"
	// LogRefuses: the log takes no records. Args: error.
	LogRefuses = "log_refuses"
	// RoleEnded: the role has ended by itself. Args: error.
	RoleEnded = "role_ended"
	// LogLost: the log turned out to have lost records. Args: topic.
	LogLost = "log_lost"
	// PartitionEnded: a partition cannot be read. Args: topic, partition, error.
	PartitionEnded = "partition_ended"
	// StoreRefuses: the store takes no rows. Args: error.
	StoreRefuses = "store_refuses"
	// StoreAway: the breaker is not closed. Args: breaker.
	StoreAway = "store_away"
	// RowsHeld: the store takes no rows of a day or tenant, and others. The role works on, so it is ready. Args: held_for,
	// error.
	RowsHeld = "rows_held"
	// DiskFills: the disk of the data directory is nearly full. Args: percent, refuses (uploads, from 95 % on), and
	// refusing (now).
	DiskFills = "disk_fills"
	// CallersUnknown: callers are refused whose credentials may be good. Args: listener, error, and refusing (them all).
	CallersUnknown = "callers_unknown"
	// GuardOn: the dead-letter guard is on. The role works on, so it is ready.
	GuardOn = "guard_on"
)

// Verdict is how a process is, in one word.
type Verdict string

// The verdicts.
const (
	OK Verdict = "OK"
	// Degraded is that anything is late or waits for a person, while uploads are taken.
	Degraded Verdict = "DEGRADED"
	// Down is that uploads are refused or, where none are taken, that the role does not do its work.
	Down Verdict = "DOWN"
)

// RoleHealth is how one role is. A role may be in trouble without unreadying the process.
type RoleHealth struct {
	Ready   bool
	Reasons []domain.Message
	// Details are figures for whoever asks for more; nil for roles without.
	Details map[string]any
}

// Report is how a process is.
type Report struct {
	Verdict Verdict
	Roles   map[Role]RoleHealth
}

// Ready reports whether whoever balances load may send requests here.
func (r Report) Ready() bool { return r.Verdict != Down }

// Store is what a process knows of its store. Ingest, which saves nothing, has none.
type Store struct {
	// Breaker is its state, closed, half-open or open, and how long until the next probe.
	Breaker func() (state string, nextProbe time.Duration)
	// Trouble is why the store took nothing when it was last asked, or nil.
	Trouble func() error
	// Guard says that the dead-letter guard is on.
	Guard func() bool
	// Troubles are the days and tenants whose rows the store, in good health, does not take; nil for a process that saves
	// nothing.
	Troubles func() []Trouble
	// Limit is how many batches may be at the store at once; nil for a process that saves nothing.
	Limit func() int
}

// Trouble is a day or a tenant whose rows are held.
type Trouble struct {
	HeldFor string
	Err     error
	Since   time.Time
}

// Health is what becomes of a process and its roles. It is safe for concurrent use.
type Health struct {
	role Role

	mu       sync.Mutex
	started  bool
	stopping bool
	phase    domain.Message
	ended    map[Role]error
	lost     *domain.Message
	disk     *domain.Message
	callers  map[Role]domain.Message
}

// NewHealth is the health of a process that starts.
func NewHealth(role Role) *Health {
	return &Health{
		role: role, phase: domain.Say(Starting, nil), ended: map[Role]error{}, callers: map[Role]domain.Message{},
	}
}

// Phase says what a process that starts waits for.
func (h *Health) Phase(m domain.Message) { h.change(func() { h.phase = m }) }

// Started says that the process serves, and Stopping that it ends.
func (h *Health) Started() { h.change(func() { h.started = true }) }

// Stopping says that the process was told to stop.
func (h *Health) Stopping() { h.change(func() { h.stopping = true }) }

// Ended says that a role has ended by itself.
func (h *Health) Ended(role Role, err error) { h.change(func() { h.ended[role] = err }) }

// Lost says that the log has lost something, or cannot be read on.
func (h *Health) Lost(m domain.Message) { h.change(func() { h.lost = &m }) }

// Disk says that the disk fills; nil that it has room.
func (h *Health) Disk(m *domain.Message) { h.change(func() { h.disk = m }) }

// Callers says that the listener of a role cannot know those who come; nil that it can.
func (h *Health) Callers(role Role, m *domain.Message) {
	h.change(func() {
		if delete(h.callers, role); m != nil {
			h.callers[role] = *m
		}
	})
}

func (h *Health) change(f func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f()
}

// Report speaks for the listeners: a process that takes uploads is ready whenever the log takes records, whatever the
// store does. The trouble of the other roles unreadies only a process without an upload listener. sampler is nil until
// there is a log.
func (h *Health) Report(sampler *Sampler, verbose bool) Report {
	r := Report{Verdict: OK, Roles: map[Role]RoleHealth{}}
	for _, role := range Roles {
		if !h.role.Is(role) {
			continue
		}
		health := h.of(role, sampler, verbose)
		r.Roles[role] = health
		switch {
		case !health.Ready && (role == Ingest || !h.role.Is(Ingest)):
			r.Verdict = Down
		case len(health.Reasons) > 0 && r.Verdict == OK:
			r.Verdict = Degraded
		}
	}
	return r
}

func (h *Health) of(role Role, sampler *Sampler, verbose bool) RoleHealth {
	h.mu.Lock()
	started, stopping, phase, ended, lost, disk := h.started, h.stopping, h.phase, h.ended[role], h.lost, h.disk
	callers, unknown := h.callers[role]
	h.mu.Unlock()
	if !started || sampler == nil {
		return RoleHealth{Reasons: []domain.Message{phase}}
	}
	reasons := []domain.Message{}
	say := func(code string, args domain.Args) { reasons = append(reasons, domain.Say(code, args)) }
	if role == Ingest || !h.role.Is(Ingest) { // of serve's roles, only ingest speaks for the process
		if stopping {
			say(Stopping, nil)
		}
		if err := sampler.Publishable(); errors.Is(err, errNotSampled) {
			say(Starting, nil) // nobody knows yet whether the log takes records
		} else if err != nil {
			say(LogRefuses, domain.Args{"error": err.Error()})
		}
	}
	if ended != nil {
		say(RoleEnded, domain.Args{"error": ended.Error()})
	}
	if role != Saver && role != Parking {
		out := RoleHealth{Ready: len(reasons) == 0}
		if disk != nil && role == Ingest {
			reasons = append(reasons, *disk)
		}
		if unknown {
			reasons = append(reasons, callers)
		}
		out.Reasons = reasons
		return out
	}
	if lost != nil {
		reasons = append(reasons, *lost)
	}
	if err := sampler.store.Trouble(); err != nil {
		say(StoreRefuses, domain.Args{"error": err.Error()})
	}
	breaker, nextProbe := sampler.store.Breaker()
	if breaker != "closed" {
		say(StoreAway, domain.Args{"breaker": breaker})
	}
	out := RoleHealth{Ready: len(reasons) == 0}
	if sampler.store.Guard() {
		say(GuardOn, nil)
	}
	if sampler.store.Troubles != nil {
		for _, t := range sampler.store.Troubles() {
			say(RowsHeld, domain.Args{"held_for": t.HeldFor, "error": t.Err.Error()})
		}
	}
	out.Reasons = reasons
	if verbose {
		b := sampler.Backlog(role)
		out.Details = map[string]any{
			"breaker":            breaker,
			"next_probe_seconds": nextProbe.Seconds(),
			"waiting":            b.Waiting(),
			"oldest_seconds":     Age(b.Oldest),
			"concurrency_limit":  sampler.store.Limit(),
		}
	}
	return out
}
