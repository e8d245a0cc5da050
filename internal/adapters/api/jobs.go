package api

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"time"

	"github.com/docket-project/docket/internal/deadletter"
	"github.com/docket-project/docket/internal/domain"
)

// Texts is one text or several, as a filter in JSON spells what a query string repeats.
type Texts []string

// UnmarshalJSON reads a string or an array of strings.
func (t *Texts) UnmarshalJSON(b []byte) error {
	var one string
	if json.Unmarshal(b, &one) == nil {
		*t = Texts{one}
		return nil
	}
	var many []string
	if err := json.Unmarshal(b, &many); err != nil || len(many) == 0 {
		return fmt.Errorf(
			"a filter's values are strings or arrays of strings, at least one, and not %.40s: an empty one would choose "+
				"everything",
			b,
		)
	}
	*t = many
	return nil
}

// JobRequest asks for a job.
type JobRequest struct {
	Filter     map[string]Texts `json:"filter,omitempty"`
	DryRun     *bool            `json:"dry_run,omitempty"`
	Rate       *float64         `json:"rate,omitempty"`
	Max        *int64           `json:"max,omitempty"`
	MaxReplays *int             `json:"max_replays,omitempty"`
	StopRatio  *float64         `json:"stop_ratio,omitempty"`
	Comment    string           `json:"comment,omitempty"`
}

// Job is a job.
type Job struct {
	ID         string          `json:"id"`
	Kind       domain.JobKind  `json:"kind"`
	DryRun     bool            `json:"dry_run"`
	State      domain.JobState `json:"state"`
	Code       string          `json:"code"`
	Args       domain.Args     `json:"args"`
	Message    string          `json:"message"`
	Filter     url.Values      `json:"filter"`
	Tenants    []string        `json:"tenants"`
	Rate       *float64        `json:"rate"`
	Max        *int64          `json:"max"`
	MaxReplays int             `json:"max_replays"`
	StopRatio  float64         `json:"stop_ratio"`
	Comment    Text            `json:"comment"`
	Caller     string          `json:"caller"`
	Matched    int64           `json:"matched"`
	Done       int64           `json:"done"`
	Stored     int64           `json:"stored"`
	Failed     int64           `json:"failed"`
	Reparsed   int64           `json:"reparsed"`
	Skipped    int64           `json:"skipped"`
	OnTheWay   int64           `json:"on_the_way"`
	CreatedAt  Instant         `json:"created_at"`
	StartedAt  Instant         `json:"started_at"`
	FinishedAt Instant         `json:"finished_at"`
	Report     *DryRunReport   `json:"report"`
}

// DryRunReport is what a dry run found.
type DryRunReport struct {
	Verdict   string          `json:"verdict"`
	Histogram []Tally         `json:"histogram"`
	Tried     int             `json:"tried"`
	Of        int64           `json:"of"`
	Statuses  map[string]int  `json:"statuses"`
	Failures  []DryRunFailure `json:"failures"`
	Bodies    int             `json:"bodies"`
	Events    int             `json:"events"`
	Broken    int             `json:"broken"`
	Gone      int             `json:"gone"`
	Rows      int64           `json:"rows"`
	Changed   int64           `json:"changed"`
	Changes   []Change        `json:"changes"`
	Letters   int64           `json:"letters"`
	Unclear   int64           `json:"unclear"`
	Expiries  []Expiry        `json:"expiries"`
}

// Expiry is when a topic keeps nothing any more of what it has; null is never.
type Expiry struct {
	Topic string  `json:"topic"`
	At    Instant `json:"at"`
}

// Change is something that a reprojection changes.
type Change struct {
	Path   string `json:"path"`
	Column string `json:"column"`
	From   string `json:"from"`
	To     string `json:"to"`
	Rows   int64  `json:"rows"`
	Sample string `json:"sample"`
}

// Tally counts dead letters of one kind.
type Tally struct {
	Cause   domain.Cause `json:"cause"`
	Path    string       `json:"path"`
	Class   domain.Class `json:"class"`
	Code    string       `json:"code"`
	Error   string       `json:"error"`
	Letters int64        `json:"letters"`
}

// DryRunFailure is one way to fail.
type DryRunFailure struct {
	Fingerprint string       `json:"fingerprint"`
	Class       domain.Class `json:"class"`
	Code        string       `json:"code"`
	Error       string       `json:"error"`
	Path        string       `json:"path"`
	Letters     int          `json:"letters"`
	Sample      string       `json:"sample"`
}

// OwnerGone is the code of a job whose process has not been heard of for its lease.
const OwnerGone = "owner_gone"

