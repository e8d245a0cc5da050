package api

import (
	"fmt"
	"strings"
	"time"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/status"
)

// Pipeline is the state of everything between an upload and its row.
type Pipeline struct {
	Stages []Stage `json:"stages"`
	// Parked counts the records in the parking topic.
	Parked int64 `json:"parked"`
	// Held counts the records in the topic of held ones.
	Held int64 `json:"held"`
	// Breaker is that of the process that answers: "closed", "half-open" or "open". NextProbe is when an open one asks the
	// store again.
	Breaker   string  `json:"breaker"`
	NextProbe float64 `json:"next_probe_seconds"`
	// Guard says that the dead-letter guard is on.
	Guard bool `json:"guard"`
	// DeadLetters counts what the dead-letter topics have, and DeadLettersOpen those that are open.
	DeadLetters     []DeadLetterTopic `json:"dead_letters"`
	DeadLettersOpen int64             `json:"dead_letters_open"`
	// SampledAt is when the figures were taken.
	SampledAt time.Time `json:"sampled_at"`
}

// Stage is a topic and the role that consumes it. Rates are records a second over the last ten.
type Stage struct {
	Name          string  `json:"name"`
	Topic         string  `json:"topic"`
	InPerSecond   float64 `json:"in_per_second"`
	OutPerSecond  float64 `json:"out_per_second"`
	Waiting       int64   `json:"waiting"`
	OldestAt      Instant `json:"oldest_at"`
	OldestSeconds float64 `json:"oldest_seconds"`
}

// DeadLetterTopic is a topic that only the index consumes.
type DeadLetterTopic struct {
	Topic   string `json:"topic"`
	Records int64  `json:"records"`
	// Waiting counts those that are not indexed yet.
	Waiting int64 `json:"waiting"`
}

// PipelineOf is a pipeline.
func PipelineOf(p status.Pipeline) Pipeline {
	out := Pipeline{
		Stages: []Stage{}, Breaker: p.Breaker, NextProbe: p.NextProbe.Seconds(), Guard: p.Guard,
		DeadLetters: []DeadLetterTopic{}, DeadLettersOpen: p.DeadLettersOpen, SampledAt: p.SampledAt,
	}
	for _, s := range p.Stages {
		out.Stages = append(out.Stages, Stage{
			Name:          s.Name,
			Topic:         s.Topic,
			InPerSecond:   s.In,
			OutPerSecond:  s.Out,
			Waiting:       s.Waiting,
			OldestAt:      At(s.Oldest),
			OldestSeconds: status.Age(s.Oldest),
		})
		switch s.Name {
		case string(status.Parking):
			out.Parked = s.Waiting
		case status.HeldStage:
			out.Held = s.Waiting
		}
	}
	for _, t := range p.DeadLetters {
		out.DeadLetters = append(out.DeadLetters, DeadLetterTopic(t))
	}
	return out
}

// Readiness is the answer of /readyz.
type Readiness struct {
	Ready   bool                          `json:"ready"`
	Verdict status.Verdict                `json:"verdict"`
	Roles   map[status.Role]RoleReadiness `json:"roles"`
	// Message and Reasons are those of Status.
	Message string   `json:"message,omitempty"`
	Reasons []Reason `json:"reasons,omitempty"`
}

// Add gives a readiness the verdict over all processes. Whether this one is ready is its own matter.
func (r *Readiness) Add(o status.Overview) {
	s := StatusOf(o, nil)
	r.Verdict, r.Message, r.Reasons = s.Verdict, s.Message, s.Reasons
}

// RoleReadiness is one role's part.
type RoleReadiness struct {
	Ready   bool           `json:"ready"`
	Reasons []string       `json:"reasons"`
	Details map[string]any `json:"details,omitempty"`
}

// ReadinessOf is a report.
func ReadinessOf(r status.Report) Readiness {
	out := Readiness{Ready: r.Ready(), Verdict: r.Verdict, Roles: map[status.Role]RoleReadiness{}}
	for role, h := range r.Roles {
		out.Roles[role] = RoleReadiness{Ready: h.Ready, Reasons: ItemsOf(h.Reasons, Word).Items, Details: h.Details}
	}
	return out
}

