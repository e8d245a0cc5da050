package app

import (
	"bytes"
	"encoding/json"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"gopkg.in/yaml.v3"

	"github.com/docket-project/docket/internal/domain"
)

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
	ids := strings.NewReplacer(
		"{decision_id}", "one", "{dead_letter_id}", a.indexed(t, 1, "")[0].ID, "{job_id}", a.job(t, "reindexes", "{}").ID,
		"{field}", "principal",
	)
	for path, methods := range doc.Paths {
		if methods["get"] == nil {
			continue
		}
		if strings.HasSuffix(path, "/tail") { // which has no end
			path += "?since=1h"
			code, answer := a.get(t, a.ConsoleAddr(), path)
			require.Equal(t, 400, code, "%s: %s", path, answer)
			continue
		}
		path = ids.Replace(path)
		if strings.HasSuffix(path, "/compare") {
			path += "?a=one&b=one"
		}
		code, answer := a.get(t, a.ConsoleAddr(), path)
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
		"Status": keys("/api/v1/status", ""),
		"Guard":  keys("/api/v1/dead-letters/guard", ""), "DeadLetter": keys("/api/v1/dead-letters", "items"),
		"DeadGroup": keys("/api/v1/dead-letters/groups", "items"),
		"Job":       keys("/api/v1/jobs", "items"), "Trail": keys("/api/v1/decisions/one/trail", ""),
		"AuditEntry": keys("/api/v1/audit", "items"),
	} {
		want := doc.Components.Schemas[schema].Required
		slices.Sort(want)
		require.Equal(t, want, got, schema)
		optional := map[string]int{"Decision": 1}[schema] // masked
		require.Len(t, doc.Components.Schemas[schema].Properties, len(want)+optional, schema)
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

// TestRunbook has a part for every cause, class and alert, and a line for every message that asks something of
// somebody.
func TestRunbook(t *testing.T) {
	b, err := os.ReadFile(filepath.Join("..", "..", "docs", "runbook.md"))
	require.NoError(t, err)
	runbook := string(b)
	var wanted []string
	for _, c := range domain.Classes {
		wanted = append(wanted, string(c))
	}
	for _, c := range domain.Causes {
		wanted = append(wanted, string(c))
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
			require.True(
				t,
				strings.Contains(runbook, "| `"+m[1][:min(len(m[1]), 22)]),
				"%s: %s: is not among the runbook's messages",
				path,
				m[1],
			)
		}
		return err
	}))
}

// TestVerdictsInTheRunbook: every code that docket status may say is explained there.
func TestVerdictsInTheRunbook(t *testing.T) {
	book, err := os.ReadFile("../../docs/runbook.md")
	require.NoError(t, err)
	_, section, found := strings.Cut(string(book), "## What docket status says")
	require.True(t, found)
	section, _, _ = strings.Cut(section, "\n## ")
	for _, file := range []string{"health.go", "overview.go"} {
		source, err := os.ReadFile("../status/" + file)
		require.NoError(t, err)
		codes := regexp.MustCompile(`(?m)^\t[A-Z]\w+ = "([a-z_]+)"$`).FindAllStringSubmatch(string(source), -1)
		require.NotEmpty(t, codes, file)
		for _, code := range codes {
			require.Contains(t, section, "`"+code[1]+"`", file)
		}
	}
}

