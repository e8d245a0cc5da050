package search

import (
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/docket-project/docket/internal/domain"
)

// String is the canonical form of a filter: Parse reads the same filter from it, if the filter has no zero Since.
func String(f domain.Filter) string {
	var parts []string
	if !f.Since.IsZero() {
		parts = append(parts, "since:"+f.Since.Format(time.RFC3339Nano))
	}
	if !f.Until.IsZero() {
		parts = append(parts, "until:"+f.Until.Format(time.RFC3339Nano))
	}
	for _, c := range f.Where.Conjuncts() {
		text := spell(c)
		if _, is := idWord(c); !is && c.Op == domain.OpOr && len(parts)+len(f.Where.Conjuncts()) > 1 {
			text = "(" + text + ")"
		}
		parts = append(parts, text)
	}
	return strings.Join(parts, " ")
}

// spell is an expression without parentheses around it.
func spell(e domain.Expr) string {
	switch e.Op {
	case domain.OpAnd:
		return joined(e.Args, " ", domain.OpOr)
	case domain.OpOr:
		if word, is := idWord(e); is {
			return word
		}
		return joined(e.Args, " OR ", "")
	case domain.OpNot:
		a := e.Args[0]
		if _, is := idWord(a); is || a.Op != domain.OpAnd && a.Op != domain.OpOr {
			return "-" + spell(a)
		}
		return "NOT (" + spell(e.Args[0]) + ")"
	case domain.OpText:
		return pattern(e.Value, true)
	case domain.OpEqual, domain.OpPrefix, domain.OpPresent, domain.OpGlob,
		domain.OpLess, domain.OpAtMost, domain.OpAtLeast, domain.OpMore, "":
	}
	return FieldName(e) + spellValue(e)
}

// joined puts those of an operator that binds looser into parentheses.
func joined(args []domain.Expr, operator string, looser domain.Op) string {
	parts := make([]string, len(args))
	for i, a := range args {
		parts[i] = spell(a)
		if _, is := idWord(a); !is && a.Op == looser {
			parts[i] = "(" + parts[i] + ")"
		}
	}
	return strings.Join(parts, operator)
}

// idWord is the word that was read as ids.
func idWord(e domain.Expr) (string, bool) {
	if e.Op != domain.OpOr || len(e.Args) < 3 || !id.MatchString(e.Args[0].Value) {
		return "", false
	}
	word := e.Args[0].Value
	r := reader{}
	return word, reflect.DeepEqual(e, r.freeText(word, len(e.Args) == 3))
}

// FieldAt is how a query asks for the value at a path of an event, such as input.user.
func FieldAt(path []string) string {
	return FieldName(domain.Expr{Field: domain.FieldEvent, Path: path})
}

// FieldName is how a query spells the field of a comparison.
func FieldName(e domain.Expr) string {
	if e.Field == domain.FieldDecisionID {
		return idName
	}
	if e.Field != domain.FieldEvent {
		return string(e.Field)
	}
	steps := e.Path
	switch {
	case steps[0] == "input" || steps[0] == "result":
	case len(steps) == 2 && steps[0] == "labels":
		steps = []string{"label", steps[1]}
	case len(steps) == 3 && steps[0] == "bundles" && steps[2] == "revision":
		steps = []string{"bundle", steps[1]}
	default:
		steps = append([]string{"event"}, steps...)
	}
	spelled := make([]string, len(steps))
	for i, step := range steps {
		if spelled[i] = step; !plainStep.MatchString(step) {
			spelled[i] = quote(step)
		}
	}
	return strings.Join(spelled, ".")
}

var operators = map[domain.Op]string{
	domain.OpLess: "<", domain.OpAtMost: "<=", domain.OpAtLeast: ">=", domain.OpMore: ">",
}

// spellValue spells an operator with its value.
func spellValue(e domain.Expr) string {
	switch e.Op {
	case domain.OpPresent:
		return ":*"
	case domain.OpPrefix:
		return ":" + pattern(domain.Glob(e.Value, ""), false)
	case domain.OpGlob:
		return ":" + pattern(e.Value, false)
	case domain.OpEqual:
		if e.Quoted || !plainValue.MatchString(e.Value) {
			return ":" + quote(e.Value)
		}
		return ":" + e.Value
	default:
		return operators[e.Op] + e.Value
	}
}

// pattern spells literals with stars between them.
func pattern(glob string, text bool) string {
	literals := domain.Literals(glob)
	for i, literal := range literals {
		if literal != "" && (text || !plainValue.MatchString(literal)) {
			literals[i] = quote(literal)
		}
	}
	if text && slices.Equal(literals, []string{""}) {
		return quote("")
	}
	return strings.Join(literals, "*")
}

// What needs no quotes.
var (
	plainStep  = regexp.MustCompile(`^[\pL\pN_/@$-]+$`)
	plainValue = regexp.MustCompile(`^[\pL\pN_./:@$+=~#%&?!,;|<>^-]+$`)
)

// quote puts a text in quotes. Only quotes and backslashes need a backslash there; all others get theirs, so that a
// reader does not wonder.
func quote(text string) string {
	return `"` + quoter.Replace(text) + `"`
}

var quoter = strings.NewReplacer(`"`, `\"`, `\`, `\\`)
