package console

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/search"
)

var noon = time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)

func TestNarrowed(t *testing.T) {
	alice := "alice"
	term, ok := valueTerm("principal", &alice)
	require.True(t, ok)
	for name, c := range map[string]struct{ raw, want string }{
		"nothing":            {"", "q=principal:alice"},
		"a term":             {"q=outcome:denied", "q=outcome:denied principal:alice"},
		"a time within":      {"q=since:2h", "q=since:2h principal:alice"},
		"OR":                 {"q=a:b OR action:read", "a:b"},
		"OR of fields":       {"q=action:write OR action:read", "q=(action:write OR action:read) principal:alice"},
		"OR and a time":      {"q=since:2h (action:write OR action:read)", "since=2026-11-27T10:00:00Z"},
		"another page":       {"q=a&cursor=eyJ0IjoxLCJuIjoiYSIsImkiOiJiIn0", "q=a principal:alice"},
		"a parameter beside": {"outcome=denied&since=7d", "outcome=denied&q=principal:alice&since=7d"},
	} {
		t.Run(name, func(t *testing.T) {
			a, err := parseAsked(strings.ReplaceAll(c.raw, " ", "+"), noon)
			if name == "OR" {
				require.Error(t, err)
				return
			}
			require.NoError(t, err)
			got := a.narrowed(term)
			require.Contains(t, unescaped(got.Encode()), c.want)
			again, err := parseAsked(got.Encode(), noon)
			require.NoError(t, err, "what a page offers can be asked for")
			require.True(t, again.holds(term), got.Encode())
			require.Equal(t, a.Since, again.Since)
			wide := again.widened(term)
			back, err := parseAsked(wide.Encode(), noon)
			require.NoError(t, err)
			require.False(t, back.holds(term))
			require.Equal(t, search.String(a.Filter), search.String(back.Filter))
		})
	}
}

func TestTermsOfValues(t *testing.T) {
	for _, value := range []string{"alice", `a "quote" \ and *`, "true", "a b", "!x", "-x", "é\u202e"} {
		term, ok := valueTerm("principal", &value)
		require.True(t, ok)
		read, err := search.Parse(spelled(term), noon)
		require.NoError(t, err, spelled(term))
		require.Equal(t, term.Value, read.Where.Value)
	}
	none, ok := valueTerm("principal", nil)
	require.True(t, ok)
	require.Equal(t, "-principal:*", spelled(none))
	_, ok = valueTerm("colour", nil)
	require.False(t, ok)
}

func TestTree(t *testing.T) {
	event := []byte(`{"input":{"user":"alice","n":1.0,"yes":true,"no":null,"looks":"1","tags":["a","b"],"ports":{"80":1},
		"token":"***","deep":{"a/b":{"c":1}}},"masked":["/input/token"],"erased":["/input/password","/input/deep/a%2Fb/d","/result"]}`)
	tree := newTree(event)
	n, there := tree.at(event, "input")
	require.True(t, there)
	lines := outline(n, "")
	require.Equal(t, []string{
		"input {10}", " user=alice input.user:alice", " n=1.0 input.n:1.0", " yes=true input.yes:true",
		" no=null input.no:null",
		` looks=1 input.looks:"1"`, " tags [2]", "  0=a input.tags:a", "  1=b input.tags:b", " ports {1}", "  80=1 input.ports.80:1",
		" token=*** input.token:\"***\" masked", " deep {1}", "  a/b {2}", "   c=1 input.deep.a/b.c:1", "   d= erased",
		" password= erased",
	}, lines)
	n, there = tree.at(event, "result")
	require.True(t, there)
	require.Equal(t, "erased", n.mask)
	_, there = tree.at(event, "custom")
	require.False(t, there)
}

func outline(n node, indent string) []string {
	line := indent + n.key
	if n.leaf() {
		line += "=" + n.text
		if n.term != nil {
			line += " " + spelled(*n.term)
		}
		if n.mask != "" {
			line += " " + n.mask
		}
		return []string{line}
	}
	lines := []string{line + " " + n.about()}
	for _, c := range n.children {
		lines = append(lines, outline(c, indent+" ")...)
	}
	return lines
}

