// Package explain decides stored decisions again by a policy that somebody gives: what does it say, is that what it
// would have said at the time, and which rules and conditions are the reason? It owns which answers are exact, and why
// others are not. It reads no files, starts no process and asks no network, whatever a policy wants: its caller brings
// the policy, and bounds time and memory.
package explain

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/bundle"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/topdown/builtins"

	"github.com/docket-project/docket/internal/domain"
)

// Policy decides. It is safe for concurrent use.
type Policy struct {
	bundle    *bundle.Bundle
	compiler  *ast.Compiler
	data      storage.Store
	projector *domain.Projector
	// network are the builtins of the policy that ask a network.
	network []string

	mu      sync.Mutex
	queries map[query]*prepared
}

// query is what a policy is asked. Strictly, a builtin that fails ends it.
type query struct {
	text   string
	strict bool
}

type prepared struct {
	rego.PreparedEvalQuery
	err error
}

// Doubt is why an answer may be another one than the policy would have given at the time.
type Doubt string

// The doubts.
const (
	// Masked is that a mask of OPA's replaced something in the input, and Erased that one took something out.
	Masked Doubt = "masked"
	Erased Doubt = "erased"
	// CacheMissing is that the policy calls a builtin whose answer may be another one by now, such as http.send, and that
	// the event does not have the answer: OPA was not told to log it (nd_builtin_cache).
	CacheMissing Doubt = "cache_missing"
	// OtherRevision is that the policy is of another revision than the one that decided. It is what a replay is for, and
	// no statement about the past.
	OtherRevision Doubt = "other_revision"
	// NoRevision is that policy or event have none, so that nobody knows whether it is the same one.
	NoRevision Doubt = "no_revision"
	// OtherMapping is that the stored outcome was made of the result by other mappings than the answer's.
	OtherMapping Doubt = "other_mapping"
)

// Answer is what a policy says about a stored decision.
type Answer struct {
	// Was is what was decided, and Now what the policy says.
	Was, Now domain.Outcome
	// Asked is what was asked for, such as data.orders.allow.
	Asked string
	// Result is the policy's result, nil where no rule gave one.
	Result jsontext.Value
	// Same says that the result is the one of the event, but for its spelling.
	Same bool
	// Reason is why, as far as the result says so.
	Reason string
	// Doubts are why the answer may be another one than at the time; without any it is exact.
	Doubts []Doubt
	// Missing are the builtins whose answers the event does not have.
	Missing []string
	// Because is why, where the outcome is another one, or where it was asked for.
	Because Because
	// Err is why there is no answer.
	Err error
}

// Flipped reports another outcome than was decided.
func (a *Answer) Flipped() bool { return a.Err == nil && a.Was != a.Now }

// ErrNotAsked is a decision that no policy can be asked for again: it has neither path nor a query that is a reference,
// or it is a compilation.
var ErrNotAsked = errors.New("the event does not say which rule was asked for")

// New prepares a policy. Its error says what does not compile. projector makes outcomes of results.
func New(b *bundle.Bundle, projector *domain.Projector) (*Policy, error) {
	p := &Policy{
		bundle: b, compiler: ast.NewCompiler().WithCapabilities(capabilities()), data: inmem.NewFromObject(b.Data),
		projector: projector, queries: map[query]*prepared{},
	}
	modules := map[string]*ast.Module{}
	for _, m := range b.Modules {
		modules[m.Path] = m.Parsed
	}
	if p.compiler.Compile(modules); p.compiler.Failed() {
		return nil, p.compiler.Errors
	}
	for _, bi := range []*ast.Builtin{ast.HTTPSend, ast.NetLookupIPAddr} {
		if slices.ContainsFunc(b.Modules, func(m bundle.ModuleFile) bool { return calls(m.Parsed, bi) }) {
			p.network = append(p.network, bi.Name)
		}
	}
	return p, nil
}

// calls reports whether a module has a builtin in it.
func calls(m *ast.Module, bi *ast.Builtin) (found bool) {
	ast.WalkRefs(m, func(ref ast.Ref) bool {
		found = found || ref.String() == bi.Name
		return found
	})
	return found
}

// capabilities are those of this OPA without a network: a policy compiles, and what it asks of others comes from the
// event or is missing.
func capabilities() *ast.Capabilities {
	c := ast.CapabilitiesForThisVersion()
	c.AllowNet = []string{}
	return c
}

// maxQueries bounds how many prepared queries are kept: OPA's clients choose the paths that they ask for.
const maxQueries = 1000

