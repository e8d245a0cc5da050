package policy

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/domain"
)

var testKey = Key{Version: "v1", secret: []byte(strings.Repeat("k", minKey))}

// contentOf compiles one policy for every tenant.
func contentOf(t testing.TB, p Policy) *Content {
	p.Name = "test"
	require.NoError(t, Validate([]Policy{p}, false))
	outcome := func(event []byte) domain.Outcome {
		if bytes.Contains(event, []byte(`"result":true`)) {
			return domain.OutcomeAllowed
		}
		return domain.OutcomeDenied
	}
	return NewContent([]Policy{p}, testKey, outcome, 4<<20, nil)
}

func eventOf(raw string) domain.Event {
	batch, err := domain.ParseBatch(context.Background(), strings.NewReader("["+raw+"]"), 0, domain.DefaultLimits)
	if err != nil || len(batch.Events) != 1 {
		panic(fmt.Sprint("no event: ", raw, err))
	}
	return batch.Events[0]
}

func TestMask(t *testing.T) {
	remove := func(pointers ...string) (out []Mask) {
		for _, p := range pointers {
			out = append(out, Mask{Remove: p})
		}
		return out
	}
	for _, c := range []struct {
		name, raw string
		masks     []Mask
		want      string
	}{
		{"what is not there", `{"input":{"b":1}}`, remove("/input/a", "/result", "/input/b/c"), `{"input":{"b":1}}`},
		{"the only member", `{"input":{"a":1}}`, remove("/input/a"), `{"input":{},"erased":["/input/a"]}`},
		{"the first of three", `{"input":{"a":1 , "b":2,"c":3}}`, remove("/input/a"),
			`{"input":{"b":2,"c":3},"erased":["/input/a"]}`},
		{"the second", `{"input":{"a":1 , "b":2,"c":3}}`, remove("/input/b"),
			`{"input":{"a":1,"c":3},"erased":["/input/b"]}`},
		{"the last", `{"input":{"a":1 , "b":2 , "c":3 }}`, remove("/input/c"),
			`{"input":{"a":1 , "b":2 },"erased":["/input/c"]}`},
		{"the first two", `{"input":{ "a":1 , "b":2 , "c":3 }}`, remove("/input/a", "/input/b"),
			`{"input":{ "c":3 },"erased":["/input/a","/input/b"]}`},
		{"the last two", `{"input":{"a":1,"b":2,"c":3}}`, remove("/input/b", "/input/c"),
			`{"input":{"a":1},"erased":["/input/b","/input/c"]}`},
		{"the first and the last", `{"input":{"a":1,"b":2,"c":3}}`, remove("/input/c", "/input/a"),
			`{"input":{"b":2},"erased":["/input/a","/input/c"]}`},
		{"all of them", `{"input":{ "a":1,"b":2 },"z":1}`, remove("/input/*"),
			`{"input":{  },"z":1,"erased":["/input/*"]}`},
		{"the input", `{"x":1,"input":{"a":1},"z":[ ]}`, remove("/input"), `{"x":1,"z":[ ],"erased":["/input"]}`},
		{"everything there is", `{"input":{"a":1}}`, remove("/input"), `{"erased":["/input"]}`},
		{"a key in front of a removed one, with something inside", `{"input":{"a":1,"b":{"c":1,"d":2}}}`,
			remove("/input/a", "/input/b/c"), `{"input":{"b":{"d":2}},"erased":["/input/a","/input/b/c"]}`},
		{"a key that is there twice", `{"input":{"a":1,"b":2,"a":{"x":3}}}`, remove("/input/a"),
			`{"input":{"b":2},"erased":["/input/a"]}`},
		{"an input that is there twice", `{"input":{"a":1},"input":{"a":2,"b":1}}`, remove("/input/a"),
			`{"input":{},"input":{"b":1},"erased":["/input/a"]}`},
		{"a key that is spelled otherwise", `{"in\u0070ut":{"pass\u0077ord":"x","b":1}}`, remove("/input/password"),
			`{"in\u0070ut":{"b":1},"erased":["/input/password"]}`},
		{"elements of an array", `{"input":[{"a":1,"b":2},{"a":3},7]}`, remove("/input/*/a"),
			`{"input":[{"b":2},{},7],"erased":["/input/0/a","/input/1/a"]}`},
		{"one element", `{"input":[ 1, 2, 3 ]}`, remove("/input/1"), `{"input":[ 1, 3 ],"erased":["/input/1"]}`},
		{"the first element", `{"input":[ 1, 2, 3 ]}`, remove("/input/0"), `{"input":[ 2, 3 ],"erased":["/input/0"]}`},
		{"an index is a key of an object as well", `{"input":{"0":1,"00":2}}`, remove("/input/0"),
			`{"input":{"00":2},"erased":["/input/0"]}`},
		{"escapes of the pointer", `{"input":{"a/b":1,"c~d":2,"e f%":3}}`,
			remove("/input/a~1b", "/input/c~0d", "/input/e f%"),
			`{"input":{},"erased":["/input/a%2Fb","/input/c~d","/input/e%20f%25"]}`},
		{"an empty key", `{"input":{"":1,"b":2}}`, remove("/input/"), `{"input":{"b":2},"erased":["/input/"]}`},
		{"the one around it counts", `{"input":{"a":{"b":1}}}`, append(remove("/input/a"), Mask{Replace: "/input/a/b"}),
			`{"input":{},"erased":["/input/a"]}`},
		{"replaced", `{"input":{"a":{"x":[1]},"b":"s"}}`, []Mask{{Replace: "/input/a"}, {Replace: "/input/b", With: `"no"`}},
			`{"input":{"a":"***","b":"\"no\""},"masked":["/input/a","/input/b"]}`},
		{"replaced and removed", `{"input":{"a":1,"b":2}}`, []Mask{{Replace: "/input/b"}, {Remove: "/input/a"}},
			`{"input":{"b":"***"},"erased":["/input/a"],"masked":["/input/b"]}`},
		{"removing is more than replacing", `{"input":{"a":1}}`, []Mask{{Replace: "/input/*"}, {Remove: "/input/a"}},
			`{"input":{},"erased":["/input/a"]}`},
		{"hashing is more than replacing", `{"input":{"a":1}}`, []Mask{{Hash: "/input/a"}, {Replace: "/input/a"}},
			`{"input":{"a":"hmac-sha256:v1:d6df1913faa5f70859d49ad6131ab4b5"},"masked":["/input/a"]}`},
		{"lists that are there", `{"erased":["/input/x"],"input":{"a":1,"b":2},"masked":[ ] }`,
			[]Mask{{Replace: "/input/b"}, {Remove: "/input/a"}},
			`{"erased":["/input/x","/input/a"],"input":{"b":"***"},"masked":["/input/b"] }`},
		{"lists behind each other", `{"masked":["/x" ],"erased":[],"input":{"a":1,"b":2}}`,
			[]Mask{{Replace: "/input/b"}, {Remove: "/input/a"}},
			`{"masked":["/x","/input/b"],"erased":["/input/a"],"input":{"b":"***"}}`},
		{"lists that are none", `{"erased":7,"masked":null,"input":{"a":1,"b":2}}`,
			[]Mask{{Replace: "/input/b"}, {Remove: "/input/a"}},
			`{"erased":["/input/a"],"masked":["/input/b"],"input":{"b":"***"}}`},
		{"a list that is there twice", `{"erased":["/x"],"erased":["/y"],"input":{"a":1}}`, remove("/input/a"),
			`{"erased":["/x"],"erased":["/y","/input/a"],"input":{}}`},
		{"a list behind what goes", `{"input":1,"erased":["/x"]}`, remove("/input"), `{"erased":["/x","/input"]}`},
		{"keys with lone surrogates", `{"\ud800":1,"input":{"\udc00\ud800":1,"a":2,"b":{"\ud800":{"a":1}}}}`,
			remove("/input/a", "/input/*/*/a"),
			`{"\ud800":1,"input":{"\udc00\ud800":1,"b":{"\ud800":{}}},"erased":["/input/a","/input/*/*/a"]}`},
		{"a byte order mark and NUL in keys", `{"input":{"\u0000":1,"\ufeffa":2,"a":3}}`, remove("/input/a"),
			`{"input":{"\u0000":1,"\ufeffa":2},"erased":["/input/a"]}`},
		{"numbers as they are", `{"input":{"n":1.0E+2,"m":-0,"a":1,"s":"\ud800"}}`, remove("/input/a"),
			`{"input":{"n":1.0E+2,"m":-0,"s":"\ud800"},"erased":["/input/a"]}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			u := contentOf(t, Policy{Masks: c.masks}).Upload("t", 1000, false)
			e := eventOf(c.raw)
			kept, keep := u.Event(e)
			require.True(t, keep)
			require.Equal(t, c.want, string(kept.Raw))
			require.True(t, json.Valid(kept.Raw))
			require.Equal(t, c.raw != c.want, kept.Masked)
			require.Equal(t, c.raw, string(e.Raw), "the event belongs to somebody else")
		})
	}
}

func TestHash(t *testing.T) {
	hash := func(tenant string, key Key, raw string) string {
		p := Policy{Name: "h", Masks: []Mask{{Hash: "/input"}}}
		kept, keep := NewContent([]Policy{p}, key, nil, 1<<20, nil).Upload(tenant, 100, false).Event(eventOf(`{"input":` + raw + `}`))
		require.True(t, keep)
		var e struct{ Input string }
		require.NoError(t, json.Unmarshal(kept.Raw, &e))
		return e.Input
	}
	alice := hash("a", testKey, `"alice"`)
	require.Equal(t, alice, hash("a", testKey, `"\u0061lice"`), "the same text")
	require.NotEqual(t, hash("a", testKey, `"1"`), hash("a", testKey, `1`))
	require.NotEqual(t, alice, hash("b", testKey, `"alice"`), "another tenant's")
	other := testKey
	other.secret = []byte(strings.Repeat("q", minKey))
	require.NotEqual(t, alice, hash("a", other, `"alice"`))
	other = testKey
	other.Version = "v2"
	require.Contains(t, hash("a", other, `"alice"`), "hmac-sha256:v2:")
}

// TestMasksThatHitTooOften: whoever writes the input must not make an event too large for the log, nor keep it out.
func TestMasksThatHitTooOften(t *testing.T) {
	ones := strings.TrimSuffix(strings.Repeat(`{"p":1},`, 600), ",")
	twice := strings.TrimSuffix(strings.Repeat(`"p":1,`, 600), ",")
	masks := []Mask{{Hash: "/input/list/*/p"}, {Replace: "/input/p", With: strings.Repeat("x", 100)}}
	for _, c := range []struct{ name, raw, want string }{
		{"elements", `{"input":{"who":"alice","list":[` + ones + `]}}`,
			`{"input":{"who":"alice"},"erased":["/input/list"]}`},
		{"one key, again and again", `{"input":{"who":"alice",` + twice + `},"x":1}`,
			`{"input":{"who":"alice"},"x":1,"erased":["/input/p"]}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			u := contentOf(t, Policy{Masks: masks}).Upload("t", len(c.raw), false)
			kept, keep := u.Event(eventOf(c.raw))
			require.True(t, keep)
			require.Equal(t, c.want, string(kept.Raw))
			require.Equal(t, Tally{{"test", Coarsened}: 1}, u.Tally)
		})
	}
	t.Run("an upload does not grow by more than its share", func(t *testing.T) {
		raw := `{"input":{"list":[{"p":1}]}}`
		u := contentOf(t, Policy{Masks: masks}).Upload("t", 50*len(raw), false)
		require.Equal(t, smallGrowth, u.may, "a small one may grow by as much as any")
		u.may, u.step = 50*len(raw)*3/4, 50*len(raw)/4
		out := 0
		for range 50 {
			kept, keep := u.Event(eventOf(raw))
			require.True(t, keep)
			out += len(kept.Raw)
		}
		require.Less(t, out, Largest(50*len(raw), 50))
		require.NotZero(t, u.Tally[Done{"test", Masked}])
		require.NotZero(t, u.Tally[Done{"test", Coarsened}])
	})
	t.Run("what hits too often in the input leaves the result alone", func(t *testing.T) {
		u := contentOf(t, Policy{Masks: append(masks, Mask{Remove: "/result/*/p"})}).Upload("t", 10_000, false)
		kept, keep := u.Event(eventOf(`{"input":{"list":[` + ones + `]},"result":{"allow":false,"x":{"p":1}}}`))
		require.True(t, keep)
		require.Equal(
			t, `{"input":{},"result":{"allow":false,"x":{}},"erased":["/input/list","/result/*/p"]}`, string(kept.Raw),
		)
	})
	t.Run("an upload that outgrows its share", func(t *testing.T) {
		raw := `{"input":{"list":[{"p":1}],"q":1},"result":{"allow":false,"x":{"p":1}}}`
		for used, want := range []string{
			`{"input":{"q":1},"result":{"allow":false,"x":{}},"erased":["/input/list","/result/*/p"]}`,
			`{"result":{"allow":false,"y":[1]},"erased":["/input","/result/x"]}`,
		} {
			raw := strings.Replace(raw, `"x":{"p":1}}`, `"x":{"p":1},"y":[1]}`, used)
			masks := append(masks, Mask{Remove: []string{"/result/*/p", "/result/x/*"}[used]})
			u := contentOf(t, Policy{Masks: masks}).Upload("t", 100, false)
			u.may = -u.step*used - 1
			kept, keep := u.Event(eventOf(raw))
			require.True(t, keep)
			require.Equal(t, want, string(kept.Raw))
			require.Equal(t, Tally{{"test", Coarsened}: 1}, u.Tally)
		}
	})
	t.Run("keys that somebody has chosen are not listed", func(t *testing.T) {
		key := strings.Repeat("%", 100_000)
		hits := strings.TrimSuffix(strings.Repeat(`"number":1,`, 400), ",")
		raw := `{"input":{"cards":{"` + key + `":{` + hits + `}}},"result":false}`
		u := contentOf(t, Policy{Masks: []Mask{{Remove: "/input/cards/*/number"}}}).Upload("t", len(raw), false)
		kept, keep := u.Event(eventOf(raw))
		require.True(t, keep)
		require.Equal(t, `{"input":{"cards":{"`+key+`":{}}},"result":false,"erased":["/input/cards/*/number"]}`, string(kept.Raw))
	})
	t.Run("who grows it pays for it", func(t *testing.T) {
		cards := strings.TrimSuffix(strings.Repeat(`1,`, 480), ",")
		raw := `{"input":{"cards":[` + cards + `],"who":"x"},"result":{"allow":false,"email":"","phone":""}}`
		u := contentOf(t, Policy{Masks: []Mask{
			{Hash: "/input/cards/*"}, {Hash: "/result/email"}, {Hash: "/result/phone"},
		}}).Upload("t", len(raw), false)
		kept, keep := u.Event(eventOf(raw))
		require.True(t, keep)
		require.Contains(t, string(kept.Raw), `{"input":{"who":"x"},"result":{"allow":false,"email":"hmac`)
	})
	t.Run("many members take few tries", func(t *testing.T) {
		members, masks := "", []Mask(nil)
		for n := range 50 {
			members += fmt.Sprintf(`"m%d":[%s],`, n, strings.TrimSuffix(strings.Repeat("1,", 400), ","))
			masks = append(masks, Mask{Hash: fmt.Sprintf("/m%d/*", n)})
		}
		raw := `{` + members + `"result":false}`
		w := newWalk(testKey)
		level, err := w.mask(treesOf(masks), "t", []byte(raw), 4<<20, 0, false)
		require.NoError(t, err)
		require.Equal(t, coarse, level)
		require.LessOrEqual(t, w.tries, 6)
	})
	t.Run("an event at the limit", func(t *testing.T) {
		raw := `{"input":{` + strings.Repeat(`"p":1,`, 59) + `"p":1},"x":"` + strings.Repeat("x", 4<<20-400) + `"}`
		p := Policy{Name: "test", Masks: masks}
		u := NewContent([]Policy{p}, testKey, nil, len(raw), nil).Upload("t", len(raw), false)
		kept, keep := u.Event(eventOf(raw))
		require.True(t, keep)
		require.LessOrEqual(t, len(kept.Raw), len(raw)+50)
		require.Contains(t, string(kept.Raw[:100]), `{"input":{},"x"`)
	})
}

