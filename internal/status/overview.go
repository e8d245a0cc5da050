package status

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/ports"
)

// Codes of what is not well with all of docket's processes together. Those of a single process are among them.
const (
	// LogSilent: the log does not answer, so figures are those of before. Args: seconds.
	LogSilent = "log_silent"
	// StoreSilent: the store does not answer, so nobody knows of the other processes. Args: error.
	StoreSilent = "store_silent"
	// RoleMissing: no process of a role lives. Args: role and, where one was heard of within a day, host and seconds.
	RoleMissing = "process_missing"
	// RoleIdle: a role does not consume. Args: role, waiting.
	RoleIdle = "role_idle"
	// Late: records wait for longer than a minute. Args: stage, waiting, seconds; and left_seconds while they get fewer.
	Late = "late"
	// HeldRecords: rows that the store, in good health, does not take. Args: records.
	HeldRecords = "held_records"
	// DeadOpen: dead letters that nobody has dealt with. Args: open, new_last_hour.
	DeadOpen = "dead_letters_open"
	// OPAsSilent: applications of which no OPA is heard any more. Args: opas, apps.
	OPAsSilent = "opas_silent"
)

const (
	// lookEvery is how often the overview is renewed, so that it knows since when something is so.
	lookEvery = 5 * time.Second
	// lookTimeout bounds what the store is asked for it.
	lookTimeout = 2 * time.Second
	// lateAfter is how old the oldest record that waits may be, and idleAfter how long a role may do nothing about it.
	lateAfter = time.Minute
	idleAfter = domain.ProcessStale
)

// Reason is something that is not well.
type Reason struct {
	domain.Message
	Since time.Time
	// Down says that uploads are refused because of it.
	Down bool
}

// Overview is how docket is, over all of its processes.
type Overview struct {
	Verdict  Verdict
	Reasons  []Reason
	Pipeline Pipeline
	Roles    []RoleOverview
	// OPAs and DeadNew are nil where the store does not answer.
	OPAs    *domain.OPAGroup
	DeadNew *int64
}

// RoleOverview is a role over all processes that have it.
type RoleOverview struct {
	Role Role
	// Live counts processes, and Ready those of them that do their work. Seen is when one was heard of last.
	Live, Ready int
	Seen        time.Time
	Trouble     []domain.Message
	age         time.Duration
	host        string
	refusing    int // processes that take no uploads although they are ready
}

// OverviewStore is what the overview asks of the store.
type OverviewStore interface {
	Processes(ctx context.Context) ([]domain.Process, error)
	OPAGroups(ctx context.Context, scope domain.Scope, at time.Time) ([]domain.OPAGroup, error)
	CountDeadLetters(ctx context.Context, scope domain.Scope, f domain.Filter) (map[domain.DeadState]int64, error)
}

var _ OverviewStore = ports.Control(nil)

// Watch looks at all of docket from one process. It is safe for concurrent use.
type Watch struct {
	Store   OverviewStore
	Sampler *Sampler
	// Heart is this process's own, which is known also while the store is away.
	Heart *Heart

	mu    sync.Mutex
	since map[string]time.Time
	seen  map[Role]time.Time
}

// SinceSeen is how many seconds ago a process of a role was heard of; +Inf for never.
func (w *Watch) SinceSeen(role Role) float64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.seen[role].IsZero() {
		return math.Inf(1)
	}
	return Age(w.seen[role])
}

// Run looks until ctx is done.
func (w *Watch) Run(ctx context.Context) {
	w.mu.Lock()
	w.seen = map[Role]time.Time{}
	w.mu.Unlock()
	every(ctx, lookEvery, func(ctx context.Context) {
		o := w.look(ctx, domain.AllTenants())
		w.mu.Lock()
		defer w.mu.Unlock()
		w.since = w.known(o.Reasons)
		for _, r := range o.Roles {
			if !r.Seen.IsZero() {
				w.seen[r.Role] = time.Now().Add(-r.age)
			}
		}
	})
}

// Look is the overview for a caller.
func (w *Watch) Look(ctx context.Context, scope domain.Scope) Overview {
	o := w.look(ctx, scope)
	w.mu.Lock()
	defer w.mu.Unlock()
	since := w.known(o.Reasons)
	for i, r := range o.Reasons {
		o.Reasons[i].Since = since[keyOf(r)]
	}
	return o
}

// known is since when reasons are so: now, of those that are new.
func (w *Watch) known(reasons []Reason) map[string]time.Time {
	out := map[string]time.Time{}
	for _, r := range reasons {
		key := keyOf(r)
		if out[key] = w.since[key]; out[key].IsZero() {
			out[key] = time.Now().UTC()
		}
	}
	return out
}

