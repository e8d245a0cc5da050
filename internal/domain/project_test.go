package domain

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "rewrite the expected files in testdata")

func project(t testing.TB, event string, mappings ...Mapping) Decision {
	t.Helper()
	p, err := NewProjector(mappings)
	require.NoError(t, err)
	return p.Project(Record{Value: []byte(event), Headers: Headers{ReceivedAt: time.Unix(0, 0)}})
}

func TestProjectedTexts(t *testing.T) {
	d := func(event string, m ...Mapping) Decision { return project(t, event, m...) }
	long := strings.Repeat("é", 300)

	require.Equal(t, "http/authz", d(`{"path":"//http/authz"}`).Path)
	require.Equal(t, "alice", d(`{"input":{"user":"alice","subject":"bob"}}`).Principal)
	require.Equal(t, "bob", d(`{"input":{"user":{"roles":[]},"subject":{"id":"bob"}}}`).Principal)
	require.Equal(t, "7", d(`{"input":{"user":7}}`).Principal)
	require.Empty(t, d(`{"input":"text"}`).Principal)
	require.Equal(t, "GET", d(`{"input":{"method":"GET"}}`).Action)
	require.Equal(t, "finance/salary/1", d(`{"input":{"path":["finance","salary",1]}}`).Resource)
	require.Empty(t, d(`{"input":{"path":[{"a":1}]}}`).Resource)
	require.Equal(t, "a; b", d(`{"result":{"reasons":["a","b"]}}`).Reason)
	require.Equal(t, `{"code":1}`, d(`{"result":{"reason":{ "code" : 1 }}}`).Reason)
	require.Equal(t, `x; {"m":2}`, d(`{"result":{"deny":["x",{"m": 2}]}}`).Reason)
	require.Empty(t, d(`{"result":{"deny":true}}`).Reason, "a boolean is no reason")
	require.Equal(t, "ü", d(`{"labels":{"id":"\u00fc","app":"shop"}}`).OPA)
	require.Equal(
		t, "eval_conflict_error: two outputs",
		d(`{"error":{"code":"eval_conflict_error","message":"two outputs","location":{}}}`).Error,
	)
	require.Equal(t, "{}", d(`{"error":{ }}`).Error)
	require.Equal(t, "text", d(`{"error":"text"}`).Error)
	require.Equal(t, `[1]`, d(`{"error":[1]}`).Error)
	require.Equal(
		t, []Bundle{{"a", "1"}, {"b", ""}}, d(`{"bundles":{"a":{"revision":"1"},"b":{}},"revision":"old"}`).Bundles,
	)
	require.Equal(t, []Bundle{{"", "old"}}, d(`{"revision":"old"}`).Bundles)
	require.Equal(t, "dora", d(`{"path":"p","input":{"ctx":{"who":["x",{"~/n":"dora"}]},"user":"alice"}}`,
		Mapping{Path: "p", Principal: []string{"/input/ctx/who/1/~0~1n"}}).Principal)

	clean := d(`{"path":"p","input":{"user":"u"}}`)
	require.False(t, clean.Sanitised)
	cut := d(`{"input":{"user":"` + long + `"}}`)
	require.True(t, cut.Sanitised)
	require.Equal(t, strings.Repeat("é", 256), cut.Principal)
	odd := d(`{"path":"a\u0000b\udc00c"}`)
	require.True(t, odd.Sanitised)
	require.Equal(t, "a\uFFFDb\uFFFDc", odd.Path)
	require.True(t, d(`{"result":{"reasons":["`+long+`","`+long+`"]}}`).Sanitised)
}

func TestTimestamp(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       time.Time
	}{
		{"nanoseconds are cut to microseconds", `"2026-11-20T12:34:56.123456789Z"`, time.Date(2026, 11, 20, 12, 34, 56,
			123456000, time.UTC)},
		{"zones become UTC", `"2026-11-20T12:34:56+02:00"`, time.Date(2026, 11, 20, 10, 34, 56, 0, time.UTC)},
		{"year 1", `"0001-01-02T00:00:00Z"`, time.Date(1, 1, 2, 0, 0, 0, 0, time.UTC)},
		{"year 9999", `"9999-12-31T23:59:59.999999999Z"`, time.Date(9999, 12, 31, 23, 59, 59, 999999000, time.UTC)},
		{"year 0", `"0000-06-01T00:00:00Z"`, time.Time{}},
		{"into year 10000 by its zone", `"9999-12-31T23:59:59-01:00"`, time.Time{}},
		{"no zone", `"2026-11-20T12:34:56"`, time.Time{}},
		{"a number", `1763642096`, time.Time{}},
		{"rubbish", `"yesterday"`, time.Time{}},
		{"null", `null`, time.Time{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := project(t, `{"timestamp":`+c.text+`}`)
			require.Equal(t, c.want, d.Timestamp)
			if c.want.IsZero() {
				require.Equal(t, d.ReceivedAt, d.Time())
			}
		})
	}
}

