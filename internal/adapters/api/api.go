// Package api is the JSON of docket's API: what is served by queryapi, read by the CLI, and shown by pages, and the
// sentences in it. It leaves routes and commands to them. What is absent is null.
package api

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"slices"
	"time"

	"github.com/docket-project/docket/internal/domain"
)

// OpenAPI describes the API.
//
//go:embed openapi.yaml
var OpenAPI []byte

// Text is a text that is null where it is empty.
type Text string

// MarshalJSON writes null for an empty text.
func (t Text) MarshalJSON() ([]byte, error) {
	if t == "" {
		return []byte("null"), nil
	}
	return json.Marshal(string(t))
}

// Instant is a time that is null where it is zero.
type Instant struct{ time.Time }

// MarshalJSON writes null for a zero time.
func (i Instant) MarshalJSON() ([]byte, error) {
	if i.IsZero() {
		return []byte("null"), nil
	}
	return json.Marshal(i.Time)
}

// At makes an Instant.
func At(t time.Time) Instant { return Instant{t} }

// Problem is an RFC 9457 problem detail. It fits into the first 1,024 bytes of an answer, which is all that OPA logs.
type Problem struct {
	Status int    `json:"status"`
	Title  string `json:"title"`
	Detail string `json:"detail,omitempty"`
	// Column is where in a query something is wrong, in characters from 1, and Expected what could stand there.
	Column   int          `json:"column,omitempty"`
	Expected string       `json:"expected,omitempty"`
	Class    domain.Class `json:"class,omitempty"`
}

// Error is the detail, so that a handler can return a Problem.
func (p *Problem) Error() string { return p.Title + ": " + p.Detail }

// Items is a list that has one page.
type Items[T any] struct {
	Items []T `json:"items"`
}

// ItemsOf makes a list.
func ItemsOf[D, T any](values []D, of func(D) T) Items[T] {
	out := Items[T]{Items: make([]T, 0, len(values))}
	for _, v := range values {
		out.Items = append(out.Items, of(v))
	}
	return out
}

// Page is one page of a list. NextCursor is where the next one begins, null at the end.
type Page[T any] struct {
	Items      []T  `json:"items"`
	NextCursor Text `json:"next_cursor"`
}

// maxPage bounds the JSON of a page, in bytes. One item is on it in any case.
const maxPage = 8 << 20

// SpellPage makes the JSON of a Page. It ends early where that becomes too long, with the cursor that goes on there.
func SpellPage[D, T any](values []D, next *domain.Cursor, cursorOf func(*D) *domain.Cursor, of func(D) T) []byte {
	var b bytes.Buffer
	b.WriteString(`{"items":[`)
	for i := range values {
		item := Marshal(of(values[i]))
		if i > 0 {
			if b.Len()+len(item) > maxPage {
				next = cursorOf(&values[i-1])
				break
			}
			b.WriteByte(',')
		}
		b.Write(item)
	}
	b.WriteString(`],"next_cursor":`)
	cursor := Text("")
	if next != nil {
		cursor = Text(next.String())
	}
	b.Write(Marshal(cursor))
	b.WriteByte('}')
	return b.Bytes()
}

// Marshal spells a value of this package: texts, times and numbers, which cannot fail.
func Marshal(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

// With adds a member to a JSON object, its bytes as they are: encoding/json would rewrite them.
func With(object []byte, name string, raw []byte) []byte {
	return slices.Concat(object[:len(object)-1], []byte(`,"`+name+`":`), raw, []byte("}"))
}
