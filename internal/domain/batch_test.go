package domain

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"
)

func TestParseBatch(t *testing.T) {
	deep := func(n int) string { return `{"d":` + strings.Repeat("[", n-1) + strings.Repeat("]", n-1) + `}` }
	long := `{"s":"` + strings.Repeat("x", 1000) + `"}`
	lim := Limits{Inflated: 100_000, Events: 5, Depth: 64, Event: 500}
	for _, c := range []struct {
		name        string
		body        string
		events      []string
		quarantined []string // "reason" for the whole body, "reason: bytes" for an element
	}{
		{"empty body", "", nil, nil},
		{"white space only", " \r\n\t", nil, nil},
		{"byte order mark only", "\xEF\xBB\xBF", nil, nil},
		{"empty array", "[]", nil, nil},
		{"empty array, spaced", " [ \n ] \n", nil, nil},
		{"one event", `[{"a":1}]`, []string{`{"a":1}`}, nil},
		{"byte order mark", "\xEF\xBB\xBF" + `[{"a":1}]`, []string{`{"a":1}`}, nil},
		{"bytes are kept", "[ { \"a\" : 1.0e+400 ,\"a\":\"\\u0000\\ud800\"}\n, {}\t]",
			[]string{"{ \"a\" : 1.0e+400 ,\"a\":\"\\u0000\\ud800\"}", "{}"}, nil},
		{"null", "null", nil, []string{"not_array"}},
		{"an object", `{"decision_id":"x"}`, nil, []string{"not_array"}},
		{"two objects", `{"a":1}{"b":2}`, nil, []string{"not_array"}},
		{"no JSON", "hello", nil, []string{"broken_json"}},
		{"elements that are no objects", `[1,{"a":1},"x",null,[{}]]`, []string{`{"a":1}`}, []string{"not_object: 1",
			`not_object: "x"`, "not_object: null", "not_object: [{}]"}},
		{"broken element", `[{"a":1},{"b":},{"c":1}]`, []string{`{"a":1}`}, []string{"broken_json"}},
		{"missing comma", `[{"a":1}{"b":1}]`, []string{`{"a":1}`}, []string{"broken_json"}},
		{"comma at the end", `[{"a":1},]`, []string{`{"a":1}`}, []string{"broken_json"}},
		{"comma at the beginning", `[,{"a":1}]`, nil, []string{"broken_json"}},
		{"raw control character", "[{\"a\":\"\x01\"}]", nil, []string{"broken_json"}},
		{"cut off in an event", `[{"a":1},{"b":`, []string{`{"a":1}`}, []string{"truncated"}},
		{"cut off in a name", `[{"a":1},{"b`, []string{`{"a":1}`}, []string{"truncated"}},
		{"cut off in a literal", `[{"a":1},{"b":tru`, []string{`{"a":1}`}, []string{"truncated"}},
		{"cut off behind an event", `[{"a":1}`, []string{`{"a":1}`}, []string{"truncated"}},
		{"cut off behind a comma", `[{"a":1},`, []string{`{"a":1}`}, []string{"truncated"}},
		{"just a bracket", `[`, nil, []string{"truncated"}},
		{"trailing bytes", `[{"a":1}]x`, []string{`{"a":1}`}, []string{"trailing_bytes"}},
		{"trailing array", `[{"a":1}] [{"b":1}]`, []string{`{"a":1}`}, []string{"trailing_bytes"}},
		{"trailing NUL", "[{\"a\":1}]\x00", []string{`{"a":1}`}, []string{"trailing_bytes"}},
		{"invalid UTF-8 in one of two", "[{\"a\":\"\xff\"},{\"b\":\"ü\"}]", []string{`{"b":"ü"}`},
			[]string{"invalid_utf8: {\"a\":\"\xff\"}"}},
		{"invalid UTF-8 in a name", "[{\"\xc0\xaf\":1},{}]", []string{"{}"}, []string{"invalid_utf8: {\"\xc0\xaf\":1}"}},
		{"invalid UTF-8 between events", "[{\"a\":1},\xff{}]", []string{`{"a":1}`}, []string{"broken_json"}},
		{"as deep as allowed", "[" + deep(64) + "]", []string{deep(64)}, nil},
		{"one too deep", `[{"a":1},` + deep(65) + `,{"b":1}]`, []string{`{"a":1}`, `{"b":1}`}, []string{"too_deep: " +
			deep(65)}},
		{"brackets in a string are not depth", `[{"a":"` + strings.Repeat("[", 100) + `"}]`, []string{`{"a":"` +
			strings.Repeat("[", 100) + `"}`}, nil},
		{"deeper than the tokenizer goes", `[{"a":1}, ` + deep(10_002) +
			` ,{"b":1}]`, []string{`{"a":1}`, `{"b":1}`}, []string{"too_deep: " + deep(10_002)}},
		{"two of them", `[` + deep(10_002) + `,{"a":1},` + deep(20_000) + `]`, []string{`{"a":1}`}, []string{"too_deep: " +
			deep(10_002), "too_deep: " + deep(20_000)}},
		{"deep and broken", `[{"a":1},{"d":` + strings.Repeat("[", 10_050) +
			`,]`, []string{`{"a":1}`}, []string{"truncated"}}, // its brackets do not close
		{"deep, and no comma behind", `[{"a":1},` + deep(10_050) + `{"b":1}]`, []string{`{"a":1}`}, []string{"too_deep: " +
			deep(10_050), "broken_json"}},
		{"deep, and an event behind that is broken", `[` + deep(10_050) + `,{"a":1},{"b":},{"c":1}]`, []string{`{"a":1}`},
			[]string{"too_deep: " + deep(10_050), "broken_json"}},
		{"deep, and rubbish behind", `[` + deep(10_050) + `,{"a":1},rubbish]`, []string{`{"a":1}`}, []string{"too_deep: " +
			deep(10_050), "broken_json"}},
		{"deep, and others behind", `[` + deep(10_050) + ` , 7,"x" ,null, {"a":1} ] `, []string{`{"a":1}`}, []string{
			"too_deep: " + deep(10_050), "not_object: 7", `not_object: "x"`, "not_object: null"}},
		{"deep, and bytes behind the array", `[` + deep(10_050) + `] x`, nil, []string{"too_deep: " + deep(10_050),
			"trailing_bytes"}},
		{"deep, and no comma in front", `[{"decision_id":"a","x":1} ` + deep(10_050) + `]`, []string{
			`{"decision_id":"a","x":1}`}, []string{"broken_json"}},
		{"deep, and no comma in front, behind an array", `[{"a":[1,{"x":1}]} ` + deep(10_050) + `]`, []string{
			`{"a":[1,{"x":1}]}`}, []string{"broken_json"}},
		{"deep, and two commas in front", `[{"a":1},,` + deep(10_050) + `]`, []string{`{"a":1}`}, []string{"broken_json"}},
		{"deep, and a comma in front of the first", `[,` + deep(10_050) + `]`, nil, []string{"broken_json"}},
		{"deep, with brackets in strings", `[{"x":"]}","d":` + deep(10_050) + `},{"a":"[{"}]`, []string{`{"a":"[{"}`},
			[]string{"too_deep: " + `{"x":"]}","d":` + deep(10_050) + `}`}},
		{"deep and cut off", `[{"a":1},` + strings.Repeat(`{"d":`, 10_050), []string{`{"a":1}`}, []string{"truncated"}},
		{"too large", `[` + long + `,{"a":1}]`, []string{`{"a":1}`}, []string{"event_too_large: " + long}},
		{"too many", `[{},{},{"c":3},{},{},{},{}]`, []string{"{}", "{}", `{"c":3}`, "{}", "{}"}, []string{"too_many_events"}},
		{"as many as allowed", `[{},{},{},{},{}]`, []string{"{}", "{}", "{}", "{}", "{}"}, nil},
		{"quarantined elements count as well", `[1,2,3,4,5,{}]`, nil, []string{"not_object: 1", "not_object: 2",
			"not_object: 3", "not_object: 4", "not_object: 5", "too_many_events"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, r := range []io.Reader{strings.NewReader(c.body), iotest.OneByteReader(strings.NewReader(c.body)),
				iotest.DataErrReader(strings.NewReader(c.body))} {
				b, err := ParseBatch(t.Context(), r, len(c.body)/2, lim)
				require.NoError(t, err)
				var events, quarantined []string
				for _, e := range b.Events {
					events = append(events, string(e.Raw))
				}
				for _, q := range b.Quarantined {
					text := string(q.Cause)
					if q.Raw != nil {
						text += ": " + string(q.Raw)
					}
					quarantined = append(quarantined, text)
				}
				require.Equal(t, c.events, events)
				require.Equal(t, c.quarantined, quarantined)
			}
		})
	}
}

