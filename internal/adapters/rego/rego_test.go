package rego_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/docket-project/docket/internal/adapters/api"
	"github.com/docket-project/docket/internal/adapters/rego"
	"github.com/docket-project/docket/internal/adapters/replaypolicy"
	"github.com/docket-project/docket/internal/domain"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// decide has lines decided by a policy of one file.
func decide(t *testing.T, order replaypolicy.Order, lines ...string) (answers []api.Replayed, fault string) {
	t.Helper()
	var in, out bytes.Buffer
	require.NoError(t, json.NewEncoder(&in).Encode(order))
	in.WriteString(strings.Join(lines, "\n") + "\n")
	require.NoError(t, rego.Decide(t.Context(), &in, &out))
	for line := range strings.Lines(out.String()) {
		a := replaypolicy.Line{Replayed: new(api.Replayed)}
		require.NoError(t, json.Unmarshal([]byte(line), &a), line)
		if a.Fault != "" {
			return answers, a.Fault
		}
		answers = append(answers, *a.Replayed)
	}
	return answers, ""
}

func file(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

func line(id, path, outcome, input, result string) string {
	return fmt.Sprintf(`{"decision_id":%q,"tenant":"acme","time":"2026-11-27T11:00:00Z",`+
		`"received_at":"2026-11-27T12:00:00Z","outcome":%q,"path":%q,"event":{"decision_id":%[1]q,"path":%[3]q,"timestamp":"2026-11-27T11:00:00Z","input":%s,"result":%s}}`,
		id, outcome, path, input, result)
}

const policy = `package orders

default allow := false

allow if input.role == "admin"
`

func TestDecide(t *testing.T) {
	var lines []string
	for i := range 1500 {
		role := "admin"
		if i%2 == 1 {
			role = "guest"
		}
		lines = append(lines, line(fmt.Sprint("d", i), "orders/allow", "allowed", fmt.Sprintf(`{"role":%q}`, role), "true"))
	}
	answers, fault := decide(t, replaypolicy.Order{Policy: file(t, "orders.rego", policy)}, lines...)
	require.Empty(t, fault)
	require.Len(t, answers, 1500)
	for i, a := range answers {
		require.Equal(t, fmt.Sprint("d", i), a.DecisionID, "in their order")
		require.Equal(t, i%2 == 1, a.Flipped)
		require.Equal(t, []string{"no_revision"}, a.Doubts)
		switch {
		case i == 0:
			require.Equal(t, []string{"orders.rego:5"}, a.Rules, "the first one tells why")
		case a.Flipped:
			require.Equal(t, []string{"orders.rego:3 (default)"}, a.Rules)
			require.Equal(t,
				[]api.Condition{{Rule: "data.orders.allow", At: "orders.rego:5", Condition: `input.role == "admin"`}}, a.Failed)
		default:
			require.Empty(t, a.Rules)
		}
	}
}

// TestPolicies are the forms that a policy comes in.
func TestPolicies(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"orders/allow.rego": policy, "roles/data.json": `{"admin":["alice"]}`, ".manifest": `{"revision":"r7","roots":["orders","roles"]}`,
		"orders/more.rego": "package orders\n\nby_data if input.user in data.roles.admin\n",
	} {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	answers, fault := decide(t, replaypolicy.Order{Policy: dir},
		strings.Replace(line("d", "orders/by_data", "unknown", `{"user":"alice"}`, "true"), `"event"`,
			`"bundles":{"b":{"revision":"r7"}},"event"`, 1))
	require.Empty(t, fault)
	require.Equal(t, "true", string(answers[0].Result))
	require.Equal(t, []string{"no_revision"}, answers[0].Doubts, "a directory may have been changed since")
	require.Equal(t, []string{"orders/more.rego:3"}, answers[0].Rules)

	old := file(t, "old.rego", "package orders\n\nallow { input.role == \"admin\" }\n")
	answers, fault = decide(t, replaypolicy.Order{Policy: old},
		line("d", "orders/allow", "allowed", `{"role":"admin"}`, "true"))
	require.Empty(t, fault, "Rego of before 1.0")
	require.True(t, answers[0].Same)
}

func TestWhatIsNone(t *testing.T) {
	some := line("d", "orders/allow", "allowed", `{}`, "true")
	for _, c := range []struct{ name, policy, fault string }{
		{"an unknown function", "package a\n\nallow if nosuch(1)\n", "a.rego:3: undefined function nosuch"},
		{"no Rego", "rubbish{", "a.rego:1: "},
		{"empty", "", "empty module"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := file(t, "a.rego", c.policy)
			_, fault := decide(t, replaypolicy.Order{Policy: path}, some)
			require.Contains(t, fault, c.fault)
			require.NotContains(t, fault, filepath.Dir(path), "a person knows the file's name, and not where it was put")
		})
	}
	_, fault := decide(t, replaypolicy.Order{Policy: "/nowhere/at/all"}, some)
	require.Contains(t, fault, "no such file")
	_, fault = decide(t, replaypolicy.Order{Policy: file(t, "bundle.tar.gz", "\x1f\x8bno gzip")}, some)
	require.NotEmpty(t, fault)

	answers, fault := decide(t, replaypolicy.Order{Text: []byte(policy)},
		`{"event":{},"tenant":7}`, `rubbish`, line("d", "orders/none", "allowed", "{}", "true"))
	require.Empty(t, fault)
	require.Len(t, answers, 3)
	require.Contains(t, string(answers[0].Error), "the line is no decision")
	require.Contains(t, string(answers[1].Error), "the line is no decision")
	require.Equal(t, "undefined", string(answers[2].Now))
}

