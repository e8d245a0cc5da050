// Package rego is the process that decides stored decisions again, with OPA's own library: it reads an order and
// decisions as an export has them, and writes what the policy says, a line each. It bounds what a policy may take of
// time and memory. It leaves what an answer means to explain, and starting the process to replaypolicy.
package rego

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	_ "time/tzdata" // the process opens no files, and a policy may ask for the time in Paris

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/tidwall/gjson"
	"golang.org/x/sync/errgroup"

	"github.com/docket-project/docket/internal/adapters/api"
	"github.com/docket-project/docket/internal/adapters/replaypolicy"
	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/explain"
)

const (
	// patience is how long a policy may take for one decision, and grace how long until it has stopped then: some builtins
	// do not look whether anybody waits for them.
	patience = 5 * time.Second
	grace    = 2 * time.Second
	// maxLate is how many decisions may take longer than patience until nobody waits for more.
	maxLate = 5
	// batch and batchBytes are how many decisions are decided beside each other, and share how many of them in a row.
	batch      = 512
	batchBytes = 32 << 20
	share      = 16
	// maxResult is the longest result that is told, and maxComplaint what is told of what OPA complains of, in bytes.
	maxResult    = 256 << 10
	maxComplaint = 4 << 10
)

// Process is Decide with bounds for the whole process, whose only work it is.
func Process(ctx context.Context, in io.Reader, out io.Writer) error {
	confine()
	return decide(ctx, in, out, seal)
}

// Decide reads an order, then decisions, and answers in their order. What is wrong with the policy is an answer too.
// Its error is that reading or writing failed.
func Decide(ctx context.Context, in io.Reader, out io.Writer) error {
	return decide(ctx, in, out, func() {})
}

// decide is Decide; loaded is called before the policy runs.
func decide(ctx context.Context, in io.Reader, out io.Writer, loaded func()) error {
	lines := bufio.NewScanner(in)
	lines.Buffer(make([]byte, 0, 64<<10), replaypolicy.MaxLine)
	if !lines.Scan() {
		return errors.Join(errors.New("there is no order"), lines.Err())
	}
	var order replaypolicy.Order
	if err := json.Unmarshal(lines.Bytes(), &order); err != nil {
		return fmt.Errorf("the order: %w", err)
	}
	d, err := prepare(order)
	if err == nil {
		loaded()
		err = d.all(ctx, lines, out)
	}
	if fault := (faultError{}); errors.As(err, &fault) {
		_, err = out.Write(append(api.Marshal(replaypolicy.Line{Fault: fault.Error()}), '\n'))
	}
	return err
}

// faultError is what is wrong with a policy.
type faultError struct{ error }

func fault(format string, args ...any) error { return faultError{fmt.Errorf(format, args...)} }

// decider decides by a policy.
type decider struct {
	policy    *explain.Policy
	projector *domain.Projector
	root      string // of the policy's files
	stuck     chan string
	late      atomic.Int64 // decisions that took too long
}

func prepare(order replaypolicy.Order) (d *decider, err error) {
	projector, err := domain.NewProjector(order.Mappings)
	if err != nil {
		return nil, err
	}
	d = &decider{projector: projector, root: rootOf(order.Policy), stuck: make(chan string, batch)}
	defer func() {
		if panicked := recover(); panicked != nil {
			err = fault("OPA cannot read it: %v", panicked)
		}
	}()
	if d.policy, err = read(order, ast.RegoV1, projector); err != nil {
		// What is no Rego of today may be that of OPA before 1.0.
		if old, err := read(order, ast.RegoV0, projector); err == nil {
			d.policy = old
			return d, nil
		}
		return nil, fault("%s", d.complaint(err))
	}
	return d, nil
}

func read(order replaypolicy.Order, version ast.RegoVersion, projector *domain.Projector) (*explain.Policy, error) {
	b, err := load(order, version)
	if err != nil {
		return nil, err
	}
	return explain.New(b, projector)
}

// all decides what it reads.
func (d *decider) all(ctx context.Context, in *bufio.Scanner, out io.Writer) error {
	w := bufio.NewWriterSize(out, 64<<10)
	for first := true; ; first = false {
		var lines [][]byte
		for size := 0; len(lines) < batch && size < batchBytes && in.Scan(); size += len(in.Bytes()) {
			lines = append(lines, append([]byte(nil), in.Bytes()...))
			if first {
				break // whose answer shows that the policy is one
			}
		}
		if len(lines) == 0 {
			return in.Err()
		}
		answers, err := d.beside(ctx, lines, first)
		for _, a := range answers {
			w.Write(a)        //nolint:errcheck // Flush tells
			w.WriteByte('\n') //nolint:errcheck // Flush tells
		}
		if flushed := w.Flush(); err == nil {
			err = flushed
		}
		if err == nil && d.late.Load() >= maxLate {
			err = fault("it took longer than %s for each of %d decisions", patience, d.late.Load())
		}
		if err != nil {
			return err
		}
	}
}