func TestUnsearchable(t *testing.T) {
	for event, want := range map[string]bool{
		`{"a":"b"}`:                 false,
		`{"a":"\u00e9"}`:            false,
		`{"a":"\\u0000"}`:           false,
		`{"a":"\u0000"}`:            true,
		`{"a":[{"b\u0000":1}]}`:     true,
		`{"a":"\ud83d\ude00"}`:      false,
		`{"a":"\ud83d"}`:            true,
		`{"a":["x","\uDE00 text"]}`: true,
	} {
		require.Equal(t, want, project(t, event).Unsearchable, event)
	}
}

func TestMappingsAreChecked(t *testing.T) {
	for _, m := range []Mapping{
		{Path: ""}, {Path: "/"}, {Path: "a*b"}, {Path: "a", Allowed: []Condition{{Pointer: "result", When: WhenTrue}}},
		{Path: "a", Denied: []Condition{{Pointer: "/result", When: "maybe"}}}, {Path: "a", Undefined: OutcomeError},
		{Path: "a", Resource: []string{""}}, {Path: "a", Resource: []string{"/a~2"}},
	} {
		_, err := NewProjector([]Mapping{m})
		require.Equal(t, Misconfigured, ClassOf(err), "%+v", m)
	}
}

// TestGoldenEvents projects what real OPAs sent; testdata/README.md tells how the files were made.
func TestGoldenEvents(t *testing.T) {
	files, err := filepath.Glob("testdata/opa/*.json")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, name := range files {
		t.Run(filepath.Base(name), func(t *testing.T) {
			body, err := os.ReadFile(name)
			require.NoError(t, err)
			b, err := ParseBatch(t.Context(), strings.NewReader(string(body)), len(body), DefaultLimits)
			require.NoError(t, err)
			require.Empty(t, b.Quarantined)
			require.NotEmpty(t, b.Events)
			p, err := NewProjector(nil)
			require.NoError(t, err)
			var rows []any
			for _, e := range b.Events {
				d, rule := p.Explain(Record{Value: e.Raw})
				require.Equal(t, e.ID, d.ID)
				require.False(t, d.Timestamp.IsZero())
				rows = append(rows, struct {
					ID                                                string
					Timestamp                                         time.Time
					Path                                              string
					Outcome                                           Outcome
					Rule, Reason, Principal, Action, Resource, Masked string   `json:",omitempty"`
					OPA, App, TraceID, RequestedBy, Error             string   `json:",omitempty"`
					Bundles                                           []Bundle `json:",omitempty"`
					Sanitised, Unsearchable                           bool     `json:",omitempty"`
				}{
					d.ID, d.Timestamp, d.Path, d.Outcome, rule.String(), d.Reason, d.Principal, d.Action, d.Resource, d.Masked,
					d.OPA, d.App, d.TraceID, d.RequestedBy, d.Error, d.Bundles, d.Sanitised, d.Unsearchable,
				})
			}
			got, err := json.MarshalIndent(rows, "", "  ")
			require.NoError(t, err)
			want := strings.TrimSuffix(name, ".json") + ".golden"
			if *update {
				require.NoError(t, os.WriteFile(want, got, 0o644))
			}
			expected, err := os.ReadFile(want)
			require.NoError(t, err)
			require.Equal(t, string(expected), string(got))
		})
	}
}

func FuzzProject(f *testing.F) {
	f.Add([]byte(sampleEvent(1)))
	f.Add([]byte(`{"input":{"user":{"id":"\ud800"}},"error":{},"bundles":{"a":1},"result":[[]]}`))
	for _, c := range outcomes {
		f.Add([]byte(c.event))
	}
	f.Add([]byte(`{"path":1,"labels":[],"bundles":[],"input":null,"timestamp":{},"result":{"reasons":[{}]}}`))
	p, err := NewProjector([]Mapping{{Path: "*", Allowed: []Condition{{Pointer: "/result/0", When: WhenTrue}}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, event []byte) {
		d := p.Project(Record{Value: event})
		for _, s := range []string{d.ID, d.Path, d.Reason, d.Principal, d.Action, d.Resource, d.OPA, d.App, d.TraceID,
			d.RequestedBy, d.Error} {
			if len(s) > maxText || strings.ContainsRune(s, 0) {
				t.Fatalf("%q", s)
			}
		}
		if d.Outcome == "" || d.ID == "" {
			t.Fatalf("%+v", d)
		}
	})
}

func BenchmarkProject(b *testing.B) {
	p, err := NewProjector(nil)
	require.NoError(b, err)
	rec := Record{Key: "x", Value: []byte(sampleEvent(7))}
	b.ReportAllocs()
	for b.Loop() {
		p.Project(rec)
	}
}
