package domain

import (
	"bytes"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// key is a member of a result that has a meaning. Its spelling does not count: case, "_" and "-" are left out.
type key int

const (
	noKey key = iota
	// Booleans: true is allowed.
	keyAllow
	keyAllowed
	keyAuthorized
	keyAuthorised
	keyPermit
	keyGranted
	keyDecision // or a verdict in words
	// Verdicts in words.
	keyEffect
	keyAction
	keyOutcome
	keyResult
	keyVerdict
	// Deny sets, or booleans of which true is denied.
	keyDeny
	keyDenied
	keyDenies
	keyDenials
	keyViolation
	keyViolations
	keyFailures
	// Verdicts within.
	keyResponse
	keyStatus
	keyEvaluations
	// Texts.
	keyReason
	keyReasons
	keyMessage
	keyMessages
	keyMsg
	keyDescription
	keyDetails
	keyErrors
	keyExplanation
	keyContext
	keyWarn
	keyWarnings
	keyBody
	keyHeaders
	keyHTTPStatus
	keyStatusCode
	numKeys
)

var keysByName = map[string]key{
	"allow": keyAllow, "allowed": keyAllowed, "authorized": keyAuthorized, "authorised": keyAuthorised,
	"permit": keyPermit, "granted": keyGranted, "decision": keyDecision, "effect": keyEffect, "action": keyAction,
	"outcome": keyOutcome, "result": keyResult, "verdict": keyVerdict, "deny": keyDeny, "denied": keyDenied,
	"denies": keyDenies, "denials": keyDenials, "violation": keyViolation, "violations": keyViolations,
	"failures": keyFailures, "response": keyResponse, "status": keyStatus, "evaluations": keyEvaluations,
	"reason": keyReason, "reasons": keyReasons, "message": keyMessage, "messages": keyMessages, "msg": keyMsg,
	"description": keyDescription, "details": keyDetails, "errors": keyErrors, "explanation": keyExplanation,
	"context": keyContext, "warn": keyWarn,
	"warnings": keyWarnings, "body": keyBody, "headers": keyHeaders, "httpstatus": keyHTTPStatus,
	"statuscode": keyStatusCode,
}

func (k key) allows() bool { return k >= keyAllow && k <= keyDecision }
func (k key) words() bool  { return k >= keyDecision && k <= keyVerdict }
func (k key) denies() bool { return k >= keyDeny && k <= keyFailures }

// longestKey bounds what is looked up.
const longestKey = 24

// keyOf finds the key of a quoted name. Where it is none, says is what the name says as that of a policy: docket knows
// no such key, but a person may take it for a verdict.
func keyOf(quoted jsontext.Value) (k key, says nameSays) {
	name := quoted[1 : len(quoted)-1]
	if bytes.IndexByte(name, '\\') >= 0 {
		name = []byte(unquoted(quoted))
	}
	var folded [longestKey]byte
	n := 0
	for _, ch := range name {
		switch {
		case ch == '_' || ch == '-':
			continue
		case ch >= 'A' && ch <= 'Z':
			ch += 'a' - 'A'
		}
		if n == longestKey {
			return noKey, readKey(name)
		}
		folded[n] = ch
		n++
	}
	if k = keysByName[string(folded[:n])]; k != noKey {
		return k, nameOther
	}
	return noKey, readKey(name)
}

// readKey is readName for the name of a member: words that praise the input are verdicts as well.
func readKey(name []byte) nameSays {
	const longest = 64
	if len(name) > longest || len(name) == 0 {
		return nameOther
	}
	text := string(name)
	if says := readName(text); says != nameOther {
		return says
	}
	if praise[strings.TrimPrefix(snakeCase(text), "is_")] {
		return nameAllow
	}
	return nameOther
}

var praise = wordSet("compliant valid ok pass passed passes success successful safe secure trusted eligible")

// members are what of a result's members has a meaning. Where a key repeats, the last one stands.
type members struct {
	values [numKeys]jsontext.Value
	names  [numKeys]jsontext.Value // as they are spelled
	// filled are deny sets of names of their own that deny, and emptyName is that of an empty one.
	filled    []denySet
	emptyName jsontext.Value
	// maybe is a member whose name might be that of a verdict, but is none that docket knows, and refuses one of these
	// that is false; disclaims is one that is the same as allow.
	maybe, refuses, disclaims bool
	// clash says that two members are one key of a verdict, such as Allow and allow, or the same twice.
	clash bool
	// hidden is a verdict that a mask hides, and within says of which deny sets elements were erased.
	hidden string
	gone   [numKeys]bool
	within [numKeys]bool
	used   bool // something stands in it
	// erasedElement says that a member or an element of the result itself was erased.
	erasedElement bool
}

// denySet is a deny set with its quoted name.
type denySet struct{ name, value jsontext.Value }

// deny adds a deny set that is filled. One is enough to deny; the others are for what they say.
func (m *members) deny(name, v jsontext.Value) {
	const most = 64
	if len(m.filled) < most {
		m.filled = append(m.filled, denySet{name, v})
	}
}

// at is a JSON pointer to a key.
func (m *members) at(k key) string {
	if m.names[k] == nil {
		return "/result"
	}
	return "/result/" + unquoted(m.names[k])
}

// readMembers walks an object once.
func (c *capture) readMembers(result jsontext.Value) {
	m := &c.result
	m.used = true
	each(result, func(name, v jsontext.Value) bool {
		k, says := keyOf(name)
		switch {
		case k != noKey:
			m.clash = m.clash || k <= keyEvaluations && m.names[k] != nil
			m.values[k], m.names[k] = v, name
		case string(name) == `"enforce"` && checks(v, policyName{text: "enforce"}).outcome == OutcomeDenied:
			m.deny(name, v)
		case (says == nameDeny || says == nameDenySet) && fills(v) == saysYes:
			m.deny(name, v)
		case (says == nameDeny || says == nameDenySet) && fills(v) == saysNo:
			m.emptyName = name
		case says == nameAllow:
			m.maybe = true
			m.refuses = m.refuses || v.Kind() == 'f'
			m.disclaims = m.disclaims || v.Kind() == 'f' && isAllowName(unquoted(name))
		}
		return true
	})
}

// hide takes in what masks did to the result. A verdict that a mask hides is not the policy's.
func (c *capture) hide() {
	m := &c.result
	m.used = true
	hide := func(k key, steps []string) {
		m.hidden, m.gone[k] = "/"+strings.Join(steps, "/"), true
		if k == noKey {
			m.filled = slices.DeleteFunc(m.filled, func(s denySet) bool { return unquoted(s.name) == steps[1] })
		}
	}
	for i, list := range [][][]string{c.masks.erased, c.masks.masked} {
		erased := i == 0
		for _, steps := range list {
			if len(steps) == 0 || len(steps) == 1 && steps[0] == "result" {
				m.hidden = "/" + strings.Join(steps, "/")
				continue
			}
			if steps[0] != "result" {
				continue
			}
			m.erasedElement = m.erasedElement || erased && len(steps) == 2
			if steps[1] == "*" { // whatever it was: what remains may still deny
				m.hidden = "/" + strings.Join(steps, "/")
				continue
			}
			k, says := keyOf(jsontext.Value(strconv.Quote(steps[1])))
			below := func(names ...key) bool {
				if len(steps) == 2 || steps[2] == "*" {
					return true
				}
				inner, _ := keyOf(jsontext.Value(strconv.Quote(steps[2])))
				for _, name := range names {
					if inner == name {
						return true
					}
				}
				return false
			}
			verdict := k.allows() || k.words() || k.denies() || says == nameAllow || says == nameDeny || says == nameDenySet
			switch {
			case k == keyEvaluations && len(steps) > 2:
				if len(steps) == 3 || isStep(steps[3], "decision") {
					m.hidden = "/" + strings.Join(steps, "/") // what remains may still deny
				}
			case k == keyResponse && below(keyAllowed), k == keyStatus && below(keyAllowed, keyDenied), k == keyEvaluations,
				verdict && len(steps) == 2:
				hide(k, steps)
			case k.denies() && erased:
				m.within[k] = true
			case (says == nameDeny || says == nameDenySet) && erased:
				m.within[keyDeny] = true
			}
		}
	}
}

// value is that of a key, unless a mask hides it.
func (m *members) value(k key) jsontext.Value {
	if m.gone[k] {
		return nil
	}
	return m.values[k]
}