// keyOf tells reasons apart, whatever their figures are.
func keyOf(r Reason) string {
	parts := []string{r.Code}
	for _, name := range []string{"role", "stage", "held_for", "topic", "partition"} {
		if v, ok := r.Args[name]; ok {
			parts = append(parts, fmt.Sprint(v))
		}
	}
	return strings.Join(parts, "/")
}

// overview is an Overview under construction.
type overview struct {
	Overview
	storeKnown bool // the store has answered
	storeWell  bool // and takes rows, as far as this process knows
	away       bool // its breaker is not closed
}

func (o *overview) say(down bool, code string, args domain.Args) {
	r := Reason{Message: domain.Say(code, args), Down: down}
	i := slices.IndexFunc(o.Reasons, func(other Reason) bool { return keyOf(other) == keyOf(r) })
	if i < 0 {
		o.Reasons = append(o.Reasons, r)
		return
	}
	o.Reasons[i].Down = o.Reasons[i].Down || down
}

func (w *Watch) look(ctx context.Context, scope domain.Scope) Overview {
	o := &overview{Overview: Overview{Pipeline: w.Sampler.Pipeline(ctx)}}
	ask, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	processes, err := w.Store.Processes(ask)
	o.storeKnown = err == nil
	o.storeWell = o.storeKnown && o.Pipeline.Breaker == "closed" && w.Sampler.store.Trouble() == nil
	w.log(o)
	w.store(o, err)
	o.processes(append([]domain.Process{w.Heart.now()}, slices.DeleteFunc(processes, func(p domain.Process) bool {
		return p.Name == w.Heart.Self.Name
	})...))
	o.stages()
	if o.Pipeline.Guard {
		o.say(false, GuardOn, nil)
	}
	if o.storeKnown {
		w.people(ask, o, scope)
	}
	o.Verdict = OK
	slices.SortStableFunc(o.Reasons, func(a, b Reason) int { return cmp.Compare(rank(b), rank(a)) })
	if len(o.Reasons) > 0 {
		if o.Verdict = Degraded; o.Reasons[0].Down {
			o.Verdict = Down
		}
	}
	return o.Overview
}

// rank puts first what uploads are refused for.
func rank(r Reason) int {
	if r.Down {
		return 1
	}
	return 0
}

// log says whether the log answers and takes records.
func (w *Watch) log(o *overview) {
	if err := w.Sampler.Publishable(); err != nil && !errors.Is(err, errNotSampled) { // a process that starts says so
		o.say(true, LogRefuses, domain.Args{"error": err.Error()})
	}
	if o.Pipeline.Stale {
		args := domain.Args{}
		if !o.Pipeline.SampledAt.IsZero() {
			args["seconds"] = int64(Age(o.Pipeline.SampledAt))
		}
		o.say(false, LogSilent, args)
	}
}

// store says whether the store answers and takes rows, as this process knows it.
func (w *Watch) store(o *overview, err error) {
	trouble := w.Sampler.store.Trouble()
	if o.away = o.Pipeline.Breaker != "closed"; o.away {
		args := domain.Args{"breaker": o.Pipeline.Breaker}
		if trouble != nil && domain.ClassOf(trouble) == domain.Unavailable {
			args["error"] = trouble.Error()
		}
		o.say(false, StoreAway, args)
	}
	switch {
	case trouble != nil && (!o.away || domain.ClassOf(trouble) != domain.Unavailable):
		o.say(false, StoreRefuses, domain.Args{"error": trouble.Error()})
	case err != nil && !o.away:
		o.say(false, StoreSilent, domain.Args{"error": err.Error()})
	}
}

// processes says which roles nobody has, and what is not well with those that live. Of a store that does not answer
// only the process itself is known.
func (o *overview) processes(all []domain.Process) {
	for _, role := range Roles {
		r := RoleOverview{Role: role}
		var passing []domain.Message
		for _, p := range all {
			if !Role(p.Role).Is(role) {
				continue
			}
			if r.host == "" {
				r.Seen, r.age, r.host = p.Seen, p.Age, p.Host
			}
			if !p.Live() {
				continue
			}
			r.Live++
			if p.Ready {
				r.Ready++
			}
			if slices.ContainsFunc(p.Trouble[string(role)], refusing) {
				r.refusing++
			}
			for _, m := range p.Trouble[string(role)] {
				if slices.Contains(comingOrGoing, m.Code) {
					passing = append(passing, m)
				} else {
					r.Trouble = append(r.Trouble, m)
				}
			}
		}
		if r.Ready == 0 {
			r.Trouble = append(r.Trouble, passing...)
		}
		if r.Live == 0 && !o.storeKnown {
			continue // nobody knows
		}
		o.Roles = append(o.Roles, r)
		o.role(r)
	}
}

