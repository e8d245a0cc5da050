package suites

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/docket-project/docket/bench/events"
	"github.com/docket-project/docket/internal/adapters/api"
	"github.com/docket-project/docket/internal/adapters/replaypolicy"
	"github.com/docket-project/docket/internal/domain"
)

// fiveRules is a policy of five rules and a default for a name, with a limit.
const fiveRules = `
default %[1]s := {"allow": false, "reasons": ["no rule allows it"]}

%[1]s := {"allow": true, "rule": "staff"} if {
	not guest
	not locked
}

guest if "guest" in input.roles

guest if "guest" in input.subject.roles

locked if input.amount > %[2]d

locked if input.request.operation == "DELETE"
`

// replayPolicyResult is how many decisions a second were decided again.
type replayPolicyResult struct {
	What      string  `json:"what"`
	Decisions int     `json:"decisions"`
	Flipped   int     `json:"flipped"`
	PerSecond float64 `json:"per_second_median"`
	Least     float64 `json:"per_second_least"`
	Most      float64 `json:"per_second_most"`
}

// ReplayPolicySuite has decisions of the corpus that a policy made decided again by the same one with another limit, by
// the process that does it. It is started for each round: its start counts, and reading and writing every line.
func ReplayPolicySuite(binary string, decisions int, out string) error {
	const rounds = 5
	dir, err := os.MkdirTemp("", "docket-bench-policy-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if binary, err = filepath.Abs(binary); err != nil {
		return err
	}
	r := replayed{program: replaypolicy.Program{Path: binary}, dir: dir}
	if err := r.make(decisions); err != nil {
		return err
	}
	if err := r.write(9_000); err != nil {
		return err
	}
	result := replayPolicyResult{What: fmt.Sprintf("%d paths, each with a policy of five rules", len(r.paths))}
	var rates []float64
	for range rounds {
		found := api.NewReplay()
		began := time.Now()
		if err := r.decide(func(a *api.Replayed) { found.Add(a) }); err != nil {
			return err
		}
		if found.Decisions != decisions || found.Failed > 0 || found.Changed > 0 {
			return fmt.Errorf("of %d decisions %d were decided, %d failed, and %d have another result", decisions,
				found.Decisions, found.Failed, found.Changed)
		}
		result.Decisions, result.Flipped = found.Decisions, found.Flipped
		rates = append(rates, float64(found.Decisions)/time.Since(began).Seconds())
	}
	slices.Sort(rates)
	result.PerSecond, result.Least, result.Most = rates[rounds/2], rates[0], rates[rounds-1]
	fmt.Printf("%s: %d decisions, %d flipped: %.0f a second (%.0f to %.0f)\n", result.What, result.Decisions,
		result.Flipped, result.PerSecond, result.Least, result.Most)
	return writeJSON(out, "replay-policy.json", result)
}

// replayed are decisions of the corpus as an export has them.
type replayed struct {
	program replaypolicy.Program
	dir     string // of the policies
	lines   []byte
	paths   map[string]bool
}

// write writes a policy for every path.
func (r *replayed) write(limit int) error {
	for path := range r.paths {
		pkg, rule := path[:strings.LastIndexByte(path, '/')], path[strings.LastIndexByte(path, '/')+1:]
		file := filepath.Join(r.dir, strings.ReplaceAll(pkg, "/", "-")+".rego")
		text := "package " + strings.ReplaceAll(pkg, "/", ".") + "\n" + fmt.Sprintf(fiveRules, rule, limit)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			return err
		}
	}
	return nil
}

func (r *replayed) decide(visit func(*api.Replayed)) error {
	return r.program.Decide(context.Background(), replaypolicy.Order{Policy: r.dir},
		func(_ context.Context, to io.Writer) error { return replaypolicy.Feed(to, r.lines) },
		func(a *api.Replayed) error {
			visit(a)
			return nil
		})
}

// make makes the decisions: inputs and all else of the corpus, with the results that a policy of five rules gave.
func (r *replayed) make(decisions int) error {
	projector, err := domain.NewProjector(nil)
	if err != nil {
		return err
	}
	r.paths = map[string]bool{}
	run, at := events.NewRun(), time.Now().UTC()
	made := make([][]byte, decisions)
	for i := range made {
		upload, k := int64(i/events.PerUpload), i%events.PerUpload
		made[i] = events.AppendDecision(nil, run.ID(int64(i)), upload, k, at)
	}
	spell := func() {
		var b bytes.Buffer
		for _, event := range made {
			row := projector.Project(domain.Record{
				Value: event, Headers: domain.Headers{Tenant: "default", ReceivedAt: at},
			})
			r.paths[row.Path] = true
			api.ExportOf(api.NDJSON{}, &b, row, false)
		}
		r.lines = b.Bytes()
	}
	if spell(); err == nil {
		err = r.write(9_900)
	}
	if err != nil {
		return err
	}
	n := 0
	err = r.decide(func(a *api.Replayed) {
		made[n] = withResult(made[n], a.Result)
		n++
	})
	spell()
	return err
}

// withResult is an event of the corpus with another result.
func withResult(event, result []byte) []byte {
	const before, behind = `,"result":`, `,"requested_by":`
	at := bytes.Index(event, []byte(before)) + len(before)
	end := bytes.Index(event, []byte(behind))
	return slices.Concat(event[:at], result, event[end:])
}
