package search

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/cockroachdb/apd/v3"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/docket-project/docket/internal/domain"
)

// Matcher judges decisions by an expression. It is the one meaning of the language: what the stores ask their columns
// is no more than a bound of it. It is safe for concurrent use.
type Matcher struct{ fits judge }

// judge is an expression made ready.
type judge func(*domain.Decision) bool

// NewMatcher makes a matcher.
func NewMatcher(e domain.Expr) *Matcher {
	return &Matcher{compile(e)}
}

// Fits judges a decision. Without its event, what is asked of that is as if it were absent.
func (m *Matcher) Fits(d *domain.Decision) bool { return m.fits(d) }

func readsEvent(e domain.Expr) bool {
	return e.Mentions(domain.FieldEvent) || e.Mentions(domain.FieldText) || e.Mentions(domain.FieldLatency)
}

func compile(e domain.Expr) judge {
	switch e.Op {
	case "":
		return func(*domain.Decision) bool { return true }
	case domain.OpNot:
		inner := compile(e.Args[0])
		return func(d *domain.Decision) bool { return !inner(d) }
	case domain.OpAnd, domain.OpOr:
		args := make([]judge, len(e.Args))
		for i, a := range e.Args {
			args[i] = compile(a)
		}
		ends := e.Op == domain.OpOr
		return func(d *domain.Decision) bool {
			for _, fits := range args {
				if fits(d) == ends {
					return ends
				}
			}
			return !ends
		}
	case domain.OpText:
		return text(e)
	case domain.OpEqual, domain.OpPrefix, domain.OpPresent, domain.OpGlob,
		domain.OpLess, domain.OpAtMost, domain.OpAtLeast, domain.OpMore:
	}
	if e.Field == domain.FieldEvent {
		return inEvent(e)
	}
	if e.Field == domain.FieldLatency {
		return latency(e)
	}
	return column(e)
}

// column judges what stands in a column.
func column(e domain.Expr) judge {
	var fits func(string) bool
	switch e.Op {
	case domain.OpPresent:
		fits = func(string) bool { return true }
	case domain.OpEqual:
		fits = func(text string) bool { return text == e.Value }
	case domain.OpPrefix:
		fits = func(text string) bool { return strings.HasPrefix(text, e.Value) }
	case domain.OpGlob:
		literals := domain.Literals(e.Value)
		fits = func(text string) bool { return domain.Matches(text, literals) }
	default: // no column is before or behind another
		fits = func(string) bool { return false }
	}
	if e.Field == domain.FieldRevision {
		return func(d *domain.Decision) bool {
			return slices.ContainsFunc(d.Bundles, func(b domain.Bundle) bool { return b.Revision != "" && fits(b.Revision) })
		}
	}
	of := columnOf(e.Field)
	return func(d *domain.Decision) bool {
		text := of(d)
		return text != "" && fits(text)
	}
}

// inEvent judges a value of the event, or any element of it.
func inEvent(e domain.Expr) judge {
	texts := required(e)
	if e.Op == domain.OpPresent {
		return func(d *domain.Decision) bool {
			v := valueAt(d, e.Path, texts)
			return v != nil && v.Kind() != 'n'
		}
	}
	fits := scalar(e)
	return func(d *domain.Decision) (found bool) {
		v := valueAt(d, e.Path, texts)
		if v == nil {
			return false
		}
		domain.Elements(v, func(element jsontext.Value) bool {
			found = fits(element)
			return !found
		})
		return found
	}
}

// required are texts without which an event does not fit: its keys, and the value that a string has to have. They are
// looked for in the bytes as they are, of events without a backslash, whose every text is spelled as it is. None begins
// with a quotation mark, though one stands there: bytes.Index looks for the first byte, which had better be rare.
func required(e domain.Expr) (texts [][]byte) {
	for _, step := range e.Path {
		if _, err := strconv.Atoi(step); err != nil { // or an element
			texts = append(texts, []byte(step+`"`))
		}
	}
	switch e.Op {
	case domain.OpEqual:
		if e.Quoted || !jsonNumber.MatchString(e.Value) && !slices.Contains(words, e.Value) {
			texts = append(texts, []byte(e.Value+`"`))
		}
	case domain.OpGlob:
		for _, literal := range domain.Literals(e.Value) {
			texts = append(texts, []byte(literal))
		}
	default:
	}
	slices.SortFunc(texts, func(a, b []byte) int { return len(b) - len(a) }) // what is longest is rarest
	return texts
}

// words are the values of JSON that are neither strings nor numbers.
var words = []string{"true", "false", "null"}

// valueAt is domain.ValueAt of an event that can be read, and that has these texts or might have them.
func valueAt(d *domain.Decision, path []string, texts [][]byte) jsontext.Value {
	if d.Unsearchable || d.Event == nil {
		return nil
	}
	for _, text := range texts {
		if !bytes.Contains(d.Event, text) && bytes.IndexByte(d.Event, '\\') < 0 {
			return nil
		}
	}
	return domain.ValueAt(d.Event, path)
}