func TestTreesAreCut(t *testing.T) {
	wide := map[string]int{}
	for i := range 5000 {
		wide[fmt.Sprint(i)] = i
	}
	raw, err := json.Marshal(map[string]any{"input": map[string]any{"text": strings.Repeat("é", 1000), "wide": wide}})
	require.NoError(t, err)
	n, _ := newTree(raw).at(raw, "input")
	require.Equal(t, 600, n.children[0].cut)
	require.Len(t, []rune(n.children[0].text), maxText)
	require.Nil(t, n.children[0].term)
	require.Len(t, n.children[1].children, maxMembers)
	require.Equal(t, 4800, n.children[1].more)
	require.Equal(t, "{5000}", n.children[1].about())

	deep := []byte(`{"input":` + strings.Repeat(`{"a":`, 60) + "1" + strings.Repeat("}", 60) + "}")
	n, _ = newTree(deep).at(deep, "input")
	depth := 0
	for at := &n; len(at.children) > 0; at = &at.children[0] {
		depth++
	}
	require.Equal(t, maxNesting-1, depth)
}

func FuzzTree(f *testing.F) {
	f.Add([]byte(`{"input":{"a":[1,{"b":null}]},"masked":["/input/a"],"erased":["/input/x~1y","/"]}`))
	f.Add([]byte(`{"input":"\ud800","erased":[[]],"masked":{"a":"b"}}`))
	f.Add([]byte(`{"metrics":{"timer_a_ns":1e400,"timer__ns":-1},"nd_builtin_cache":{"a":{"b":[]}}}`))
	f.Fuzz(func(t *testing.T, event []byte) {
		if len(event) > 0 && !json.Valid(event) {
			return // nothing else is stored
		}
		tree := newTree(event)
		tree.whole("event", nil, event)
		for _, name := range []string{"input", "result", "error"} {
			n, there := tree.at(event, name)
			if there && n.leaf() && n.term != nil {
				if _, err := search.Parse(spelled(*n.term), noon); err != nil {
					t.Fatalf("a term that cannot be read: %s: %v", spelled(*n.term), err)
				}
			}
		}
		if tree.left < -maxMembers*3 {
			t.Fatalf("%d nodes too many", -tree.left)
		}
		timersOf(event)
		callsOf(event)
	})
}

func TestChart(t *testing.T) {
	at := func(minutes int) time.Time { return noon.Add(time.Duration(minutes) * time.Minute) }
	value := func(text string) (v [search.MaxBy]search.Value) {
		v[0] = search.Value{Text: text, There: true}
		return v
	}
	c := newChart(search.Counted{
		Asked: search.StatsRequest{Every: 15 * time.Minute},
		Stats: search.Stats{Total: 18, Items: []search.Stat{
			{Values: value("allowed"), Time: at(0), Count: 9}, {Values: value("denied"), Time: at(0), Count: 1},
			{Values: value("denied"), Time: at(30), Count: 6}, {Values: value("denied"), Time: at(90), Count: 2},
		}},
	}, at(7), at(60), false, (&asked{now: noon}).between)
	require.Equal(t, at(0), c.since, "a bar begins before what was asked for")
	require.Len(t, c.bars, 2)
	require.EqualValues(t, 10, c.most)
	require.Equal(t, "/decisions?since=2026-11-27T12%3A30%3A00Z&until=2026-11-27T12%3A45%3A00Z", c.bars[1].href)
	require.Equal(t, "/decisions?since=2026-11-27T12%3A07%3A00Z&until=2026-11-27T12%3A15%3A00Z", c.bars[0].href)
	require.EqualValues(t, 2, c.later)
	require.InDelta(t, 500, c.bars[1].x, 0.1)
	require.InDelta(t, 249, c.bars[1].w, 0.1)
	require.Equal(t, []piece{{domain.OutcomeDenied, 108, 12}, {domain.OutcomeAllowed, 0, 108}}, c.pieces(&c.bars[0]))
	require.Equal(t, "2026-11-27 12:00:00Z and 15 min on: 1 denied, 9 allowed", c.label(&c.bars[0]))
	require.Contains(
		t, c.summary(), "18 decisions from 2026-11-27T12:00:00Z to 2026-11-27T13:00:00Z: 9 denied, 9 allowed.",
	)
}

func TestBarLengths(t *testing.T) {
	for span, want := range map[time.Duration]string{
		time.Second: "1 s", 15 * time.Minute: "15 s", time.Hour: "1 min", 24 * time.Hour: "15 min", 7 * 24 * time.Hour: "2 h",
		30 * 24 * time.Hour: "6 h", 10 * 365 * 24 * time.Hour: "7 d",
	} {
		require.Equal(t, want, length(barLength(span)), span.String())
	}
	require.Equal(t, "1\u202f234\u202f567", number(1234567))
	require.Equal(t, "999", number(999))
}
