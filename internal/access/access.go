// Package access is what callers may do on the console listener: it asks a policy, remembers what it said of a reading
// caller for a while, refuses whoever is refused, and notes each decision as one of docket's own, in the tenant
// docket-system. It leaves who a caller is to auth, the policy to whoever makes the Gate, and which tenants a caller
// sees to its scope: a policy takes rights away, and gives none.
package access

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/maypok86/otter/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/docket-project/docket/internal/domain"
)

// Action is what a caller wants to do.
type Action string

// The actions. Those of SearchDecisions and ReadStatus show no event; ReadDecision, ExportDecisions, ReplayPolicy and
// ReadDeadLetters do.
const (
	SearchDecisions  Action = "decisions.search"
	ReadDecision     Action = "decisions.read"
	ExportDecisions  Action = "decisions.export"
	ReplayPolicy     Action = "decisions.replay_policy"
	Reproject        Action = "decisions.reproject"
	Erase            Action = "decisions.erase"
	ReadDeadLetters  Action = "dead_letters.read"
	Replay           Action = "dead_letters.replay"
	Discard          Action = "dead_letters.discard"
	Reindex          Action = "dead_letters.reindex"
	AcceptRejections Action = "guard.accept"
	RevokeAcceptance Action = "guard.revoke"
	ReadJobs         Action = "jobs.read"
	CancelJob        Action = "jobs.cancel"
	PauseJob         Action = "jobs.pause"
	ResumeJob        Action = "jobs.resume"
	ReadOPAs         Action = "opas.read"
	ReadCredentials  Action = "credentials.read"
	ReadAudit        Action = "audit.read"
	ReadStatus       Action = "status.read"
)

// Needs is the role that an action needs.
var Needs = map[Action]domain.Role{
	SearchDecisions: domain.Viewer, ReadDecision: domain.Viewer, ExportDecisions: domain.Viewer,
	ReadDeadLetters: domain.Viewer, ReadJobs: domain.Viewer, ReadOPAs: domain.Viewer, ReadAudit: domain.Viewer,
	ReadStatus: domain.Viewer,

	ReadCredentials: domain.Operator, ReplayPolicy: domain.Operator, Reproject: domain.Operator,
	Replay: domain.Operator, Discard: domain.Operator, Reindex: domain.Operator, AcceptRejections: domain.Operator,
	RevokeAcceptance: domain.Operator, CancelJob: domain.Operator, PauseJob: domain.Operator, ResumeJob: domain.Operator,

	Erase: domain.Admin,
}

// OfJob is to create a job of a kind.
func OfJob(k domain.JobKind) Action {
	switch k {
	case domain.Replay:
		return Replay
	case domain.Discard:
		return Discard
	case domain.Reindex:
		return Reindex
	case domain.Reproject:
		return Reproject
	case domain.Erase:
		return Erase
	}
	return Action("jobs.create." + string(k)) // which no policy knows, and so refuses
}

// OfMove is to move a job.
func OfMove(m domain.JobMove) Action { return Action("jobs." + string(m)) }

// Input is what a policy is asked: input.user, input.action and input.resource.
type Input struct {
	User   User   `json:"user"`
	Action Action `json:"action"`
	// Resource is what an action is about: a job's filter, whether it is a dry run, and the like. Reading has none.
	Resource map[string]any `json:"resource,omitempty"`
}

// User is the caller. Without AllTenants it has those of Tenants, and no others.
type User struct {
	Name       string   `json:"name"`
	Role       string   `json:"role"`
	How        string   `json:"how"`
	AllTenants bool     `json:"all_tenants"`
	Tenants    []string `json:"tenants,omitempty"`
}

// Policy says why a caller may not do something; no reason at all allows it. input is an Input as JSON. An error
// refuses: Misconfigured where the policy itself fails, Unavailable where it takes too long.
type Policy func(ctx context.Context, input []byte) (reasons []string, err error)

// ByRole is the policy of roles alone, for programs that have no other.
func ByRole(_ context.Context, input []byte) ([]string, error) {
	var in Input
	if err := json.Unmarshal(input, &in); err != nil {
		return nil, domain.Errorf(domain.Misconfigured, "read who asks: %w", err)
	}
	needed, known := Needs[in.Action]
	if known && domain.Role(in.User.Role).Includes(needed) {
		return nil, nil
	}
	return []string{fmt.Sprintf("it needs the role %s, and the caller has %q", needed, in.User.Role)}, nil
}

