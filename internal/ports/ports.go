// Package ports holds docket's two contracts: the durable log and the store. Each has several real implementations
// and one conformance suite in porttest; the comments here are the specification the suites check. What a use case
// needs beyond them it declares itself, next to its use.
package ports

import (
	"context"
	"slices"
	"time"

	"github.com/docket-project/docket/internal/domain"
)

// Publisher makes records durable.
type Publisher interface {
	// Publish returns nil once every record is durable: on the log's replicas, or fsynced. It returns at the latest
	// when ctx is done, whatever the log does; then, and after any other error, each record may or may not become
	// durable later, so a caller repeats all of them or reports failure. Records of one call to one partition keep
	// their order. The log reads keys, values and headers until long after it returned: nobody may write to them.
	// Errors: Unavailable, Canceled, Misconfigured, and Invalid for a record the log can never take.
	Publish(ctx context.Context, records []domain.Record) error
}

// Subscription says what to consume and how to gather it.
type Subscription struct {
	// Group owns the committed offsets. Members of a group share its partitions; each is consumed by one at a time.
	Group string
	// Topics to read.
	Topics []string
	// A batch has at most this many records and bytes of values; a single record larger than MaxBytes is a batch of
	// its own. It is handed over once MaxRecords wait, and at the latest once the first has waited for MaxWait.
	MaxRecords int
	MaxBytes   int
	MaxWait    time.Duration
}

// Hold tells the log to deliver a partition's records again from Offset on, not before Until.
type Hold struct {
	Topic     string
	Partition int32
	// Offset is the first record that is not done. Everything in front of it is.
	Offset int64
	Until  time.Time
}

// Handler takes a batch, in order within each partition. It returns nil, nil once all of it is done, or one Hold for
// each partition that is not; partitions without one are done. With an error nothing of the batch is done, and the log
// delivers all of it again after a backoff of its own, except that an error of class Canceled ends the consumption.
//
// A handler never sleeps: it holds. Its ctx allows HandlerBudget. Records may come twice, after a crash or a rebalance.
type Handler func(ctx context.Context, batch []domain.Record) ([]Hold, error)

// HandlerBudget is how long a handler may take for one batch: well under half of what a consumer group waits for a member.
const HandlerBudget = 20 * time.Second

// HoldAll is what an error of a handler amounts to: a hold for every partition of the batch, from its first record on.
func HoldAll(batch []domain.Record, until time.Time) []Hold {
	var holds []Hold
	for _, r := range batch {
		if !slices.ContainsFunc(holds, func(h Hold) bool { return h.Topic == r.Topic && h.Partition == r.Partition }) {
			holds = append(holds, Hold{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Until: until})
		}
	}
	return holds
}

// Backlog is the state of one partition for a group.
type Backlog struct {
	Topic     string
	Partition int32
	// Start is the oldest record still there and End the next to be written; Committed is the group's next record,
	// or Start where it never committed.
	Start, Committed, End int64
	// Oldest is when the record at Committed was written; zero when none waits.
	Oldest time.Time
}

// Waiting counts the records that the group has not done.
func (b Backlog) Waiting() int64 { return b.End - b.Committed }

// Log is the durable log between the roles.
type Log interface {
	Publisher
	// Consume delivers batches to handle until ctx is done (and then returns nil, the batch in hand finished and
	// committed), or until the log cannot go on: an error of class Misconfigured when records are damaged or lost.
	// Offsets are committed after the handler returned, never before. A first start reads from the beginning. A log whose
	// topics have several partitions stops the one that is damaged instead, reports it, and goes on with the others.
	Consume(ctx context.Context, sub Subscription, handle Handler) error
	// Backlog reports every partition of the topics, for a group.
	Backlog(ctx context.Context, group string, topics ...string) ([]Backlog, error)
	// Ready returns nil while Publish can be expected to succeed; it asks the log, not its own memory.
	Ready(ctx context.Context) error
	LogReader
}

