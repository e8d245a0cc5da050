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
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/bundle"
	"github.com/open-policy-agent/opa/v1/loader"
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
	// batch is how many decisions are decided beside each other, and share how many of them in a row.
	batch = 512
	share = 16
	// maxResult is the longest result that is told, in bytes.
	maxResult = 256 << 10
)

// Process is Decide with bounds for the whole process, whose only work it is.
func Process(ctx context.Context, in io.Reader, out io.Writer) error {
	confine()
	return Decide(ctx, in, out)
}

// Decide reads an order, then decisions, and answers in their order. What is wrong with the policy is an answer too.
// Its error is that reading or writing failed.
func Decide(ctx context.Context, in io.Reader, out io.Writer) error {
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

// load reads a policy: a directory, a file of Rego, or a bundle as opa build makes it. What is no Rego of today may be
// that of OPA before 1.0.
func load(path string) (*bundle.Bundle, error) {
	b, err := loadAs(path, ast.RegoV1)
	if err != nil {
		if old, err := loadAs(path, ast.RegoV0); err == nil {
			return old, nil
		}
	}
	return b, err
}

func loadAs(path string, version ast.RegoVersion) (*bundle.Bundle, error) {
	if !strings.HasSuffix(path, bundle.RegoExt) {
		return loader.NewFileLoader().WithSkipBundleVerification(true).WithRegoVersion(version).AsBundle(path)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	module, err := ast.ParseModuleWithOpts(path, string(text), ast.ParserOptions{RegoVersion: version})
	if err != nil {
		return nil, err
	}
	return &bundle.Bundle{
		Manifest: bundle.Manifest{Roots: &[]string{""}}, Data: map[string]any{},
		Modules: []bundle.ModuleFile{{URL: path, Path: path, Raw: text, Parsed: module}},
	}, nil
}

// decider decides by a policy.
type decider struct {
	policy    *explain.Policy
	projector *domain.Projector
	root      string // of the policy's files
	stuck     chan string
	late      atomic.Int64 // decisions that took too long
}

func prepare(order replaypolicy.Order) (*decider, error) {
	projector, err := domain.NewProjector(order.Mappings)
	if err != nil {
		return nil, err
	}
	root := strings.TrimSuffix(order.Policy, "/") + "/"
	if strings.HasSuffix(order.Policy, bundle.RegoExt) {
		root = order.Policy[:strings.LastIndexByte(order.Policy, '/')+1]
	}
	d := &decider{projector: projector, root: root, stuck: make(chan string, batch)}
	b, err := load(order.Policy)
	if err == nil {
		d.policy, err = explain.New(b, projector)
	}
	if err != nil {
		return nil, fault("%s", d.complaint(err))
	}
	return d, nil
}

// all decides what it reads.
func (d *decider) all(ctx context.Context, in *bufio.Scanner, out io.Writer) error {
	w := bufio.NewWriterSize(out, 64<<10)
	for first := true; ; first = false {
		var lines [][]byte
		for len(lines) < batch && in.Scan() {
			lines = append(lines, append([]byte(nil), in.Bytes()...))
			if first {
				break // whose answer shows that the policy is one
			}
		}
		if len(lines) == 0 {
			return in.Err()
		}
		answers, err := d.beside(ctx, lines, first)
		if err != nil {
			return err
		}
		if d.late.Load() >= maxLate {
			return fault("it took longer than %s for each of %d decisions", patience, d.late.Load())
		}
		for _, a := range answers {
			if len(a) > 0 {
				w.Write(a)        //nolint:errcheck // Flush tells
				w.WriteByte('\n') //nolint:errcheck // Flush tells
			}
		}
		if err := w.Flush(); err != nil {
			return err
		}
	}
}

// beside decides several beside each other. Where one does not stop, the process has to.
func (d *decider) beside(ctx context.Context, lines [][]byte, why bool) ([][]byte, error) {
	answers := make([][]byte, len(lines))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	done := make(chan error, 1)
	go func() {
		for at := 0; at < len(lines); at += share {
			group.Go(func() error {
				for i := at; i < min(at+share, len(lines)) && d.late.Load() < maxLate; i++ {
					answers[i] = d.decide(ctx, lines[i], why)
				}
				return ctx.Err()
			})
		}
		done <- group.Wait()
	}()
	select {
	case err := <-done:
		return answers, err
	case id := <-d.stuck:
		return nil, fault("it did not stop, %s after it had to: it decided about %s", patience+grace, id)
	}
}

// decide answers one line; nil is a line without a decision, which the end of an export is.
func (d *decider) decide(ctx context.Context, text []byte, why bool) []byte {
	var event []byte
	var tenant, received, outcome string
	gjson.ParseBytes(text).ForEach(func(key, value gjson.Result) bool {
		switch key.Str {
		case "event":
			event = []byte(value.Raw)
		case "tenant":
			tenant = value.Str
		case "received_at":
			received = value.Str
		case "outcome":
			outcome = value.Str
		}
		return true
	})
	if event == nil {
		return nil
	}
	at, err := time.Parse(time.RFC3339Nano, received)
	if err != nil {
		return api.Marshal(api.Replayed{Error: api.Text("the line is no decision: received_at: " + err.Error())})
	}
	row := d.projector.Project(domain.Record{Value: event, Headers: domain.Headers{Tenant: tenant, ReceivedAt: at}})
	projected := row.Outcome
	row.Outcome = domain.Outcome(outcome)

	decide, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	late := time.AfterFunc(patience+grace, func() { d.stuck <- row.ID })
	defer late.Stop()
	a := d.policy.Decide(decide, &row, why)
	if row.Outcome != projected {
		a.Doubts = append(a.Doubts, explain.OtherMapping)
	}
	if a.Err != nil && decide.Err() != nil && ctx.Err() == nil {
		d.late.Add(1)
		a.Err = fmt.Errorf("the policy took longer than %s", patience)
	}
	return api.Marshal(replaypolicy.Line{Replayed: d.spell(&row, &a, why)})
}

// complaint is what OPA complains of, with the names of files as whoever wrote the policy knows them.
func (d *decider) complaint(err error) string {
	return strings.TrimPrefix(strings.ReplaceAll(err.Error(), d.root, ""), "1 error occurred: ")
}

// place is where something stands as whoever wrote the policy knows it.
func (d *decider) place(at string) string {
	return strings.TrimPrefix(strings.TrimPrefix(at, d.root), "/")
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
		out.Error = api.Text(strings.Join(strings.Fields(d.complaint(a.Err)), " "))
		return out
	}
	out.Now, out.Reason, out.Same = api.Text(a.Now), api.Text(a.Reason), a.Same
	out.Flipped, out.Exact = a.Flipped(), len(a.Doubts) == 0
	switch {
	case len(a.Result) > maxResult:
		out.ResultBytes = len(a.Result)
	case why || !a.Same:
		out.Result = json.RawMessage(a.Result)
	}
	for _, rule := range a.Because.Rules {
		out.Rules = append(out.Rules, d.place(rule))
	}
	for _, f := range a.Because.Failed {
		out.Failed = append(out.Failed, api.Condition{
			Rule: f.Rule, At: d.place(f.At), Condition: f.Condition,
		})
	}
	return out
}