// Status is how docket is, over all of its processes.
type Status struct {
	Verdict   status.Verdict                `json:"verdict"`
	Message   string                        `json:"message"`
	Reasons   []Reason                      `json:"reasons"`
	Stale     bool                          `json:"stale"`
	SampledAt Instant                       `json:"sampled_at"`
	Roles     map[status.Role]RoleProcesses `json:"roles"`
	Stages    []Stage                       `json:"stages"`
	// OPAs is null where the store, which knows them, does not answer.
	OPAs        *OPACounts        `json:"opas"`
	DeadLetters DeadLetterCounts  `json:"dead_letters"`
	Unindexed   []DeadLetterTopic `json:"dead_letter_topics"`
	Held        int64             `json:"held"`
	Guard       bool              `json:"guard"`
	Breaker     string            `json:"breaker"`
	NextProbe   float64           `json:"next_probe_seconds"`
	// Disk is that of the data directory; null where nothing is kept there.
	Disk *Disk `json:"disk"`
}

// Reason is something that is not well.
type Reason struct {
	Code    string      `json:"code"`
	Args    domain.Args `json:"args"`
	Message string      `json:"message"`
	Since   Instant     `json:"since"`
}

// RoleProcesses are the processes that have a role.
type RoleProcesses struct {
	Live    int      `json:"live"`
	Ready   int      `json:"ready"`
	SeenAt  Instant  `json:"seen_at"`
	Reasons []string `json:"reasons"`
}

// OPACounts counts OPAs by their state.
type OPACounts struct {
	Live   int64 `json:"live"`
	Silent int64 `json:"silent"`
	Gone   int64 `json:"gone"`
}

// DeadLetterCounts counts open dead letters. NewLastHour is null where the store does not answer.
type DeadLetterCounts struct {
	Open        int64  `json:"open"`
	NewLastHour *int64 `json:"new_last_hour"`
}

// Disk is a file system.
type Disk struct {
	FreeRatio float64 `json:"free_ratio"`
}

// StatusOf is an overview; free is the part of the disk that is, or nil.
func StatusOf(o status.Overview, free *float64) Status {
	p := PipelineOf(o.Pipeline)
	out := Status{
		Verdict: o.Verdict, Message: headline(o.Reasons), Reasons: []Reason{}, Stale: o.Pipeline.Stale,
		SampledAt: At(o.Pipeline.SampledAt), Roles: map[status.Role]RoleProcesses{}, Stages: p.Stages,
		DeadLetters: DeadLetterCounts{Open: p.DeadLettersOpen, NewLastHour: o.DeadNew}, Unindexed: p.DeadLetters,
		Held: p.Held, Guard: p.Guard, Breaker: p.Breaker, NextProbe: p.NextProbe,
	}
	for _, r := range o.Reasons {
		args := r.Args
		if args == nil {
			args = domain.Args{}
		}
		out.Reasons = append(out.Reasons, Reason{r.Code, args, Word(r.Message), At(r.Since)})
	}
	for _, r := range o.Roles {
		out.Roles[r.Role] = RoleProcesses{r.Live, r.Ready, At(r.Seen), ItemsOf(r.Trouble, Word).Items}
	}
	if o.OPAs != nil {
		out.OPAs = &OPACounts{o.OPAs.Live, o.OPAs.Silent, o.OPAs.Gone}
	}
	if free != nil {
		out.Disk = &Disk{*free}
	}
	return out
}

// headline is the first reason, and how many more there are.
func headline(reasons []status.Reason) string {
	switch more := len(reasons) - 1; {
	case more < 0:
		return "everything that was uploaded is stored or on its way, and nothing waits for a person"
	case more == 0:
		return Word(reasons[0].Message)
	default:
		return fmt.Sprintf("%s (and %d more)", Word(reasons[0].Message), more)
	}
}

