package command

import (
	"bytes"
	"cmp"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/adapters/api"
	"github.com/docket-project/docket/internal/app"
	"github.com/docket-project/docket/internal/domain"
)

var update = flag.Bool("update", false, "rewrite generated documents")

// inOrder lists the settings as app.Config has them.
func inOrder() (out []setting) {
	p, err := kong.New(&settings{Config: app.DefaultConfig()}, append(mappers(), kong.Name("docket"))...)
	if err != nil {
		panic(err)
	}
	for _, flag := range p.Model.Flags {
		if s, ok := knownSettings[flag.Name]; ok {
			out = append(out, s)
		}
	}
	return out
}

type settingGroup struct {
	title, about string
	names        []string // a "*" at the end stands for the rest; none for all
}

// settingGroups part the settings by how often somebody has to think of them: the first group that has one takes it.
var settingGroups = []settingGroup{
	{"Must", "What depends on where docket runs: look at each of these before others use it.", []string{
		"data", "listen", "console-listen", "admin-listen", "upload-tokens-file", "console-tokens-file", "tls-*",
		"allowed-hosts", "retention", "kafka-brokers", "kafka-tls", "kafka-ca-file", "kafka-sasl", "kafka-user",
		"kafka-password-file", "database-url",
	}},
	{"Tune", "What depends on how much there is. The defaults suit most; docs/production.md says what to watch.", []string{
		"max-in-flight-bytes", "saver-concurrency", "saver-batch-*", "parking-concurrency", "parking-max-attempts",
		"store-events", "log-*",
	}},
	{"Rarely", "What nobody should have to change without a reason to write down. Sizes are numbers of bytes, or such " +
		"as `8MiB`; durations such as `90s`, `12h` or `7d`.", nil},
}

func (g settingGroup) has(name string) bool {
	return g.names == nil || slices.ContainsFunc(g.names, func(n string) bool {
		prefix, open := strings.CutSuffix(n, "*")
		return n == name || open && strings.HasPrefix(name, prefix)
	})
}

// TestConfigurationDocument keeps docs/configuration.md as the settings are.
func TestConfigurationDocument(t *testing.T) {
	var b bytes.Buffer
	b.WriteString(`# Configuration

<!-- Generated from the components' settings: go test ./internal/command -run ConfigurationDocument -update -->

Every setting has one name in three spellings. A flag beats its environment variable, which beats the key in the YAML
file that ` + "`--config`" + ` or ` + "`DOCKET_CONFIG`" + ` names. In the file, nested keys are joined by an underscore: ` +
		"`parking: {max_attempts: 5}`" + `
is ` + "`parking_max_attempts`" + `. An unknown key in the file is an error, an unknown ` + "`DOCKET_*`" +
		` variable a warning. ` + "`docket config`" + `
prints what is in force, secrets hidden.

`)
	grouped := map[string]bool{}
	for _, group := range settingGroups {
		fmt.Fprintf(&b, "## %s\n\n%s\n\n", group.title, group.about)
		b.WriteString("| flag | variable | key | default | |\n|---|---|---|---|---|\n")
		for _, s := range inOrder() {
			if grouped[s.flag.Name] || !group.has(s.flag.Name) {
				continue
			}
			grouped[s.flag.Name] = true
			fmt.Fprintf(
				&b, "| `--%s` | `%s` | `%s` | `%s` | %s |\n", s.flag.Name, s.flag.Envs[0], keyOf(s.flag.Name),
				cmp.Or(s.fallback, "-"), s.flag.Help,
			)
		}
		b.WriteByte('\n')
	}
	require.Len(t, grouped, len(inOrder()), "each setting has its place")
	b.WriteString(`OpenTelemetry's own variables are followed: traces are off unless ` + "`OTEL_EXPORTER_OTLP_ENDPOINT`" + ` (or
` + "`OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`" + `) is set, and go out as OTLP over HTTP.

## Mappings

What a policy's answer means, and where an event has the principal, action, resource and reason, is told per policy path
by ` + "`mappings`" + `, in the file only: [mappings.md](mappings.md).

## How much may be uploaded, and what of it is kept

Quotas, masks and samples, by tenant and policy path, stand in ` + "`policies`" + `, in the file only: [policies.md](policies.md).

## Who may do what

Tokens, JSON web tokens (` + "`issuers`" + `) and client certificates (` + "`client_certificates`" +
		`), the latter two in the file only: [security.md](security.md).
`)
	const file = "../../docs/configuration.md"
	if *update {
		require.NoError(t, os.WriteFile(file, b.Bytes(), 0o644))
	}
	got, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, b.String(), string(got), "run with -update")
}

