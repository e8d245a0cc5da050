package operate

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/url"
	"slices"
	"time"

	"github.com/docket-project/docket/internal/access"
	"github.com/docket-project/docket/internal/domain"
)

// Codes of the messages that operate gives to jobs.
const (
	// Waiting: the job waits for a process to take it up.
	Waiting = "waiting"
	// NobodyWorks: the job waits, and no process that works on jobs is alive.
	NobodyWorks = "nobody_works_on_jobs"
	// WaitingFor: it waits for another one to end. Args: job.
	WaitingFor = "waiting_for"
	// WaitingForOthers: it waits for a job that its caller may not see.
	WaitingForOthers = "waiting_for_others"
	// NothingLeft: what fits the filter is in other states. Args: stored, replayed, discarded, open.
	NothingLeft = "nothing_left"
	// ReplayedTooOften: what fits was replayed as often as it may. Args: matched, max_replays.
	ReplayedTooOften = "replayed_too_often"
	// Canceled, Paused and Resumed: args caller.
	Canceled = "canceled"
	Paused   = "paused"
	Resumed  = "resumed"
)

// moved is what a move is called once it is done.
var moved = map[domain.JobMove]string{domain.Cancel: Canceled, domain.Pause: Paused, domain.Resume: Resumed}

// The bounds of what an operator may say.
const (
	// minRate is the slowest replay: below it a job would seem to stand still.
	minRate       = 0.1
	maxRate       = 1e6
	maxMaxReplays = 1000
)

// JobRequest asks for a job. What is nil has its default: a dry run, of what is open, as fast as it goes, of all.
type JobRequest struct {
	Kind       domain.JobKind
	Filter     map[string][]string // as the API's parameters; see domain.ParseJobFilter
	DryRun     *bool
	Rate       *float64
	Max        *int64
	MaxReplays *int
	StopRatio  *float64
	Comment    string
}

// CreateJob makes a job in the caller's name and for its tenants. Errors: a Refusal, and those of the store.
func (s *Service) CreateJob(ctx context.Context, caller domain.Caller, req JobRequest) (domain.Job, error) {
	if err := Allow(caller); err != nil {
		return domain.Job{}, err
	}
	if req.Kind == domain.Reindex { // it changes nothing that anybody could miss
		if len(req.Filter) > 0 {
			return domain.Job{}, refuse(Mistaken, ReindexFiltered, nil)
		}
		if !caller.Tenants.All() {
			return domain.Job{}, refuse(NotAllowed, ReindexScoped, nil)
		}
		req.DryRun = new(bool)
		if req.Comment == "" {
			req.Comment = string(domain.Reindex)
		}
	}
	j, err := req.job(caller, s.now())
	if err != nil {
		return j, err
	}
	if j.Kind == domain.Erase && caller.Role.Includes(access.Needs[access.Erase]) { // others are refused
		if err := s.order(ctx, &j); err != nil {
			return j, err
		}
	}
	if err := s.gate.Allow(ctx, caller, access.OfJob(req.Kind), req.resource(&j)); err != nil {
		return j, err
	}
	if j.DryRun {
		j.Erasure = nil
	}
	if j.Kind == domain.Replay || j.Kind == domain.Discard {
		if j.Matched, err = s.store.CountLettersOfJob(ctx, j); err != nil {
			return j, err
		}
		if j.Matched == 0 {
			if j.Message, err = s.nothingToDo(ctx, j); err != nil {
				return j, err
			}
			j.State, j.FinishedAt = domain.JobDone, j.CreatedAt
		}
	}
	if j.State == domain.JobPending {
		if j.Message, err = s.queued(ctx, j); err != nil {
			return j, err
		}
	}
	var entry domain.AuditEntry
	if !j.DryRun {
		entry = j.Audit("create", caller.Name, j.CreatedAt)
		if j.Erasure != nil {
			entry.Outcome = domain.Say(EraseOrdered, domain.Args{"subjects": domain.Subjects(j.Erasure.Subjects)})
		}
	}
	twin, err := s.store.CreateJob(ctx, j, entry)
	if err == nil && twin != "" {
		err = refuse(Conflicting, JobTwin, domain.Args{"job": twin})
	}
	return j, err
}

