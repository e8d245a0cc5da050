package domain

import (
	"bytes"
	"strconv"
	"strings"
	"unicode/utf8"
	"unsafe"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/tidwall/gjson"
)

// ValueAt is the JSON value at a path of an event, or nil. A step is a key, or the index of an array's element. Where a
// key repeats, the last one stands. It shares the event's bytes, which nobody may write to meanwhile.
//
// gjson skips what is not wanted by its brackets alone, in a third of the time that jsontext takes to read it.
func ValueAt(event []byte, path []string) jsontext.Value {
	v := gjson.Result{Type: gjson.JSON, Raw: unsafe.String(unsafe.SliceData(event), len(event))}
	for _, step := range path {
		if v.Type != gjson.JSON {
			return nil
		}
		found, i := gjson.Result{}, 0
		elements := strings.HasPrefix(strings.TrimLeft(v.Raw, space), "[")
		v.ForEach(func(key, value gjson.Result) bool {
			if elements && strconv.Itoa(i) == step || !elements && key.Str == step {
				found = value
			}
			i++
			return !elements || found.Raw == ""
		})
		if v = found; v.Raw == "" {
			return nil
		}
	}
	return unsafe.Slice(unsafe.StringData(v.Raw), len(v.Raw))
}

// Elements visits the elements of an array until visit returns false, or the value alone where it is none.
func Elements(v jsontext.Value, visit func(jsontext.Value) bool) {
	if v.Kind() != '[' {
		visit(v)
		return
	}
	each(v, func(_, element jsontext.Value) bool { return visit(element) })
}

// Members visits the members of an object, in order and with keys that repeat, until visit returns false; none of
// anything else.
func Members(v jsontext.Value, visit func(key string, value jsontext.Value) bool) {
	if v.Kind() != '{' {
		return
	}
	each(v, func(name, value jsontext.Value) bool {
		key, ok := TextOf(name)
		if !ok {
			key = string(name) // it has no text, and is still another one than others
		}
		return visit(key, value)
	})
}

// Texts visits every string and key of an event without its escapes, and every number as it is spelled, until visit
// returns false. What it hands over is valid until visit returns.
func Texts(event []byte, visit func(text []byte) bool) {
	d := decode(event)
	defer d.release()
	var text []byte
	for {
		switch kind := d.PeekKind(); kind {
		case 0:
			return
		case '"', '0':
			v, err := d.ReadValue()
			if err != nil {
				return
			}
			if kind == '"' {
				if text, err = jsontext.AppendUnquote(text[:0], v); err != nil {
					continue
				}
				v = text
			}
			if !visit(v) {
				return
			}
		default:
			if _, err := d.ReadToken(); err != nil {
				return
			}
		}
	}
}

// TextOf is a JSON string without its quotes and escapes; false for anything else.
func TextOf(v jsontext.Value) (string, bool) {
	if v.Kind() != '"' {
		return "", false
	}
	if inner := v[1 : len(v)-1]; bytes.IndexByte(inner, '\\') < 0 && utf8.Valid(inner) {
		return string(inner), true
	}
	text, err := jsontext.AppendUnquote(nil, v)
	return string(text), err == nil
}
