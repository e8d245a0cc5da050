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
	const longest = 64
	if len(v) <= longest {
		text := strings.ToLower(strings.NewReplacer("_", "", "-", "", " ", "").Replace(unquoted(v)))
		if o, known := verdictWords[text]; known {
			return o
		}
	}
	return OutcomeUnknown
}

// shaped reads the result by its shape and the policy's name.
func (c *capture) shaped(result jsontext.Value, name policyName) verdict {
	unknown := verdict{outcome: OutcomeUnknown, why: byNothing, at: name.text}
	if name.says == nameQuery {
		return verdict{outcome: OutcomeUnknown, why: byQuery}
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
		case name.says == nameDeny && o == OutcomeAllowed:
			return verdict{outcome: OutcomeUnknown, why: byAtDeny, at: name.text}
		case o != OutcomeUnknown:
			return verdict{outcome: o, why: byWord, at: "/result"}
		case name.says == nameDeny || name.says == nameDenySet:
			return c.denySet(result, name)
		case name.says == nameWarn:
			return verdict{outcome: OutcomeUnknown, why: byWarning, at: name.text}
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
		case v.outcome == OutcomeAllowed && name.says == nameDeny:
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
	return c.value(c.plan.input) != nil || covered(c.masks.erased, "input")
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
	deny := c.denyKeys()
	wrong := func(k key) verdict { return verdict{outcome: OutcomeUnknown, why: byContradiction, key: k} }

	yes, verdicts := noKey, false
	for k := keyAllow; k <= keyDecision; k++ {
		switch v := m.value(k); v.Kind() {
		case 'f':
			return verdict{outcome: OutcomeDenied, why: byKey, key: k}
		case 't':
			yes = k
		default:
		}
		verdicts = verdicts || m.value(k) != nil
	}
	response := member(m.value(keyResponse), `"allowed"`)
	switch response.Kind() {
	case 'f':
		return verdict{outcome: OutcomeDenied, why: byKey, key: keyResponse, at: "/allowed"}
	case 't':
		yes = keyResponse
	default:
	}
	var allowed, denied, other key
	for k := keyDecision; k <= keyVerdict; k++ {
		v := m.value(k)
		verdicts = verdicts || v != nil
		if v.Kind() != '"' {
			continue
		}
		switch o := word(v); {
		case o == OutcomeAllowed:
			allowed = k
		case o == OutcomeDenied:
			denied = k
		case k != keyAction: // policies repeat the action that they were asked about
			other = k
		}
	}
	review := c.review()
	switch {
	case yes != noKey && denied != noKey:
		return wrong(denied)
	case yes != noKey && deny.outcome == OutcomeDenied:
		return verdict{outcome: OutcomeUnknown, why: byContradiction, key: deny.key, at: deny.at}
	case yes != noKey && review.outcome == OutcomeDenied:
		return wrong(keyStatus)
	case yes == keyResponse:
		return verdict{outcome: OutcomeAllowed, why: byKey, key: yes, at: "/allowed"}
	case yes != noKey:
		return verdict{outcome: OutcomeAllowed, why: byKey, key: yes}
	case denied != noKey && allowed != noKey:
		return wrong(denied)
	case denied != noKey:
		return verdict{outcome: OutcomeDenied, why: byWord, key: denied}
	case allowed != noKey && deny.outcome == OutcomeDenied:
		return verdict{outcome: OutcomeUnknown, why: byContradiction, key: deny.key, at: deny.at}
	case allowed != noKey && (other != noKey || review.outcome == OutcomeDenied):
		return wrong(other)
	case allowed != noKey:
		return verdict{outcome: OutcomeAllowed, why: byWord, key: allowed}
	case deny.outcome == OutcomeDenied:
		return deny
	case deny.why != "":
		if deny.outcome == OutcomeAllowed && (verdicts || m.maybe || response != nil || review.why != "" || !c.hasInput()) {
			return verdict{outcome: OutcomeUnknown, why: byDenyEmpty, key: deny.key, at: deny.at}
		}
		return deny
	case review.why != "":
		return review
	}
	if v := c.evaluations(); v.why != "" {
		return v
	}
	if other != noKey {
		return verdict{outcome: OutcomeUnknown, why: byNoWord, key: other}
	}
	return verdict{}
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
	case m.deniedName != nil:
		return verdict{outcome: OutcomeDenied, why: byDenyKey, at: "/result/" + unquoted(m.deniedName)}
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
