package search

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/domain"
)

var now = time.Date(2026, 8, 1, 12, 0, 0, 0, time.UTC)

// canonical is the canonical form without the default time.
func canonical(t testing.TB, text string) string {
	t.Helper()
	q, err := Parse(text, now)
	require.NoError(t, err, text)
	return strings.TrimSpace(strings.TrimPrefix(String(q.Filter), "since:2026-07-31T12:00:00Z"))
}

func TestParse(t *testing.T) {
	for _, c := range []struct{ name, query, want string }{
		{"nothing is everything", "", ""},
		{"white space is nothing", " \t\n", ""},
		{
			"the example of the design", `outcome:denied path:rbac/* principal:alice -app:batch input.method:DELETE result.reasons:"not owner"`,
			`outcome:denied path:rbac/* principal:alice -app:batch input.method:DELETE result.reasons:"not owner"`,
		},
		{"AND is the same as nothing", "a AND b", `"a" "b"`},
		{"OR is looser than AND", "a b OR c", `("a" "b" OR "c")`},
		{"NOT is tightest", "NOT a b", `-"a" "b"`},
		{"parentheses", "(tenant:a OR tenant:b) AND NOT action:read", "(tenant:a OR tenant:b) -action:read"},
		{"NOT of a group", "-(a b)", `NOT ("a" "b")`},
		{"two NOT are none", "NOT -a", `"a"`},
		{"one field, several values", "tenant:(a OR b) x", `(tenant:a OR tenant:b) "x"`},
		{"values that exclude", "path:(a/* NOT a/b)", "path:a/* -path:a/b"},
		{"values in groups", "path:((a OR b) OR c)", "(path:a OR path:b OR path:c)"},
		{"operators are upper-case", "a or b", `"a" "or" "b"`},
		{"a star is anywhere", "path:*/a*b principal:*@x", "path:*/a*b principal:*@x"},
		{"stars side by side are one", "path:a**b", "path:a*b"},
		{"a star alone is presence", "error:* -input.x:*", "error:* -input.x:*"},
		{"stars in quotes are meant", `principal:"a*b" principal:"a*b"*`, `principal:"a*b" principal:"a*b"*`},
		{"a path has no slash in front", "path:/a/b path:/a/*", "path:a/b path:a/*"},
		{"later colons belong to the value", "id:sha256:ab", "id:sha256:ab"},
		{"a dash behind the colon as well", "input.n:-5", "input.n:-5"},
		{"a dash inside a word", "a-b", `"a-b"`},
		{"quoted values are strings", `input.n:"5" input.n:5`, `input.n:"5" input.n:5`},
		{"keys in quotes", `input.labels."app.io/name":x input."a b":y`, `input.labels."app.io/name":x input."a b":y`},
		{"escapes in quotes", `"a \"b\" \\ \n"`, `"a \"b\" \\ \\n"`},
		{"comparisons of numbers", "input.amount>=1000 input.n<1e3", "input.amount>=1000 input.n<1e3"},
		{"comparisons of durations", "latency>10ms latency<=1s", "latency>10ms latency<=1s"},
		{"times compare", "input.at>2026-07-31T10:00Z", "input.at>2026-07-31T10:00:00Z"},
		{"OPA's names", "decision_id:a labels.x:y bundles.b.revision:z", "id:a label.x:y bundle.b:z"},
		{"names of fields in any case", "OUTCOME:Denied Input.A:B", "outcome:denied input.A:B"},
		{"anything of the event", "event.custom.x:y event.labels.app:z", "event.custom.x:y label.app:z"},
		{"revision of any bundle", "revision:abc* bundle.authz:abc", "revision:abc* bundle.authz:abc"},
		{"free text with stars", `"not owner"*x`, `"not owner"*"x"`},
		{"no text at all", `""`, `""`},
		{"bidi and emoji", "\"\u202eevil\" input.x:😀", "\"\u202eevil\" input.x:\"😀\""},
		{"SQL's own", `principal:"100%_\\"`, `principal:"100%_\\"`},
		{"signs that mean nothing here", "a=b x?!,;~ #", `"a=b" "x?!,;~" "#"`},
		{"an empty key", `input."".x:a event."":b`, `input."".x:a event."":b`},
		{"any string is anything", `input.x:""* input.y:*""`, "input.x:* input.y:*"},
		{"a whole result", "result:true input:*", "result:true input:*"},
		{
			"ids in OR and NOT", "4bf92f3577b34da6a3ce929d0e0e4736 OR a -4bf92f3577b34da6a3ce929d0e0e4736",
			`(4bf92f3577b34da6a3ce929d0e0e4736 OR "a" -4bf92f3577b34da6a3ce929d0e0e4736)`,
		},
		{"deep", strings.Repeat("x OR y (", 30) + "z" + strings.Repeat(")", 30), ""},
		{"many ids", strings.TrimSuffix(strings.Repeat("4bf92f3577b34da6a3ce929d0e0e4736 OR ", 25), " OR "), ""},
		{"an outcome with a star", "outcome:*ed", "outcome:*ed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := canonical(t, c.query)
			if c.want != "" {
				require.Equal(t, c.want, got)
			}
			require.Equal(t, got, canonical(t, got), "it reads itself")
		})
	}
}

