package domain

import (
	"slices"
	"strings"
	"time"
)

// JobKind is what a job does.
type JobKind string

// The kinds of jobs.
const (
	// Replay sends dead letters on their way again, through the parking topic.
	Replay JobKind = "replay"
	// Discard closes dead letters for good; nothing is deleted from the log.
	Discard JobKind = "discard"
	// Reindex reads the dead-letter topics into the index again.
	Reindex JobKind = "reindex"
	// Reproject computes the columns of stored decisions anew; their bytes stay.
	Reproject JobKind = "reproject"
	// Erase removes what is kept about a principal, and keeps what is on its way from being stored.
	Erase JobKind = "erase"
)

// Lane is what jobs wait in: those of one lane are worked on one at a time, in the order in which they were made.
type Lane string

// The lanes.
const (
	// DryRuns only look, and wait for each other only.
	DryRuns Lane = "dry_runs"
	// DeadLetterJobs change dead letters.
	DeadLetterJobs Lane = "dead_letters"
	// DecisionJobs change stored decisions.
	DecisionJobs Lane = "decisions"
	// ErasureJobs erase, or look what they would. No process of a version that does not know them takes them up.
	ErasureJobs Lane = "erasures"
)

// Lane is what a job of this kind waits in.
func (k JobKind) Lane(dryRun bool) Lane {
	if k == Erase {
		return ErasureJobs
	}
	if dryRun {
		return DryRuns
	}
	switch k {
	case Replay, Discard, Reindex:
		return DeadLetterJobs
	case Reproject:
		return DecisionJobs
	case Erase:
	}
	return "" // nobody works on it
}

// OfDecisions reports a kind whose filter chooses decisions; the others choose dead letters.
func (k JobKind) OfDecisions() bool { return k == Reproject || k == Erase }

// Fields are what the filter of a job of this kind may name.
func (k JobKind) Fields() []FieldInfo {
	if k.OfDecisions() {
		return DecisionFields
	}
	return DeadLetterFields
}

// JobState is how far a job is.
type JobState string

// The states of a job. A process that has time takes up pending and running ones, also after a crash.
const (
	JobPending JobState = "pending"
	JobRunning JobState = "running"
	// JobPaused waits for an operator.
	JobPaused JobState = "paused"
	// JobStopped has stopped itself, because too much of it failed; an operator may resume it.
	JobStopped  JobState = "stopped"
	JobCanceled JobState = "canceled"
	JobFailed   JobState = "failed"
	JobDone     JobState = "done"
)

// JobStates lists every state.
var JobStates = []JobState{JobPending, JobRunning, JobPaused, JobStopped, JobCanceled, JobFailed, JobDone}

// Active reports that a process works on the job, or will without an operator.
func (s JobState) Active() bool { return s == JobPending || s == JobRunning }

// Over reports that nothing more will happen to the job.
func (s JobState) Over() bool { return s == JobCanceled || s == JobFailed || s == JobDone }

// JobStatesThat lists the states that fit, as the stores' statements name them.
func JobStatesThat(fit func(JobState) bool) []JobState {
	return slices.DeleteFunc(slices.Clone(JobStates), func(s JobState) bool { return !fit(s) })
}

// JobMove is what an operator may do to a job.
type JobMove string

// The moves.
const (
	Cancel JobMove = "cancel"
	Pause  JobMove = "pause"
	Resume JobMove = "resume"
)

// JobMoves lists every move.
var JobMoves = []JobMove{Cancel, Pause, Resume}

// Can reports whether a job in this state may be moved so. This and To are the state machine of jobs; what a runner
// does to its job goes from JobRunning to wherever its JobStep says.
func (s JobState) Can(m JobMove) bool {
	switch m {
	case Cancel:
		return !s.Over()
	case Pause:
		return s.Active()
	case Resume:
		return s == JobPaused || s == JobStopped
	}
	return false
}

// To is the state that a move leads to.
func (m JobMove) To() JobState {
	switch m {
	case Cancel:
		return JobCanceled
	case Pause:
		return JobPaused
	case Resume:
		return JobPending
	}
	return ""
}

