package config

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestDuration(t *testing.T) {
	for text, want := range map[string]struct {
		d       time.Duration
		spelled string
	}{
		"90d": {90 * 24 * time.Hour, "90d"}, "36h": {36 * time.Hour, "36h0m0s"}, "15m": {15 * time.Minute, "15m0s"},
		"48h": {48 * time.Hour, "2d"}, "0s": {0, "0s"},
	} {
		var d Duration
		require.NoError(t, d.UnmarshalText([]byte(text)))
		require.Equal(t, want.d, time.Duration(d))
		spelled, err := d.MarshalText()
		require.NoError(t, err)
		require.Equal(t, want.spelled, string(spelled))
	}
	for _, text := range []string{"213504d", "-213504d", "106752d"} {
		var d Duration
		require.ErrorContains(t, d.UnmarshalText([]byte(text)), "more than 292 years", text)
	}
	for _, text := range []string{"", "d", "90", "long", "1.5x"} {
		var d Duration
		require.ErrorContains(t, d.UnmarshalText([]byte(text)), "is not a duration such as 90d", text)
	}
}

func TestSecretIsNeverPrinted(t *testing.T) {
	s := Secret("hunter2")
	b, err := json.Marshal(map[string]Secret{"password": s})
	require.NoError(t, err)
	for _, printed := range []string{string(b), fmt.Sprint(s), fmt.Sprintf("%v %s %+v", s, s, struct{ S Secret }{s})} {
		require.NotContains(t, printed, "hunter2")
		require.Contains(t, printed, "********")
	}
	require.Empty(t, Secret("").String())
}

func TestChecks(t *testing.T) {
	require.NoError(t, Positive("a", 1))
	require.ErrorContains(t, Positive("a", 0), "a has to be more than 0")
	require.NoError(t, OneOf("a", "x", "x", "y"))
	require.ErrorContains(t, OneOf("a", "z", "x", "y"), `a "z": it is one of x, y`)
	require.NoError(t, Together("a and b", true, true))
	require.NoError(t, Together("a and b", false, false))
	require.ErrorContains(t, Together("a and b", true, false), "set both or neither")
	require.ErrorContains(t, Together("a, b and c", true, true, false), "set all of them or none")
}

// sections are those of the tests.
type sections struct {
	Mappings []struct {
		Path string `yaml:"path"`
	} `yaml:"mappings"`
	Issuers map[string]struct {
		URL string `yaml:"url"`
	} `yaml:"issuers"`
}

func read(t *testing.T, text string) (*File, sections, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "docket.yaml")
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	var s sections
	f, err := Read(file, &s)
	return f, s, err
}

func TestFile(t *testing.T) {
	f, s, err := read(t, "# a comment\nlisten: 127.0.0.1:1\nparking:\n  max_attempts: 5\n  backoff: {min: "+
		"1s}\nkafka_brokers: [a, b]\n"+
		"empty:\nnone: ~\nmappings:\n  - path: a/*\nissuers:\n  main: {url: https://x}\n")
	require.NoError(t, err)
	for key, want := range map[string]string{
		"listen": "127.0.0.1:1", "parking_max_attempts": "5", "parking_backoff_min": "1s", "kafka_brokers": "a,b",
	} {
		got, ok := f.Value(key)
		require.True(t, ok, key)
		require.Equal(t, want, got, key)
	}
	for _, key := range []string{"empty", "none", "parking", "mappings", "issuers", "absent"} {
		_, ok := f.Value(key)
		require.False(t, ok, key)
	}
	require.Equal(t, "a/*", s.Mappings[0].Path)
	require.Equal(t, "https://x", s.Issuers["main"].URL)
	known := func(key string) bool { return key != "listen" && key != "empty" }
	err = f.Unknown(known)
	require.ErrorContains(t, err, `line 2: there is no setting "listen"`)
	require.ErrorContains(t, err, `line 7: there is no setting "empty"`)
	require.NotContains(t, err.Error(), "mappings", "a section is known by itself")
}

// manyKeys and manyAliases are 200 keys, and 200 keys of 200 each.
var manyKeys, manyAliases = func() (keys, aliases string) {
	for n := range 200 {
		keys += fmt.Sprintf("k%d: 1, ", n)
		aliases += fmt.Sprintf("k%d: *x, ", n)
	}
	return keys, aliases
}()

func TestFileMistakes(t *testing.T) {
	for name, c := range map[string]struct{ text, says string }{
		"no YAML":                 {"a: [\n", "docket.yaml"},
		"a list":                  {"- a\n", "line 1: want keys and values"},
		"a text":                  {"a\n", "want keys and values"},
		"a key twice":             {"a: 1\nb: 2\na: 3\n", "line 3: a is set already, in line 1"},
		"a key twice, nested":     {"a_b: 1\na:\n  b: 2\n", "line 3: a_b is set already, in line 1"},
		"two documents":           {"a: 1\n---\nb: 2\n", "there is a second document"},
		"a section's unknown key": {"mappings:\n  - {path: a, colour: red}\n", "colour"},
		"a section of other kind": {"mappings: 7\n", "mappings"},
		"an unknown key's place":  {"issuers:\n  a:\n    uri: x\n", `line 3: issuers.a: there is no key "uri": known are url`},
		"an emptied list":         {"mappings: []\n", "line 1: mappings: there is nothing in it"},
		"an emptied key":          {"issuers:\n  a:\n    url:\n", "line 3: issuers.a.url: there is nothing in it"},
		"an empty text":           {"issuers: {a: {url: ''}}\n", "issuers.a.url: there is nothing in it"},
		"a list for a text":       {"issuers: {a: {url: [x]}}\n", "issuers.a.url: want text"},
		"a key of a section twice": {
			"mappings:\n  - path: a\n    path: b\n", "line 3: mappings[1]: path is set twice",
		},
		"a section twice": {
			"mappings:\n  - {path: a}\nissuers: {a: {url: b}}\nmappings:\n  - {path: c}\n",
			"line 4: mappings is set already, in line 1",
		},
		"a section misspelled": {"issuer:\n  - {url: x}\n", "these are issuers, mappings"},
		"more than anybody sets": {
			"a: &a {b: 1}\n" + "x: &x {" + manyKeys + "}\ny: &y {" + manyAliases + "}\n", "there are more than",
		},
		"an alias in itself": {"a: &x {b: *x}\n", "does an alias contain itself"},
		"a list of lists":    {"a: [[1], {b: 2}]\n", "line 1: a:"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := read(t, c.text)
			require.ErrorContains(t, err, c.says)
		})
	}
	_, err := Read("/no/such/file", &sections{})
	require.ErrorContains(t, err, "read the configuration")
	f, _, err := read(t, "")
	require.NoError(t, err, "an empty file sets nothing")
	require.NoError(t, f.Unknown(func(string) bool { return false }))
}

func FuzzFile(f *testing.F) {
	f.Add("a: 1\nb: {c: [x, y]}\nmappings:\n  - path: a\n")
	f.Add("? [a]\n: b\n")
	f.Add("a: &x {b: *x}\n")
	f.Fuzz(func(t *testing.T, text string) {
		file := filepath.Join(t.TempDir(), "docket.yaml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		var s sections
		read, err := Read(file, &s)
		if err == nil && read.Name != file {
			t.Fatalf("%+v", read)
		}
	})
}