// JobOf is a job at a time.
func JobOf(j domain.Job, now time.Time) Job {
	if j.Kind == domain.Erase { // who sees jobs need not know whom it is about
		j.Filter = domain.Filter{}
	}
	if j.State == domain.JobRunning && j.LeaseUntil.Before(now) {
		j.Message = domain.Say(OwnerGone, nil)
	}
	out := Job{
		ID: j.ID, Kind: j.Kind, DryRun: j.DryRun, State: j.State, Code: j.Message.Code, Args: j.Message.Args,
		Message: Word(j.Message), Filter: paramsOf(j.Filter), Tenants: tenantsOf(j.Tenants), MaxReplays: j.MaxReplays,
		StopRatio: j.StopRatio, Comment: Text(j.Comment), Caller: j.Caller, Matched: j.Matched, Done: j.Done,
		Stored: j.Stored, Failed: j.Failed, Reparsed: j.Reparsed, Skipped: j.Skipped, CreatedAt: At(j.CreatedAt),
		StartedAt: At(j.StartedAt), FinishedAt: At(j.FinishedAt), Report: reportOf(j.Report),
	}
	if out.Args == nil {
		out.Args = domain.Args{}
	}
	if out.Code == deadletter.ReplayDone || out.Code == deadletter.ReplayStopped {
		// What came back after the job had ended is counted, too: what it says agrees with its numbers.
		out.Args = maps.Clone(out.Args)
		for name, n := range map[string]int64{
			"done": j.Done, "stored": j.Stored, "failed": j.Failed, "reparsed": j.Reparsed, "on_the_way": j.OnTheWay(),
			"skipped": j.Skipped,
		} {
			if _, known := out.Args[name]; known {
				out.Args[name] = n
			}
		}
		out.Message = Word(domain.Say(out.Code, out.Args))
	}
	if j.Kind == domain.Replay {
		out.OnTheWay = j.OnTheWay()
	}
	if j.Rate > 0 {
		out.Rate = &j.Rate
	}
	if j.Max > 0 {
		out.Max = &j.Max
	}
	return out
}

// Rests reports that nothing more happens to the job without an operator.
func (j Job) Rests() bool { return !j.State.Active() }

// paramsOf is a filter by its parameters; empty for one that parameters cannot say.
func paramsOf(f domain.Filter) url.Values {
	values, ok := f.Params()
	if !ok {
		return url.Values{}
	}
	return values
}

// tenantsOf lists the tenants of a scope; null for all.
func tenantsOf(s domain.Scope) []string {
	if names := s.Names(); names != nil || s.All() {
		return names
	}
	return []string{}
}

func reportOf(r *domain.DryRunReport) *DryRunReport {
	if r == nil {
		return nil
	}
	out := &DryRunReport{
		Verdict: r.Verdict, Histogram: ItemsOf(r.Histogram, func(t domain.Tally) Tally { return Tally(t) }).Items,
		Tried: r.Tried, Of: r.Of, Statuses: map[string]int{},
		Failures: ItemsOf(r.Failures, func(f domain.DryRunFailure) DryRunFailure { return DryRunFailure(f) }).Items,
		Bodies:   r.Bodies, Events: r.Events, Broken: r.Broken, Gone: r.Gone, Rows: r.Rows, Changed: r.Changed,
		Changes: ItemsOf(r.Changes, func(c domain.Change) Change { return Change(c) }).Items,
		Letters: r.Letters, Unclear: r.Unclear,
		Expiries: ItemsOf(r.Expiries, func(e domain.Expiry) Expiry { return Expiry{e.Topic, At(e.At)} }).Items,
	}
	for status, n := range r.Statuses {
		out.Statuses[string(status)] = n
	}
	return out
}

// AuditEntry is an entry of the audit.
type AuditEntry struct {
	At      Instant  `json:"at"`
	Caller  string   `json:"caller"`
	Tenants []string `json:"tenants"`
	Action  string   `json:"action"`
	Target  string   `json:"target"`
	Filter  string   `json:"filter"`
	Matched int64    `json:"matched"`
	Done    int64    `json:"done"`
	Failed  int64    `json:"failed"`
	Comment string   `json:"comment"`
	Outcome string   `json:"outcome"`
}

// AuditEntryOf is an entry. Its filter is spelled as a query string.
func AuditEntryOf(e domain.AuditEntry) AuditEntry {
	return AuditEntry{
		At: At(e.At), Caller: e.Caller, Tenants: tenantsOf(e.Tenants), Action: e.Action, Target: e.Target,
		Filter: paramsOf(e.Filter).Encode(), Matched: e.Matched, Done: e.Done, Failed: e.Failed, Comment: e.Comment,
		Outcome: Word(e.Outcome),
	}
}
