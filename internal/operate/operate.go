// Package operate is what an operator may ask for: to create and move jobs, and to accept rejections and revoke that.
// It owns validation, defaults, conflicts and transitions, asks access whether the caller may, and writes each act into
// the audit in the same transaction.
// What it says are codes with arguments, which the API, the CLI and pages word. It leaves doing the jobs to job.
package operate

import (
	"context"
	"strings"
	"time"

	"github.com/docket-project/docket/internal/access"
	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/ports"
)

// Kind is what kind of mistake a Refusal is.
type Kind int

// The kinds of refusals.
const (
	// Mistaken: the request itself is wrong.
	Mistaken Kind = iota
	// NotAllowed: the caller's role does not allow it.
	NotAllowed
	// Absent: there is nothing of that name in the caller's tenants.
	Absent
	// Conflicting: it does not go together with the state that something is in.
	Conflicting
)

// Refusal is a request that is not done, and nothing of it.
type Refusal struct {
	Kind Kind
	domain.Message
}

// Error is the code. Whoever shows a refusal to people words it.
func (r *Refusal) Error() string { return r.Code }

func refuse(kind Kind, code string, args domain.Args) error {
	return &Refusal{Kind: kind, Message: domain.Say(code, args)}
}

// Codes of refusals.
const (
	// RoleMissing: args caller, role.
	RoleMissing = "role_missing"
	// FilterPaged: a filter has a limit or a cursor.
	FilterPaged = "filter_paged"
	// FilterInvalid: args error.
	FilterInvalid = "filter_invalid"
	// RateRange: args rate, least.
	RateRange = "rate_out_of_range"
	// MaxRange: args max.
	MaxRange = "max_out_of_range"
	// MaxReplaysRange: args max_replays, most.
	MaxReplaysRange = "max_replays_out_of_range"
	// StopRatioRange: args stop_ratio.
	StopRatioRange = "stop_ratio_out_of_range"
	// CommentMissing: args most.
	CommentMissing = "comment_missing"
	// ReindexFiltered: reindexing takes no filter.
	ReindexFiltered = "reindex_filtered"
	// ReindexScoped: reindexing needs a caller that has all tenants.
	ReindexScoped = "reindex_of_all_tenants"
	// ReprojectBounded: a reprojection goes through everything that its filter chooses.
	ReprojectBounded = "reproject_bounded"
	// ErasureFilter: an erasure is about principals, each named whole, and of tenants. Args name.
	ErasureFilter = "erasure_filter"
	// ErasureName: a principal is longer than what is stored of one. Args most.
	ErasureName = "erasure_name"
	// ErasureBounded: an erasure removes everything that it is about.
	ErasureBounded = "erasure_bounded"
	// ErasureOfOthers: args tenant.
	ErasureOfOthers = "erasure_of_other_tenants"
	// AcceptanceOfOthers: an acceptance is also for tenants that are not the caller's. Args fingerprint.
	AcceptanceOfOthers = "acceptance_of_other_tenants"
	// NoFingerprint: args fingerprint.
	NoFingerprint = "not_a_fingerprint"
	// NoAcceptance: args fingerprint.
	NoAcceptance = "no_acceptance"
	// NoJob: args job.
	NoJob = "no_job"
	// JobTwin: another job does the same; args job.
	JobTwin = "job_does_the_same"
	// JobState: args job, state, move.
	JobState = "job_cannot_be_moved"
)

// Store is what operate asks of the store.
type Store interface {
	ports.JobControl
	ports.LetterCounter
	ports.Acceptances
	ports.RejectionReader
	ErasureKey(ctx context.Context) ([]byte, error)
	Processes(ctx context.Context) ([]domain.Process, error)
	CountDeadLetters(ctx context.Context, scope domain.Scope, f domain.Filter) (map[domain.DeadState]int64, error)
}

// Service does what operators ask for. It is safe for concurrent use.
type Service struct {
	store Store
	gate  *access.Gate
	now   func() time.Time
}

// New makes a Service, which does what the gate lets callers do.
func New(store Store, gate *access.Gate) *Service {
	return &Service{store: store, gate: gate, now: time.Now}
}

// Allow refuses a caller whose role may not change anything, before anything else is looked at. Whether one may do what
// it asks for is decided by the gate.
func Allow(caller domain.Caller) error {
	if caller.Role.Includes(domain.Operator) {
		return nil
	}
	return refuse(NotAllowed, RoleMissing, domain.Args{"caller": caller.Name, "role": string(domain.Operator)})
}

// MaxComment bounds what an operator writes, in bytes.
const MaxComment = 1000

// comment checks what an operator says of why.
func comment(s string) (string, error) {
	if s = strings.TrimSpace(s); s == "" || len(s) > MaxComment {
		return "", refuse(Mistaken, CommentMissing, domain.Args{"most": int64(MaxComment)})
	}
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD"), nil
}
