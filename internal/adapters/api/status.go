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
	status.RoleEnded:  func(a domain.Args) string { return "the role has stopped: " + a.Text("error") },
	status.LogLost: func(a domain.Args) string {
		return fmt.Sprintf("topic %s has lost records: docket's log says which", a.Text("topic"))
	},
	status.PartitionEnded: func(a domain.Args) string {
		return fmt.Sprintf("docket cannot read partition %s of %s: %s", a.Text("partition"), a.Text("topic"), a.Text("error"))
	},
	status.StoreRefuses: func(a domain.Args) string { return "the store takes no rows: " + a.Text("error") },
	status.StoreAway:    func(a domain.Args) string { return "the store is away: breaker " + a.Text("breaker") },
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
	status.GuardOn: fixed("the dead-letter guard is on: rejected rows are held instead of dead-lettered; " +
		"docket dlq guard lists them"),
}

// stamp spells a time for people.
func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// joined puts clauses together.
func joined(clauses ...string) string { return strings.Join(clauses, ". ") }
