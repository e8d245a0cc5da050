package ports

import (
	"context"
	"time"

	"github.com/docket-project/docket/internal/domain"
)

// A scope bounds each call to its tenants: what is not in it is as if it were not there. Jobs and entries of the audit
// belong to their caller's tenants, and are seen by who has all of these.

// OPARecorder is the OPA inventory as ingest sees it.
type OPARecorder interface {
	// RecordOPAs adds observations to what is known. Repeating a call counts twice: these are figures for people. Of a
	// tenant it keeps domain.MaxOPAs; those not seen for a day make room for new ones, and whoever finds none is counted
	// as domain.OtherOPAs.
	RecordOPAs(ctx context.Context, observations []domain.Observation) error
}

// OPAReader is the OPA inventory as people see it.
type OPAReader interface {
	// OPAs returns the OPAs seen, at most 1,000: those that came more than once before the others, the most recent upload
	// first. Those not seen for as long as decisions are kept are forgotten.
	OPAs(ctx context.Context, scope domain.Scope) ([]domain.OPA, error)
	// OPAGroups counts them by tenant and app, and by their state at a time (domain.OPA.State): at most 1,000 groups,
	// those with the most OPAs first.
	OPAGroups(ctx context.Context, scope domain.Scope, at time.Time) ([]domain.OPAGroup, error)
}

// CredentialRecorder is the list of credentials as the listeners see it.
type CredentialRecorder interface {
	// RecordCredentials adds what was seen of credentials to what is known. Repeating a call counts twice: these are
	// figures for people. Those neither used nor listed for domain.CredentialsKept are forgotten.
	RecordCredentials(ctx context.Context, credentials []domain.Credential) error
}

// CredentialReader is the list of credentials as people see it.
type CredentialReader interface {
	// Credentials returns those of the scope's tenants, at most 1,000, the last used first and then those
	// that were never used. One for all tenants is seen by who has all.
	Credentials(ctx context.Context, scope domain.Scope) ([]domain.Credential, error)
}

// EndedSessions are the sessions of people that were ended before their time, for whoever keeps a copy of one.
type EndedSessions interface {
	// EndSessions notes that sessions have ended. Each is forgotten at its Until, when nobody takes it for one any more.
	EndSessions(ctx context.Context, ended []domain.EndedSession) error
	// EndedSessions lists those that are not forgotten, by their ids.
	EndedSessions(ctx context.Context) ([]domain.EndedSession, error)
}

// Processes is what docket's processes tell each other of themselves.
type Processes interface {
	// BeatProcess says that a process lives, and how it is. Age and Seen are the store's to fill in. Processes that were
	// not heard of for a day are forgotten.
	BeatProcess(ctx context.Context, p domain.Process) error
	// LeaveProcess says that it ends as it was told to.
	LeaveProcess(ctx context.Context, name string) error
	// Processes lists them, at most 1,000, those heard of last first.
	Processes(ctx context.Context) ([]domain.Process, error)
}

// LogMarks is what the store knows of how far consumer groups had come in the log. It is kept beside the rows, so that
// it is restored with them.
type LogMarks interface {
	// LogMarks returns a group's marks, of topics that are gone as well, and the store's history. That is another one
	// once another server has taken over, or a backup was restored: what was committed behind the last mark may be missing
	// then, although the mark is there. It is empty where the store cannot tell.
	LogMarks(ctx context.Context, group string) (marks []domain.Mark, history string, err error)
	// AdvanceLogMarks moves marks on, all or none, and never back. advanced is false where the store has one of them
	// behind its step's Before, or another history than its step's: it is not what it was then. An empty history is the
	// same as any.
	AdvanceLogMarks(ctx context.Context, steps []domain.MarkStep) (advanced bool, err error)
	// SetLogMarks moves marks anywhere, for an operator.
	SetLogMarks(ctx context.Context, marks []domain.Mark) error
}

// LossNotes keeps what is known to be gone from the log in the store, for whoever looks for a decision.
type LossNotes interface {
	// NoteLoss writes one down. Noting it again changes only when it was found last.
	NoteLoss(ctx context.Context, l domain.Loss) error
}

// LossReader looks at what was noted.
type LossReader interface {
	// LogLosses returns what was noted of a partition, the newest first: at most 1,000.
	LogLosses(ctx context.Context, topic string, partition int32) ([]domain.Loss, error)
}