// resource is what a policy is told of a job that is to be made. That stands in docket's own decisions, and so does not
// name whom an erasure is about.
func (req JobRequest) resource(j *domain.Job) map[string]any {
	if j.Kind == domain.Erase {
		out := map[string]any{"dry_run": j.DryRun, "tenants": j.Tenants.Names(), "comment": j.Comment}
		if j.Erasure != nil {
			out["subjects"] = domain.Subjects(j.Erasure.Subjects)
		}
		return out
	}
	return map[string]any{
		"dry_run": j.DryRun, "filter": req.Filter, "rate": j.Rate, "max": j.Max, "max_replays": j.MaxReplays,
		"comment": j.Comment,
	}
}

// job makes a job of a request, without looking at the store.
func (req JobRequest) job(caller domain.Caller, now time.Time) (j domain.Job, err error) {
	var suffix [3]byte
	_, _ = rand.Read(suffix[:]) // it never fails
	j = domain.Job{
		ID: fmt.Sprintf("%c-%s-%x", req.Kind[0], now.UTC().Format("20060102-150405"), suffix), Kind: req.Kind,
		DryRun: req.DryRun == nil || *req.DryRun, Caller: caller.Name, Tenants: caller.Tenants,
		MaxReplays: domain.DefaultMaxReplays, StopRatio: domain.DefaultStopRatio, State: domain.JobPending,
		CreatedAt: now.UTC().Truncate(time.Microsecond),
	}
	values := url.Values{}
	for name, v := range req.Filter {
		values[name] = v
	}
	if values.Has("limit") || values.Has("cursor") {
		return j, refuse(Mistaken, FilterPaged, nil)
	}
	if !values.Has("state") && (j.Kind == domain.Replay || j.Kind == domain.Discard) {
		values.Set("state", string(domain.DeadOpen))
	}
	if j.Filter, err = domain.ParseJobFilter(j.Kind, values, now); err != nil {
		return j, refuse(Mistaken, FilterInvalid, domain.Args{"error": err.Error()})
	}
	if j.Kind == domain.Reproject && (req.Max != nil || req.MaxReplays != nil || req.StopRatio != nil) {
		return j, refuse(Mistaken, ReprojectBounded, nil)
	}
	if j.Kind == domain.Erase {
		if err := req.erasure(caller, &j); err != nil {
			return j, err
		}
	}
	if req.Rate != nil {
		if j.Rate = *req.Rate; !(j.Rate >= minRate && j.Rate <= maxRate) {
			return j, refuse(Mistaken, RateRange, domain.Args{"rate": j.Rate, "least": minRate})
		}
	}
	if req.Max != nil {
		if j.Max = *req.Max; j.Max < 1 {
			return j, refuse(Mistaken, MaxRange, domain.Args{"max": j.Max})
		}
	}
	if req.MaxReplays != nil {
		if j.MaxReplays = *req.MaxReplays; j.MaxReplays < 1 || j.MaxReplays > maxMaxReplays {
			return j, refuse(
				Mistaken, MaxReplaysRange, domain.Args{"max_replays": int64(j.MaxReplays), "most": int64(maxMaxReplays)},
			)
		}
	}
	if req.StopRatio != nil {
		if j.StopRatio = *req.StopRatio; !(j.StopRatio > 0 && j.StopRatio <= 1) {
			return j, refuse(Mistaken, StopRatioRange, domain.Args{"stop_ratio": j.StopRatio})
		}
	}
	if !j.DryRun || req.Comment != "" {
		j.Comment, err = comment(req.Comment)
	}
	return j, err
}