// query prepares a query once.
func (p *Policy) query(ctx context.Context, asked ast.Ref, strict bool) (rego.PreparedEvalQuery, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	key := query{asked.String(), strict}
	q := p.queries[key]
	if q == nil {
		q = &prepared{}
		q.PreparedEvalQuery, q.err = rego.New(
			rego.ParsedQuery(ast.NewBody(ast.NewExpr(ast.NewTerm(asked)))), rego.Compiler(p.compiler), rego.Store(p.data),
			rego.Capabilities(capabilities()), rego.StrictBuiltinErrors(strict),
		).PrepareForEval(ctx)
		if len(p.queries) >= maxQueries {
			clear(p.queries)
		}
		p.queries[key] = q
	}
	return q.PreparedEvalQuery, q.err
}

// Decide asks the policy about a stored decision. why asks for the reasons of an outcome that is the same as well.
func (p *Policy) Decide(ctx context.Context, d *domain.Decision, why bool) Answer {
	out := Answer{Was: d.Outcome, Now: d.Outcome, Reason: d.Reason}
	e, err := read(d.Event)
	if err != nil {
		out.Err = fmt.Errorf("the event cannot be read: %w", err)
		return out
	}
	asked, err := e.asked()
	if err != nil {
		out.Err = err
		return out
	}
	out.Asked = asked.String()
	q, err := p.query(ctx, asked, false)
	if err != nil {
		out.Err = err
		return out
	}
	options := []rego.EvalOption{rego.EvalTime(d.Time())}
	if e.input != nil {
		options = append(options, rego.EvalParsedInput(e.input))
	}
	cache := e.answers()
	known := sizes(cache)
	found, err := q.Eval(ctx, append(options, rego.EvalNDBuiltinCache(cache))...)
	for name, n := range sizes(cache) { // what was not in it has been asked for, and was put there
		if n > known[name] {
			out.Missing = append(out.Missing, name)
		}
	}
	if len(out.Missing) == 0 && len(p.network) > 0 && p.refused(ctx, asked, options, &e) {
		out.Missing = p.network
	}
	slices.Sort(out.Missing)
	out.Doubts = p.doubts(d, &e, out.Missing)
	if err != nil {
		out.Err = err
		return out
	}
	if len(found) > 0 && len(found[0].Expressions) > 0 {
		if out.Result, err = json.Marshal(found[0].Expressions[0].Value); err != nil {
			out.Err = err
			return out
		}
	}
	out.Same = same(e.result, out.Result)
	if !out.Same || e.altered { // otherwise the outcome is that of the event
		again := p.projector.Project(domain.Record{
			Value: e.with(out.Result), Headers: domain.Headers{Tenant: d.Tenant, ReceivedAt: d.ReceivedAt},
		})
		out.Now, out.Reason = again.Outcome, again.Reason
	}
	if why || out.Flipped() {
		// The cache has every answer by now, so that this comes out the same.
		out.Because = p.because(ctx, q, asked, append(options, rego.EvalNDBuiltinCache(cache)))
	}
	return out
}

// refused decides once more and reports whether a builtin wanted the network: a builtin that fails is undefined
// otherwise, as it is in OPA.
func (p *Policy) refused(ctx context.Context, asked ast.Ref, options []rego.EvalOption, e *event) bool {
	q, err := p.query(ctx, asked, true)
	if err == nil {
		_, err = q.Eval(ctx, append(options, rego.EvalNDBuiltinCache(e.answers()))...)
	}
	return err != nil && strings.Contains(err.Error(), "disallowed host")
}

func sizes(c builtins.NDBCache) map[string]int {
	if len(c) == 0 {
		return nil
	}
	out := make(map[string]int, len(c))
	for name, calls := range c {
		out[name] = calls.Len()
	}
	return out
}

// doubts are why an answer may be another one than at the time.
func (p *Policy) doubts(d *domain.Decision, e *event, missing []string) (out []Doubt) {
	if len(missing) > 0 {
		out = append(out, CacheMissing)
	}
	if touchesInput(e.erased) {
		out = append(out, Erased)
	}
	if touchesInput(e.masked) {
		out = append(out, Masked)
	}
	revision := p.bundle.Manifest.Revision
	switch {
	case revision == "" || len(d.Bundles) == 0:
		out = append(out, NoRevision)
	case !slices.ContainsFunc(d.Bundles, func(b domain.Bundle) bool { return b.Revision == revision }):
		out = append(out, OtherRevision)
	}
	return out
}

// touchesInput reports that a mask changed something that a policy reads.
func touchesInput(pointers jsontext.Value) (touched bool) {
	domain.Elements(pointers, func(v jsontext.Value) bool {
		pointer, ok := domain.TextOf(v)
		steps := domain.MaskSteps(pointer)
		touched = ok && (len(steps) == 0 || steps[0] == "input" || steps[0] == "nd_builtin_cache")
		return !touched
	})
	return touched
}

// same compares two results whatever their spelling.
func same(a, b jsontext.Value) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	if bytes.Equal(a, b) {
		return true
	}
	x, y := slices.Clone(a), slices.Clone(b)
	return x.Canonicalize() == nil && y.Canonicalize() == nil && bytes.Equal(x, y)
}