// LogReader looks at records where they stand. It belongs to no group, and moves nobody's offsets.
type LogReader interface {
	// PartitionOf is where records of the topic with this key are; records written before the topic was given more partitions
	// may be elsewhere.
	PartitionOf(ctx context.Context, topic, key string) (int32, error)
	// Read visits the records of a partition in order, from an offset on (or from the oldest one that is still there) up to
	// those that are there now, until visit returns false. It returns the offset behind the last one visited or, at the end,
	// the end. When ctx is done it stops with an error, and next tells how far it came.
	Read(ctx context.Context, topic string, partition int32, from int64, visit func(domain.Record) bool) (next int64, err error)
}

// DecisionWriter is the store as the saver and the parking role see it.
type DecisionWriter interface {
	// SaveBatch stores decisions in one transaction and returns what became of each, in order: Saved, Duplicate,
	// Conflicting or TooOld. It is idempotent: the key is (tenant, id, timestamp), or (tenant, id) for a decision
	// outside the window; the first bytes of a key win, within a batch as well. After an error nothing of the
	// batch is stored, unless the error is ambiguous, and repeating it is right in either case.
	// Errors: Unavailable, Canceled, Misconfigured; Invalid and Unknown where a row of the batch may be to blame.
	SaveBatch(ctx context.Context, decisions []domain.Decision) ([]domain.Fate, error)
	// Probe writes a row on a connection of its own and rolls it back: nil means that the store takes writes.
	Probe(ctx context.Context) error
}

// DecisionReader is the store as the query API sees it.
type DecisionReader interface {
	// Search returns one page, newest first by Decision.Time, then by tenant and id. Event is left nil.
	Search(ctx context.Context, q domain.Query) (domain.Page, error)
	// Decisions returns the rows with this id, newest first, at most 1,000; only the first has its Event. None is no
	// error.
	Decisions(ctx context.Context, id string) ([]domain.Decision, error)
}

// OPARegistry remembers which OPAs have been seen.
type OPARegistry interface {
	// RecordOPAs adds sightings to what is known. Repeating a call counts twice: these are figures for people.
	RecordOPAs(ctx context.Context, sightings []domain.Sighting) error
	// OPAs returns the OPAs seen, the most recent upload first, at most 1,000. Those not seen for as long as decisions
	// are kept are forgotten.
	OPAs(ctx context.Context) ([]domain.OPA, error)
}

// BlameLedger is what processes that save tell each other about blamed rows, so that a flood stops all of them.
type BlameLedger interface {
	// ExchangeBlames adds what was judged at a time since the last call, so many rows and those of them that were blamed, and
	// returns what all processes recorded within domain.FloodSpan before, at most 1,000 fingerprints. Repeating a call counts
	// twice: the figures are for a ratio.
	ExchangeBlames(ctx context.Context, at time.Time, judged int64, blames []domain.Blame) (domain.BlameReport, error)
	// SetFloodStop writes down for good that the flood stop begins or ends, and when; saying so again changes nothing.
	SetFloodStop(ctx context.Context, at time.Time, on bool) error
	// AcceptBlame writes an acceptance down for good; of several for one fingerprint the last is in force.
	AcceptBlame(ctx context.Context, a domain.Acceptance) error
}

