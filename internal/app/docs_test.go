package app

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/domain"
	"gopkg.in/yaml.v3"
)

var update = flag.Bool("update", false, "rewrite generated documents")

// TestConfigurationDocument keeps docs/configuration.md as the settings are.
func TestConfigurationDocument(t *testing.T) {
	p, err := kong.New(&commandLine{}, kong.Name("docket"))
	require.NoError(t, err)
	var b bytes.Buffer
	b.WriteString(`# Configuration

<!-- Generated from internal/app/config.go: go test ./internal/app -run ConfigurationDocument -update -->

Every setting has one name in three spellings. A flag beats its environment variable, which beats the key in the YAML file
that ` + "`--config`" + ` or ` + "`DOCKET_CONFIG`" + ` names. In the file, nested keys are joined by an underscore: ` + "`parking: {max_attempts: 5}`" + `
is ` + "`parking_max_attempts`" + `. An unknown key in the file is an error, an unknown ` + "`DOCKET_*`" + ` variable a warning. ` + "`docket config`" + `
prints what is in force, secrets hidden.

| flag | variable | key | default | |
|---|---|---|---|---|
`)
	for _, f := range settings(p.Model) {
		def := f.Default
		if def == "" {
			def = "-"
		}
		fmt.Fprintf(&b, "| `--%s` | `%s` | `%s` | `%s` | %s |\n", f.Name, f.Envs[0], keyOf(f.Name), def, f.Help)
	}
	b.WriteString(`
OpenTelemetry's own variables are followed: traces are off unless ` + "`OTEL_EXPORTER_OTLP_ENDPOINT`" + ` (or
` + "`OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`" + `) is set, and go out as OTLP over HTTP.

## Mappings

What a decision is about stands in different places for different policies. ` + "`mappings`" + `, in the file only, say where, by
policy path (exact, or a prefix with ` + "`*`" + ` behind). Every list holds JSON pointers into the event, tried in order before the
built-in ones:

` + "```yaml" + `
mappings:
  - path: shop/checkout/*
    allowed: [/result/verdict/ok]    # a boolean
    reason: [/result/verdict/why]    # text, or an array of it
    principal: [/input/customer/id]
    action: [/input/step]
    resource: [/input/cart/id]
` + "```" + `

## Tokens

` + "`DOCKET_UPLOAD_TOKENS_FILE`" + ` and ` + "`DOCKET_CONSOLE_TOKENS_FILE`" + ` have a line for each token: a name, the tenant (uploads) or role
(console: ` + "`viewer` or `operator`" + `), and the hex SHA-256 of the token, parted by white space or commas. ` + "`#`" + ` begins a comment. The
files are read again when they change; no restart is needed.

` + "```" + `
TOKEN=$(openssl rand -hex 32)
echo "edge-eu default $(printf %s "$TOKEN" | sha256sum | cut -d' ' -f1)" >> upload-tokens
` + "```" + `
`)
	const file = "../../docs/configuration.md"
	if *update {
		require.NoError(t, os.WriteFile(file, b.Bytes(), 0o644))
	}
	got, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, b.String(), string(got), "run with -update")
}

// TestOPAConfiguration keeps the banner and the shipped file the same.
func TestOPAConfiguration(t *testing.T) {
	shipped, err := os.ReadFile("../../deploy/opa/config.yaml")
	require.NoError(t, err)
	_, rest, ok := strings.Cut(string(shipped), "\n")
	require.True(t, ok)
	require.Equal(t, opaConfig("http://docket.example:8080", "/etc/docket/token"), rest)
}