// Denied is a caller that may not do what it wants.
type Denied struct {
	Caller  string
	Action  Action
	Reasons []string
}

// Error names all reasons.
func (d *Denied) Error() string {
	return fmt.Sprintf("%s may not do this (%s): %s", d.Caller, d.Action, strings.Join(d.Reasons, "; "))
}

const (
	// rememberedFor is how long an answer about reading counts, and maxRemembered how many are kept.
	rememberedFor = time.Minute
	maxRemembered = 10_000
	// maxReasons bounds what is told of why, and maxReason each of them, in bytes: a policy may be wordy.
	maxReasons = 10
	maxReason  = 300
)

// Gate lets callers do what a policy lets them. It is safe for concurrent use.
type Gate struct {
	policy  Policy
	journal *Journal
	decided *prometheus.CounterVec
	known   *otter.Cache[question, answer]
}

// question is what an answer about reading is remembered by.
type question struct {
	name, how, credential string
	role                  domain.Role
	tenants               domain.Scope
	action                Action
}

type answer struct {
	reasons []string
	until   time.Time
}

// NewGate asks a policy, and has the journal note what it says; nil notes nothing. reg may be nil.
func NewGate(p Policy, journal *Journal, reg prometheus.Registerer) *Gate {
	g := &Gate{
		policy: p, journal: journal,
		decided: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "docket_access_decisions_total",
			Help: "What the policy said about callers of the console listener, about those who read once a minute.",
		}, []string{"result"}),
		known: otter.Must(&otter.Options[question, answer]{MaximumSize: maxRemembered}),
	}
	if reg != nil {
		reg.MustRegister(g.decided)
	}
	return g
}

// Allow returns nil where a caller may do something. resource is what it is about, and nil for what is the same each
// time: that answer is remembered. Errors: Denied, and those of the policy.
func (g *Gate) Allow(ctx context.Context, c domain.Caller, action Action, resource map[string]any) error {
	asked := question{c.Name, c.How, c.Credential, c.Role, c.Tenants, action}
	if resource == nil {
		if said, ok := g.known.GetIfPresent(asked); ok && time.Now().Before(said.until) {
			return denied(c, action, said.reasons)
		}
	}
	reasons, err := g.ask(ctx, c, action, resource)
	if err != nil {
		return err
	}
	if resource == nil {
		g.known.Set(asked, answer{reasons, time.Now().Add(rememberedFor)})
	}
	return denied(c, action, reasons)
}

func denied(c domain.Caller, action Action, reasons []string) error {
	if len(reasons) == 0 {
		return nil
	}
	return &Denied{c.Name, action, reasons}
}

// ask asks the policy, and notes what it says.
func (g *Gate) ask(ctx context.Context, c domain.Caller, action Action, resource map[string]any) ([]string, error) {
	input, err := json.Marshal(Input{
		User: User{
			Name: c.Name, Role: string(c.Role), How: c.How, AllTenants: c.Tenants.All(), Tenants: c.Tenants.Names(),
		},
		Action: action, Resource: resource,
	})
	if err != nil {
		return nil, domain.Errorf(domain.Misconfigured, "spell what %s is about: %w", action, err)
	}
	began := time.Now()
	reasons, err := g.policy(ctx, input)
	took := time.Since(began)
	for i, r := range reasons {
		if len(r) > maxReason {
			reasons[i] = strings.ToValidUTF8(r[:maxReason], "") + "…"
		}
	}
	reasons = reasons[:min(len(reasons), maxReasons)]
	switch {
	case domain.ClassOf(err) == domain.Canceled: // whoever asked has gone: nothing was decided
		return nil, err
	case err != nil:
		g.decided.WithLabelValues("failed").Inc()
	case len(reasons) > 0:
		g.decided.WithLabelValues("denied").Inc()
	default:
		g.decided.WithLabelValues("allowed").Inc()
	}
	if g.journal != nil && c.How != domain.ByNothing {
		g.journal.add(g.journal.event(input, reasons, err, began, took))
	}
	return reasons, err
}

// newID makes the id of a decision, as OPA makes them (RFC 9562, version 4).
func newID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // it never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