func TestQuarantinedIsMasked(t *testing.T) {
	p := Policy{Paths: []string{"only/this"}, Masks: []Mask{{Remove: "/input/a"}}}
	for _, c := range []struct {
		name, raw, want string
		keep            bool
	}{
		{"bytes that are no UTF-8", "{\"input\":{\"a\":1,\"b\":\"\xff\"}}",
			"{\"input\":{\"b\":\"\xff\"},\"erased\":[\"/input/a\"]}", true},
		{"nothing to mask", `{"x":1}`, `{"x":1}`, true},
		{"no object", `"secret"`, "", false},
		{"deep", `{"input":{"a":` + strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000) + `,"b":1}}`,
			`{"input":{"b":1},"erased":["/input/a"]}`, true},
		{"that breaks off", `{"input":{"a":1}`, "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			u := contentOf(t, p).Upload("t", len(c.raw), false)
			kept, keep := u.Quarantined([]byte(c.raw))
			require.Equal(t, c.keep, keep)
			require.Equal(t, c.want, string(kept.Raw))
			if !keep {
				require.Equal(t, Tally{{"test", Unmaskable}: 1}, u.Tally)
			}
		})
	}
	require.False(t, contentOf(t, p).Upload("t", 1, false).Body())
	keep := 0.0
	s := Policy{Samples: []Sample{{Outcomes: []domain.Outcome{domain.OutcomeAllowed}, Keep: &keep}}}
	require.True(t, contentOf(t, s).Upload("t", 1, false).Body(), "nothing is masked")
	kept, ok := contentOf(t, s).Upload("t", 1, false).Quarantined([]byte("7"))
	require.True(t, ok)
	require.Equal(t, "7", string(kept.Raw))
}