// beside decides several beside each other. Where one does not stop, the process has to: the answers are those in front
// of it then.
func (d *decider) beside(ctx context.Context, lines [][]byte, why bool) ([][]byte, error) {
	var mu sync.Mutex
	answers := make([][]byte, len(lines))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	done := make(chan error, 1)
	go func() {
		for at := 0; at < len(lines); at += share {
			group.Go(func() error {
				for i := at; i < min(at+share, len(lines)) && d.late.Load() < maxLate; i++ {
					answer := d.decide(ctx, lines[i], why)
					mu.Lock()
					answers[i] = answer
					mu.Unlock()
				}
				return ctx.Err()
			})
		}
		done <- group.Wait()
	}()
	var err error
	select {
	case err = <-done:
	case id := <-d.stuck:
		err = fault("it did not stop, %s after it had to: it decided about %s", patience+grace, id)
	}
	mu.Lock()
	defer mu.Unlock()
	if n := slices.IndexFunc(answers, func(a []byte) bool { return a == nil }); n >= 0 {
		return slices.Clone(answers[:n]), err
	}
	return answers, err
}

// decide answers one line.
func (d *decider) decide(ctx context.Context, text []byte, why bool) []byte {
	row, err := rowOf(text)
	if err != nil {
		return api.Marshal(api.Replayed{Error: api.Text("the line is no decision: " + err.Error()), Doubts: []string{}})
	}
	own, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	late := time.AfterFunc(patience+grace, func() { d.stuck <- row.ID })
	defer late.Stop()
	a := d.ask(own, &row, why)
	switch {
	case a.Err != nil && own.Err() != nil && ctx.Err() == nil:
		d.late.Add(1)
		a.Err = fmt.Errorf("the policy took longer than %s", patience)
	case a.Err == nil && !a.Same: // the same result is the same outcome, whatever mappings made it
		projected := d.projector.Project(domain.Record{
			Value: row.Event, Headers: domain.Headers{Tenant: row.Tenant, ReceivedAt: row.ReceivedAt},
		})
		if projected.Outcome != row.Outcome {
			a.Doubts = append(a.Doubts, explain.OtherMapping)
		}
	}
	return api.Marshal(replaypolicy.Line{Replayed: d.spell(&row, &a, why)})
}

// rowOf reads a decision as an export has it.
func rowOf(text []byte) (row domain.Decision, err error) {
	var decided, received string
	gjson.ParseBytes(text).ForEach(func(key, value gjson.Result) bool {
		switch key.Str {
		case "event":
			row.Event = []byte(value.Raw)
		case "decision_id":
			row.ID = value.Str
		case "tenant":
			row.Tenant = value.Str
		case "path":
			row.Path = value.Str
		case "time":
			decided = value.Str
		case "received_at":
			received = value.Str
		case "outcome":
			row.Outcome = domain.Outcome(value.Str)
		case "reason":
			row.Reason = value.Str
		case "bundles":
			value.ForEach(func(name, bundle gjson.Result) bool {
				row.Bundles = append(row.Bundles, domain.Bundle{Name: name.Str, Revision: bundle.Get("revision").Str})
				return true
			})
		}
		return true
	})
	if row.Event == nil {
		return row, errors.New("it has no event")
	}
	if row.Timestamp, err = time.Parse(time.RFC3339Nano, decided); err != nil {
		return row, fmt.Errorf("time: %w", err)
	}
	if row.ReceivedAt, err = time.Parse(time.RFC3339Nano, received); err != nil {
		return row, fmt.Errorf("received_at: %w", err)
	}
	return row, nil
}

// ask asks the policy. OPA panics at some inputs, such as numbers that are too large for it.
func (d *decider) ask(ctx context.Context, row *domain.Decision, why bool) (a explain.Answer) {
	defer func() {
		if panicked := recover(); panicked != nil {
			a = explain.Answer{Was: row.Outcome, Err: fmt.Errorf("OPA cannot decide it: %v", panicked)}
		}
	}()
	return d.policy.Decide(ctx, row, why)
}

func (d *decider) spell(row *domain.Decision, a *explain.Answer, why bool) *api.Replayed {
	out := &api.Replayed{
		DecisionID: row.ID, Tenant: row.Tenant, Time: api.At(row.Time()), Path: api.Text(row.Path),
		Asked: api.Text(a.Asked), Was: string(a.Was), Doubts: []string{}, Missing: a.Missing,
	}
	for _, doubt := range a.Doubts {
		out.Doubts = append(out.Doubts, string(doubt))
	}
	if a.Err != nil {
		out.Error = api.Text(oneLine(d.complaint(a.Err)))
		return out
	}
	out.Now, out.Reason, out.Same, out.Hidden = api.Text(a.Now), api.Text(a.Reason), a.Same, a.Hidden
	out.Flipped, out.Exact = a.Flipped(), len(a.Doubts) == 0
	if a.Failure != "" {
		out.Reason = api.Text(oneLine(d.complaint(errors.New(a.Failure))))
	}
	if why || !a.Same {
		out.Result, out.ResultBytes = within(a.Result)
		out.Stored, _ = within(a.Stored)
	}
	for _, rule := range a.Because.Rules {
		out.Rules = append(out.Rules, d.place(rule))
	}
	for _, f := range a.Because.Failed {
		out.Failed = append(out.Failed, api.Condition{Rule: f.Rule, At: d.place(f.At), Condition: f.Condition})
	}
	return out
}

// within is a result, or how long it is where it is too long.
func within(result []byte) (json.RawMessage, int) {
	if len(result) > maxResult {
		return nil, len(result)
	}
	return result, 0
}

func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }
