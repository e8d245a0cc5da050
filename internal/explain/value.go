package explain

import (
	"bytes"
	"encoding/json"
	"sync"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/open-policy-agent/opa/v1/ast"
)

// valueOf is JSON as Rego has it: numbers as they are spelled and, where a key repeats, the last one, which is how OPA
// reads its input. OPA's own reader takes twice as long, by way of Go's maps.
func valueOf(text jsontext.Value) (ast.Value, error) {
	d := decode(text)
	defer decoders.Put(d)
	term, err := readTerm(d)
	if err != nil {
		return nil, err
	}
	return term.Value, nil
}

var decoders = sync.Pool{New: func() any { return new(jsontext.Decoder) }}

// decode lends a decoder, which is to be put back.
func decode(text []byte) *jsontext.Decoder {
	d := decoders.Get().(*jsontext.Decoder)
	d.Reset(bytes.NewBuffer(text), jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
	return d
}

func readTerm(d *jsontext.Decoder) (*ast.Term, error) {
	token, err := d.ReadToken()
	if err != nil {
		return nil, err
	}
	switch token.Kind() {
	case '"':
		return ast.StringTerm(token.String()), nil
	case '0':
		return ast.NumberTerm(json.Number(token.String())), nil
	case 't', 'f':
		return ast.BooleanTerm(token.Bool()), nil
	case '[':
		var elements []*ast.Term
		for d.PeekKind() != ']' {
			element, err := readTerm(d)
			if err != nil {
				return nil, err
			}
			elements = append(elements, element)
		}
		_, err := d.ReadToken()
		return ast.ArrayTerm(elements...), err
	case '{':
		members := ast.NewObject()
		for d.PeekKind() != '}' {
			key, err := readTerm(d)
			if err != nil {
				return nil, err
			}
			value, err := readTerm(d)
			if err != nil {
				return nil, err
			}
			members.Insert(key, value)
		}
		_, err := d.ReadToken()
		return ast.NewTerm(members), err
	default:
		return ast.NullTerm(), nil
	}
}