// naive masks what encoding/json makes of an event. It returns the pointers it hit.
func naive(v any, steps []string, with any, at string) (any, []string) {
	if len(steps) == 0 {
		return with, []string{at}
	}
	var hits []string
	switch v := v.(type) {
	case map[string]any:
		for key, inner := range v {
			if steps[0] != "*" && steps[0] != key {
				continue
			}
			step := url.PathEscape(key)
			if steps[0] == "*" {
				step = "*"
			}
			next, hit := naive(inner, steps[1:], with, at+"/"+step)
			if hits = append(hits, hit...); next == gone {
				delete(v, key)
			} else {
				v[key] = next
			}
		}
	case []any:
		for i, inner := range v {
			if steps[0] != "*" && steps[0] != fmt.Sprint(i) {
				continue
			}
			next, hit := naive(inner, steps[1:], with, fmt.Sprintf("%s/%d", at, i))
			hits = append(hits, hit...)
			v[i] = next
		}
	}
	return v, hits
}

// gone stands for what was removed; prune takes it out of arrays.
const gone = "\x00gone"

func prune(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for key, inner := range v {
			v[key] = prune(inner)
		}
	case []any:
		out := []any{}
		for _, inner := range v {
			if inner != gone {
				out = append(out, prune(inner))
			}
		}
		return out
	}
	return v
}

