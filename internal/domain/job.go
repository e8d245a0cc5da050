package domain

import (
	"encoding/json"
	"net/url"
	"slices"
	"time"
)

// JobKind is what a job does to dead letters.
type JobKind string

// The kinds of jobs.
const (
	// Replay sends dead letters on their way again, through the parking topic.
	Replay JobKind = "replay"
	// Discard gives them up; nothing is deleted from the log.
	Discard JobKind = "discard"
	// Reindex reads the dead-letter topics into the index again.
	Reindex JobKind = "reindex"
)

// JobState is how far a job is.
type JobState string

// The states of a job. Pending and running ones are taken up by whichever parking role has time, also after a crash.
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

// What an operator need not say.
const (
	DefaultMaxReplays = 3
	DefaultStopRatio  = 0.1
)

// Active are the states in which a job is worked on, or will be.
var Active = []JobState{JobPending, JobRunning}

// Resumable are the states in which an operator may let a job go on.
var Resumable = []JobState{JobPaused, JobStopped}

// Over reports that nothing more will happen to the job.
func (s JobState) Over() bool { return s == JobCanceled || s == JobFailed || s == JobDone }

// Job is an operator's work on dead letters.
type Job struct {
	ID   string
	Kind JobKind
	// DryRun only looks.
	DryRun bool
	// Filter chooses dead letters; those that died after CreatedAt do not belong to the job.
	Filter Query
	// Rate is in records a second, 0 for as fast as it goes. Max is the most dead letters that are dealt with, 0 for all.
	Rate float64
	Max  int64
	// MaxReplays is the guard against loops: what was replayed as often is left alone.
	MaxReplays int
	// StopRatio stops the job when more than this share of what it replayed has failed again.
	StopRatio   float64
	Reason, Who string
	State       JobState
	// Message is for people: why the job is where it is.
	Message string
	// Matched counts what the filter chose when the job was made. Done were dealt with: Stored have a row, Failed came back,
	// Reparsed were put-aside bytes that are no row themselves. Skipped were left alone.
	Matched, Done, Stored, Failed, Reparsed, Skipped int64
	// BaseDone and BaseFailed are what they were when an operator last let the job go on.
	BaseDone, BaseFailed int64
	// After is the last place that was dealt with.
	After Place
	// Report is what a dry run found.
	Report                                       *Rehearsal
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
	// Moved are dead letters that have come to the state To or, where they were replayed and a row has their bytes by now, to
	// DeadStored; those whose newest copy is another by now stay as they are. Failed were tried and stay open.
	Moved  []DeadLetter
	Failed []Place
	To     DeadState
	// Reparsed, Skipped and Indexed, which were read into the index, add to the job's; Matched, unless it is 0, is what there is.
	Reparsed, Skipped, Indexed, Matched int64
	// After is the last place that was dealt with; zero leaves it as it is.
	After Place
	// State and Message are the job's next; "" leaves it running.
	State   JobState
	Message string
	Report  *Rehearsal
	// Audit is written down with the next state, unless it has no action.
	Audit AuditEntry
}

// Rehearsal is what a dry run found. It is kept, and shown, as JSON.
type Rehearsal struct {
	// Verdict is in one word whether to go on: safe, some_fail, all_fail, gone or nothing; "" for a discard.
	Verdict string `json:"verdict"`
	// Histogram counts the dead letters by why and where, the most frequent first, at most MaxTallies.
	Histogram []Tally `json:"histogram"`
	// Tried were saved in transactions that were rolled back, out of Of: what they would be now, by fate, and those that would
	// fail.
	Tried    int              `json:"tried"`
	Of       int64            `json:"of"`
	Fates    map[string]int   `json:"fates"`
	Failures []RehearsalFault `json:"failures"`
	// Bodies are put-aside bytes, Events the decisions that would come of them now, and Broken those that would stay put aside.
	Bodies int `json:"bodies"`
	Events int `json:"events"`
	Broken int `json:"broken"`
	// Gone are those whose bytes are not in the log any more.
	Gone int `json:"gone"`
}

// String spells the rehearsal as it is kept, or "" where there is none.
func (r *Rehearsal) String() string {
	if r == nil {
		return ""
	}
	b, err := json.Marshal(r)
	if err != nil {
		panic(err) // texts and numbers
	}
	return string(b)
}

// Restore reads the filter and the report as they are kept: what Query.Filter and Rehearsal.String spell.
func (j *Job) Restore(filter, report string) error {
	values, err := url.ParseQuery(filter)
	if err == nil {
		j.Filter, err = ParseDeadQuery(values, j.CreatedAt)
	}
	if err != nil || report == "" {
		return err
	}
	j.Report = new(Rehearsal)
	return json.Unmarshal([]byte(report), j.Report)
}

// Tally counts dead letters of one kind.
type Tally struct {
	Reason  Reason `json:"reason"`
	Path    string `json:"path"`
	Class   Class  `json:"class"`
	Code    string `json:"code"`
	Error   string `json:"error"`
	Letters int64  `json:"letters"`
}

// MaxTallies bounds a histogram.
const MaxTallies = 100

// RehearsalFault is one way to fail.
type RehearsalFault struct {
	Fingerprint string `json:"fingerprint"`
	Class       Class  `json:"class"`
	Code        string `json:"code"`
	Error       string `json:"error"`
	Path        string `json:"path"`
	Letters     int    `json:"letters"`
	// Sample is the id of one of them.
	Sample string `json:"sample"`
}

// Fail counts a dead letter that would fail again.
func (r *Rehearsal) Fail(b Blame, id string) {
	i := slices.IndexFunc(r.Failures, func(f RehearsalFault) bool { return f.Fingerprint == b.Fingerprint })
	if i < 0 {
		if len(r.Failures) == MaxTallies {
			return
		}
		i = len(r.Failures)
		r.Failures = append(r.Failures, RehearsalFault{Fingerprint: b.Fingerprint, Class: b.Class, Code: b.Code, Error: b.Text, Path: b.Path, Sample: id})
	}
	r.Failures[i].Letters++
}

// AuditEntry is something that a person did. Entries are only ever added.
type AuditEntry struct {
	At time.Time
	// Who is the token's name, and Action what was done, such as replay.create.
	Who, Action string
	// Target is what it was done to: a job, a fingerprint, a range of the log.
	Target string
	// Filter spells which dead letters were meant, as a query string.
	Filter                string
	Matched, Done, Failed int64
	Reason, Outcome       string
}

// Audit is the entry for something that happens to the job.
func (j Job) Audit(what, who string, at time.Time) AuditEntry {
	return AuditEntry{
		At: at.UTC().Truncate(time.Microsecond), Who: who, Action: string(j.Kind) + "." + what, Target: j.ID, Filter: j.Filter.Filter().Encode(),
		Matched: j.Matched, Done: j.Done, Failed: j.Failed, Reason: j.Reason, Outcome: j.Message,
	}
}
