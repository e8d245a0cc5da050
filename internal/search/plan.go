package search

import "github.com/docket-project/docket/internal/domain"

// Plan is how a store answers a search: what it asks its columns, and whether the rest has to be judged in the rows.
type Plan struct {
	// Columns fits all that the search wants, and as little else as columns can say.
	Columns domain.Expr
	// Rest is to be judged for every row; nil where Columns says all of it. It reads the row's event, where Event says so,
	// and the columns of Fields.
	Rest   *Matcher
	Event  bool
	Fields []domain.FieldInfo
}

// NewPlan plans a search.
func NewPlan(e domain.Expr) Plan {
	b := boundOf(e, true)
	p := Plan{Columns: b.expr}
	if b.exact {
		return p
	}
	p.Rest = NewMatcher(e)
	return p.Reading(e.Conjuncts())
}

// Reading is the plan that also reads what terms about these fields look at.
func (p Plan) Reading(terms []domain.Expr) Plan {
	all := domain.AllOf(terms...)
	for _, f := range p.Fields {
		all = domain.AllOf(all, domain.Present(f.Name))
	}
	p.Event, p.Fields = p.Event || readsEvent(all), nil
	for _, f := range domain.DecisionFields {
		if all.Mentions(f.Name) {
			p.Fields = append(p.Fields, f)
		}
	}
	return p
}

// nothing fits no decision.
var nothing = domain.Expr{Op: domain.OpOr}

func isNothing(e domain.Expr) bool { return e.Op == domain.OpOr && len(e.Args) == 0 }

// bound is an expression over columns that fits all that another one does, or else only what it fits.
type bound struct {
	expr  domain.Expr
	exact bool
}

// boundOf finds the bound: from above, which fits no less, or from below, which fits no more.
func boundOf(e domain.Expr, above bool) bound {
	switch e.Op {
	case "":
		return bound{e, true}
	case domain.OpNot:
		inner := boundOf(e.Args[0], !above)
		switch {
		case inner.expr.Op == "":
			return bound{nothing, inner.exact}
		case isNothing(inner.expr):
			return bound{domain.Expr{}, inner.exact}
		}
		return bound{domain.Not(inner.expr), inner.exact}
	case domain.OpAnd, domain.OpOr:
		return boundOfAll(e, above)
	case domain.OpEqual, domain.OpPrefix, domain.OpPresent:
		if _, column := domain.FieldOf(domain.DecisionFields, e.Field); column {
			return bound{e, true}
		}
	case domain.OpGlob:
		if _, column := domain.FieldOf(domain.DecisionFields, e.Field); column && above {
			if first := domain.Literals(e.Value)[0]; first != "" {
				return bound{domain.HasPrefix(e.Field, first), false}
			}
			return bound{domain.Present(e.Field), false}
		}
	case domain.OpLess, domain.OpAtMost, domain.OpAtLeast, domain.OpMore, domain.OpText:
	}
	if above {
		return bound{domain.Expr{}, false}
	}
	return bound{nothing, false}
}

// boundOfAll is that of AND and OR. Everything and nothing swallow the others, or leave them alone.
func boundOfAll(e domain.Expr, above bool) bound {
	out := bound{exact: true}
	var args []domain.Expr
	and := e.Op == domain.OpAnd
	for _, a := range e.Args {
		b := boundOf(a, above)
		out.exact = out.exact && b.exact
		everything, none := b.expr.Op == "", isNothing(b.expr)
		switch {
		case and && none, !and && everything: // a bound that cannot be moved any further is what it bounds
			return bound{b.expr, b.exact || and == above}
		case !everything && !none:
			args = append(args, b.expr)
		}
	}
	if and {
		out.expr = domain.AllOf(args...)
	} else {
		out.expr = domain.AnyOf(args...)
	}
	return out
}