// TestSecurityDocument reads the examples of docs/security.md: what is not an OPA's is docket's.
func TestSecurityDocument(t *testing.T) {
	doc, err := os.ReadFile("../../docs/security.md")
	require.NoError(t, err)
	var text strings.Builder
	for _, part := range strings.Split(string(doc), "```yaml\n")[1:] {
		if example, _, _ := strings.Cut(part, "```"); !strings.HasPrefix(example, "services:") {
			if strings.Contains(text.String(), "issuers:\n") { // the next one goes on with the list
				example = strings.TrimPrefix(example, "issuers:\n")
			}
			text.WriteString(example)
		}
	}
	file := filepath.Join(t.TempDir(), "docket.yaml")
	settings := "tls_cert_file: a\ntls_key_file: b\ntls_client_ca_file: c\n"
	require.NoError(t, os.WriteFile(file, []byte(settings+text.String()), 0o600))
	printed := configOf(t, file)
	for _, want := range []string{
		"tenant_claim: /kubernetes.io/namespace", "payments-canary: payments", "role_claim: /groups",
		"san: '*.sre.example.org'", "redirect_url: https://docket.example/login/callback",
	} {
		require.Contains(t, printed, want)
	}
	again := filepath.Join(t.TempDir(), "docket.yaml")
	require.NoError(t, os.WriteFile(again, []byte(printed), 0o600))
	require.Equal(t, printed, configOf(t, again), "what it prints can be read")
}

// configOf is what docket config prints of a file.
func configOf(t *testing.T, file string) string {
	t.Helper()
	var out bytes.Buffer
	require.Zero(t, Main(t.Context(), []string{"--config", file, "config"}, &out, &out), out.String())
	return out.String()
}

// TestMappingsDocument reads the examples of docs/mappings.md.
func TestMappingsDocument(t *testing.T) {
	doc, err := os.ReadFile("../../docs/mappings.md")
	require.NoError(t, err)
	_, rest, found := strings.Cut(string(doc), "```yaml\n")
	require.True(t, found)
	example, _, _ := strings.Cut(rest, "```")
	file := filepath.Join(t.TempDir(), "docket.yaml")
	require.NoError(t, os.WriteFile(file, []byte(example), 0o600))
	require.Contains(t, configOf(t, file), "equals: high")
	for _, when := range domain.Whens {
		require.Contains(t, string(doc), string(when))
	}
}

// TestOPAConfiguration keeps the banner and the shipped files the same.
func TestOPAConfiguration(t *testing.T) {
	shipped, err := os.ReadFile("../../deploy/opa/config.yaml")
	require.NoError(t, err)
	_, rest, ok := strings.Cut(string(shipped), "\n")
	require.True(t, ok)
	require.Equal(t, api.OPAConfig("http://docket.example:8080", "/etc/docket/token"), rest)
	quickstart, err := os.ReadFile("../../examples/quickstart/opa.yaml")
	require.NoError(t, err)
	require.Equal(t, api.OPAConfig("http://127.0.0.1:8080", ""), string(quickstart))
}

// TestDefaultsReachEveryCommand: what a command without flags works with is app.DefaultConfig. A command that does not
// embed the settings has none, so a new one cannot lose them.
func TestDefaultsReachEveryCommand(t *testing.T) {
	for _, name := range []string{"serve", "ingest", "saver", "parking", "console", "migrate", "config",
		"log accept-loss"} {
		kctx, _, err := parse(strings.Fields(name), io.Discard, io.Discard, nil)
		require.NoError(t, err)
		fill(kctx, app.Sections{Mappings: nil})
		found := 0
		for _, path := range kctx.Path {
			if path.Command != nil {
				found += compareConfigs(t, path.Command.Target)
			}
		}
		require.Equal(t, 1, found, name)
	}
}

// compareConfigs counts the configurations that a command embeds, each of which has to be the default one.
func compareConfigs(t *testing.T, v reflect.Value) (n int) {
	t.Helper()
	if v.Kind() == reflect.Pointer {
		v = v.Elem()
	}
	if v.Type() == reflect.TypeFor[app.Config]() {
		want := app.DefaultConfig()
		got := v.Interface().(app.Config)
		require.Equal(t, want.Describe(), strings.ReplaceAll(got.Describe(), mustGetwd(t)+"/", "./"))
		got.Data = want.Data // kong makes paths absolute
		require.Equal(t, want, got)
		return 1
	}
	if v.Kind() == reflect.Struct {
		for i := range v.NumField() {
			if v.Type().Field(i).Anonymous {
				n += compareConfigs(t, v.Field(i))
			}
		}
	}
	return n
}

func mustGetwd(t *testing.T) string {
	t.Helper()
	dir, err := os.Getwd()
	require.NoError(t, err)
	return dir
}

// TestMessagesOfAStart has the banner of a role.
func TestBanner(t *testing.T) {
	var out, log bytes.Buffer
	ctx, cancel := context.WithCancel(t.Context())
	started := writerFunc(func(b []byte) (int, error) {
		out.Write(b)
		if strings.Contains(out.String(), "docket status") || strings.Contains(out.String(), "status\n") {
			cancel()
		}
		return len(b), nil
	})
	code := Main(
		ctx,
		[]string{
			"serve",
			"--data",
			t.TempDir(),
			"--listen",
			"127.0.0.1:0",
			"--console-listen",
			"127.0.0.1:0",
			"--admin-listen",
			"127.0.0.1:0",
		},
		started,
		&log,
	)
	require.Zero(t, code, "%s", &log)
	for _, says := range []string{"OPA posts to", "Look at decisions", "The API answers at", "Metrics and health",
		"Paste this into OPA's configuration", "decision_logs:", "find --denied"} {
		require.Contains(t, out.String(), says)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }
