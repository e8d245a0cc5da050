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
	"maps"
	"slices"
	"sync"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/bundle"
	"github.com/open-policy-agent/opa/v1/dependencies"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/topdown"
	"github.com/open-policy-agent/opa/v1/topdown/builtins"

	"github.com/docket-project/docket/internal/domain"
)

// Policy decides. It is safe for concurrent use.
type Policy struct {
	bundle    *bundle.Bundle
	compiler  *ast.Compiler
	data      storage.Store
	projector *domain.Projector
	// network says that the policy has a builtin that may ask a network.
	network bool

	mu      sync.Mutex
	queries map[string]*prepared
}

// prepared is a query, by what it asks for.
type prepared struct {
	rego.PreparedEvalQuery
	// absent is data that it reads and the policy does not have.
	absent []string
	err    error
}

// Doubt is why an answer may be another one than the policy would have given at the time.
type Doubt string

// The doubts.
const (
	// Masked is that a mask of OPA's replaced something in input or result, and Erased that one took something out.
	Masked Doubt = "masked"
	Erased Doubt = "erased"
	// CacheMissing is that the policy calls a builtin whose answer may be another one by now, such as http.send, and that
	// the event does not have the answer: OPA was not told to log it (nd_builtin_cache).
	CacheMissing Doubt = "cache_missing"
	// DataMissing is that the policy reads data that it does not have: another bundle's, or what somebody gave to OPA.
	DataMissing Doubt = "data_missing"
	// OtherData is that the policy is of the revision that decided, that everything it was asked with seems to be there,
	// and that it says something else: it had other data, or something else that is in no event.
	OtherData Doubt = "other_data"
	// OtherRevision is that the policy is of another revision than the one that decided. It is what a replay is for, and
	// no statement about the past.
	OtherRevision Doubt = "other_revision"
	// NoRevision is that policy or event have none, so that nobody knows whether it is the same one.
	NoRevision Doubt = "no_revision"
	// OtherMapping is that the stored outcome was made of the result by other mappings than the answer's.
	OtherMapping Doubt = "other_mapping"
)

// ofRevision reports a doubt about whether this is the policy that decided.
func (d Doubt) ofRevision() bool { return d == OtherRevision || d == NoRevision }

// Answer is what a policy says about a stored decision.
type Answer struct {
	// Was is what was decided, and Now what the policy says.
	Was, Now domain.Outcome
	// Asked is what was asked for, such as data.orders.allow.
	Asked string
	// Result is the policy's result, nil where no rule gave one.
	Result jsontext.Value
	// Stored is the event's result.
	Stored jsontext.Value
	// Same says that the result is the one of the event, but for its spelling.
	Same bool
	// Hidden says that a mask hides the event's result, or a part of it: nobody can tell whether it is the same.
	Hidden bool
	// Failure is why the policy fails; its outcome is an error then.
	Failure string
	// Reason is why, as far as the result says so.
	Reason string
	// Doubts are why the answer may be another one than at the time; without any it is exact.
	Doubts []Doubt
	// Missing are the builtins whose answers the event does not have, and data that the policy does not have.
	Missing []string
	// Because is why, where the result is another one, or where it was asked for.
	Because Because
	// Err is why there is no answer.
	Err error
}

// Flipped reports another outcome than was decided. What a mask hides is none.
func (a *Answer) Flipped() bool {
	return a.Err == nil && a.Was != a.Now && (!a.Hidden || a.Was != domain.OutcomeUnknown)
}

// ErrNotAsked is a decision that no policy can be asked for again: it has neither path nor a query that is a reference
// with a result of its own, or it is a compilation.
var ErrNotAsked = errors.New("the event does not say which rule was asked for: ad-hoc queries and compilations do not")