// TestOpenAPI compares the document with what is served.
func TestOpenAPI(t *testing.T) {
	a := startApp(t, nil)
	_, body := a.get(t, a.ConsoleAddr(), "/api/v1/openapi.yaml")
	var doc struct {
		Paths      map[string]map[string]any
		Components struct {
			Schemas map[string]struct {
				Required   []string
				Properties map[string]any
			}
		}
	}
	require.NoError(t, yaml.Unmarshal(body, &doc))
	_, _ = postLogs(t, a, []byte(`[{"decision_id":"one","labels":{"id":"x"},"result":true},7]`), "")
	a.drained(t)
	ids := strings.NewReplacer("{decision_id}", "one", "{dead_letter_id}", a.indexed(t, 1, "")[0].ID, "{job_id}", a.job(t, "reindexes", "{}").ID)
	for path, methods := range doc.Paths {
		if methods["get"] == nil {
			continue
		}
		code, answer := a.get(t, a.ConsoleAddr(), ids.Replace(path))
		require.Equal(t, 200, code, "%s: %s", path, answer)
	}
	keys := func(path, field string) []string {
		_, answer := a.get(t, a.ConsoleAddr(), path)
		var m map[string]json.RawMessage
		require.NoError(t, json.Unmarshal(answer, &m))
		if field != "" {
			var items []map[string]json.RawMessage
			require.NoError(t, json.Unmarshal(m[field], &items))
			require.NotEmpty(t, items)
			m = items[0]
		}
		var out []string
		for k := range m {
			out = append(out, k)
		}
		slices.Sort(out)
		return out
	}
	for schema, got := range map[string][]string{
		"Decision": keys("/api/v1/decisions", "items"), "Pipeline": keys("/api/v1/pipeline", ""),
		"Flood": keys("/api/v1/flood", ""), "DeadLetter": keys("/api/v1/dead-letters", "items"), "DeadGroup": keys("/api/v1/dead-letters/groups", "items"),
		"Job": keys("/api/v1/dead-letters/replays", "items"), "Trail": keys("/api/v1/decisions/one/trail", ""), "AuditEntry": keys("/api/v1/audit", "items"),
	} {
		want := doc.Components.Schemas[schema].Required
		slices.Sort(want)
		require.Equal(t, want, got, schema)
		require.Len(t, doc.Components.Schemas[schema].Properties, len(want), schema)
	}
	require.Eventually(t, func() bool {
		_, answer := a.get(t, a.ConsoleAddr(), "/api/v1/opas")
		return strings.Contains(string(answer), `"opa":"x"`)
	}, testPatience, testTick)
	want := doc.Components.Schemas["OPA"].Required
	slices.Sort(want)
	require.Equal(t, want, keys("/api/v1/opas", "items"))
}

// TestDocumentsNameTestsThatExist: a transition, or a drill, that names a test is shown by it.
func TestDocumentsNameTestsThatExist(t *testing.T) {
	root := filepath.Join("..", "..")
	there := map[string]bool{}
	require.NoError(t, filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, "_test.go") {
			b, err := os.ReadFile(path)
			for _, m := range regexp.MustCompile(`(?m)^func (Test\w+)\(`).FindAllSubmatch(b, -1) {
				there[string(m[1])] = true
			}
			return err
		}
		return err
	}))
	documents, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	require.NoError(t, err)
	named := 0
	for _, path := range documents {
		b, err := os.ReadFile(path)
		require.NoError(t, err)
		for _, m := range regexp.MustCompile("`(Test\\w+)`").FindAllSubmatch(b, -1) {
			named++
			require.True(t, there[string(m[1])], "%s names %s, which is not there", path, m[1])
		}
	}
	require.Greater(t, named, 30)
}

// TestRunbook has a part for every reason, class and alert, and a line for every message that asks something of somebody.
func TestRunbook(t *testing.T) {
	b, err := os.ReadFile(filepath.Join("..", "..", "docs", "runbook.md"))
	require.NoError(t, err)
	runbook := string(b)
	var wanted []string
	for _, c := range domain.Classes {
		wanted = append(wanted, string(c))
	}
	source, err := os.ReadFile(filepath.Join("..", "domain", "reason.go"))
	require.NoError(t, err)
	reasons := regexp.MustCompile(`Reason = "([a-z0-9_]+)"`).FindAllStringSubmatch(string(source), -1)
	require.Greater(t, len(reasons), 14)
	for _, r := range reasons {
		wanted = append(wanted, r[1])
	}
	for _, heading := range wanted {
		require.Equal(t, 1, strings.Count(runbook, "\n### "+heading+"\n"), "### %s", heading)
	}
	message := regexp.MustCompile(`\.(?:Error|Warn)\("([^"]{10,45})`)
	require.NoError(t, filepath.WalkDir("..", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		b, err := os.ReadFile(path)
		for _, m := range message.FindAllStringSubmatch(string(b), -1) {
			require.True(t, strings.Contains(runbook, "| `"+m[1][:min(len(m[1]), 22)]), "%s: %s: is not among the runbook's messages", path, m[1])
		}
		return err
	}))
}