// RejectionReader reads what all processes have judged.
type RejectionReader interface {
	// RejectionReport sums up what was recorded within domain.GuardSpan before a time: all of it, because the guard is
	// decided by it. On is the same for everybody; everything else is bounded by the scope.
	RejectionReport(ctx context.Context, scope domain.Scope, at time.Time) (domain.RejectionReport, error)
}

// RejectionStats is what processes that save tell each other about rejected rows, so that the dead-letter guard is one
// for all of them.
type RejectionStats interface {
	// ExchangeRejections adds what was judged at a time since the last call, and returns the RejectionReport of all
	// tenants. Repeating a call counts twice: the figures are for a ratio.
	ExchangeRejections(ctx context.Context, at time.Time, tally domain.RejectionTally) (domain.RejectionReport, error)
	// SetGuard writes down for good that the guard goes on or off, and when; saying so again changes nothing.
	SetGuard(ctx context.Context, at time.Time, on bool) error
}

// Acceptances keeps what operators said of rejections.
type Acceptances interface {
	// AcceptRejections writes an acceptance down for good, and with it who did; of several for one fingerprint and scope
	// the last is in force.
	AcceptRejections(ctx context.Context, a domain.Acceptance, e domain.AuditEntry) error
	// RevokeAcceptance ends the acceptances of a fingerprint that are in force at a time and within the scope, and writes
	// down who did it; revoked is false where there is none.
	RevokeAcceptance(
		ctx context.Context, scope domain.Scope, fingerprint string, at time.Time, e domain.AuditEntry,
	) (revoked bool, err error)
}

// DeadLetterReader looks into the index of dead letters.
type DeadLetterReader interface {
	// DeadLetters returns one page, the newest first by DiedAt and then by id.
	DeadLetters(ctx context.Context, scope domain.Scope, q domain.Query) (domain.DeadPage, error)
	// DeadLetter finds one by its id, or by the position of its newest copy. None is no error.
	DeadLetter(ctx context.Context, scope domain.Scope, id string) (l domain.DeadLetter, found bool, err error)
	// DeadLettersOf returns those of a decision, the newest first, at most 1,000.
	DeadLettersOf(ctx context.Context, scope domain.Scope, decisionID string) ([]domain.DeadLetter, error)
	// DeadGroups returns the groups that have dead letters and fit, those with the most first, at most domain.MaxGroups.
	// A state chooses groups that have such dead letters, since and until those that were seen then, and neither hides
	// their others; terms of ids choose nothing.
	DeadGroups(ctx context.Context, scope domain.Scope, f domain.Filter) ([]domain.DeadGroup, error)
	// CountDeadLetters counts what fits, by state.
	CountDeadLetters(ctx context.Context, scope domain.Scope, f domain.Filter) (map[domain.DeadState]int64, error)
}

// DeadLetterIndex keeps the index of dead letters of both topics. Only docket itself does, for all tenants.
type DeadLetterIndex interface {
	// IndexDeadLetters takes in dead letters in the order of the log. It is idempotent: a record that is known changes
	// nothing but what is read out of its bytes, and the copy of another one is counted there. A copy that comes from a
	// replay opens its dead letter again and counts as a failure of its job; where it failed in another class this time,
	// it takes the place of the one that the job replayed. One whose row exists with the same bytes is Stored.
	IndexDeadLetters(ctx context.Context, letters []domain.DeadLetter) error
	// CloseStored looks at the next so many dead letters in a state behind a position, in the log's order, and closes
	// those whose row exists with the same bytes. next is the last one looked at, zero at the end.
	CloseStored(
		ctx context.Context, state domain.DeadState, after domain.Position, limit int,
	) (closed int, next domain.Position, err error)
	// ForgetDeadLetters removes those of a partition whose newest copy has fallen off the log, and counts them by state.
	ForgetDeadLetters(ctx context.Context, topic string, partition int32, oldest int64) (map[domain.DeadState]int64, error)
}

// JobReader looks at jobs.
type JobReader interface {
	// Job finds a job. None is no error.
	Job(ctx context.Context, scope domain.Scope, id string) (j domain.Job, found bool, err error)
	// Jobs returns the newest jobs first, at most 100.
	Jobs(ctx context.Context, scope domain.Scope) ([]domain.Job, error)
}