// New prepares a policy. Its error says what does not compile. projector makes outcomes of results.
func New(b *bundle.Bundle, projector *domain.Projector) (*Policy, error) {
	switch {
	case b.Type() == bundle.DeltaBundleType:
		return nil, errors.New("it is a delta bundle, which is a change to a policy and none itself")
	case len(b.WasmModules) > 0:
		return nil, errors.New("it is a bundle of Wasm, which has a part of the rules as Rego: build one without -t wasm")
	case len(b.Modules) == 0:
		return nil, errors.New("there is no Rego in it")
	}
	p := &Policy{
		bundle: b, compiler: ast.NewCompiler().WithCapabilities(capabilities()), data: inmem.NewFromObject(b.Data),
		projector: projector, queries: map[string]*prepared{},
	}
	modules := map[string]*ast.Module{}
	for _, m := range b.Modules {
		modules[m.Path] = m.Parsed
	}
	if p.compiler.Compile(modules); p.compiler.Failed() {
		return nil, p.compiler.Errors
	}
	for _, m := range b.Modules {
		ast.WalkRefs(m.Parsed, func(ref ast.Ref) bool {
			p.network = p.network || slices.Contains(network, ref.String())
			return p.network
		})
	}
	return p, nil
}

// network are builtins that ask a network: without one they fail.
var network = []string{
	ast.HTTPSend.Name, ast.NetLookupIPAddr.Name, ast.JSONMatchSchema.Name, ast.JSONSchemaVerify.Name,
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
func (p *Policy) query(ctx context.Context, asked ast.Ref) *prepared {
	p.mu.Lock()
	defer p.mu.Unlock()
	key := asked.String()
	q := p.queries[key]
	if q == nil {
		q = &prepared{}
		body := ast.NewBody(ast.NewExpr(ast.NewTerm(asked)))
		q.PreparedEvalQuery, q.err = rego.New(
			rego.ParsedQuery(body), rego.Compiler(p.compiler), rego.Store(p.data), rego.Capabilities(capabilities()),
		).PrepareForEval(ctx)
		if q.err == nil {
			q.absent, q.err = p.absent(body)
		}
		if len(p.queries) >= maxQueries {
			clear(p.queries)
		}
		p.queries[key] = q
	}
	return q
}

// absent is data that a query reads, by whatever rules, and the policy does not have.
func (p *Policy) absent(body ast.Body) (out []string, err error) {
	read := map[string]ast.Ref{}
	if err := p.base(body, map[*ast.Rule]bool{}, read); err != nil {
		return nil, err
	}
	const most = 10
	for _, missing := range slices.Sorted(maps.Keys(read)) {
		ref := read[missing]
		if !ref.HasPrefix(ast.DefaultRootRef) || len(ref) == 1 {
			continue
		}
		var at any = p.bundle.Data
		for _, step := range ref[1:] {
			members, ok := at.(map[string]any)
			name, isName := step.Value.(ast.String)
			if !ok || !isName {
				break // an element of an array, or one that is chosen as it goes
			}
			if at, ok = members[string(name)]; !ok {
				if len(out) < most {
					out = append(out, missing)
				}
				break
			}
		}
	}
	return out, nil
}

// base collects what x reads of data by whatever rules. It is dependencies.Base of OPA, which compares each rule with
// all others of its name: of 2,000 rules, which somebody generates, that took most of the time for a decision.
func (p *Policy) base(x any, seen map[*ast.Rule]bool, into map[string]ast.Ref) error {
	refs, err := dependencies.Minimal(x)
	if err != nil {
		return err
	}
	for _, ref := range refs {
		ref = ref.ConstantPrefix()
		rules := p.compiler.GetRules(ref)
		if len(rules) == 0 {
			into[ref.String()] = ref
		}
		for _, rule := range rules {
			if seen[rule] {
				continue
			}
			seen[rule] = true
			if err := p.base(rule, seen, into); err != nil {
				return err
			}
		}
	}
	return nil
}

// Decide asks the policy about a stored decision. why asks for the reasons of a result that is the same as well.
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
	q := p.query(ctx, asked)
	if q.err != nil {
		out.Err = q.err
		return out
	}
	cache := e.answers()
	known := sizes(cache)
	options := []rego.EvalOption{rego.EvalTime(d.Time()), rego.EvalNDBuiltinCache(cache)}
	if e.input != nil {
		options = append(options, rego.EvalParsedInput(e.input))
	}
	var refused refusals
	watched := options
	if p.network {
		watched = append(slices.Clone(options), rego.EvalQueryTracer(&refused))
	}
	found, err := q.Eval(ctx, watched...)
	for name, n := range sizes(cache) { // what was not in it has been asked for, and was put there
		if n > known[name] {
			out.Missing = append(out.Missing, name)
		}
	}
	for _, name := range refused {
		if !slices.Contains(out.Missing, name) {
			out.Missing = append(out.Missing, name)
		}
	}
	slices.Sort(out.Missing)
	out.Doubts = p.doubts(d, &e, &out, q.absent)
	out.Stored, out.Hidden = e.result, touches(e.masked, "result") || touches(e.erased, "result")
	switch {
	case err != nil && ctx.Err() != nil:
		out.Err = err
		return out
	case err != nil:
		out.Now, out.Reason, out.Failure = domain.OutcomeError, "", err.Error()
		out.Same = e.failed && d.Outcome == domain.OutcomeError
	default:
		if err := out.read(found); err != nil {
			out.Err = err
			return out
		}
		out.Same = same(e.result, out.Result)
		if !out.Same || e.altered { // otherwise the outcome is that of the event
			again := p.projector.Project(domain.Record{
				Value: e.with(out.Result), Headers: domain.Headers{Tenant: d.Tenant, ReceivedAt: d.ReceivedAt},
			})
			out.Now, out.Reason = again.Outcome, again.Reason
			// Without a result, as before: that was an error, or one of OPA's spellings of undefined.
			out.Same = out.Same && (!e.failed || out.Was == out.Now)
		}
	}
	switch known := !slices.ContainsFunc(out.Doubts, Doubt.ofRevision); {
	case known && out.Same: // it is on record that this revision said so
		out.Doubts, out.Missing = nil, nil
	case len(out.Doubts) == 0:
		out.Doubts = append(out.Doubts, OtherData)
	}
	if why || !out.Same {
		// The cache has every answer by now, so that this comes out the same.
		out.Because = p.because(ctx, q.PreparedEvalQuery, asked, options)
	}
	return out
}