// queued says what a new job waits for: a process, or the last one in front of it in its lane.
func (s *Service) queued(ctx context.Context, j domain.Job) (domain.Message, error) {
	others, err := s.store.Jobs(ctx, domain.AllTenants()) // those of other tenants are in front as well
	if err != nil {
		return domain.Message{}, err
	}
	for _, o := range others { // the newest first
		if o.Kind.Lane(o.DryRun) != j.Kind.Lane(j.DryRun) || !o.State.Active() {
			continue
		}
		if !o.Tenants.Within(j.Tenants) {
			return domain.Say(WaitingForOthers, nil), nil
		}
		return domain.Say(WaitingFor, domain.Args{"job": o.ID}), nil
	}
	if all, err := s.store.Processes(ctx); err == nil && !slices.ContainsFunc(all, worksOnJobs) {
		return domain.Say(NobodyWorks, nil), nil
	}
	return domain.Say(Waiting, nil), nil
}

// worksOnJobs reports a process that takes up jobs.
func worksOnJobs(p domain.Process) bool {
	return p.Live() && (p.Role == "parking" || p.Role == "serve")
}

// nothingToDo says why a job has nothing to do.
func (s *Service) nothingToDo(ctx context.Context, j domain.Job) (domain.Message, error) {
	fits, err := s.store.CountDeadLetters(ctx, j.Tenants, j.Filter)
	if err != nil {
		return domain.Message{}, err
	}
	if n := fits[domain.DeadOpen] + fits[domain.DeadReplayed] + fits[domain.DeadDiscarded]; n > 0 &&
		j.Kind == domain.Replay {
		return domain.Say(ReplayedTooOften, domain.Args{"matched": n, "max_replays": int64(j.MaxReplays)}), nil
	}
	anyState := j.Filter
	anyState.Where = anyState.Where.Without(domain.FieldState)
	all, err := s.store.CountDeadLetters(ctx, j.Tenants, anyState)
	if err != nil {
		return domain.Message{}, err
	}
	args := domain.Args{}
	total := int64(0)
	for _, state := range domain.DeadStates {
		args[string(state)] = all[state]
		total += all[state]
	}
	if total == 0 {
		return domain.Say(domain.NothingMatches, nil), nil
	}
	return domain.Say(NothingLeft, args), nil
}

// Job finds a job. Errors: a Refusal where there is none in the scope, and those of the store.
func (s *Service) Job(ctx context.Context, scope domain.Scope, id string) (domain.Job, error) {
	j, found, err := s.store.Job(ctx, scope, id)
	if err == nil && !found {
		err = refuse(Absent, NoJob, domain.Args{"job": id})
	}
	return j, err
}

// Jobs lists the newest jobs.
func (s *Service) Jobs(ctx context.Context, scope domain.Scope) ([]domain.Job, error) {
	return s.store.Jobs(ctx, scope)
}

// MoveJob cancels, pauses or resumes a job. Errors: a Refusal, and those of the store.
func (s *Service) MoveJob(ctx context.Context, caller domain.Caller, id string, m domain.JobMove) (domain.Job, error) {
	if err := Allow(caller); err != nil {
		return domain.Job{}, err
	}
	j, err := s.Job(ctx, caller.Tenants, id)
	if err != nil {
		return j, err
	}
	about := map[string]any{"id": id, "kind": string(j.Kind), "dry_run": j.DryRun, "caller": j.Caller}
	if err := s.gate.Allow(ctx, caller, access.OfMove(m), about); err != nil {
		return j, err
	}
	if j.Kind == domain.Erase { // to cancel an order is as much as to give it
		if err := s.gate.Allow(ctx, caller, access.Erase, about); err != nil {
			return j, err
		}
	}
	now := s.now().UTC()
	message := domain.Say(moved[m], domain.Args{"caller": caller.Name})
	var entry domain.AuditEntry
	if !j.DryRun {
		entry = j.Audit(string(m), caller.Name, now)
		entry.Outcome = message
	}
	done, err := s.store.MoveJob(ctx, caller.Tenants, id, m, message, now, entry)
	if err != nil {
		return j, err
	}
	if j, err = s.Job(ctx, caller.Tenants, id); err != nil {
		return j, err
	}
	if !done {
		return j, refuse(Conflicting, JobState, domain.Args{"job": id, "state": string(j.State), "move": string(m)})
	}
	return j, nil
}