// JobControl is what an operator does to jobs.
type JobControl interface {
	JobReader
	// CreateJob writes a job down, with its Erasure, and with it who made it, unless the entry has no action. Where one
	// that is not over does the same, nothing is written, and twin is its id. The filter of an erasure is forgotten once
	// the job is over: it names somebody.
	CreateJob(ctx context.Context, j domain.Job, e domain.AuditEntry) (twin string, err error)
	// MoveJob moves a job where its state can be moved so (domain.JobState.Can), and writes down who did it as CreateJob
	// does; moved is false where it cannot, or is not in the scope.
	MoveJob(
		ctx context.Context, scope domain.Scope, id string, m domain.JobMove, message domain.Message, at time.Time,
		e domain.AuditEntry,
	) (moved bool, err error)
}

// ErasureReader are the erasures in force, for whoever saves or shows what comes out of the log.
type ErasureReader interface {
	// ErasureKey is what subjects are hashed with. The store makes it up when it is first asked for it, and keeps it.
	ErasureKey(ctx context.Context) ([]byte, error)
	// Erasures are those in force, in the order of their jobs' ids: CreateJob has written them down, nobody has canceled
	// the job, and their Until has not passed.
	Erasures(ctx context.Context) ([]domain.Erasure, error)
}

// Erasures is what an erasure has to do beside decisions.
type Erasures interface {
	ErasureReader
	// KeepErasure says until when that of a job is in force, and forgets those that were.
	KeepErasure(ctx context.Context, job string, until time.Time) error
	// EraseLetters removes dead letters from the index, by their ids. One that is not there is no error.
	EraseLetters(ctx context.Context, ids []string) error
}

// JobQueue lets one process at a time work on each job.
type JobQueue interface {
	// ClaimJob takes the oldest active job of a lane, unless another owner's lease in that lane holds.
	ClaimJob(
		ctx context.Context, lane domain.Lane, owner string, at, until time.Time,
	) (j domain.Job, found bool, err error)
	// AdvanceJob writes down what was done, and returns the job as it then is. The job moves only while it is this owner's
	// and active.
	AdvanceJob(ctx context.Context, step domain.JobStep) (domain.Job, error)
}

// JobLetters is what a job has to do with dead letters: those in its scope that its filter chooses, without what is
// stored, what the job has dealt with, what died after it was made and, for a replay, what was replayed too often.
type JobLetters interface {
	// LettersOfJob returns those that are next, behind the job's last position, in the log's order.
	LettersOfJob(ctx context.Context, j domain.Job, limit int) ([]domain.DeadLetter, error)
	// TallyLettersOfJob counts them by cause and path, the most frequent first, at most domain.MaxTallies.
	TallyLettersOfJob(ctx context.Context, j domain.Job) ([]domain.Tally, error)
	LetterCounter
	// MoveLetters is AdvanceJob with dead letters. They move in any case: they were dealt with.
	MoveLetters(ctx context.Context, step domain.LetterStep) (domain.Job, error)
}

// LetterCounter counts what a job would deal with.
type LetterCounter interface {
	// CountLettersOfJob counts all of what a job's filter chooses; see JobLetters.
	CountLettersOfJob(ctx context.Context, j domain.Job) (int64, error)
}

// AuditWriter adds to the audit what is no change of anything else in the store.
type AuditWriter interface {
	// Audit adds an entry. Nothing in the audit is ever changed.
	Audit(ctx context.Context, e domain.AuditEntry) error
}

// AuditReader looks at what operators did.
type AuditReader interface {
	// Audits returns entries, the newest first, that were made before a time, or all where that is zero.
	Audits(ctx context.Context, scope domain.Scope, before time.Time, limit int) ([]domain.AuditEntry, error)
}

// Control is everything that a store keeps besides decisions.
type Control interface {
	Processes
	LogMarks
	LossNotes
	LossReader
	OPARecorder
	OPAReader
	CredentialRecorder
	CredentialReader
	EndedSessions
	RejectionReader
	RejectionStats
	Acceptances
	DeadLetterReader
	DeadLetterIndex
	JobControl
	JobQueue
	JobLetters
	Erasures
	AuditWriter
	AuditReader
}
