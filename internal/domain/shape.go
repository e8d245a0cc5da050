package domain

import (
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// fills reads what may be a deny set: filled or true, empty or false, or neither.
func fills(v jsontext.Value) answer {
	switch v.Kind() {
	case 't':
		return saysYes
	case 'f':
		return saysNo
	case '[', '{':
		if isEmpty(v) {
			return saysNo
		}
		return saysYes
	case '"':
		if len(v) > len(`""`) {
			return saysYes
		}
	case '0':
		if strings.Trim(string(v), "-0.eE+") != "" {
			return saysYes
		}
	default:
	}
	return saysNothing
}

// words that are verdicts, without case, "_", "-" and white space.
var verdictWords = map[string]Outcome{
	"allow": OutcomeAllowed, "allowed": OutcomeAllowed, "permit": OutcomeAllowed, "permitted": OutcomeAllowed,
	"grant": OutcomeAllowed, "granted": OutcomeAllowed, "approve": OutcomeAllowed, "approved": OutcomeAllowed,
	"deny": OutcomeDenied, "denied": OutcomeDenied, "forbid": OutcomeDenied, "forbidden": OutcomeDenied,
	"block": OutcomeDenied, "blocked": OutcomeDenied, "reject": OutcomeDenied, "rejected": OutcomeDenied,
}

// word reads a verdict in words; unknown is any other text.
func word(v jsontext.Value) Outcome {
	if o, known := verdictWords[foldWord(v)]; known {
		return o
	}
	return OutcomeUnknown
}

// saysDenied reports a text that is a verdict of denied.
func saysDenied(v jsontext.Value) bool { return v.Kind() == '"' && word(v) == OutcomeDenied }

// foldWord is a text without case, "_", "-" and white space; "" for one that is too long to be a verdict.
func foldWord(v jsontext.Value) string {
	const longest = 64
	if len(v) > longest {
		return ""
	}
	return foldText(unquoted(v))
}

func foldText(text string) string {
	return strings.ToLower(strings.Map(func(r rune) rune {
		if r == '_' || r == '-' || r == ' ' {
			return -1
		}
		return r
	}, text))
}

// shaped reads the result by its shape and the policy's name.
func (c *capture) shaped(result jsontext.Value, name policyName) verdict {
	unknown := verdict{outcome: OutcomeUnknown, why: byNothing, at: name.text}
	switch name.says {
	case nameQuery:
		return verdict{outcome: OutcomeUnknown, why: byQuery}
	case nameData:
		return unknown
	default:
	}
	if len(c.masks.erased)+len(c.masks.masked) > 0 {
		c.hide()
		if c.masks.hides("result") {
			return verdict{outcome: OutcomeUnknown, why: byMask, at: "/result"}
		}
	}
	switch result.Kind() {
	case 't', 'f':
		return boolean(result.Kind() == 't', name)
	case '"':
		o := word(result)
		switch {
		case name.refuses() && o == OutcomeAllowed:
			return verdict{outcome: OutcomeUnknown, why: byAtDeny, at: name.text}
		case name.says == nameWarn:
			return verdict{outcome: OutcomeUnknown, why: byWarning, at: name.text}
		case o != OutcomeUnknown:
			return verdict{outcome: o, why: byWord, at: "/result"}
		case name.says == nameDeny || name.says == nameDenySet:
			return c.denySet(result, name)
		}
		return verdict{outcome: OutcomeUnknown, why: byNoWord, at: "/result"}
	case '[':
		if name.says == nameDeny || name.says == nameDenySet {
			return c.denySet(result, name)
		}
		return checks(result, name)
	case '{':
		v := c.object()
		switch {
		case v.why == "" && (name.says == nameDeny || name.says == nameDenySet):
			return c.denySet(result, name)
		case v.why == "":
			return unknown
		case v.outcome == OutcomeAllowed && name.says == nameWarn:
			return verdict{outcome: OutcomeUnknown, why: byWarning, at: name.text}
		case v.outcome == OutcomeAllowed && name.refuses():
			return verdict{outcome: OutcomeUnknown, why: byAtDeny, at: name.text}
		}
		return v
	default:
		return unknown
	}
}

// boolean reads a boolean by the policy's name.
func boolean(is bool, name policyName) verdict {
	switch {
	case name.says == nameDeny && is:
		return verdict{outcome: OutcomeDenied, why: byBoolDeny, at: name.text}
	case name.says == nameDeny:
		return verdict{outcome: OutcomeAllowed, why: byBoolDeny, at: name.text}
	case name.says != nameAllow && name.says != nameNone:
		return verdict{outcome: OutcomeUnknown, why: byBoolOther, at: name.text}
	case is:
		return verdict{outcome: OutcomeAllowed, why: byBool, at: name.text}
	}
	return verdict{outcome: OutcomeDenied, why: byBool, at: name.text}
}

// denySet reads a result that is a deny set by its name. An empty one says allowed only where something was asked: a
// policy without an input finds nothing to deny.
func (c *capture) denySet(set jsontext.Value, name policyName) verdict {
	filled := fills(set)
	switch {
	case filled == saysYes, c.result.erasedElement:
		return verdict{outcome: OutcomeDenied, why: byDenySet, at: name.text}
	case filled == saysNo && c.hasInput() && snakeCase(name.text) != "errors":
		return verdict{outcome: OutcomeAllowed, why: byDenySet, at: name.text}
	}
	return verdict{outcome: OutcomeUnknown, why: byDenySetEmpty, at: name.text}
}

// hasInput reports that the policy was asked about something.
func (c *capture) hasInput() bool {
	input := c.value(c.plan.input)
	return input != nil && input.Kind() != 'n' || covered(c.masks.erased, "input")
}

// checks reads an array of checks' results: at the name enforce, or as Conftest writes them. One that failed denies;
// whether the others are all that was to be checked is not known.
func checks(results jsontext.Value, name policyName) verdict {
	v := verdict{outcome: OutcomeUnknown, why: byNothing, at: name.text}
	if name.says == nameWarn {
		v.why = byWarning
		return v
	}
	i := -1
	each(results, func(_, check jsontext.Value) bool {
		if i++; failed(check, name.text == "enforce") {
			v = verdict{outcome: OutcomeDenied, why: byResults, at: "/result/" + strconv.Itoa(i)}
		}
		return v.outcome == OutcomeUnknown
	})
	return v
}

// failed reports that a check did. enforced says that the check itself is known to be one, not only its failures.
func failed(check jsontext.Value, enforced bool) (yes bool) {
	if check.Kind() != '{' {
		return false
	}
	each(check, func(name, v jsontext.Value) bool {
		switch k, _ := keyOf(name); k {
		case keyDenied:
			yes = yes || enforced && v.Kind() == 't'
		case keyAllowed:
			yes = yes || enforced && v.Kind() == 'f'
		case keyFailures:
			yes = yes || v.Kind() == '[' && !isEmpty(v)
		default:
		}
		return true
	})
	return yes
}

// object reads the verdicts of an object; why is "" where there are none. What contradicts itself is unknown.
func (c *capture) object() verdict {
	m := &c.result
	v := c.verdicts()
	if v.outcome == OutcomeAllowed && m.clash {
		return verdict{outcome: OutcomeUnknown, why: byContradiction, key: v.key}
	}
	return v
}

func (c *capture) verdicts() verdict {
	m := &c.result
	yes, no := c.booleans()
	if no.why != "" {
		return no
	}
	w, deny, review, evaluations := c.words(), c.denyKeys(), c.review(), c.evaluations()
	denies := func(v verdict) bool { return v.outcome == OutcomeDenied }
	against := verdict{outcome: OutcomeUnknown, why: byContradiction}
	switch {
	case w.denied != noKey && w.allowed == noKey && yes.why == "":
		return verdict{outcome: OutcomeDenied, why: byWord, key: w.denied}
	case w.denied != noKey:
		against.key = w.denied
	case denies(deny):
		against.key, against.at = deny.key, deny.at
	case denies(review):
		against.key = keyStatus
	case denies(evaluations):
		against.key = keyEvaluations
	case w.hesitates != noKey:
		against.key = w.hesitates
	case m.disclaims, w.disclaims:
		against.at = "/result"
	}
	contradicted := against.key != noKey || against.at != ""
	switch {
	case yes.why != "" && contradicted:
		return against
	case yes.why != "":
		return yes
	case w.allowed != noKey && w.other != noKey:
		return verdict{outcome: OutcomeUnknown, why: byContradiction, key: w.other}
	case w.allowed != noKey && (contradicted || w.structured || m.refuses || c.fails()):
		return verdict{outcome: OutcomeUnknown, why: byContradiction, key: w.allowed}
	case w.allowed != noKey:
		return verdict{outcome: OutcomeAllowed, why: byWord, key: w.allowed}
	case denies(deny):
		return deny
	case denies(evaluations):
		return evaluations
	case deny.why != "":
		others := w.any || m.maybe || m.value(keyResponse) != nil || review.why != "" || evaluations.why != ""
		if deny.outcome == OutcomeAllowed && (others || c.fails() || !c.hasInput()) {
			return verdict{outcome: OutcomeUnknown, why: byDenyEmpty, key: deny.key, at: deny.at}
		}
		return deny
	case contradicted && (review.outcome == OutcomeAllowed || evaluations.outcome == OutcomeAllowed):
		return against
	case review.why != "":
		return review
	case evaluations.why != "":
		return evaluations
	case w.other != noKey:
		return verdict{outcome: OutcomeUnknown, why: byNoWord, key: w.other}
	}
	return verdict{}
}

// booleans are the verdicts that are true or false: any false denies.
func (c *capture) booleans() (yes, no verdict) {
	m := &c.result
	for k := keyAllow; k <= keyDecision; k++ {
		switch v := m.value(k); v.Kind() {
		case 'f':
			return yes, verdict{outcome: OutcomeDenied, why: byKey, key: k}
		case 't':
			yes = verdict{outcome: OutcomeAllowed, why: byKey, key: k}
		default:
		}
	}
	switch member(m.value(keyResponse), `"allowed"`).Kind() {
	case 'f':
		return yes, verdict{outcome: OutcomeDenied, why: byKey, key: keyResponse, at: "/allowed"}
	case 't':
		yes = verdict{outcome: OutcomeAllowed, why: byKey, key: keyResponse, at: "/allowed"}
	default:
	}
	return yes, no
}

// inWords are the verdicts that an object has in words, by their keys.
type inWords struct {
	allowed, denied, other key
	// hesitates is a word for neither yet, and disclaims says that something is no where a word might stand, or a word
	// where a boolean might.
	hesitates key
	disclaims bool
	// any says that there is a key of a verdict, whatever stands there, and structured that there is more than a word
	// where one might stand.
	any, structured bool
}

// hesitant are words for a decision that is not made yet, or not here.
var hesitant = wordSet("conditional challenge notapplicable indeterminate abstain pending defer deferred review " +
	"stepup mfa")

func (c *capture) words() (w inWords) {
	m := &c.result
	for k := keyAllow; k <= keyVerdict; k++ {
		v := m.value(k)
		w.any = w.any || v != nil
		w.disclaims = w.disclaims || v.Kind() == 'f' && !k.allows()
		w.structured = w.structured || (v.Kind() == '{' || v.Kind() == '[') && k.words()
		if v.Kind() != '"' {
			continue
		}
		text := foldWord(v)
		o := verdictWords[text]
		switch {
		case !k.words(): // the text of a boolean
			w.disclaims = w.disclaims || o == OutcomeDenied || text == "no" || text == "false"
		case k == keyAction && c.echoes(text): // of what was asked
		case o == OutcomeAllowed:
			w.allowed = k
		case o == OutcomeDenied:
			w.denied = k
		case hesitant[text]:
			w.hesitates, w.other = k, k
		case k != keyAction:
			w.other = k
		}
	}
	w.disclaims = w.disclaims || saysDenied(m.value(keyStatus))
	if allowed := member(m.value(keyResponse), `"allowed"`); allowed != nil && allowed.Kind() != 't' {
		w.disclaims = true
	}
	return w
}

// echoes reports that a text is the action that the policy was asked about.
func (c *capture) echoes(folded string) bool {
	asked, _ := c.first(c.plan.columns[columnAction], separators[columnAction])
	return asked != "" && foldText(asked) == folded
}

// fails reports errors, or an HTTP status that says no.
func (c *capture) fails() bool {
	m := &c.result
	if fills(m.value(keyErrors)) == saysYes {
		return true
	}
	for _, k := range []key{keyHTTPStatus, keyStatusCode, keyStatus} {
		if v := m.value(k); v.Kind() == '0' && len(v) == len("403") && v[0] >= '4' {
			return true
		}
	}
	return saysDenied(m.value(keyStatus))
}

// denyKeys reads the deny sets of an object: filled is denied, and all empty allowed as far as they go.
func (c *capture) denyKeys() verdict {
	m := &c.result
	var v verdict
	for k := keyDeny; k <= keyFailures; k++ {
		set := m.value(k)
		if set == nil && !m.within[k] {
			continue
		}
		switch filled := fills(set); {
		case filled == saysYes || m.within[k]:
			return verdict{outcome: OutcomeDenied, why: byDenyKey, key: k}
		case filled == saysNo && v.why == "":
			v = verdict{outcome: OutcomeAllowed, why: byDenyKey, key: k}
		case filled == saysNothing:
			v = verdict{outcome: OutcomeUnknown, why: byDenyEmpty, key: k}
		}
	}
	switch {
	case len(m.filled) > 0:
		return verdict{outcome: OutcomeDenied, why: byDenyKey, at: "/result/" + unquoted(m.filled[0].name)}
	case m.emptyName != nil && v.why == "":
		return verdict{outcome: OutcomeAllowed, why: byDenyKey, at: "/result/" + unquoted(m.emptyName)}
	}
	return v
}

// review reads the status of a SubjectAccessReview, of which neither is no opinion
// (https://kubernetes.io/docs/reference/access-authn-authz/webhook/).
func (c *capture) review() verdict {
	status := c.result.value(keyStatus)
	if status.Kind() != '{' {
		return verdict{}
	}
	allowed, denied := member(status, `"allowed"`).Kind(), member(status, `"denied"`).Kind()
	const at = keyStatus
	switch {
	case denied == 't' && allowed == 't':
		return verdict{outcome: OutcomeUnknown, why: byContradiction, key: at}
	case denied == 't':
		return verdict{outcome: OutcomeDenied, why: byReview, key: at}
	case allowed == 't' && denied != 0 && denied != 'f', allowed == 'f':
		return verdict{outcome: OutcomeUnknown, why: byReview, key: at}
	case allowed == 't':
		return verdict{outcome: OutcomeAllowed, why: byReview, key: at}
	}
	return verdict{}
}

// evaluations reads AuthZEN's answers to several questions
// (https://openid.net/specs/authorization-api-1_0.html#name-access-evaluations-api).
func (c *capture) evaluations() verdict {
	list := c.result.value(keyEvaluations)
	if list.Kind() != '[' {
		return verdict{}
	}
	yes, no, decisions := 0, 0, false
	each(list, func(_, e jsontext.Value) bool {
		decision := member(e, `"decision"`)
		decisions = decisions || decision != nil
		if decision.Kind() == 't' {
			yes++
		} else {
			no++
		}
		return true
	})
	const at = keyEvaluations
	switch {
	case !decisions:
		return verdict{outcome: OutcomeUnknown, why: byEvaluations, key: at}
	case no == 0, yes > 0 && isText(c.value(c.plan.semantic), `"permit_on_first_permit"`):
		return verdict{outcome: OutcomeAllowed, why: byEvaluations, key: at}
	}
	return verdict{outcome: OutcomeDenied, why: byEvaluations, key: at}
}

// member is the last member of an object with a name, or nil.
func member(object jsontext.Value, quoted string) (found jsontext.Value) {
	if object.Kind() != '{' {
		return nil
	}
	each(object, func(name, v jsontext.Value) bool {
		if isName(name, quoted) {
			found = v
		}
		return true
	})
	return found
}