// statusWords are those of package status.
var statusWords = words{
	status.Starting:         fixed("docket is starting"),
	status.StartingLog:      fixed("docket is starting: it verifies the log"),
	status.StartingDatabase: fixed("docket is starting: it looks at the database"),
	status.StartingKafka: func(a domain.Args) string {
		return "docket is starting: it waits for Kafka at " + a.Text("brokers")
	},
	status.Stopping:   fixed("docket is stopping"),
	status.LogRefuses: func(a domain.Args) string { return "the log takes no records: " + a.Text("error") },
	status.RoleEnded: func(a domain.Args) string {
		return strings.TrimSpace("the "+a.Text("role")) + " role has stopped: " + a.Text("error")
	},
	status.LogLost: func(a domain.Args) string {
		return fmt.Sprintf("topic %s has lost records: docket's log says which", a.Text("topic"))
	},
	status.PartitionEnded: func(a domain.Args) string {
		return fmt.Sprintf("docket cannot read partition %s of %s: %s", a.Text("partition"), a.Text("topic"), a.Text("error"))
	},
	status.LogSilent: func(a domain.Args) string {
		if a.Text("seconds") == "" {
			return "the log does not answer, and no figure is known"
		}
		return "the log does not answer: the figures are " + span(a.Count("seconds")) + " old"
	},
	status.StoreSilent: func(a domain.Args) string {
		return "the store does not answer. Nothing is lost: decisions stay in the log: " + a.Text("error")
	},
	status.RoleMissing: func(a domain.Args) string {
		text := "no " + a.Text("role") + " process is alive"
		if a.Text("host") != "" {
			text += ": the last was heard of " + span(a.Count("seconds")) + " ago, on " + a.Text("host")
		}
		switch a.Text("role") {
		case string(status.Ingest):
			text += ". Uploads are not taken; OPA keeps what its buffer holds, and sends it again"
		case string(status.Saver):
			text += ". Nothing is lost: decisions stay in the log, and are not found until one stores them"
		case string(status.Parking):
			text += ". Nothing is lost: what is parked stays in the log, and operators' jobs wait"
		}
		return text
	},
	status.RoleIdle: func(a domain.Args) string {
		return fmt.Sprintf("the %s role does nothing about %s: its log says why", a.Text("role"),
			counted(a.Count("waiting"), "record that waits", "records that wait"))
	},
	status.Late: func(a domain.Args) string {
		text := fmt.Sprintf("%s: %s, the oldest for %s", a.Text("stage"),
			counted(a.Count("waiting"), "record waits", "records wait"), span(a.Count("seconds")))
		if a.Text("left_seconds") == "" {
			return text + ", and they do not get fewer"
		}
		return text + "; about " + span(a.Count("left_seconds")) + " left"
	},
	status.HeldRecords: func(a domain.Args) string {
		return counted(a.Count("records"), "record is", "records are") +
			" held: the store takes others, and not these. They wait until it does, or until an operator accepts the loss"
	},
	status.DeadOpen: func(a domain.Args) string {
		text := counted(a.Count("open"), "dead letter is", "dead letters are") + " open"
		if n := a.Count("new_last_hour"); n > 0 {
			text += fmt.Sprintf(", %d of them new within the last hour", n)
		}
		return text + ": docket dlq groups tells why"
	},
	status.OPAsSilent: func(a domain.Args) string {
		return counted(a.Count("opas"), "OPA has", "OPAs have") + " gone silent, and no other of their app is heard: " +
			a.Text("apps") + ". docket opas lists them"
	},
	status.StoreRefuses: func(a domain.Args) string { return "the store takes no rows: " + a.Text("error") },
	status.StoreAway: func(a domain.Args) string {
		text := "the store is away: breaker " + a.Text("breaker") +
			". Nothing is lost: decisions stay in the log until it is back"
		if why := a.Text("error"); why != "" {
			text += ": " + why
		}
		return text
	},
	status.RowsHeld: func(a domain.Args) string {
		return fmt.Sprintf("the store takes no rows of %s, which are held, and takes the others: %s", a.Text("held_for"),
			a.Text("error"))
	},
	status.DiskFills: func(a domain.Args) string {
		text := "the disk of the data directory is " + a.Text("percent") + " % full"
		if a.Text("refuses") == "true" {
			text += ": docket refuses uploads from 95 % on"
		}
		return text + ". Make room, or shorten the retention"
	},
	status.CallersUnknown: func(a domain.Args) string {
		who, wait := "some of those who come", ""
		if a.Text("refusing") == "true" {
			who = "everybody who comes"
		}
		if a.Text("listener") == "upload" {
			wait = ". OPAs keep their decisions, and send them again"
		}
		return fmt.Sprintf("%s to the %s listener cannot be known, and is refused%s: %s", who, a.Text("listener"), wait,
			a.Text("error"))
	},
	status.GuardOn: fixed("the dead-letter guard is on: rejected rows are held instead of dead-lettered; " +
		"docket dlq guard lists them"),
}

// stamp spells a time for people.
func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// joined puts clauses together.
func joined(clauses ...string) string { return strings.Join(clauses, ". ") }