// TestWhatIsNoPolicy says what it is.
func TestWhatIsNoPolicy(t *testing.T) {
	some := line("d", "orders/allow", "allowed", `{}`, "true")
	for name, c := range map[string]struct {
		order replaypolicy.Order
		fault string
	}{
		"a text file":        {replaypolicy.Order{Policy: file(t, "a.txt", policy)}, "neither Rego"},
		"an empty directory": {replaypolicy.Order{Policy: t.TempDir()}, "there is no Rego in it"},
		"gzip of something":  {replaypolicy.Order{Text: gzipped(t, "a", "b")}, "there is no Rego in it"},
		"broken gzip":        {replaypolicy.Order{Text: []byte("\x1f\x8bno gzip")}, "it is no bundle as opa build makes it"},
		"a delta bundle":     {replaypolicy.Order{Text: gzipped(t, "/patch.json", `{"data":[{"op":"upsert","path":"/a","value":1}]}`)}, "it is a delta bundle"},
		"a bundle with Wasm": {
			replaypolicy.Order{Text: gzipped(t, "/policy.wasm", "x", "/a.rego", policy)}, "it is a bundle of Wasm",
		},
		"a directory, broken": {
			replaypolicy.Order{Policy: filepath.Dir(file(t, "a.rego", "rubbish{\t\x1b[31m"))}, "a.rego:1: ",
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, fault := decide(t, c.order, some)
			require.Contains(t, fault, c.fault)
			require.NotContains(t, fault, "\x1b")
			require.NotContains(t, fault, os.TempDir())
		})
	}
}

func gzipped(t *testing.T, files ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for i := 0; i < len(files); i += 2 {
		require.NoError(t, w.WriteHeader(&tar.Header{Name: files[i], Mode: 0o600, Size: int64(len(files[i+1]))}))
		_, err := w.Write([]byte(files[i+1]))
		require.NoError(t, err)
	}
	require.NoError(t, errors.Join(w.Close(), z.Close()))
	return b.Bytes()
}