func TestTimes(t *testing.T) {
	day := 24 * time.Hour
	for _, c := range []struct {
		query        string
		since, until time.Time
		dated        bool
	}{
		{"", now.Add(-day), time.Time{}, false},
		{"since:2h", now.Add(-2 * time.Hour), time.Time{}, true},
		{"since:7d until:1d", now.Add(-7 * day), now.Add(-day), true},
		{"since:2026-07-31T10:00Z", time.Date(2026, 7, 31, 10, 0, 0, 0, time.UTC), time.Time{}, true},
		{"since:2026-07-31T10:00", time.Date(2026, 7, 31, 10, 0, 0, 0, time.UTC), time.Time{}, true},
		{"since:2026-07-31", time.Date(2026, 7, 31, 0, 0, 0, 0, time.UTC), time.Time{}, true},
		{"since:2026-07-31T10:00:01.5+02:00", time.Date(2026, 7, 31, 8, 0, 1, 5e8, time.UTC), time.Time{}, true},
		{"id:a", time.Time{}, time.Time{}, false},
		{"trace_id:(a OR b) outcome:denied", time.Time{}, time.Time{}, false},
		{"batch_decision_id:a since:1h", now.Add(-time.Hour), time.Time{}, true},
		{"id:a OR outcome:denied", now.Add(-day), time.Time{}, false},
		{"-id:a", now.Add(-day), time.Time{}, false},
		{"id:a*", now.Add(-day), time.Time{}, false},
		{"since:0001-01-01", time.Time{}, time.Time{}, true},
		{"id:a until:1h", time.Time{}, now.Add(-time.Hour), true},
	} {
		t.Run(c.query, func(t *testing.T) {
			q, err := Parse(c.query, now)
			require.NoError(t, err)
			require.True(t, c.since.Equal(q.Since), q.Since)
			require.True(t, c.until.Equal(q.Until), q.Until)
			require.Equal(t, c.dated, q.Dated)
		})
	}
}

// TestIDsAreTriedFirst has words that look like ids: they are looked for as such wherever they are, and else as texts.
func TestIDsAreTriedFirst(t *testing.T) {
	for _, word := range []string{
		"4ca636c1-55e4-417a-b1d8-4aceb67960d1", "4BF92F3577B34DA6A3CE929D0E0E4736", "sha256:" + strings.Repeat("0a", 32),
	} {
		q, err := Parse(word+" outcome:denied", now)
		require.NoError(t, err)
		require.Equal(t, domain.AllOf(
			domain.AnyOf(
				domain.Equals(domain.FieldDecisionID, word), domain.Equals(domain.FieldTraceID, word),
				domain.Equals(domain.FieldBatchID, word),
			), domain.Equals(domain.FieldOutcome, "denied"),
		), q.Where)
		require.True(t, q.Since.IsZero())
		require.NotNil(t, q.Otherwise)
		require.Equal(t, `"`+word+`" outcome:denied`, strings.TrimPrefix(String(*q.Otherwise), "since:2026-07-31T12:00:00Z "))
	}
	for _, text := range []string{"alice", `"4ca636c1-55e4-417a-b1d8-4aceb67960d1"`, "4ca636c1*"} {
		q, err := Parse(text, now)
		require.NoError(t, err)
		require.Nil(t, q.Otherwise, text)
	}
}