func TestParseBatchIdentity(t *testing.T) {
	long := strings.Repeat("x", 512)
	for _, c := range []struct{ name, event, id string }{
		{"a UUID", `{"decision_id":"5a1e0000-0000-4000-8000-000000000001"}`, "5a1e0000-0000-4000-8000-000000000001"},
		{"path-like", `{"decision_id":"a/b%2F../c d"}`, "a/b%2F../c d"},
		{"escapes are undone", `{"decision_id":"a\u0041\/\ud83d\ude00"}`, "aA/😀"},
		{"the name is escaped", `{"decision\u005fid":"x"}`, "x"},
		{"the last of two", `{"decision_id":"a","decision_id":"b"}`, "b"},
		{"the last of two is no string", `{"decision_id":"a","decision_id":1}`, ""},
		{"nested ones do not count", `{"input":{"decision_id":"inner"}}`, ""},
		{"case matters", `{"Decision_ID":"a"}`, ""},
		{"512 bytes", `{"decision_id":"` + long + `"}`, long},
		{"513 bytes", `{"decision_id":"` + long + `x"}`, ""},
		{"10 KB", `{"decision_id":"` + strings.Repeat("x", 10_000) + `"}`, ""},
		{"empty", `{"decision_id":""}`, ""},
		{"a number", `{"decision_id":42}`, ""},
		{"null", `{"decision_id":null}`, ""},
		{"an object", `{"decision_id":{"a":1}}`, ""},
		{"NUL", `{"decision_id":"a\u0000b"}`, ""},
		{"a lone surrogate", `{"decision_id":"a\ud800"}`, ""},
		{"absent", `{}`, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			want := c.id
			if want == "" {
				want = hashOf(c.event)
			}
			b, err := ParseBatch(t.Context(), strings.NewReader("["+c.event+"]"), 0, DefaultLimits)
			require.NoError(t, err)
			require.Len(t, b.Events, 1)
			require.Equal(t, want, b.Events[0].ID)
			p, err := NewProjector(nil)
			require.NoError(t, err)
			require.Equal(
				t, want, p.Project(Record{Value: []byte(c.event)}).ID, "the saver finds the same identity in the bytes",
			)
		})
	}
}

