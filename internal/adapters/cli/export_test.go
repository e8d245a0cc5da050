package cli

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestFindExports prints what an export sends: all of it, a part, and what broke off.
func TestFindExports(t *testing.T) {
	oneLine := func(decision, event string) string {
		var b bytes.Buffer
		require.NoError(t, json.Compact(&b, []byte(strings.TrimSuffix(strings.TrimSpace(decision), "}")+`,"event":`+event+`}`)))
		return b.String() + "\n"
	}
	const complete = `{"complete":true,"decisions":2,"why":null,"next_cursor":null}` + "\n"
	rows := oneLine(denied, `{"n":1e3,"s":"<&>\u202e"}`) + oneLine(failed, `{}`)
	for _, c := range []struct {
		name, answer, form string
		limit              int
		events             bool
		code               int
		query              string
	}{
		{"csv", rows + complete, "csv", 0, false, 0, "format=ndjson&q=outcome%3Adenied&with_event=false"},
		{"csv-events", rows + complete, "csv", 2, true, 0, "format=ndjson&q=outcome%3Adenied&with_event=true"},
		{"csv-more", rows + complete, "csv", 1, false, 0, "format=ndjson&q=outcome%3Adenied&with_event=false"},
		{"ndjson-events", rows + complete, "ndjson", 100, true, 0, "format=ndjson&q=outcome%3Adenied&with_event=true"},
		{"json-events", rows + complete, "json", 100, true, 0, "format=ndjson&q=outcome%3Adenied&with_event=true"},
		{"json-none", complete, "json", 100, true, 0, "format=ndjson&q=outcome%3Adenied&with_event=true"},
		{
			"damaged", oneLine(denied, `{}`) + strings.Replace(oneLine(failed, `{}`), `"event":{}`, `"damaged":true`, 1) +
				`{"complete":false,"decisions":2,"damaged":1,"why":"1 events are damaged","next_cursor":null}` + "\n",
			"csv", 0, true, ExitUnavailable, "format=ndjson&q=outcome%3Adenied&with_event=true",
		},
		{
			"damaged-more", strings.Replace(rows, `"event":{"n":1e3,"s":"<&>\u202e"}`, `"damaged":true`, 1) + complete, "json", 1,
			true, ExitUnavailable, "format=ndjson&q=outcome%3Adenied&with_event=true",
		},
		{
			"cut-in-line", rows + rows[:50], "json", 100, true, ExitUnavailable,
			"format=ndjson&q=outcome%3Adenied&with_event=true",
		},
		{"cut", rows, "ndjson", 0, false, ExitUnavailable, "format=ndjson&q=outcome%3Adenied&with_event=false"},
		{
			"incomplete", rows + `{"complete":false,"decisions":2,"why":"the database\u001b[31m is away","next_cursor":"abc"}` + "\n",
			"ndjson", 0, false, ExitUnavailable, "format=ndjson&q=outcome%3Adenied&with_event=false",
		},
		{"strange", "<html>\n", "csv", 0, false, ExitFailed, "format=ndjson&q=outcome%3Adenied&with_event=false"},
		{"table", rows, "table", 0, false, ExitUsage, ""},
		{"table-events", rows, "table", 1, true, ExitUsage, ""},
		{"negative", rows, "csv", -1, false, ExitUsage, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := serve(t, map[string]string{"/api/v1/decisions/export": c.answer})
			f := Find{
				Console: Console{Server: s.URL}, Form: Form{Output: c.form}, Limit: c.limit,
				Wanted:    Wanted{Query: []string{"outcome:denied"}},
				WithEvent: c.events,
			}
			got, err := screen(func(o Out) error { return f.Run(t.Context(), o) })
			require.Equal(t, c.code, ExitCode(err), "%v", err)
			if err != nil {
				got += err.Error() + "\n"
			}
			require.Equal(t, c.query, s.query)
			golden(t, "export-"+c.name, got)
		})
	}
	t.Run("refused", func(t *testing.T) {
		s := serve(t, map[string]string{
			"/api/v1/decisions/export": `{"status":503,"title":"Service Unavailable","detail":"away","class":"unavailable"}`,
		})
		s.status = 503
		f := Find{Console: Console{Server: s.URL}, Form: Form{Output: "csv"}}
		got, err := screen(func(o Out) error { return f.Run(t.Context(), o) })
		require.Equal(t, ExitUnavailable, ExitCode(err))
		require.Contains(t, err.Error(), "away")
		require.Empty(t, got)
	})
}
