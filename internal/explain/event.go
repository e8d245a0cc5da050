package explain

import (
	"encoding/json"
	"net/url"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown/builtins"
	"github.com/tidwall/gjson"

	"github.com/docket-project/docket/internal/domain"
)

// event is what of an event a policy is asked with. It shares the event's bytes; where a key repeats, the last one
// stands.
type event struct {
	bytes []byte
	// input is nil where there is none.
	input                                              ast.Value
	path, query, custom, result, cache, masked, erased jsontext.Value
	// failed says that there was an error, and altered that there was one, or a mask: more than the result tells then what
	// was decided.
	failed, altered bool
}

// read reads an event in one go. gjson skips what is not wanted by its brackets alone.
func read(text []byte) (e event, err error) {
	e.bytes = text
	gjson.ParseBytes(text).ForEach(func(key, value gjson.Result) bool {
		raw := jsontext.Value(value.Raw)
		if key.Str == "input" {
			e.input, err = valueOf(raw)
		} else if to := e.member(key.Str); to != nil {
			*to = raw
		}
		e.failed = e.failed || key.Str == "error"
		e.altered = e.altered || e.failed || key.Str == "masked" || key.Str == "erased"
		return err == nil
	})
	return e, err
}

func (e *event) member(name string) *jsontext.Value {
	switch name {
	case "path":
		return &e.path
	case "query":
		return &e.query
	case "custom":
		return &e.custom
	case "result":
		return &e.result
	case "nd_builtin_cache":
		return &e.cache
	case "masked":
		return &e.masked
	case "erased":
		return &e.erased
	}
	return nil
}

// asked is what was asked for, read as OPA reads it: the steps of a path are escaped, and numbers among them are such
// (stringPathToRef of OPA's server).
func (e *event) asked() (ast.Ref, error) {
	kind, _ := domain.TextOf(domain.ValueAt(e.custom, []string{"type"}))
	if kind == "open-policy-agent/compile" {
		return nil, ErrNotAsked
	}
	if path, ok := domain.TextOf(e.path); ok && path != "" {
		ref := ast.Ref{ast.DefaultRootDocument}
		for step := range strings.SplitSeq(path, "/") {
			if plain, err := url.PathUnescape(step); err == nil {
				step = plain
			}
			if step == "" {
				continue
			}
			if n, err := strconv.ParseInt(step, 10, 64); err == nil && strconv.FormatInt(n, 10) == step {
				ref = append(ref, ast.NumberTerm(json.Number(step)))
			} else {
				ref = append(ref, ast.StringTerm(step))
			}
		}
		return ref, nil
	}
	// A query may be one of Envoy's, whose result is the rule's. OPA's own have bindings, which are an array.
	text, ok := domain.TextOf(e.query)
	if !ok || text == "" || e.result != nil && strings.IndexByte("tf{", byte(e.result.Kind())) < 0 {
		return nil, ErrNotAsked
	}
	ref, err := ast.ParseRef(text)
	if err != nil || !ref.HasPrefix(ast.DefaultRootRef) || !ref.IsGround() {
		return nil, ErrNotAsked
	}
	return ref, nil
}

// answers reads nd_builtin_cache: builtin → arguments → answer. The arguments are an array, spelled as the text of a
// key.
func (e *event) answers() builtins.NDBCache {
	cache := builtins.NDBCache{}
	domain.Members(e.cache, func(name string, calls jsontext.Value) bool {
		domain.Members(calls, func(arguments string, answer jsontext.Value) bool {
			key, err := valueOf([]byte(arguments))
			value, err2 := valueOf(answer)
			if err == nil && err2 == nil {
				cache.Put(name, key, value)
			}
			return true
		})
		return true
	})
	return cache
}

// with is the event with another result, and without what else says what came of it.
func (e *event) with(result jsontext.Value) []byte {
	b := make([]byte, 0, len(e.bytes)+len(result))
	member := func(name string, value jsontext.Value) {
		b = append(b, ',')
		b, _ = jsontext.AppendQuote(b, name) // what is no UTF-8 is no name that means anything
		b = append(append(b, ':'), value...)
	}
	domain.Members(e.bytes, func(key string, value jsontext.Value) bool {
		switch key {
		case "result", "error", "mapped_result", "erased", "masked":
		default:
			member(key, value)
		}
		return true
	})
	if result != nil {
		member("result", result)
	}
	if len(b) == 0 {
		return []byte("{}")
	}
	b[0] = '{'
	return append(b, '}')
}