func hashOf(event string) string { return fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(event))) }

func TestParseBatchBodyErrors(t *testing.T) {
	broken := errors.New("unreadable")
	reader := func(text string, err error) io.Reader {
		return io.MultiReader(strings.NewReader(text), iotest.ErrReader(err))
	}
	t.Run("the transport's error is the caller's", func(t *testing.T) {
		_, err := ParseBatch(t.Context(), reader(`[{"a":1},`, broken), 0, DefaultLimits)
		require.ErrorIs(t, err, broken)
	})
	for _, c := range []struct {
		name, text string
		cause      Cause
		accepted   int
		want       Cause
	}{
		{"a bad checksum behind a whole array", `[{"a":1},{"b":1}]`, BadGzip, 2, BadGzip},
		{"bad gzip in mid-event", `[{"a":1},{"b":`, BadGzip, 1, BadGzip},
		{"bad gzip before anything", ``, BadGzip, 0, BadGzip},
		{"bad gzip that inflates to rubbish", `[{"a":1},{"b":@`, BadGzip, 1, BadGzip},
		{"cut off", `[{"a":1},{"b":`, Truncated, 1, Truncated},
		{"cut off behind broken JSON", `[{"a":1},{]`, Truncated, 1, BrokenJSON},
	} {
		t.Run(c.name, func(t *testing.T) {
			b, err := ParseBatch(t.Context(), reader(c.text, &BodyError{Cause: c.cause, Err: broken}), 0, DefaultLimits)
			require.NoError(t, err)
			require.Len(t, b.Events, c.accepted)
			require.Equal(t, []Quarantined{{Cause: c.want}}, b.Quarantined)
		})
	}
	t.Run("too large", func(t *testing.T) {
		lim := DefaultLimits
		lim.Inflated = 20
		b, err := ParseBatch(t.Context(), io.MultiReader(strings.NewReader(`[{"a":1},{"b":1},{"c":1}]`), endless{}), 0, lim)
		require.NoError(t, err)
		require.Len(t, b.Events, 2)
		require.Equal(t, []Quarantined{{Cause: BodyTooLarge}}, b.Quarantined)
	})
	t.Run("exactly at the cap", func(t *testing.T) {
		lim := DefaultLimits
		body := `[{"a":1}]`
		lim.Inflated = len(body)
		b, err := ParseBatch(t.Context(), strings.NewReader(body), 0, lim)
		require.NoError(t, err)
		require.Len(t, b.Events, 1)
		require.Empty(t, b.Quarantined)
	})
	t.Run("an element too large for the dead-letter topic goes with the wire bytes", func(t *testing.T) {
		b, err := ParseBatch(t.Context(), strings.NewReader(`[{"a":"`+strings.Repeat("x", MaxQuarantined)+`"},{"b":1}]`), 0, DefaultLimits)
		require.NoError(t, err)
		require.Len(t, b.Events, 1)
		require.Equal(t, []Quarantined{{Cause: EventTooLarge}}, b.Quarantined)
	})
}