// TestDirectories are read as opa eval reads them.
func TestDirectories(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "b"), 0o700))
	for name, text := range map[string]string{
		"a.rego": "package orders\n\nallow if input.user == data.owner\n", "owners.json": `{"owner":"alice"}`,
		"b/more.yaml": "limit: 3\n", "b/b.rego": "package more\n\nok := data.b.limit\n", ".git.rego": "rubbish{",
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	answers, fault := decide(t, replaypolicy.Order{Policy: dir},
		line("d", "orders/allow", "allowed", `{"user":"alice"}`, "true"), line("e", "more/ok", "unknown", `{}`, "3"))
	require.Empty(t, fault)
	require.True(t, answers[0].Same, "%+v", answers[0])
	require.True(t, answers[1].Same, "%+v", answers[1])
	require.Equal(t, []string{"a.rego:3"}, answers[0].Rules)
}

// TestOneDecisionOfMany does not take the others with it.
func TestOneDecisionOfMany(t *testing.T) {
	large := file(t, "a.rego", "package orders\n\nallow if floor(input.n) > 5\n")
	answers, fault := decide(t, replaypolicy.Order{Policy: large},
		line("d", "orders/allow", "allowed", `{"n":6}`, "true"), line("e", "orders/allow", "allowed", `{"n":1e1000000000}`, "true"),
		line("f", "orders/allow", "allowed", `{"n":7}`, "true"))
	require.Empty(t, fault)
	require.Len(t, answers, 3)
	require.True(t, answers[0].Same)
	require.Contains(t, string(answers[1].Error), "OPA cannot decide it")
	require.True(t, answers[2].Same)
}

// TestWhyIsBounded, whatever a policy has.
func TestWhyIsBounded(t *testing.T) {
	var text strings.Builder
	text.WriteString("package orders\n\nh(x) if { x > 0; x < 0 }\n\n" +
		"allow if { some x in numbers.range(1, 21000); h(x) }\n")
	for i := range 2000 {
		fmt.Fprintf(&text, "\ndeny contains %d if input.a\n", i)
	}
	path := file(t, "a.rego", text.String())
	answers, fault := decide(t, replaypolicy.Order{Policy: path},
		line("d", "orders/allow", "allowed", `{"a":true}`, "true"), line("e", "orders/deny", "denied", `{"a":true}`, "[]"))
	require.Empty(t, fault)
	require.Empty(t, answers[0].Error)
	require.Contains(t, answers[0].Failed, api.Condition{Rule: "data.orders.h", At: "a.rego:3", Condition: "x < 0"})
	require.Len(t, answers[1].Rules, 20)
}

// TestMappings make outcomes of results, here as in the store.
func TestMappings(t *testing.T) {
	order := replaypolicy.Order{
		Policy: file(t, "a.rego", "package a\n\nlevel := input.level\n"),
		Mappings: []domain.Mapping{{
			Path:    "a/level",
			Allowed: []domain.Condition{{Pointer: "/result", When: domain.WhenEquals, Equals: "2"}},
			Denied:  []domain.Condition{{Pointer: "/result", When: domain.WhenEquals, Equals: "1"}},
		}},
	}
	lines := []string{
		line("d", "a/level", "allowed", `{"level":2}`, "2"), line("e", "a/level", "allowed", `{"level":1}`, "2"),
	}
	answers, fault := decide(t, order, lines...)
	require.Empty(t, fault)
	require.True(t, answers[0].Same)
	require.Equal(t, "denied", string(answers[1].Now))
	require.NotContains(t, answers[1].Doubts, "other_mapping")

	order.Mappings = nil
	answers, _ = decide(t, order, lines...)
	require.Equal(t, "allowed", string(answers[0].Now), "the same result is the same outcome")
	require.Equal(t, "unknown", string(answers[1].Now))
	require.Contains(t, answers[1].Doubts, "other_mapping")
}

func TestLongResults(t *testing.T) {
	answers, _ := decide(t, replaypolicy.Order{
		Policy: file(t, "a.rego", "package a\n\nlong := [x | some i in numbers.range(1, 100000); x := i]\n"),
	}, line("d", "a/long", "unknown", `{}`, "2"))
	require.Empty(t, answers[0].Result)
	require.Greater(t, answers[0].ResultBytes, 500_000)
}