// read takes the result of an evaluation.
func (a *Answer) read(found rego.ResultSet) (err error) {
	if len(found) > 0 && len(found[0].Expressions) > 0 {
		a.Result, err = json.Marshal(found[0].Expressions[0].Value)
	}
	return err
}

// refusals are the builtins that wanted the network and did not get it: they fail, which is undefined, as in OPA.
type refusals []string

// Enabled implements topdown.QueryTracer.
func (r *refusals) Enabled() bool { return true }

// Config implements topdown.QueryTracer.
func (r *refusals) Config() topdown.TraceConfig { return topdown.TraceConfig{} }

// TraceEvent implements topdown.QueryTracer.
func (r *refusals) TraceEvent(e topdown.Event) {
	if e.Op != topdown.FailOp {
		return
	}
	if expr, ok := e.Node.(*ast.Expr); ok && expr.IsCall() {
		name := expr.Operator().String()
		if slices.Contains(network, name) && !slices.Contains(*r, name) {
			*r = append(*r, name)
		}
	}
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
func (p *Policy) doubts(d *domain.Decision, e *event, a *Answer, absent []string) (out []Doubt) {
	if len(a.Missing) > 0 {
		out = append(out, CacheMissing)
	}
	if len(absent) > 0 {
		out = append(out, DataMissing)
		a.Missing = append(a.Missing, absent...)
	}
	asked := []string{"input", "nd_builtin_cache", "result"}
	if touches(e.erased, asked...) {
		out = append(out, Erased)
	}
	if touches(e.masked, asked...) {
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

// touches reports that a mask changed a part of the event, or all of it.
func touches(pointers jsontext.Value, parts ...string) (touched bool) {
	domain.Elements(pointers, func(v jsontext.Value) bool {
		pointer, ok := domain.TextOf(v)
		steps := domain.MaskSteps(pointer)
		touched = ok && (len(steps) == 0 || slices.Contains(parts, steps[0]))
		return !touched
	})
	return touched
}

// same compares two results whatever their spelling.
func same(a, b jsontext.Value) bool {
	if a == nil || b == nil || bytes.Equal(a, b) {
		return (a == nil) == (b == nil)
	}
	x, err := valueOf(a)
	y, err2 := valueOf(b)
	return err == nil && err2 == nil && x.Compare(y) == 0
}