// endless inflates for ever, as a bomb does.
type endless struct{}

func (endless) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = ' '
	}
	return len(b), nil
}

func TestParseBatchSenders(t *testing.T) {
	b, err := ParseBatch(
		t.Context(), strings.NewReader(
			`[{"a":1},{"labels":{"id":"x"}},{"labels":{"id":"x"}},7,{"labels":{"id":"y"}},{"labels":1,"labels":{"id":"y"}}]`,
		),
		0,
		DefaultLimits,
	)
	require.NoError(t, err)
	require.Equal(t, []Sender{{nil, 1}, {[]byte(`{"id":"x"}`), 2}, {[]byte(`{"id":"y"}`), 2}}, b.Senders)
}

func FuzzParseBatch(f *testing.F) {
	f.Add([]byte(`[{"decision_id":"a"},{"b":[1,2,{"c":null}]}]`))
	f.Add([]byte("[{\"a\":\"\xff\"},1,{}]x"))
	f.Add([]byte(`[` + strings.Repeat(`{"a":`, 70) + `1` + strings.Repeat("}", 70) + `,{}]`))
	f.Add([]byte(`[` + strings.Repeat("[", 10_010) + strings.Repeat("]", 10_010) + `,{"a":1}]`))
	f.Add([]byte(`[{"\u0064ecision_id":"\ud800"}`))
	lim := Limits{Inflated: 1 << 20, Events: 100, Depth: 64, Event: 10_000}
	f.Fuzz(func(t *testing.T, body []byte) {
		sent := bytes.Clone(body)
		b, err := ParseBatch(t.Context(), bytes.NewReader(body), 0, lim)
		if err != nil {
			t.Fatalf("content is never an error: %v", err)
		}
		if !bytes.Equal(sent, body) {
			t.Fatal("the caller's bytes were written to")
		}
		for _, e := range b.Events {
			if !bytes.Contains(sent, e.Raw) {
				t.Fatalf("%q was not sent", e.Raw)
			}
			if e.ID == "" || e.Raw[0] != '{' || e.Raw[len(e.Raw)-1] != '}' {
				t.Fatalf("%q, %q", e.ID, e.Raw)
			}
		}
		for i, q := range b.Quarantined {
			if q.Raw == nil && i != len(b.Quarantined)-1 {
				t.Fatal("only the last may be the whole body")
			}
			if q.Raw != nil && !bytes.Contains(sent, q.Raw) {
				t.Fatalf("%q was not sent", q.Raw)
			}
		}
	})
}