// TestDependencies enforces which package may know which; docs/architecture.md explains the rules.
func TestDependencies(t *testing.T) {
	const module = "github.com/docket-project/docket/"
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports", module+"...").Output()
	require.NoError(t, err)
	values := []string{"internal/domain"}
	overPorts := []string{"internal/domain", "internal/ports"}
	useCases := []string{
		"internal/ingest", "internal/sink", "internal/saver", "internal/parking", "internal/job", "internal/deadletter",
		"internal/operate", "internal/trail", "internal/status", "internal/retention", "internal/reproject",
		"internal/erase",
		"internal/dictionary", "internal/search", "internal/compare", "internal/tail", "internal/policy",
		"internal/access",
	}
	pure := slices.Concat(useCases, []string{"internal/explain"})
	and := func(more []string, base []string) []string { return slices.Concat(base, more) }
	allowed := map[string][]string{ // docket's own packages that a package may import; every other import is checked below
		"internal/domain":         {},
		"internal/config":         {},
		"internal/testserver":     {},
		"internal/ports":          values,
		"internal/search":         values,
		"internal/compare":        {"internal/domain", "internal/search"},
		"internal/tail":           {"internal/domain", "internal/search"},
		"internal/explain":        values,
		"internal/ports/porttest": and([]string{"internal/search"}, overPorts),

		"internal/policy":     and([]string{"internal/config"}, values),
		"internal/ingest":     and([]string{"internal/config", "internal/policy"}, overPorts),
		"internal/retention":  and([]string{"internal/config"}, overPorts),
		"internal/sink":       overPorts,
		"internal/dictionary": overPorts,
		"internal/job":        overPorts,
		"internal/trail":      overPorts,
		"internal/status":     overPorts,
		"internal/access":     and([]string{"internal/ingest"}, overPorts),
		"internal/operate":    and([]string{"internal/access"}, overPorts),
		"internal/saver":      and([]string{"internal/sink", "internal/config"}, overPorts),
		"internal/parking":    and([]string{"internal/sink", "internal/config"}, overPorts),
		"internal/reproject":  and([]string{"internal/job"}, overPorts),
		"internal/erase":      and([]string{"internal/job", "internal/sink", "internal/deadletter"}, overPorts),
		"internal/deadletter": and([]string{"internal/job", "internal/sink", "internal/ingest"}, overPorts),

		"internal/adapters/sqlstore": and([]string{"internal/search"}, values),
		"internal/adapters/postgres": and([]string{"internal/adapters/sqlstore", "internal/search"}, overPorts),
		"internal/adapters/sqlite":   and([]string{"internal/adapters/sqlstore", "internal/search"}, overPorts),
		"internal/adapters/kafka":    and([]string{"internal/config"}, overPorts),

		"internal/adapters/auth": append(slices.Clone(values), "internal/ports"),
		// OPA's library is imported by these and by nothing that other programs than docket have.
		"internal/adapters/opa": and([]string{"internal/access"}, values),
		"internal/adapters/rego": and(
			[]string{"internal/adapters/api", "internal/adapters/replaypolicy", "internal/explain"}, values,
		),
		"internal/adapters/replaypolicy": and([]string{"internal/adapters/api", "internal/search"}, values),
		// The words of the use cases' codes are the API's.
		"internal/adapters/api": and(
			[]string{
				"internal/trail", "internal/status", "internal/job", "internal/deadletter", "internal/operate",
				"internal/reproject", "internal/erase", "internal/compare", "internal/search",
			},
			values,
		),
		"internal/adapters/web": and(
			[]string{
				"internal/access", "internal/adapters/api", "internal/adapters/auth", "internal/operate", "internal/search",
				"internal/status",
			},
			values,
		),
		"internal/adapters/uploadapi": and(
			[]string{"internal/adapters/auth", "internal/adapters/web", "internal/config", "internal/ingest", "internal/policy"},
			values,
		),
		"internal/adapters/queryapi": and([]string{
			"internal/adapters/api", "internal/adapters/auth", "internal/adapters/replaypolicy", "internal/adapters/web",
			"internal/ingest", "internal/operate", "internal/search", "internal/status", "internal/trail", "internal/compare",
			"internal/tail", "internal/deadletter", "internal/access",
		}, overPorts),
		"internal/adapters/console": and([]string{
			"internal/adapters/api", "internal/adapters/auth", "internal/adapters/replaypolicy", "internal/adapters/web",
			"internal/compare", "internal/deadletter", "internal/operate", "internal/search", "internal/status",
			"internal/trail", "internal/access",
		}, overPorts),
		"internal/adapters/cli": and(
			[]string{
				"internal/adapters/api", "internal/adapters/replaypolicy", "internal/policy", "internal/search", "internal/trail",
			},
			values,
		),

		"internal/app": and(useCases, and([]string{
			"internal/adapters/replaypolicy",
			"internal/config", "internal/adapters/auth", "internal/adapters/kafka", "internal/adapters/postgres",
			"internal/adapters/sqlite", "internal/adapters/uploadapi", "internal/adapters/queryapi",
			"internal/adapters/web", "internal/adapters/console",
		}, overPorts)),
		"internal/command": {
			"internal/app", "internal/adapters/api", "internal/adapters/cli", "internal/adapters/replaypolicy",
			"internal/config", "internal/status",
		},
		"cmd/docket":  {"internal/adapters/opa", "internal/adapters/rego", "internal/command"},
		"cmd/ingest":  {"internal/command"},
		"cmd/saver":   {"internal/command"},
		"cmd/parking": {"internal/command"},
	}
	withoutIO := []string{
		"github.com/cenkalti/backoff/v4",
		"github.com/klauspost/compress/gzip",
		"github.com/klauspost/compress/s2",
		"github.com/go-json-experiment/json/jsontext",
		"github.com/alecthomas/participle/v2",
		"github.com/cockroachdb/apd/v3",
		"github.com/maypok86/otter/v2",
		"github.com/failsafe-go/failsafe-go",
		"golang.org/x/sync",
		"github.com/tidwall/gjson",
		"github.com/open-policy-agent/opa/v1", // without a network, and nothing of its own reads files
		"golang.org/x/time",
		"github.com/prometheus/client_golang/prometheus",
		"go.opentelemetry.io/otel",
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
				if slices.Contains(pure, name) || name == "internal/domain" {
					require.NotContains(t, []string{"net", "net/http", "os", "database/sql", "os/exec"}, i, "%s does no I/O", name)
				}
			case name == "internal/domain":
				// gjson for what nests deeper than jsontext reads
				require.Contains(t, []string{"github.com/go-json-experiment/json/jsontext", "github.com/tidwall/gjson"}, i)
			case name == "internal/ports":
				require.Fail(t, "ports import the standard library and domain only", i)
			case slices.Contains(pure, name):
				require.True(
					t,
					slices.ContainsFunc(
						withoutIO,
						func(prefix string) bool { return i == prefix || strings.HasPrefix(i, prefix+"/") },
					),
					"%s imports %s",
					name,
					i,
				)
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
