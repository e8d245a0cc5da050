package domain

import (
	"regexp"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// Rule says why a decision has its outcome, for whoever writes a mapping: in a few words, and at which name or pointer.
type Rule struct{ Why, At string }

func (r Rule) String() string {
	if r.At == "" {
		return r.Why
	}
	return r.Why + " " + r.At
}

// What decides about outcomes, in order.
const (
	byError         = "the event has an error"
	byUndefined     = "there is no result"
	byErasure       = "the result was erased"
	byCompileNone   = "the compile API: no data fits"
	byCompileAll    = "the compile API: all data fits"
	byCompileSome   = "the compile API: some data fits"
	byMapping       = "mapping"
	byMappingHidden = "a mask hides what the mapping asks for:"
	byMask          = "a mask hides a verdict, so that nothing is allowed:"
	byQuery         = "a query that is more than a reference to a rule has no verdict"
	byBool          = "boolean at"
	byBoolDeny      = "boolean at the deny name"
	byBoolOther     = "boolean at a name that says neither allow nor deny:"
	byDenySet       = "deny set at the name"
	byDenySetEmpty  = "empty deny set, and it cannot be told that anything was asked, at the name"
	byAtDeny        = "allowed at the deny name"
	byWord          = "verdict in words at"
	byNoWord        = "text that is no verdict at"
	byKey           = "boolean at"
	byContradiction = "verdicts contradict each other, the last at"
	byDenyKey       = "deny set at"
	byDenyEmpty     = "empty deny set without an input, or beside other verdicts, at"
	byReview        = "SubjectAccessReview: status"
	byEvaluations   = "AuthZEN: evaluations"
	byResults       = "results of several checks"
	byWarning       = "warnings decide nothing:"
	byNothing       = "nothing says allowed or denied at"
)

// verdict is what was found of an outcome. It stands on a key of the result, or on what at names; with a key, at is
// what comes behind it.
type verdict struct {
	outcome Outcome
	why, at string
	key     key
}

// rule spells what a verdict stands on.
func (c *capture) rule(v verdict) Rule {
	if v.key != noKey {
		v.at = c.result.at(v.key) + v.at
	}
	return Rule{v.why, v.at}
}

// outcome decides by design: error, compile API, undefined, mapping, shape.
func (c *capture) outcome(name policyName) verdict {
	result := c.value(c.plan.result)
	if result.Kind() == '{' {
		c.readMembers(result)
	}
	if v := c.value(c.plan.err); v != nil && !c.undefinedError(v) {
		return verdict{outcome: OutcomeError, why: byError}
	} else if v != nil {
		return c.undefined()
	}
	if isText(c.value(c.plan.customType), `"open-policy-agent/compile"`) {
		return c.compiled(result)
	}
	if result == nil {
		if covered(c.masks.erased, "result") {
			return verdict{outcome: OutcomeUnknown, why: byErasure}
		}
		return c.undefined()
	}
	if v, decided := c.mapped(); decided {
		return v
	}
	v := c.shaped(result, name)
	if v.outcome == OutcomeAllowed && c.result.hidden != "" {
		return verdict{outcome: OutcomeUnknown, why: byMask, at: c.result.hidden}
	}
	return v
}

// undefined is the outcome of a decision without a result.
func (c *capture) undefined() verdict {
	if m := c.plan.mapping; m.Undefined != "" {
		return verdict{outcome: m.Undefined, why: byMapping, at: m.Path + ": undefined"}
	}
	return verdict{outcome: OutcomeUndefined, why: byUndefined}
}

// undefinedError reports one of OPA's ways to say undefined as an error: its code in the server and in the SDK, and the
// message of older ones, in an object or as text.
func (c *capture) undefinedError(v jsontext.Value) bool {
	var code, message string
	switch v.Kind() {
	case '"':
		code = unquoted(v)
		code, _, _ = strings.Cut(code, ":")
		message = code
	case '{':
		var inner capture
		inner.read(errorPlan, v)
		code, message = inner.scalar(errorPlan.path), inner.scalar(errorPlan.result)
	default:
	}
	return code == "undefined_document" || code == "opa_undefined_error" || message == "undefined decision"
}

// compiled is the outcome of OPA's compile API, which answers with the condition that data has to meet: none does,
// everything does, or some.
func (c *capture) compiled(result jsontext.Value) verdict {
	erased := covered(c.masks.erased, "result") || inside(c.masks.erased, "result")
	switch {
	case erased || covered(c.masks.masked, "result") || inside(c.masks.masked, "result"):
		return verdict{outcome: OutcomeUnknown, why: byMask, at: "/result"}
	case result == nil, result.Kind() == '{' && isEmpty(result):
		return verdict{outcome: OutcomeDenied, why: byCompileNone}
	}
	var query, found jsontext.Value
	each(result, func(name, v jsontext.Value) bool {
		switch {
		case isName(name, `"query"`):
			query = v
		case isName(name, `"masks"`) && (v.Kind() != '{' || !isEmpty(v)):
			found = v
		}
		return true
	})
	if found == nil && (isText(query, `""`) || query.Kind() == '{' && isEmpty(query)) {
		return verdict{outcome: OutcomeAllowed, why: byCompileAll}
	}
	return verdict{outcome: OutcomeUnknown, why: byCompileSome}
}

// mapped is what the mapping says; decided is false where it leads nowhere. Where a mask hides what it asks for,
// nothing is allowed.
func (c *capture) mapped() (v verdict, decided bool) {
	m := c.plan.mapping
	if len(m.Allowed)+len(m.Denied) == 0 {
		return v, false
	}
	hidden := ""
	holds := func(cond Condition, p *placed) answer {
		if c.masks.hides(p.steps...) {
			hidden = p.pointer
			return saysNothing
		}
		return c.judge(cond, c.value(p.slot), inside(c.masks.erased, p.steps...))
	}
	say := func(o Outcome, p *placed) verdict {
		if o == OutcomeAllowed && hidden != "" {
			return verdict{outcome: OutcomeUnknown, why: byMappingHidden, at: hidden}
		}
		return verdict{outcome: o, why: byMapping, at: m.Path + ": " + p.pointer}
	}
	var last *placed
	for i, p := range c.plan.denied {
		switch holds(m.Denied[i], p) {
		case saysYes:
			return say(OutcomeDenied, p), true
		case saysNo:
			last = p
		case saysNothing:
		}
	}
	for i, p := range c.plan.allowed {
		switch holds(m.Allowed[i], p) {
		case saysYes:
			return say(OutcomeAllowed, p), true
		case saysNo:
			return say(OutcomeDenied, p), true
		case saysNothing:
		}
	}
	if last != nil && len(c.plan.allowed) == 0 {
		return say(OutcomeAllowed, last), true
	}
	if hidden != "" {
		return verdict{outcome: OutcomeUnknown, why: byMappingHidden, at: hidden}, true
	}
	return v, false
}

// answer is what a condition says of a value.
type answer int

const (
	saysNothing answer = iota
	saysYes
	saysNo
)

// judge compares a value with what a condition expects. erased says that something within it was removed.
func (c *capture) judge(cond Condition, v jsontext.Value, erased bool) answer {
	yes := func(holds bool) answer {
		if holds {
			return saysYes
		}
		return saysNo
	}
	kind := v.Kind()
	filled := cond.When == WhenNonEmpty || cond.When == WhenFilled
	switch isBool := kind == 't' || kind == 'f'; {
	case v == nil:
	case (cond.When == WhenTrue || cond.When == WhenFilled) && isBool:
		return yes(kind == 't')
	case cond.When == WhenFalse && isBool:
		return yes(kind == 'f')
	case filled && (kind == '[' || kind == '{'):
		return yes(!isEmpty(v) || erased)
	case filled && kind == '"':
		return yes(len(v) > len(`""`))
	case cond.When == WhenEquals && kind == '0' && sameNumber(string(v), cond.Equals):
		return saysYes
	case cond.When == WhenEquals && (kind == '"' || isBool) && plainText(v) == cond.Equals:
		return saysYes
	}
	return saysNothing
}

// sameNumber compares numbers, however they are spelled; long ones by their spelling.
func sameNumber(a, b string) bool {
	const exact = 15 // digits that a float64 keeps
	if a == b || len(a) > exact || len(b) > exact {
		return a == b
	}
	x, errX := strconv.ParseFloat(a, 64)
	y, errY := strconv.ParseFloat(b, 64)
	return errX == nil && errY == nil && x == y
}

// plainText is a scalar's whole text.
func plainText(v jsontext.Value) string {
	if v.Kind() == '"' {
		return unquoted(v)
	}
	return string(v)
}

// isText compares a value with a quoted text.
func isText(v jsontext.Value, quoted string) bool { return v.Kind() == '"' && isName(v, quoted) }

// policyName is the last step of what was asked, and what it says of a boolean.
type policyName struct {
	text string
	says nameSays
}

// refuses reports the name of something that denies.
func (n policyName) refuses() bool { return n.says == nameDeny || n.says == nameDenySet }

type nameSays int

const (
	nameOther nameSays = iota
	nameNone           // neither a path nor a query
	nameAllow
	nameDeny
	nameDenySet // a set of denials, but no name for a boolean
	nameWarn    // warnings decide nothing
	nameData    // data, not a verdict
	nameQuery   // a query that is no reference to a rule
)

var allowNames = wordSet("allow allowed permit permitted grant granted authorized authorised authz accept accepted " +
	"approve approved decision")

var denyNames = wordSet("deny denied disallow disallowed forbid forbidden block blocked reject rejected refuse " +
	"refused violation violations unauthorized unauthorised not_allowed not_authorized not_authorised")

var denySetNames = wordSet("denies denials failures errors")

var warnNames = wordSet("warn warnings monitor audit sample")

// dataNames are Trino's questions about data: their answers are no verdicts.
var dataNames = wordSet("batch row_filters column_mask column_masks")

func wordSet(words string) map[string]bool {
	set := map[string]bool{}
	for w := range strings.FieldsSeq(words) {
		set[w] = true
	}
	return set
}

// reference is a query that names a rule and does nothing else.
var reference = regexp.MustCompile(`^\s*data((?:\.[A-Za-z_]\w*|\["[^"\\]*"\])+)\s*$`)

// nameOf finds the name by path, or else by query, and reads it.
func (c *capture) nameOf(path string) policyName {
	name := path
	if p := c.value(c.plan.path); p != nil && p.Kind() != '"' {
		return policyName{says: nameOther} // what was asked cannot be told
	}
	if q := c.value(c.plan.query); path == "" && q.Kind() == '"' && len(q) > len(`""`) {
		kind := c.value(c.plan.result).Kind()
		found := reference.FindStringSubmatch(unquoted(q))
		if found == nil || kind != 't' && kind != 'f' && kind != '{' {
			return policyName{says: nameQuery}
		}
		name = strings.NewReplacer(`["`, "/", `"]`, "", ".", "/").Replace(found[1])
	}
	name = strings.TrimRight(name, "/")
	name = name[strings.LastIndexByte(name, '/')+1:]
	return policyName{text: name, says: readName(name)}
}

// readName reads a policy's name: camelCase is the same as snake_case.
func readName(name string) nameSays {
	if name == "" {
		return nameNone
	}
	snake := stem(name)
	if says, known := namesBySpelling[snake]; known {
		return says
	}
	switch {
	case (strings.HasPrefix(snake, "deny_") || strings.HasPrefix(snake, "violation_")) && !anyStep(snake, undeniers):
		return nameDeny
	case (strings.HasPrefix(snake, "allow_") || strings.HasPrefix(snake, "can_")) && !anyStep(snake, disallowers):
		return nameAllow
	}
	return nameOther
}

// namesBySpelling are all names that say something by themselves.
var namesBySpelling = func() map[string]nameSays {
	all := map[string]nameSays{}
	for says, names := range map[nameSays]map[string]bool{
		nameAllow: allowNames, nameDeny: denyNames, nameDenySet: denySetNames, nameWarn: warnNames, nameData: dataNames,
	} {
		for name := range names {
			all[name] = says
		}
	}
	return all
}()

// stem is a name in snake_case, without is_ and should_.
func stem(name string) string {
	return strings.TrimPrefix(strings.TrimPrefix(snakeCase(name), "is_"), "should_")
}

// isAllowName reports a name that is the same as allow.
func isAllowName(name string) bool { return allowNames[stem(name)] }

// Words within a name that turn its prefix around.
var (
	undeniers   = wordSet("override overridden overrides exempt exempted exemption exception disabled skip skipped")
	disallowers = wordSet("not never no none nothing nobody t deny denied denies denial denials block blocked forbid " +
		"forbidden reject rejected refuse refused missing disabled violation violations")
)

// anyStep reports that one of a name's steps is among words.
func anyStep(snake string, words map[string]bool) bool {
	for step := range strings.SplitSeq(snake, "_") {
		if words[step] {
			return true
		}
	}
	return false
}

// snakeCase spells isAllowed and is-allowed as is_allowed.
func snakeCase(name string) string {
	plain := true
	for i := range len(name) {
		plain = plain && name[i] != '-' && (name[i] < 'A' || name[i] > 'Z')
	}
	if plain {
		return name
	}
	var b strings.Builder
	for i := range len(name) {
		ch := name[i]
		switch upper := ch >= 'A' && ch <= 'Z'; {
		case ch == '-':
			ch = '_'
		case upper && i > 0 && name[i-1] >= 'a' && name[i-1] <= 'z':
			b.WriteByte('_')
			fallthrough
		case upper:
			ch += 'a' - 'A'
		}
		b.WriteByte(ch)
	}
	return b.String()
}