// FuzzMask compares with naive, on whatever an event may be.
func FuzzMask(f *testing.F) {
	f.Add(`{"input":{"a":1,"b":[1,{"a":2}]},"result":true}`, "/input/a", false)
	f.Add(`{"input":{"a":1,"b":[1,{"a":2}]},"erased":[ "/x" ]}`, "/input/*/1/a", true)
	f.Add(`{ "input" : [ 1 , 2 , 3 ] , "masked":7 }`, "/input/*", false)
	f.Add(`{"input":[ 0 ,10   ] }`, "/input/0", false)
	f.Add(`{"in\ud800put":{"\u0061":1,"\udc00":{"a":[]}}}`, "/input/*", true)
	f.Add(`{"a":{"b":{},"b":[]}}`, "/a/b", true)
	f.Fuzz(func(t *testing.T, raw, pointer string, replace bool) {
		mask, with := Mask{Remove: pointer}, any(gone)
		if replace {
			mask, with = Mask{Replace: pointer}, any(DefaultText)
		}
		if mask.validate(true) != nil {
			return
		}
		batch, err := domain.ParseBatch(context.Background(), strings.NewReader("["+raw+"]"), 0, domain.DefaultLimits)
		require.NoError(t, err)
		if len(batch.Events) != 1 {
			return
		}
		e := batch.Events[0]
		u := contentOf(t, Policy{Masks: []Mask{mask}}).Upload("t", len(raw), false)
		kept, keep := u.Event(e)
		require.True(t, keep)
		require.True(t, json.Valid(kept.Raw) || !json.Valid(e.Raw), "%s", kept.Raw)
		again, _ := contentOf(t, Policy{Masks: []Mask{mask}}).Upload("t", len(raw), false).Event(domain.Event{Raw: kept.Raw})
		shifts := slices.ContainsFunc(domain.Steps(pointer), func(step string) bool {
			return strings.Trim(step, "0123456789") == ""
		})
		if !replace && !shifts { // the next element has the index of one that was removed
			require.False(t, again.Masked, "%s", kept.Raw)
		}
		var before, after map[string]any
		if json.Unmarshal(e.Raw, &before) != nil || json.Unmarshal(kept.Raw, &after) != nil || repeats(e.Raw) ||
			u.Tally[Done{"test", Coarsened}] > 0 {
			return
		}
		masked, hits := naive(before, domain.Steps(pointer), with, "")
		require.Equal(t, len(hits) > 0, kept.Masked)
		if !kept.Masked {
			require.Equal(t, string(e.Raw), string(kept.Raw))
			return
		}
		list := "erased"
		if replace {
			list = "masked"
		}
		told, _ := after[list].([]any)
		for _, hit := range hits {
			require.Contains(t, told, strings.ToValidUTF8(hit, "\uFFFD"))
		}
		delete(before, list)
		delete(after, list)
		require.Equal(t, prune(masked), any(after))
	})
}

