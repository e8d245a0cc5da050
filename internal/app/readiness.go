package app

import "github.com/docket-project/docket/internal/adapters/httpapi"

// readiness speaks for the listeners: a process that takes uploads is ready whenever the log takes records, whatever the
// store does. The trouble of the other roles unreadies only a process without an upload listener.
func (a *App) readiness(verbose bool) httpapi.Readiness {
	r := httpapi.Readiness{Ready: true, Roles: map[string]httpapi.RoleReadiness{}}
	for _, role := range []Role{Ingest, Saver, Parking, Console} {
		if !a.role.is(role) {
			continue
		}
		status := a.roleReadiness(role, verbose)
		r.Roles[string(role)] = status
		if !status.Ready && (role == Ingest || !a.role.is(Ingest)) {
			r.Ready = false
		}
	}
	return r
}

func (a *App) roleReadiness(role Role, verbose bool) httpapi.RoleReadiness {
	a.mu.Lock()
	phase, trouble, lost := a.phase, a.trouble[role], a.lost
	a.mu.Unlock()
	if !a.started.Load() {
		return httpapi.RoleReadiness{Reasons: []string{phase}}
	}
	reasons := []string{}
	if role == Ingest || !a.role.is(Ingest) { // of serve's roles, only ingest speaks for the process
		if a.stopping.Load() {
			reasons = append(reasons, "stopping")
		}
		if err := a.pipeline.publishable(); err != nil {
			reasons = append(reasons, "the log takes no records: "+err.Error())
		}
	}
	if trouble != nil {
		reasons = append(reasons, trouble.Error())
	}
	status := func() httpapi.RoleReadiness {
		return httpapi.RoleReadiness{Ready: len(reasons) == 0, Reasons: reasons}
	}
	if role != Saver && role != Parking {
		return status()
	}
	if lost != "" {
		reasons = append(reasons, lost)
	}
	if err := a.pipeline.breaker.Trouble(); err != nil {
		reasons = append(reasons, "the store takes no rows: "+err.Error())
	}
	state, nextProbe := a.pipeline.breaker.State()
	if state != "closed" {
		reasons = append(reasons, "the store is away: breaker "+state)
	}
	r := status()
	if a.pipeline.flood.Stopping() { // it works on, so it is ready
		r.Reasons = append(r.Reasons, "flood stop: blamed rows are parked instead of dead-lettered; docket flood tells which")
	}
	if verbose {
		topic := a.topics.Decisions
		if role == Parking {
			topic = a.topics.Parking
		}
		b := a.pipeline.last(topic)
		r.Details = map[string]any{
			"breaker": state, "next_probe_seconds": nextProbe.Seconds(), "waiting": b.Waiting(), "oldest_seconds": age(b.Oldest),
			"concurrency_limit": a.writer.Limit(),
		}
	}
	return r
}