// refusing reports a trouble for which uploads are refused.
func refusing(m domain.Message) bool { return fmt.Sprint(m.Args["refusing"]) == "true" }

// comingOrGoing are the codes of a process that others stand in for, if there are any.
var comingOrGoing = []string{Starting, StartingLog, StartingDatabase, StartingKafka, Stopping}

// role says what is not well with a role.
func (o *overview) role(r RoleOverview) {
	if r.Live == 0 {
		args := domain.Args{"role": string(r.Role)}
		if r.host != "" {
			args["host"], args["seconds"] = r.host, int64(r.age.Seconds())
		}
		o.say(r.Role == Ingest, RoleMissing, args)
		return
	}
	for _, m := range r.Trouble {
		if m.Code == StoreRefuses && o.away {
			continue // it is said that the store is away, or why this process thinks that it refuses
		}
		args := domain.Args{}
		for name, v := range m.Args {
			args[name] = v
		}
		if m.Code == RoleEnded || slices.Contains(comingOrGoing, m.Code) {
			args["role"] = string(r.Role)
		}
		o.say(r.Role == Ingest && r.Ready <= r.refusing, m.Code, args)
	}
}

// stages says what waits for too long, and who does nothing about it.
func (o *overview) stages() {
	for _, s := range o.Pipeline.Stages {
		if s.Waiting == 0 {
			continue
		}
		age := time.Duration(Age(s.Oldest) * float64(time.Second))
		if s.Name == HeldStage {
			o.say(false, HeldRecords, domain.Args{"records": s.Waiting})
			continue
		}
		// Parked records wait for the store where they are; a saver parks while it is away.
		waitsForStore := s.Role == Parking && !o.storeWell
		if age > idleAfter && s.Out == 0 && s.Moved && !o.Pipeline.Stale && !waitsForStore && !o.missing(s.Role) {
			o.say(false, RoleIdle, domain.Args{"role": string(s.Role), "waiting": s.Waiting})
		}
		if age <= lateAfter {
			continue
		}
		args := domain.Args{"stage": s.Name, "waiting": s.Waiting, "seconds": int64(age.Seconds())}
		if fewer := s.Out - s.In; fewer > 0 {
			args["left_seconds"] = int64(float64(s.Waiting) / fewer)
		}
		o.say(false, Late, args)
	}
}

// missing reports that it was said already that nobody has a role.
func (o *overview) missing(role Role) bool {
	return slices.ContainsFunc(o.Reasons, func(r Reason) bool {
		return r.Code == RoleMissing && r.Args["role"] == string(role)
	})
}

// people says what waits for one: dead letters, and applications that have gone silent.
func (w *Watch) people(ctx context.Context, o *overview, scope domain.Scope) {
	now := time.Now()
	open := domain.Equals(domain.FieldState, string(domain.DeadOpen))
	all, err := w.Store.CountDeadLetters(ctx, scope, domain.Filter{Where: open})
	if err == nil {
		o.Pipeline.DeadLettersOpen = all[domain.DeadOpen]
		var fresh map[domain.DeadState]int64
		fresh, err = w.Store.CountDeadLetters(ctx, scope, domain.Filter{Where: open, Since: now.Add(-time.Hour)})
		if n := fresh[domain.DeadOpen]; err == nil {
			o.DeadNew = &n
			if o.Pipeline.DeadLettersOpen > 0 {
				o.say(false, DeadOpen, domain.Args{"open": o.Pipeline.DeadLettersOpen, "new_last_hour": n})
			}
		}
	}
	groups, err := w.Store.OPAGroups(ctx, scope, now)
	if err != nil {
		return
	}
	o.OPAs = &domain.OPAGroup{}
	silent, apps := int64(0), []string{}
	for _, g := range groups {
		o.OPAs.Live, o.OPAs.Silent, o.OPAs.Gone = o.OPAs.Live+g.Live, o.OPAs.Silent+g.Silent, o.OPAs.Gone+g.Gone
		if g.Live == 0 && g.Silent > 0 { // of an app with others that live, it was a pod that ended
			silent += g.Silent
			apps = append(apps, cmp.Or(g.App, "without labels.app"))
		}
	}
	if silent > 0 {
		const most = 5
		if more := len(apps) - most; more > 0 {
			apps = append(apps[:most], fmt.Sprintf("%d more", more))
		}
		o.say(false, OPAsSilent, domain.Args{"opas": silent, "apps": strings.Join(apps, ", ")})
	}
}