// From lists the states that a move may begin in.
func (m JobMove) From() []JobState { return JobStatesThat(func(s JobState) bool { return s.Can(m) }) }

// What an operator need not say.
const (
	DefaultMaxReplays = 3
	DefaultStopRatio  = 0.1
)

// Job is an operator's work that a process does in the background.
type Job struct {
	ID   string
	Kind JobKind
	// DryRun only looks.
	DryRun bool
	// Filter chooses dead letters, of which those that died after CreatedAt do not belong to the job; or decisions.
	Filter Filter
	// Tenants are the caller's when the job was made: it touches nothing of others.
	Tenants Scope
	// Rate is in records or rows a second, 0 for as fast as it goes. Max is the most dead letters that are dealt with, 0
	// for all.
	Rate float64
	Max  int64
	// MaxReplays is the guard against loops: what was replayed as often is left alone.
	MaxReplays int
	// StopRatio stops the job when more than this share of what it replayed has failed again.
	StopRatio float64
	// Erasure is what an Erase orders, as it is made; those in force are the store's to tell.
	Erasure *Erasure
	// Comment says why, and Caller who.
	Comment, Caller string
	State           JobState
	// Message says why the job is where it is.
	Message Message
	// Matched counts what the filter chose when the job was made. Done were dealt with: Stored have a row, Failed came
	// back, Reparsed were quarantined bytes that are no row themselves. Skipped were left alone. Of a reprojection Done
	// are the rows that changed, and Skipped those that did not have to; Matched counts those that it has come to. Of an
	// erasure Done are decisions and dead letters that are gone.
	Matched, Done, Stored, Failed, Reparsed, Skipped int64
	// BaseDone and BaseFailed are what they were when an operator last let the job go on.
	BaseDone, BaseFailed int64
	// After is the last position that was dealt with; of a reprojection, its Topic is the Cursor behind the last row.
	After Position
	// Report is what a dry run found, a reprojection changed, or an erasure removed.
	Report                                       *DryRunReport
	CreatedAt, StartedAt, FinishedAt, LeaseUntil time.Time
	// Owner is the process that works on it until LeaseUntil.
	Owner string
}

// OnTheWay counts what was replayed and has neither come back nor been seen as a row.
func (j Job) OnTheWay() int64 { return max(j.Done-j.Stored-j.Failed-j.Reparsed, 0) }

// Left is how many dead letters the job may still deal with.
func (j Job) Left() int64 {
	if j.Max == 0 {
		return 1 << 62
	}
	return max(j.Max-j.Done-j.Skipped, 0)
}

// TooManyFail reports that the share of failures says: stop. A handful says nothing yet.
func (j Job) TooManyFail() bool {
	const few = 10
	failed := j.Failed - j.BaseFailed
	return failed >= few && float64(failed) > j.StopRatio*float64(j.Done-j.BaseDone)
}

// JobStep is what a runner has done of a job; it is written down in one transaction.
type JobStep struct {
	Job, Owner string
	At         time.Time
	LeaseUntil time.Time
	// Done and Skipped add to the job's; Matched, unless it is 0, is what there is.
	Done, Skipped, Matched int64
	// After is the last position that was dealt with; zero leaves it as it is.
	After Position
	// State is the job's next; "" leaves it running.
	State   JobState
	Message Message
	Report  *DryRunReport
	// Audit is written down with the next state, unless it has no action.
	Audit AuditEntry
}

// LetterStep is a JobStep that moves dead letters.
type LetterStep struct {
	JobStep
	// Moved are dead letters that have come to the state To or, where they were replayed and a row has their bytes by now,
	// to DeadStored; those whose newest copy is another by now stay as they are. Failed were tried and stay open.
	Moved  []DeadLetter
	Failed []Position
	To     DeadState
	// Reparsed adds to the job's.
	Reparsed int64
}

