package domain

import (
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// reasonKeys are where an object keeps its reason, the first that has one; keyDeny stands for all deny sets. whyNotKeys
// say why not, which is nothing to say of what is allowed.
var reasonKeys = []key{
	keyReason, keyReasons, keyMessage, keyMessages, keyMsg, keyDeny, keyErrors, keyExplanation, keyContext, keyResponse,
	keyStatus, keyEvaluations, keyWarnings, keyWarn,
}

var whyNotKeys = []key{keyBody, keyHeaders, keyHTTPStatus, keyStatusCode}

// reason finds the reason in a result. name is that of the member that has it; nil is the result itself.
func (c *capture) reason(result jsontext.Value, v verdict) (text string, name jsontext.Value) {
	switch result.Kind() {
	case '[':
		switch v.why {
		case byResults:
			return c.resultsSay(result), nil
		case byDenySet, byWarning:
			return c.says(result), nil
		}
	case '"':
		if v.why == byDenySet || v.why == byWarning {
			return c.text(result), nil
		}
	case '{':
		m := &c.result
		keys := reasonKeys
		for range 2 {
			for _, k := range keys {
				if k == keyDeny {
					if text, name := c.denials(); text != "" {
						return text, name
					}
				} else if text := c.keyReason(k, m.values[k]); text != "" {
					return text, m.names[k]
				}
			}
			if v.outcome == OutcomeAllowed {
				break
			}
			keys = whyNotKeys
		}
		if v.why == byDenySet {
			return c.keysSay(result), nil
		}
	default:
	}
	return "", nil
}

// denials is what all deny sets say. name is that of the first that says something.
func (c *capture) denials() (text string, name jsontext.Value) {
	m := &c.result
	var b strings.Builder
	add := func(text string, of jsontext.Value) {
		if b.Len() == 0 && text != "" {
			name = of
		}
		join(&b, text)
	}
	for k := keyDeny; k <= keyFailures && b.Len() <= maxText; k++ {
		add(c.keyReason(k, m.values[k]), m.names[k])
	}
	for _, set := range m.filled {
		if b.Len() > maxText {
			break
		}
		add(c.keyReason(keyDeny, set.value), set.name)
	}
	if b.Len() == 0 {
		return "", nil
	}
	return c.clean(b.String(), false), name
}

// keyReason is what one member says.
func (c *capture) keyReason(k key, v jsontext.Value) string {
	switch {
	case v == nil:
		return ""
	case k.denies(), k == keyErrors, k == keyWarn, k == keyWarnings:
		if v.Kind() == '{' && c.message(v) == "" {
			return c.keysSay(v)
		}
		return c.says(v)
	case k == keyContext:
		return c.firstOf(v, `"reason"`, `"reasons"`, `"reason_user"`, `"reason_admin"`)
	case k == keyResponse:
		return c.firstOf(member(v, `"status"`), `"message"`, `"reason"`)
	case k == keyStatus:
		if v.Kind() != '{' {
			return ""
		}
		return c.firstOf(v, `"reason"`, `"message"`)
	case k == keyEvaluations:
		return c.evaluationReasons(v)
	case k == keyHeaders:
		return c.header(v, "x-ext-auth-reason")
	case (k == keyHTTPStatus || k == keyStatusCode) && v.Kind() == '0':
		return "HTTP " + c.spell(v)
	case k == keyHTTPStatus, k == keyStatusCode:
		return ""
	}
	return c.says(v)
}

// firstOf is the first of an object's members that says something, whatever its shape.
func (c *capture) firstOf(object jsontext.Value, names ...string) string {
	for _, name := range names {
		v := member(object, name)
		if v.Kind() == '{' && c.message(v) == "" {
			if text := c.valuesSay(v); text != "" {
				return text
			}
		}
		if text := c.says(v); text != "" {
			return text
		}
	}
	return ""
}

// resultsSay is what checks say that failed.
func (c *capture) resultsSay(results jsontext.Value) string {
	var b strings.Builder
	each(results, func(_, check jsontext.Value) bool {
		if failed(check, true) {
			join(&b, c.message(check))
		}
		return b.Len() <= maxText
	})
	return c.clean(b.String(), false)
}

// header is that of a name, whose case does not count (RFC 9110 section 5.1).
func (c *capture) header(headers jsontext.Value, name string) (text string) {
	if headers.Kind() != '{' {
		return ""
	}
	each(headers, func(key, v jsontext.Value) bool {
		if strings.EqualFold(unquoted(key), name) {
			text = c.says(v)
		}
		return true
	})
	return text
}

// evaluationReasons are those of the answers that are not true, with their index.
func (c *capture) evaluationReasons(list jsontext.Value) string {
	var b strings.Builder
	i := -1
	each(list, func(_, e jsontext.Value) bool {
		i++
		if list.Kind() != '[' || member(e, `"decision"`).Kind() == 't' {
			return true
		}
		text := c.keyReason(keyContext, member(e, `"context"`))
		join(&b, strings.TrimSpace("["+strconv.Itoa(i)+"] "+text))
		return b.Len() <= maxText
	})
	return c.clean(b.String(), false)
}

// says spells what gives a reason: text, a number, an object's message or else the object, or an array of these.
func (c *capture) says(v jsontext.Value) string {
	switch v.Kind() {
	case '"':
		return c.text(v)
	case '0':
		return c.spell(v)
	case '{':
		if isEmpty(v) {
			return ""
		}
		if c.depth < deepest {
			if text := c.message(v); text != "" {
				return text
			}
		}
		return c.compact(v)
	case '[':
		var b strings.Builder
		each(v, func(_, e jsontext.Value) bool {
			if e.Kind() == '[' || c.depth == deepest {
				join(&b, c.compact(e))
			} else {
				join(&b, c.says(e))
			}
			return b.Len() <= maxText
		})
		return c.clean(b.String(), false)
	default:
		return ""
	}
}

// deepest is how deep messages are looked for within each other: each level reads what is in it once more.
const deepest = 3

// message is what an object says of itself: its message, or those of what failed within.
func (c *capture) message(object jsontext.Value) string {
	c.depth++
	defer func() { c.depth-- }()
	var texts [numKeys]jsontext.Value
	each(object, func(name, v jsontext.Value) bool {
		k, _ := keyOf(name)
		texts[k] = v
		return true
	})
	for _, k := range []key{keyMsg, keyMessage, keyReason, keyDescription, keyFailures, keyDetails} {
		switch v := texts[k]; {
		case v.Kind() == '"' || v.Kind() == '0':
			if text := c.spell(v); text != "" {
				return text
			}
		case k == keyFailures && v.Kind() == '[', k == keyDetails && (v.Kind() == '{' || v.Kind() == '['):
			if !isEmpty(v) {
				return c.says(v)
			}
		}
	}
	return ""
}

// keysSay spells a deny set that is an object: what its members say, or else their names.
func (c *capture) keysSay(object jsontext.Value) string {
	var b strings.Builder
	each(object, func(name, v jsontext.Value) bool {
		text := ""
		switch v.Kind() {
		case '"':
			text = c.text(v)
		case '{':
			text = c.message(v)
		default:
		}
		if text == "" && v.Kind() != 'f' && len(name) > len(`""`) {
			text = c.text(name)
		}
		join(&b, text)
		return b.Len() <= maxText
	})
	return c.clean(b.String(), false)
}

// valuesSay joins the texts of an object's members, as of AuthZEN's reasons by language or status.
func (c *capture) valuesSay(object jsontext.Value) string {
	var b strings.Builder
	each(object, func(_, v jsontext.Value) bool {
		if v.Kind() == '"' {
			join(&b, c.text(v))
		}
		return b.Len() <= maxText
	})
	return c.clean(b.String(), false)
}

// join adds a text behind others.
func join(b *strings.Builder, text string) {
	if b.Len() > 0 && text != "" {
		b.WriteString("; ")
	}
	b.WriteString(text)
}