// repeats reports that some object has a key twice, of which encoding/json keeps the last.
func repeats(raw []byte) bool {
	d := json.NewDecoder(bytes.NewReader(raw))
	var keys []map[string]bool
	key := false
	for {
		token, err := d.Token()
		if err != nil {
			return false
		}
		switch v := token.(type) {
		case json.Delim:
			if v == '{' || v == '[' {
				var in map[string]bool
				if v == '{' {
					in = map[string]bool{}
				}
				keys, key = append(keys, in), true
				continue
			}
			keys, key = keys[:len(keys)-1], true
			continue
		case string:
			if in := keys[len(keys)-1]; in != nil && key {
				if in[v] {
					return true
				}
				in[v], key = true, false
				continue
			}
		}
		key = true
	}
}

func BenchmarkMask(b *testing.B) {
	filler := strings.Repeat(`"header-x":["some value of a header that is as long as they are"],`, 12)
	raw := `{"labels":{"id":"a","version":"1.22"},"decision_id":"0b9d","path":"http/authz/allow","input":{"headers":{` + filler +
		`"authorization":["Bearer abcdefgh"]},"user":{"email":"alice@example.com","id":"alice"}},"result":{"allow":true},` +
		`"timestamp":"2026-11-28T07:00:00Z","metrics":{"timer_rego_query_eval_ns":12345}}`
	e := eventOf(raw)
	c := contentOf(b, Policy{Masks: []Mask{
		{Remove: "/input/headers/authorization"}, {Hash: "/input/user/email"}, {Replace: "/input/user/id"},
	}})
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	u := c.Upload("t", 1<<40, false)
	for b.Loop() {
		if kept, keep := u.Event(e); !keep || !kept.Masked {
			b.Fatal("not masked")
		}
	}
}