// scalar judges one value.
func scalar(e domain.Expr) func(jsontext.Value) bool {
	asNumber, isNumber := number(e.Value)
	switch e.Op {
	case domain.OpEqual:
		return func(v jsontext.Value) bool {
			if text, ok := domain.TextOf(v); ok {
				return text == e.Value
			}
			if kind := v.Kind(); e.Quoted || kind == '{' || kind == '[' || kind == '"' {
				return false
			}
			if n, ok := numberOf(v); ok && isNumber {
				return n.Cmp(asNumber) == 0
			}
			return string(v) == e.Value // true, false, null, or a number beyond all bounds
		}
	case domain.OpGlob:
		literals := domain.Literals(e.Value)
		return func(v jsontext.Value) bool {
			text, ok := domain.TextOf(v)
			return ok && domain.Matches(text, literals)
		}
	case domain.OpLess, domain.OpAtMost, domain.OpAtLeast, domain.OpMore:
		if isNumber {
			return func(v jsontext.Value) bool {
				n, ok := numberOf(v)
				return ok && inOrder(e.Op, n.Cmp(asNumber))
			}
		}
		at, err := domain.ParseRFC3339(e.Value)
		return func(v jsontext.Value) bool {
			text, ok := domain.TextOf(v)
			if !ok || err != nil {
				return false
			}
			t, err := domain.ParseRFC3339(text)
			return err == nil && inOrder(e.Op, t.Compare(at))
		}
	case domain.OpAnd, domain.OpOr, domain.OpNot, domain.OpPrefix, domain.OpPresent, domain.OpText: // of no scalar
	}
	return func(jsontext.Value) bool { return false }
}

// inOrder reports whether the order of two values, as Cmp tells it, is the wanted one.
func inOrder(op domain.Op, order int) bool {
	switch op {
	case domain.OpLess:
		return order < 0
	case domain.OpAtMost:
		return order <= 0
	case domain.OpAtLeast:
		return order >= 0
	case domain.OpMore:
		return order > 0
	default:
		return order == 0
	}
}

// latencies are the timers of metrics that tell how long a decision took, the first that is there: of a server's whole
// answer, of an SDK's decision, and of the query alone, in nanoseconds
// (https://www.openpolicyagent.org/docs/monitoring#performance-metrics).
var latencies = [][]string{
	{"timer_server_handler_ns"},
	{"timer_sdk_decision_eval_ns"},
	{"timer_rego_query_eval_ns"},
}

func latency(e domain.Expr) judge {
	wanted, err := time.ParseDuration(e.Value)
	limit := apd.New(wanted.Nanoseconds(), 0)
	return func(d *domain.Decision) bool {
		metrics := valueAt(d, []string{"metrics"}, nil)
		for _, timer := range latencies {
			v := domain.ValueAt(metrics, timer)
			if v.Kind() != '0' {
				continue
			}
			n, ok := numberOf(v)
			return e.Op == domain.OpPresent || ok && err == nil && inOrder(e.Op, n.Cmp(limit))
		}
		return false
	}
}

// text judges whether the event has a text somewhere.
func text(e domain.Expr) judge {
	literals := domain.Literals(e.Value)
	for i, literal := range literals {
		literals[i] = fold(literal)
	}
	// Anything may stand around it.
	if literals[0] != "" {
		literals = append([]string{""}, literals...)
	}
	if literals[len(literals)-1] != "" || len(literals) == 1 {
		literals = append(literals, "")
	}
	return func(d *domain.Decision) (found bool) {
		if d.Unsearchable || d.Event == nil || !mayHave(d.Event, literals) {
			return false
		}
		domain.Texts(d.Event, func(text []byte) bool {
			found = domain.Matches(fold(string(text)), literals)
			return !found
		})
		return found
	}
}

// folded are buffers of mayHave.
var folded = sync.Pool{New: func() any { return new([]byte) }}

// mayHave is false of an event that has one of these folded texts nowhere. It knows that only of ASCII without a
// backslash: every text is spelled there as it is.
func mayHave(event []byte, literals []string) bool {
	if bytes.IndexByte(event, '\\') >= 0 {
		return true
	}
	buffer := folded.Get().(*[]byte)
	defer folded.Put(buffer)
	var ascii bool
	*buffer, ascii = appendLower((*buffer)[:0], event)
	if !ascii {
		return true
	}
	b := *buffer
	for _, literal := range literals {
		if !bytes.Contains(b, []byte(literal)) {
			return false
		}
	}
	return true
}

// appendLower appends ASCII in lower case, eight bytes at a time: each byte of a word has its highest bit free to tell
// whether what was added to it has carried over.
func appendLower(dst, text []byte) (lower []byte, ascii bool) {
	const each, high = 0x0101010101010101, 0x8080808080808080
	var any uint64
	at := 0
	for ; at+8 <= len(text); at += 8 {
		word := binary.LittleEndian.Uint64(text[at:])
		any |= word
		low := word &^ high
		fromA, behindZ := low+(0x80-'A')*each, low+(0x7f-'Z')*each
		dst = binary.LittleEndian.AppendUint64(dst, word|(fromA&^behindZ&high)>>2)
	}
	for _, ch := range text[at:] {
		any |= uint64(ch)
		if 'A' <= ch && ch <= 'Z' {
			ch += 'a' - 'A'
		}
		dst = append(dst, ch)
	}
	return dst, any&high == 0
}

// fold makes texts equal that differ in case only, by Unicode's simple folding.
func fold(s string) string {
	return strings.Map(func(r rune) rune {
		if r < utf8.RuneSelf {
			if 'A' <= r && r <= 'Z' {
				r += 'a' - 'A'
			}
			return r
		}
		least := r
		for next := unicode.SimpleFold(r); next != r; next = unicode.SimpleFold(next) {
			least = min(least, next)
		}
		if 'A' <= least && least <= 'Z' { // the sign of kelvin is a k
			least += 'a' - 'A'
		}
		return least
	}, s)
}