// DeadLetterIndex knows the dead letters of both topics: what they are, and what has become of them.
type DeadLetterIndex interface {
	// IndexDeadLetters takes in dead letters in the order of the log. It is idempotent: a record that is known changes nothing
	// but what is read out of its bytes, and the copy of another one is counted there. A copy that comes from a replay opens its
	// dead letter again and counts as a failure of its job; one whose row exists with the same bytes is Stored.
	IndexDeadLetters(ctx context.Context, letters []domain.DeadLetter) error
	// DeadLetters returns one page, the newest first by DiedAt and then by id.
	DeadLetters(ctx context.Context, q domain.Query) (domain.DeadPage, error)
	// DeadLetter finds one by its id, or by the place of its newest copy. None is no error.
	DeadLetter(ctx context.Context, id string) (l domain.DeadLetter, found bool, err error)
	// DeadLettersOf returns those of a decision, the newest first, at most 1,000.
	DeadLettersOf(ctx context.Context, decisionID string) ([]domain.DeadLetter, error)
	// DeadGroups returns the groups that have dead letters and fit, those with the most first, at most domain.MaxGroups. A state
	// chooses groups that have such dead letters, since and until those that were seen then, and neither hides their others;
	// terms of ids choose nothing.
	DeadGroups(ctx context.Context, q domain.Query) ([]domain.DeadGroup, error)
	// CountDeadLetters counts what fits, by state.
	CountDeadLetters(ctx context.Context, q domain.Query) (map[domain.DeadState]int64, error)
	// CloseStored looks at the next so many dead letters in a state behind a place, in the log's order, and closes those whose
	// row exists with the same bytes. next is the last one looked at, zero at the end.
	CloseStored(ctx context.Context, state domain.DeadState, after domain.Place, limit int) (closed int, next domain.Place, err error)
	// ForgetDeadLetters removes those of a partition whose newest copy has fallen off the log, and counts them by state.
	ForgetDeadLetters(ctx context.Context, topic string, partition int32, oldest int64) (map[domain.DeadState]int64, error)
}

// JobStore keeps the operators' jobs, and lets one process at a time work on each.
type JobStore interface {
	// CreateJob writes a job down, and with it who made it, unless the entry has no action; created is false where one that is
	// not over does the same, and then nothing is.
	CreateJob(ctx context.Context, j domain.Job, e domain.AuditEntry) (created bool, err error)
	// Job finds a job. None is no error.
	Job(ctx context.Context, id string) (j domain.Job, found bool, err error)
	// Jobs returns the newest jobs first, at most 100.
	Jobs(ctx context.Context) ([]domain.Job, error)
	// MoveJob changes a job's state if it is in one of some, and writes down who did it as CreateJob does; moved is false where it
	// is not.
	MoveJob(ctx context.Context, id string, from []domain.JobState, to domain.JobState, message string, at time.Time, e domain.AuditEntry) (moved bool, err error)
	// ClaimJob takes the oldest active job, dry runs and others apart, unless another owner's lease holds.
	ClaimJob(ctx context.Context, dryRun bool, owner string, at, until time.Time) (j domain.Job, found bool, err error)
	// JobLetters returns the dead letters that a job is to deal with next, behind its last place, in the log's order.
	JobLetters(ctx context.Context, j domain.Job, limit int) ([]domain.DeadLetter, error)
	// CountJob counts what a job's filter chooses.
	CountJob(ctx context.Context, j domain.Job) (int64, error)
	// Tallies counts it by reason and path, the most frequent first, at most domain.MaxTallies.
	Tallies(ctx context.Context, j domain.Job) ([]domain.Tally, error)
	// AdvanceJob writes down what was done, and returns the job as it then is. The dead letters move in any case: they were
	// dealt with. The job itself moves only while it is this owner's and active.
	AdvanceJob(ctx context.Context, step domain.JobStep) (domain.Job, error)
}

// AuditLog keeps what operators do. Nothing in it is ever changed.
type AuditLog interface {
	// Audit adds an entry.
	Audit(ctx context.Context, e domain.AuditEntry) error
	// Audits returns entries, the newest first, that were made before a time, or all where that is zero.
	Audits(ctx context.Context, before time.Time, limit int) ([]domain.AuditEntry, error)
}

// Store is the whole store.
type Store interface {
	DecisionWriter
	DecisionReader
	OPARegistry
	BlameLedger
	DeadLetterIndex
	JobStore
	AuditLog
	// RehearseBatch is SaveBatch in a transaction that is rolled back.
	RehearseBatch(ctx context.Context, decisions []domain.Decision) ([]domain.Fate, error)
}