// TestDependencies enforces which package may know which; docs/architecture.md explains the rules.
func TestDependencies(t *testing.T) {
	const module = "github.com/docket-project/docket/"
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports", module+"...").Output()
	require.NoError(t, err)
	allowed := map[string][]string{ // docket's own packages that a package may import; every other import is checked below
		"internal/domain":            {},
		"internal/ports":             {"internal/domain"},
		"internal/ports/porttest":    {"internal/domain", "internal/ports"},
		"internal/ingest":            {"internal/domain", "internal/ports"},
		"internal/saver":             {"internal/domain", "internal/ports"},
		"internal/parking":           {"internal/domain", "internal/ports", "internal/saver"},
		"internal/trail":             {"internal/domain", "internal/ports"},
		"internal/testserver":        {},
		"internal/adapters/kafka":    {"internal/domain", "internal/ports"},
		"internal/adapters/postgres": {"internal/domain", "internal/ports"},
		"internal/adapters/sqlite":   {"internal/domain", "internal/ports"},
		"internal/adapters/httpapi":  {"internal/domain", "internal/ports", "internal/ingest", "internal/trail"},
		"internal/adapters/cli":      {"internal/domain"},
		"internal/app": {
			"internal/domain", "internal/ports", "internal/ingest", "internal/saver", "internal/parking", "internal/trail",
			"internal/adapters/sqlite", "internal/adapters/kafka", "internal/adapters/postgres", "internal/adapters/httpapi", "internal/adapters/cli",
		},
		"cmd/docket":  {"internal/app"},
		"cmd/ingest":  {"internal/app"},
		"cmd/saver":   {"internal/app"},
		"cmd/parking": {"internal/app"},
	}
	useCases := []string{"internal/ingest", "internal/saver", "internal/parking", "internal/trail"}
	withoutIO := []string{
		"github.com/cenkalti/backoff/v4", "github.com/failsafe-go/failsafe-go", "golang.org/x/sync", "golang.org/x/time",
		"github.com/prometheus/client_golang/prometheus", "go.opentelemetry.io/otel",
	}
	seen := map[string]bool{}
	dec := json.NewDecoder(bytes.NewReader(out))
	for {
		var p struct {
			ImportPath string
			Imports    []string
		}
		if err := dec.Decode(&p); err == io.EOF {
			break
		} else {
			require.NoError(t, err)
		}
		name := strings.TrimPrefix(p.ImportPath, module)
		own, known := allowed[name]
		require.True(t, known, "%s is new: say here what it may import", name)
		seen[name] = true
		for _, i := range p.Imports {
			rest, ours := strings.CutPrefix(i, module)
			switch {
			case ours:
				require.Contains(t, own, rest, "%s must not import %s", name, rest)
			case !strings.Contains(strings.Split(i, "/")[0], "."): // the standard library
				if slices.Contains(useCases, name) || name == "internal/domain" {
					require.NotContains(t, []string{"net", "net/http", "os", "database/sql", "os/exec"}, i, "%s does no I/O", name)
				}
			case name == "internal/domain":
				require.Equal(t, "github.com/go-json-experiment/json/jsontext", i)
			case name == "internal/ports":
				require.Fail(t, "ports import the standard library and domain only", i)
			case slices.Contains(useCases, name):
				require.True(t, slices.ContainsFunc(withoutIO, func(prefix string) bool { return i == prefix || strings.HasPrefix(i, prefix+"/") }), "%s imports %s", name, i)
			}
		}
	}
	for name := range allowed {
		require.True(t, seen[name], "%s is gone: take it out of here", name)
	}
}

// TestMainIsThin keeps rules out of cmd.
func TestMainIsThin(t *testing.T) {
	files, err := filepath.Glob("../../cmd/*/main.go")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, f := range files {
		b, err := os.ReadFile(f)
		require.NoError(t, err)
		require.LessOrEqual(t, bytes.Count(b, []byte("\n")), 40, f)
	}
}
