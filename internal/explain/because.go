package explain

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/bundle"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// Because is why a policy said what it said.
type Because struct {
	// Rules are where the rules stand that gave the result, such as orders.rego:7, at most maxRules.
	Rules []string
	// Failed are conditions that did not hold, at most maxFailed, in the order of the policy.
	Failed []Failed
}

// Failed is a condition that did not hold, so that its rule did not.
type Failed struct {
	Rule, At, Condition string
}

const (
	// maxRules and maxFailed bound how many rules and conditions are told, and maxCondition the bytes of one.
	maxRules     = 20
	maxFailed    = 20
	maxCondition = 500
)

// because decides once more and watches. Every rule is looked at, those too that OPA's index would leave out.
func (p *Policy) because(
	ctx context.Context, q rego.PreparedEvalQuery, asked ast.Ref, options []rego.EvalOption,
) Because {
	w := &witness{modules: p.bundle.Modules, queries: map[uint64]*attempt{}}
	watched := append(slices.Clone(options), rego.EvalQueryTracer(w), rego.EvalRuleIndexing(false))
	if _, err := q.Eval(ctx, watched...); err != nil && ctx.Err() != nil {
		return Because{} // there was no time to see all of it
	}
	return w.because(asked)
}

// witness watches which rules hold.
type witness struct {
	modules []bundle.ModuleFile
	queries map[uint64]*attempt
}

// maxAttempts bounds how many evaluations of rules are remembered.
const maxAttempts = 20_000

// attempt is one evaluation of a rule's body.
type attempt struct {
	rule   *ast.Rule
	held   bool
	failed *ast.Expr // the farthest
}

// Enabled implements topdown.QueryTracer.
func (w *witness) Enabled() bool { return true }

// Config implements topdown.QueryTracer.
func (w *witness) Config() topdown.TraceConfig { return topdown.TraceConfig{} }

// TraceEvent implements topdown.QueryTracer.
func (w *witness) TraceEvent(e topdown.Event) {
	switch node := e.Node.(type) {
	case *ast.Rule:
		if e.Op == topdown.EnterOp && len(w.queries) < maxAttempts {
			w.queries[e.QueryID] = &attempt{rule: node}
		} else if a := w.queries[e.QueryID]; a != nil && e.Op == topdown.ExitOp {
			a.held = true
		}
	case *ast.Expr:
		a := w.queries[e.QueryID]
		if a != nil && e.Op == topdown.FailOp && (a.failed == nil || node.Index > a.failed.Index) {
			a.failed = node
		}
	}
}

// because puts together what was seen. A rule that held for one of its arguments did hold.
func (w *witness) because(asked ast.Ref) (out Because) {
	held := map[*ast.Rule]bool{}
	for _, a := range w.queries {
		held[a.rule] = held[a.rule] || a.held
	}
	failed := map[*ast.Expr]*ast.Rule{}
	for _, a := range w.queries {
		if !held[a.rule] && a.failed != nil {
			failed[a.failed] = a.rule
		}
	}
	byExpr := slices.SortedFunc(maps.Keys(failed), func(a, b *ast.Expr) int { return byPlace(a.Location, b.Location) })
	for _, expr := range byExpr {
		if len(out.Failed) == maxFailed {
			break
		}
		at := w.written(expr.Location)
		f := Failed{Rule: failed[expr].Ref().String(), At: place(at), Condition: firstLine(at)}
		if !slices.Contains(out.Failed, f) {
			out.Failed = append(out.Failed, f)
		}
	}
	var rules []*ast.Rule
	for rule, did := range held {
		if did && (rule.Ref().HasPrefix(asked) || asked.HasPrefix(rule.Ref().GroundPrefix())) {
			rules = append(rules, rule)
		}
	}
	slices.SortFunc(rules, func(a, b *ast.Rule) int { return byPlace(a.Location, b.Location) })
	for _, rule := range first(rules, maxRules) {
		at := place(rule.Location)
		if rule.Default {
			at += " (default)"
		}
		if !slices.Contains(out.Rules, at) {
			out.Rules = append(out.Rules, at)
		}
	}
	return out
}

// first are at most n of a list.
func first[T any](all []T, n int) []T { return all[:min(len(all), n)] }

// written is the condition that somebody wrote: the compiler makes several of one.
func (w *witness) written(at *ast.Location) *ast.Location {
	out := at
	for _, m := range w.modules {
		if m.Parsed.Package.Location.File != at.File {
			continue
		}
		for _, rule := range m.Parsed.Rules {
			ast.WalkBodies(rule, func(body ast.Body) bool {
				for _, e := range body {
					if l := e.Location; l.Offset <= at.Offset && at.Offset < l.Offset+len(l.Text) {
						out = l
						return true // what is within it is a part of it
					}
				}
				return false
			})
		}
	}
	return out
}

// firstLine is what is written somewhere, cut to a line.
func firstLine(at *ast.Location) string {
	text, _, more := strings.Cut(strings.TrimSpace(string(at.Text)), "\n")
	if len(text) > maxCondition {
		text, more = strings.ToValidUTF8(text[:maxCondition], ""), true
	}
	if more {
		text += " …"
	}
	return text
}

// place is where something stands in the policy.
func place(at *ast.Location) string {
	if at == nil {
		return "?"
	}
	return fmt.Sprintf("%s:%d", at.File, at.Row)
}

func byPlace(a, b *ast.Location) int {
	return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Row, b.Row), cmp.Compare(a.Col, b.Col))
}