func TestParseRefuses(t *testing.T) {
	for _, c := range []struct {
		name, query string
		column      int
		found       string
		expected    string
	}{
		{"open parenthesis", "(a", 3, "ends here", ")"},
		{"closed parenthesis", "a) b", 2, `") b"`, "term"},
		{"empty parentheses", "()", 2, `")"`, "term"},
		{"quote without an end", `a "b`, 3, "quote", `"`},
		{"quote behind a field", `path:"b`, 6, "quote", `"`},
		{"value missing", "path:", 6, "path: has no value", "value"},
		{"value apart", "path: a", 7, "path: has no value", "right behind"},
		{"OR at the end", "a OR", 5, "ends here", "term"},
		{"OR at the beginning", "OR a", 1, `"OR a"`, "term"},
		{"NOT alone", "NOT", 4, "ends here", "term"},
		{"unknown field", "é usr:bob", 3, `"usr"`, "principal"},
		{"address", "http://x", 1, `"http"`, "in quotes"},
		{"no outcome", "outcome:deny", 9, `"deny"`, "denied"},
		{"no outcome among values", "outcome:(denied OR nope)", 20, `"nope"`, "allowed"},
		{"empty value", `principal:""`, 11, "empty", "*"},
		{"number", "input.n>ten", 9, `"ten"`, "number"},
		{"number with a star", "input.n>1*", 9, `"1*"`, "number"},
		{"order of a text", "principal>a", 1, "principal", "colon"},
		{"duration", "latency>10", 9, `"10"`, "10ms"},
		{"since that is none", "since:yesterday", 7, `"yesterday"`, "24h"},
		{"since behind until", "since:1h until:2h", 16, "before since", "later"},
		{"since under OR", "a OR since:1h", 6, "under OR", "beside"},
		{"since under NOT", "-since:1h", 2, "NOT", "beside"},
		{"since in a group under OR", "(a since:1h) OR b", 4, "OR", "beside"},
		{"two of them", "since:1h since:2h", 10, "twice", "one"},
		{"since in order", "since>1h", 1, "since", "colon"},
		{"event alone", "event:x", 1, `"event"`, "event.…"},
		{"a step of nothing", "input..x:1", 1, `"input..x:"`, `""`},
		{"until in front of the default", "until:7d", 7, "24 hours ago", "since:30d"},
		{"the beginning of time", "until:0001-01-01", 7, "since", "since"},
		{"two times, one at the beginning", "since:0001-01-01 since:1h", 18, "twice", "one"},
		{"a value that begins with a quote", `tenant:(a)"b"`, 11, "stands here", "term"},
		{"a value behind NOT", "outcome:(NOT xyz)", 14, `"xyz"`, "denied"},
		{"NUL", "a\x00b", 2, "NUL", "without"},
		{"no UTF-8", "a\xffb", 2, "UTF-8", "UTF-8"},
		{"a million bytes", strings.Repeat("a", 1<<20), MaxBytes + 1, "bytes", "shorter"},
		{"10,000 terms", strings.Repeat("a ", 4000), 201, "100 terms", "fewer"},
		{"terms among values", "path:(" + strings.Repeat("a ", 101) + ")", 207, "100 terms", "fewer"},
		{"parentheses", strings.Repeat("(", 4000), 33, "deeper than 32", "fewer"},
		{"parentheses among values", "path:" + strings.Repeat("(", 4000), 38, "deeper than 32", "fewer"},
		{"NOT upon NOT", strings.Repeat("NOT ", 100) + "a", 401, "deeper than 32", "fewer"},
		{"dashes", strings.Repeat("-", 4000) + "a", 4001, "deeper than 32", "fewer"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Parse(c.query, now)
			var e *Error
			require.True(t, errors.As(err, &e), "%v", err)
			require.Equal(t, c.column, e.Column, e.Error())
			require.Contains(t, e.Found, c.found)
			require.Contains(t, e.Expected, c.expected)
		})
	}
}

// FuzzParse has the canonical form read itself, and everything else refused with a column of the text.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		`outcome:denied path:rbac/* -app:batch input.x."a b"."c":"d"* OR (a -b) since:2h`, `"a\"\\" x:(a NOT b)`, "a**b *c* *",
		"4ca636c1-55e4-417a-b1d8-4aceb67960d1", "latency>=1.5ms input.a<-1e-3", `bundle."a.b":c`, "a-b:c", "event.a:*",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		began := time.Now()
		q, err := Parse(text, now)
		if d := time.Since(began); d > 2*time.Second {
			t.Fatalf("%q took %s", text, d)
		}
		if err != nil {
			var e *Error
			if !errors.As(err, &e) || e.Column < 1 || e.Column > len([]rune(text))+1 || e.Expected == "" {
				t.Fatalf("%q: %v", text, err)
			}
			return
		}
		for _, filter := range []*domain.Filter{&q.Filter, q.Otherwise} {
			if filter == nil || filter.Since.IsZero() && q.Otherwise == nil && !asksForIDs(filter.Where) {
				continue
			}
			spelled := String(*filter)
			if len(spelled) > MaxBytes {
				continue
			}
			again, err := Parse(spelled, now)
			if err != nil {
				t.Fatalf("%q is spelled %q, which is refused: %v", text, spelled, err)
			}
			if twice := String(again.Filter); twice != spelled {
				t.Fatalf("%q is spelled %q, and that %q", text, spelled, twice)
			}
		}
	})
}
