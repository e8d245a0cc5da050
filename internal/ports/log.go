// Package ports has docket's contracts: the durable log, the decisions in the store, and what the store keeps for
// control (jobs, dead letters, rejection stats, the OPA inventory, the audit). Each has several real implementations
// and one conformance suite in porttest; the comments here are the specification that the suites check. A use case
// declares what it needs of them next to its use.
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

// Pause tells the log to deliver a partition's records again from Offset on, not before Until.
type Pause struct {
	Topic     string
	Partition int32
	// Offset is the first record that is not done. Everything in front of it is.
	Offset int64
	Until  time.Time
}

// Handler takes a batch, in order within each partition. It returns nil, nil once all of it is done, or one Pause for
// each partition that is not; partitions without one are done. With an error nothing of the batch is done, and the log
// delivers all of it again after a backoff of its own, except that an error of class Canceled ends the consumption.
//
// A handler never sleeps: it pauses partitions. Its ctx allows HandlerBudget. Records may come twice, after a crash or
// a rebalance.
type Handler func(ctx context.Context, batch []domain.Record) ([]Pause, error)

// HandlerBudget is how long a handler may take for one batch: well under half of what a consumer group waits for
// a member.
const HandlerBudget = 20 * time.Second

// PauseAll is what an error of a handler amounts to: a pause for every partition of the batch, from its first record
// on.
func PauseAll(batch []domain.Record, until time.Time) []Pause {
	var pauses []Pause
	for _, r := range batch {
		if !slices.ContainsFunc(pauses, func(p Pause) bool { return p.Topic == r.Topic && p.Partition == r.Partition }) {
			pauses = append(pauses, Pause{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Until: until})
		}
	}
	return pauses
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

// Forever is the retention of a topic that keeps everything.
const Forever time.Duration = -1

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
	// Retention is how long each topic keeps what is written to it now, unless somebody changes that: Forever, or 0 where
	// a record goes once every group has done it, whenever that is.
	Retention(ctx context.Context, topics ...string) (map[string]time.Duration, error)
	// Ready returns nil while Publish can be expected to succeed; it asks the log, not its own memory.
	Ready(ctx context.Context) error
	LogReader
}

// LogReader looks at records where they stand. It belongs to no group, and moves nobody's offsets.
type LogReader interface {
	// PartitionOf is where records of the topic with this key are; records written before the topic was given more
	// partitions may be elsewhere.
	PartitionOf(ctx context.Context, topic, key string) (int32, error)
	// Read visits the records of a partition in order, from an offset on (or from the oldest one that is still there) up
	// to those that are there now, until visit returns false. It returns the offset behind the last one visited or, at the
	// end, the end. When ctx is done it stops with an error, and next tells how far it came.
	Read(
		ctx context.Context, topic string, partition int32, from int64, visit func(domain.Record) bool,
	) (next int64, err error)
	// Follow visits what is written to a topic from now on, as soon as it is durable and in order within each partition,
	// until ctx is done, and then returns nil. begun is called once it is certain where that is: what is acknowledged
	// afterwards is visited. It ends with an error where it cannot go on, or is so slow that records would be left out.
	Follow(ctx context.Context, topic string, begun func(), visit func([]domain.Record)) error
}