// DryRunReport is what a dry run found.
type DryRunReport struct {
	// Verdict is in one word whether to go on: safe, some_fail, all_fail, gone or nothing; "" for a discard.
	Verdict string
	// Histogram counts the dead letters by why and where, the most frequent first, at most MaxTallies.
	Histogram []Tally
	// Tried were saved in transactions that were rolled back, out of Of. Statuses counts them by what they would be now;
	// those that would fail are counted under DryRunFailed.
	Tried    int
	Of       int64
	Statuses map[SaveStatus]int
	Failures []DryRunFailure
	// Bodies are quarantined bytes, Events the decisions that would come of them now, and Broken those that would stay
	// quarantined.
	Bodies int
	Events int
	Broken int
	// Gone are those whose bytes are not in the log any more.
	Gone int
	// Rows are decisions that a reprojection looked at, and Changed those whose columns are, or would be, others. Changes
	// counts them by path and by what changes, at most MaxTallies.
	Rows, Changed int64
	Changes       []Change
	// Letters are dead letters that an erasure removes, beside Rows decisions, and Unclear those of which nobody can tell
	// whom they are about. Expiries are when the log keeps nothing any more of what it has now.
	Letters, Unclear int64
	Expiries         []Expiry
}

// Change is something that a reprojection changes.
type Change struct {
	Path, Column string
	// From and To are outcomes; other columns have too many values to count by.
	From, To string
	Rows     int64
	// Sample is the id of one of the decisions.
	Sample string
}

// Change counts a row whose column changes.
func (r *DryRunReport) Change(c Change) {
	i := slices.IndexFunc(r.Changes, func(k Change) bool {
		return k.Path == c.Path && k.Column == c.Column && k.From == c.From && k.To == c.To
	})
	if i < 0 {
		if len(r.Changes) == MaxTallies {
			return
		}
		i = len(r.Changes)
		r.Changes = append(r.Changes, c)
	}
	r.Changes[i].Rows++
}

// DryRunFailed counts in a DryRunReport what the store would reject again.
const DryRunFailed SaveStatus = "failed"

// Tally counts dead letters of one kind.
type Tally struct {
	Cause   Cause
	Path    string
	Class   Class
	Code    string
	Error   string
	Letters int64
}

// MaxTallies bounds a histogram.
const MaxTallies = 100

// DryRunFailure is one way to fail.
type DryRunFailure struct {
	Fingerprint string
	Class       Class
	Code        string
	Error       string
	Path        string
	Letters     int
	// Sample is the id of one of them.
	Sample string
}

// Fail counts a dead letter that would fail again.
func (r *DryRunReport) Fail(b Rejection, id string) {
	i := slices.IndexFunc(r.Failures, func(f DryRunFailure) bool { return f.Fingerprint == b.Fingerprint })
	if i < 0 {
		if len(r.Failures) == MaxTallies {
			return
		}
		i = len(r.Failures)
		r.Failures = append(r.Failures, DryRunFailure{
			Fingerprint: b.Fingerprint, Class: b.Class, Code: b.Code, Error: b.Text, Path: b.Path, Sample: id,
		})
	}
	r.Failures[i].Letters++
}

// AuditEntry is something that a person did, or docket for a person. Entries are only ever added.
type AuditEntry struct {
	At time.Time
	// Caller is the credential's name, and Action what was done, such as replay.create.
	Caller, Action string
	// Tenants are the caller's: only who has all of them sees the entry.
	Tenants Scope
	// Target is what it was done to: a job, a fingerprint, a range of the log.
	Target string
	// Filter says which dead letters were meant.
	Filter                Filter
	Matched, Done, Failed int64
	Comment               string
	// Outcome says what came of it.
	Outcome Message
}

// Kind is the kind of job that an entry is about; "" where it is about something else.
func (e AuditEntry) Kind() JobKind {
	kind, _, _ := strings.Cut(e.Action, ".")
	return JobKind(kind)
}

// Audit is the entry for something that happens to the job. That of an erasure does not name whom it is about: the
// audit outlives the order.
func (j Job) Audit(what, caller string, at time.Time) AuditEntry {
	if j.Kind == Erase {
		j.Filter = Filter{}
	}
	return AuditEntry{
		At: at.UTC().Truncate(time.Microsecond), Caller: caller, Tenants: j.Tenants, Action: string(j.Kind) + "." + what,
		Target: j.ID, Filter: j.Filter, Matched: j.Matched, Done: j.Done, Failed: j.Failed, Comment: j.Comment,
		Outcome: j.Message,
	}
}
