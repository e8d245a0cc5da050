package ports

import (
	"context"
	"time"

	"github.com/docket-project/docket/internal/domain"
)

// DecisionWriter is the store as the saver and the parking role see it.
type DecisionWriter interface {
	// SaveBatch stores decisions in one transaction and returns what became of each, in order: Saved, Duplicate,
	// Conflicting, TooOld or Skipped. It is idempotent: the key is (tenant, id, timestamp), or (tenant, id) for a decision
	// outside the window; the first bytes of a key win, within a batch as well. After an error nothing of the
	// batch is stored, unless the error is ambiguous, and repeating it is right in either case.
	// Errors: Unavailable, Canceled, Misconfigured; Invalid and Unknown where a row of the batch may be the cause.
	SaveBatch(ctx context.Context, decisions []domain.Decision) ([]domain.SaveStatus, error)
	Prober
}

// ProbeTimeout is how long a store that takes writes may take for a probe's row.
const ProbeTimeout = time.Second

// Prober says whether the store takes writes.
type Prober interface {
	// Probe writes a row on a connection of its own and rolls it back: nil means that the store took it within
	// ProbeTimeout. Making the connection, where there is none, does not count; ctx bounds that.
	Probe(ctx context.Context) error
}

// DryRunner tells what saving would come to.
type DryRunner interface {
	// DryRunBatch is SaveBatch in a transaction that is rolled back.
	DryRunBatch(ctx context.Context, decisions []domain.Decision) ([]domain.SaveStatus, error)
	Prober
}

// DecisionReader is the store as searches see it. A scope bounds each call to its tenants: what is not in it is as if
// it were not there.
type DecisionReader interface {
	// Search returns one page, the newest first by Decision.Time, then by tenant and id. Event is left nil.
	Search(ctx context.Context, scope domain.Scope, q domain.Query) (domain.Page, error)
	// Decisions returns the rows with this id, the newest first, at most 1,000; only the first has its Event. None is no
	// error.
	Decisions(ctx context.Context, scope domain.Scope, id string) ([]domain.Decision, error)
	// Scan visits what fits a filter, in no order, until visit wants no more. A decision has its key, and of its columns
	// and its event what the filter and terms about these fields look at. It is the store's own: it is valid until visit
	// returns.
	Scan(
		ctx context.Context, scope domain.Scope, f domain.Filter, about []domain.Expr, visit func(*domain.Decision) bool,
	) error
}

// DecisionColumns are the columns of stored decisions, as what projects them anew sees them.
type DecisionColumns interface {
	// StoredEvents is Search with every row's Event, and of no more than about domain.MaxPageBytes of these. An event
	// whose bytes do not have the row's SHA256 is damaged; they are returned as they are.
	StoredEvents(ctx context.Context, scope domain.Scope, q domain.Query) (domain.Page, error)
	// SetColumns gives rows the columns of these decisions in one transaction: what TextColumns lists, the outcome,
	// bundles and marks. Rows are found by their key and SHA256; one that is not there any more is left out, and no other
	// byte of a row changes.
	SetColumns(ctx context.Context, decisions []domain.Decision) error
}

// DecisionEraser removes decisions by an operator's order.
type DecisionEraser interface {
	// EraseDecisions removes rows in one transaction, and takes them out of the counts. Rows are found by their key and
	// SHA256; one that is not there any more is left out.
	EraseDecisions(ctx context.Context, decisions []domain.Decision) error
}

// DecisionCounts are decisions counted as they are stored.
type DecisionCounts interface {
	// CountDecisions counts the decisions of a span by Decision.Time, by time and the most first. It is exact at any
	// moment: what was stored by a batch is counted, all of it or nothing.
	CountDecisions(ctx context.Context, scope domain.Scope, q domain.CountQuery) (domain.Counts, error)
}

// Dictionaries are what the store packs events with.
type Dictionaries interface {
	// NewestDictionaries returns the newest of each tenant.
	NewestDictionaries(ctx context.Context) (map[string]domain.Dictionary, error)
	// AddDictionary keeps one, which is the tenant's from then on. Every process packs with it within a minute, and rows
	// of before stay as they are. It is false, and nothing is kept, where the lease is not held any more, or the store
	// could not tell the dictionary from another one (one in 2^32).
	AddDictionary(ctx context.Context, lease domain.Lease, d domain.Dictionary) (added bool, err error)
	Leases
}

// Leases are for what one process at a time does.
type Leases interface {
	// TakeLease takes a lease, or renews it, until so long from now by the store's clock. held is false where another
	// owner has it.
	TakeLease(ctx context.Context, lease domain.Lease, length time.Duration) (held bool, err error)
}

// Upkeep is what a store has to do for itself now and then.
type Upkeep interface {
	// Tend does it, every 15 seconds or so, for one owner at a time: for any other it does nothing. What it does not get
	// done in a minute is done in the next turn.
	Tend(ctx context.Context, owner string) error
}

// DecisionDays are the decisions by day, as the retention sees them. Days are in UTC, by the decision's own timestamp.
type DecisionDays interface {
	// PrepareDays makes room for decisions of some days, where the store needs that beforehand.
	PrepareDays(ctx context.Context, first, last domain.Day) error
	// Days lists the days that have decisions, or room for them, in order.
	Days(ctx context.Context) ([]domain.Day, error)
	// RetentionState is what is in force, and the store's clock. SetRetention puts another retention in force.
	RetentionState(ctx context.Context) (domain.RetentionState, error)
	SetRetention(ctx context.Context, retention time.Duration) error
	// DropDay removes a day's decisions for good; decisions of it are TooOld from then on, whatever the window says. It
	// is false, and nothing is done, where the day may not go by the store's own clock (domain.Day.MayGo), or where
	// atMost days have gone within 24 hours; 0 is no bound. Dropping a day that is not there is no error, and is counted.
	DropDay(ctx context.Context, day domain.Day, atMost int) (dropped bool, err error)
	// DropReceivedBefore removes what is kept by receipt and was received, and saved, before a time: decisions out of the
	// window, and OPAs that were not seen since.
	DropReceivedBefore(ctx context.Context, oldest time.Time) error
}

// Decisions is everything that a store does with decisions.
type Decisions interface {
	DecisionWriter
	DryRunner
	DecisionReader
	DecisionColumns
	DecisionEraser
	DecisionDays
	DecisionCounts
	Dictionaries
	Upkeep
}
