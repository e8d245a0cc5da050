package domain

import (
	"slices"
	"strings"
	"time"
)

// Op is what an Expr does.
type Op string

// The operators. The zero Op is everything.
const (
	OpAnd Op = "and"
	OpOr  Op = "or"
	OpNot Op = "not"
	// OpEqual compares the whole text, code point by code point.
	OpEqual Op = "equal"
	// OpPrefix compares the beginning of the text.
	OpPrefix Op = "prefix"
	// OpPresent is that the field has any value.
	OpPresent Op = "present"
	// OpGlob compares the whole text with a pattern; see Glob.
	OpGlob Op = "glob"
	// OpLess, OpAtMost, OpAtLeast and OpMore compare numbers with numbers, and times (RFC 3339) with times.
	OpLess    Op = "less"
	OpAtMost  Op = "at_most"
	OpAtLeast Op = "at_least"
	OpMore    Op = "more"
	// OpText is that the event has a text somewhere: in one string, key or number. Case does not count. Its Value is a
	// pattern; see Glob.
	OpText Op = "text"
)

// Expr is a filter as a tree: and, or and not over comparisons. The zero Expr is everything. Logic is two-valued: a
// comparison is false where the field is absent, and its negation is then true.
type Expr struct {
	Op Op
	// Args are the operands of and, or and not; not has one.
	Args []Expr
	// Field and Value are what a comparison compares.
	Field Field
	Value string
	// Path is where a FieldEvent is in the event, step by step from its root.
	Path []string
	// Quoted says of a FieldEvent that only strings are equal to Value. Otherwise a number, true, false or null that is
	// spelled so is as well.
	Quoted bool
}

// Glob spells a pattern of literal texts with any text between them: a "*" stands for that, and a backslash takes the
// meaning of what follows away.
func Glob(literals ...string) string {
	var b strings.Builder
	for i, text := range literals {
		if i > 0 {
			b.WriteByte('*')
		}
		b.WriteString(globEscaper.Replace(text))
	}
	return b.String()
}

var globEscaper = strings.NewReplacer("*", `\*`, `\`, `\\`)

// Literals are what Glob made a pattern of.
func Literals(pattern string) []string {
	literals, last := []string{}, strings.Builder{}
	for i := 0; i < len(pattern); i++ {
		switch ch := pattern[i]; {
		case ch == '*':
			literals = append(literals, last.String())
			last.Reset()
		case ch == '\\' && i+1 < len(pattern):
			i++
			last.WriteByte(pattern[i])
		default:
			last.WriteByte(ch)
		}
	}
	return append(literals, last.String())
}

// Matches reports that a text is what a pattern with these literals stands for: that it has them in this order, the
// first at its beginning and the last at its end.
func Matches(text string, literals []string) bool {
	last := len(literals) - 1
	if last == 0 {
		return text == literals[0]
	}
	rest, ok := strings.CutPrefix(text, literals[0])
	if !ok {
		return false
	}
	if rest, ok = strings.CutSuffix(rest, literals[last]); !ok {
		return false
	}
	for _, literal := range literals[1:last] {
		if _, rest, ok = strings.Cut(rest, literal); !ok {
			return false
		}
	}
	return true
}

// Equals is a field with this text.
func Equals(f Field, text string) Expr { return Expr{Op: OpEqual, Field: f, Value: text} }

// HasPrefix is a field that begins with this text.
func HasPrefix(f Field, text string) Expr { return Expr{Op: OpPrefix, Field: f, Value: text} }

// Present is a field that has a value.
func Present(f Field) Expr { return Expr{Op: OpPresent, Field: f} }

// Not is the complement.
func Not(e Expr) Expr { return Expr{Op: OpNot, Args: []Expr{e}} }

// AllOf is what fits every one of exprs; everything where there is none.
func AllOf(exprs ...Expr) Expr {
	var args []Expr
	for _, e := range exprs {
		args = append(args, e.Conjuncts()...)
	}
	switch len(args) {
	case 0:
		return Expr{}
	case 1:
		return args[0]
	default:
		return Expr{Op: OpAnd, Args: args}
	}
}

// AnyOf is what fits one of exprs; nothing where there is none.
func AnyOf(exprs ...Expr) Expr {
	if len(exprs) == 1 {
		return exprs[0]
	}
	return Expr{Op: OpOr, Args: exprs}
}

// Conjuncts are the parts that all have to hold; none for everything.
func (e Expr) Conjuncts() []Expr {
	switch e.Op {
	case "":
		return nil
	case OpAnd:
		return e.Args
	default:
		return []Expr{e}
	}
}

// Mentions reports that the expression says something of a field.
func (e Expr) Mentions(f Field) bool {
	return e.Field == f || slices.ContainsFunc(e.Args, func(a Expr) bool { return a.Mentions(f) })
}

// Named are the texts that comparisons within the expression say a field is equal to.
func (e Expr) Named(f Field) (out []string) {
	if e.Op == OpEqual && e.Field == f {
		return []string{e.Value}
	}
	for _, arg := range e.Args {
		out = append(out, arg.Named(f)...)
	}
	return out
}

// about reports that an expression mentions these fields only.
func (e Expr) about(fields []Field) bool {
	if e.Field != "" {
		return slices.Contains(fields, e.Field)
	}
	return !slices.ContainsFunc(e.Args, func(a Expr) bool { return !a.about(fields) })
}

// About keeps the conjuncts that mention these fields only. What it leaves out, the result does not ask.
func (e Expr) About(fields ...Field) Expr {
	var kept []Expr
	for _, c := range e.Conjuncts() {
		if c.about(fields) {
			kept = append(kept, c)
		}
	}
	return AllOf(kept...)
}

// Without leaves out the conjuncts that mention a field.
func (e Expr) Without(f Field) Expr {
	var kept []Expr
	for _, c := range e.Conjuncts() {
		if !c.Mentions(f) {
			kept = append(kept, c)
		}
	}
	return AllOf(kept...)
}

// Filter chooses decisions or dead letters: a span of time, and what has to hold.
type Filter struct {
	// Since is inclusive and Until exclusive. Zero is the beginning and the end of time, so that the decisions of a clock
	// that is ahead show.
	Since, Until time.Time
	Where        Expr
}

// Countable reports that the counts of dead letters can answer how many fit, without looking at them.
func (f Filter) Countable() bool {
	counted := append(slices.Clip(CountedFields), FieldState)
	return f.Since.IsZero() && f.Until.IsZero() && f.Where.about(counted)
}
