package command_test

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"

	"github.com/docket-project/docket/internal/adapters/cli"
	"github.com/docket-project/docket/internal/app"
	"github.com/docket-project/docket/internal/command"
	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/saver"
	"github.com/docket-project/docket/internal/status"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// How long a test waits for something that has to happen, and how often it looks.
const (
	testPatience = 30 * time.Second
	testTick     = 20 * time.Millisecond
)

// serve runs everything in one process, on free ports and an empty directory.
func serve(t *testing.T) *app.App {
	t.Helper()
	c := app.DefaultConfig()
	c.Data = t.TempDir()
	c.Listen, c.ConsoleListen, c.AdminListen = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	a, err := app.New(t.Context(), status.Serve, c, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	a.Start()
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		require.NoError(t, a.Stop(context.Background()))
	})
	return a
}

// runMain runs docket's command line.
func runMain(t *testing.T, args ...string) (code int, output string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testPatience)
	defer cancel()
	var out bytes.Buffer
	code = command.Main(ctx, args, &out, &out)
	return code, out.String()
}

func fakeKafka(t *testing.T) *kfake.Cluster {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(1))
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

func TestRolesNeedServers(t *testing.T) {
	for _, role := range []status.Role{status.Ingest, status.Saver, status.Parking, status.Console} {
		code, out := runMain(t, string(role))
		require.Equal(t, cli.ExitMisconfigured, code)
		require.Contains(t, out, "DOCKET_KAFKA_BROKERS and DOCKET_DATABASE_URL")
		require.Contains(t, out, "docket serve")
		code, out = runMain(t, string(role), "--kafka-brokers", "127.0.0.1:1")
		require.Equal(t, cli.ExitMisconfigured, code)
		require.NotContains(t, out, "DOCKET_KAFKA_BROKERS and")
		require.Contains(t, out, "DOCKET_DATABASE_URL")
	}
}

func TestRolesRefuseUnreplicatedTopics(t *testing.T) {
	k := fakeKafka(t)
	data := t.TempDir()
	brokers := k.ListenAddrs()[0]
	nowhere := "postgres://x@127.0.0.1:1/x?connect_timeout=1"
	code, out := runMain(
		t, "ingest", "--kafka-brokers", brokers, "--database-url", nowhere, "--listen", "127.0.0.1:0", "--admin-listen",
		"127.0.0.1:0",
	)
	require.Equal(t, cli.ExitMisconfigured, code, out)
	require.Contains(t, out, "docket migrate")
	code, out = runMain(t, "migrate", "--kafka-brokers", brokers, "--data", data)
	require.Equal(t, cli.ExitDone, code, out)
	require.Contains(t, out, "Topic docket.decisions was created.")
	require.Contains(t, out, "1 replicas of at least 3")
	code, out = runMain(
		t, "ingest", "--kafka-brokers", brokers, "--database-url", nowhere, "--listen", "127.0.0.1:0", "--admin-listen",
		"127.0.0.1:0",
	)
	require.Equal(t, cli.ExitMisconfigured, code, out)
	require.Contains(t, out, "DOCKET_KAFKA_UNREPLICATED=allow")
}

func TestAcceptLossOnKafka(t *testing.T) {
	k := fakeKafka(t)
	settings := []string{"--kafka-brokers", k.ListenAddrs()[0], "--data", t.TempDir(), "--topic-prefix", "loss."}
	code, out := runMain(t, append([]string{"migrate"}, settings...)...)
	require.Equal(t, cli.ExitDone, code, out)
	accept := append([]string{"log", "accept-loss"}, settings...)
	code, out = runMain(t, accept...)
	require.Equal(t, cli.ExitDone, code, out)
	require.Contains(t, out, "nothing to give up")

	topics := domain.TopicsWithPrefix("loss.")
	cl, err := kgo.NewClient(kgo.SeedBrokers(k.ListenAddrs()...), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	require.NoError(t, err)
	for range 10 {
		require.NoError(
			t,
			cl.ProduceSync(t.Context(), &kgo.Record{Topic: topics.Decisions, Partition: 3, Value: []byte("{}")}).FirstErr(),
		)
	}
	cl.Close()
	member, err := kgo.NewClient(
		kgo.SeedBrokers(k.ListenAddrs()...), kgo.ConsumerGroup(topics.Group(saver.Group)),
		kgo.ConsumeTopics(topics.Decisions), kgo.DisableAutoCommit(),
	)
	require.NoError(t, err)
	var one *kgo.Record
	for one == nil {
		member.PollRecords(t.Context(), 1).EachRecord(func(r *kgo.Record) { one = r })
	}
	require.NoError(t, member.CommitRecords(t.Context(), one))
	member.Close()
	require.NoError(t, k.DeleteRecords(topics.Decisions, 3, 8))

	code, out = runMain(t, accept...)
	require.Equal(t, cli.ExitFailed, code, out)
	require.Contains(t, out, "loss.decisions/3 offsets 1 to 7: 7 records that loss.docket-saver had not done")
	require.Contains(t, out, "nothing was changed")
	code, out = runMain(t, append(accept, "--yes")...)
	require.Equal(t, cli.ExitDone, code, out)
	code, out = runMain(t, accept...)
	require.Equal(t, cli.ExitDone, code, out)
	require.Contains(t, out, "nothing to give up")
}

// TestMainExitCodes runs the commands as a shell would.
func TestMainExitCodes(t *testing.T) {
	a := serve(t)
	for _, c := range []struct {
		name string
		args []string
		code int
		out  string
	}{
		{"version", []string{"version"}, cli.ExitDone, "docket dev"},
		{"no command", nil, cli.ExitUsage, "expected one of"},
		{"unknown command", []string{"frobnicate"}, cli.ExitUsage, "frobnicate"},
		{"config", []string{"config", "--listen", "127.0.0.1:99"}, cli.ExitDone, "listen: \"127.0.0.1:99\""},
		{"config that is wrong", []string{"config", "--listen", ":99"}, cli.ExitMisconfigured, "DOCKET_UPLOAD_TOKENS_FILE"},
		{"secrets are hidden", []string{"config", "--database-url", "postgres://u:p@h/d"}, cli.ExitDone,
			"database_url: \"********\""},
		{"send", []string{"send", "--upload-server", "http://" + a.UploadAddr(), "../../examples/decisions.json"},
			cli.ExitDone, "4 accepted, 0 quarantined"},
		{"show what is not there", []string{"show", "--server", "http://" +
			a.ConsoleAddr(), "nope"}, cli.ExitNotFound, "no decision nope is stored"},
		{"find with a bad filter", []string{"find", "--server", "http://" +
			a.ConsoleAddr(), "--outcome", "maybe"}, cli.ExitUsage, "maybe"},
		{"nobody there", []string{"find", "--server", "http://127.0.0.1:1"}, cli.ExitUnavailable, "docket does not answer"},
		{"nobody there to send to", []string{"send", "--upload-server", "http://127.0.0.1:1",
			"../../examples/decisions.json"}, cli.ExitUnavailable, "docket does not answer"},
		{"a level that is none", []string{"config", "--log-level", "loud"}, cli.ExitMisconfigured,
			`log_level "loud": it is one of debug, info, warn, error`},
		{"an environment variable that is none", []string{"config", "--max-events", "x"}, cli.ExitUsage, "max-events"},
		{"no such data", []string{"log", "accept-loss", "--data", "/no/such/dir"}, cli.ExitMisconfigured,
			"no data directory"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out bytes.Buffer
			code := command.Main(t.Context(), c.args, &out, &out)
			require.Equal(t, c.code, code, "%s", &out)
			require.Contains(t, out.String(), c.out)
			require.NotContains(t, out.String(), "p@h", "secrets are not printed")
		})
	}
	require.Eventually(t, func() bool {
		var out bytes.Buffer
		code := command.Main(
			t.Context(), []string{"find", "--server", "http://" + a.ConsoleAddr(), "--denied", "--path", "http/authz/*"}, &out,
			&out,
		)
		return code == cli.ExitDone && strings.Count(out.String(), "\n") == 2
	}, testPatience, testTick, "a header and one decision")
	http.DefaultClient.CloseIdleConnections()
}

// printed is what docket config prints of a setting.
func printed(t *testing.T, key string, args ...string) string {
	t.Helper()
	code, out := runMain(t, append([]string{"config"}, args...)...)
	require.Equal(t, cli.ExitDone, code, out)
	for line := range strings.SplitSeq(out, "\n") {
		if value, ok := strings.CutPrefix(line, key+": "); ok {
			return value
		}
	}
	require.Fail(t, "not printed", "%s in %s", key, out)
	return ""
}

// TestWhereASettingComesFrom: a flag beats its variable, which beats the file, which beats the default.
func TestWhereASettingComesFrom(t *testing.T) {
	file := filepath.Join(t.TempDir(), "docket.yaml")
	require.NoError(
		t,
		os.WriteFile(
			file, []byte("saver: {concurrency: 3}\nretention: 7d\nmappings:\n  - path: a/*\n    principal: [/input/who]\n"),
			0o600,
		),
	)
	require.Equal(t, "4", printed(t, "saver_concurrency"))
	require.Equal(t, "3", printed(t, "saver_concurrency", "--config", file))
	require.Equal(t, `"7d"`, printed(t, "retention", "--config", file))
	t.Setenv("DOCKET_SAVER_CONCURRENCY", "5")
	require.Equal(t, "5", printed(t, "saver_concurrency", "--config", file))
	require.Equal(t, "6", printed(t, "saver_concurrency", "--config", file, "--saver-concurrency", "6"))
	code, out := runMain(t, "config", "--config", file)
	require.Equal(t, cli.ExitDone, code)
	require.Contains(t, out, "mappings:\n")
	require.Contains(t, out, "/input/who")
}

// TestConfigPrintsAFile has what docket config prints read back as a file.
func TestConfigPrintsAFile(t *testing.T) {
	code, first := runMain(
		t, "config", "--saver-concurrency", "7", "--kafka-brokers", "a:1,b:2", "--listen", "127.0.0.1:99",
	)
	require.Equal(t, cli.ExitDone, code, first)
	file := filepath.Join(t.TempDir(), "docket.yaml")
	require.NoError(t, os.WriteFile(file, []byte(first), 0o600))
	code, second := runMain(t, "config", "--config", file)
	require.Equal(t, cli.ExitDone, code, second)
	require.Equal(t, first, second)
	code, first = runMain(t, "config")
	require.Equal(t, cli.ExitDone, code, first)
	require.NoError(t, os.WriteFile(file, []byte(first+"retention:\nlisten: ~\n"), 0o600))
	code, second = runMain(t, "config", "--config", file)
	require.Equal(t, cli.ExitMisconfigured, code, "a key twice, even without a value: %s", second)
	require.NoError(t, os.WriteFile(file, []byte("kafka_brokers: null\nretention:\nlisten: ~\n"), 0o600))
	code, second = runMain(t, "config", "--config", file)
	require.Equal(t, cli.ExitDone, code, second)
	require.Equal(t, first, second, "a key without a value is as if it were not there")
}

func TestHelpShowsDefaults(t *testing.T) {
	for _, command := range []string{"serve", "ingest", "config"} {
		out := help(t, command)
		for _, says := range []string{`--listen="127.0.0.1:8080"`, "--retention=90d", "--max-events=50000",
			"--saver-concurrency=4"} {
			require.Contains(t, out, says, command)
		}
	}
}

func TestFileMistakes(t *testing.T) {
	for name, c := range map[string]struct{ text, says string }{
		"an unknown key": {"colour: red\n", `line 1: there is no setting "colour"`},
		"a section's unknown key": {"mappings:\n  - path: a\n    principals: [/x]\n",
			`line 3 column 5: mappings: there is no key "principals"`},
		"no list of mappings":      {"mappings: {a: b}\n", "line 1 column 11: mappings: want a list"},
		"a mapping without a path": {"mappings:\n  - allowed: [/x]\n", "line 2 column 5: mappings: a mapping needs a path"},
		"a path that none is":      {"mappings:\n  - path: a*b\n", "line 2 column 11: mappings: path a*b"},
		"a pointer that is none": {"mappings:\n  - path: a\n    allowed: [x]\n",
			"line 3 column 15: mappings: \"x\" is no JSON pointer"},
		"a pointer's escape":       {"mappings:\n  - {path: a, reason: /a~2}\n", "line 2 column 23"},
		"a key of a mapping twice": {"mappings:\n  - path: a\n    path: b\n", "line 3 column 5: mappings: path is set twice"},
		"an expectation that none is": {"mappings:\n  - path: a\n    denied:\n      - {pointer: /x, when: maybe}\n",
			"line 4 column 29: mappings: when is true, false"},
		"equals without a value": {"mappings:\n  - {path: a, denied: [{pointer: /x, when: equals}]}\n", "line 2 column 44"},
		"equals with a list": {"mappings:\n  - {path: a, denied: [{pointer: /x, when: {equals: [a]}}]}\n",
			"line 2 column 53"},
		"a condition without a pointer": {"mappings:\n  - {path: a, denied: [{when: true}]}\n",
			"line 2 column 24: mappings: a condition needs a pointer"},
		"a condition's unknown key": {"mappings:\n  - {path: a, denied: [{pointer: /x, if: true}]}\n", `no key "if"`},
		"undefined that is unknown": {"mappings:\n  - {path: a, undefined: unknown}\n", "undefined can be allowed or denied"},
		"a key of another command":  {"limit: 7\n", `there is no setting "limit"`},
		"a key twice":               {"listen: a\nlisten: b\n", "is set already"},
		"a number that is none":     {"max_events: many\n", "many"},
		"a value that is not valid": {"publish_timeout: 9s\n", "publish_timeout 9s"},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "docket.yaml")
			require.NoError(t, os.WriteFile(file, []byte(c.text), 0o600))
			code, out := runMain(t, "config", "--config", file)
			require.Equal(t, cli.ExitMisconfigured, code, out)
			require.Contains(t, out, c.says)
		})
	}
	code, out := runMain(t, "config", "--config", "/no/such/file")
	require.Equal(t, cli.ExitMisconfigured, code, out)
	t.Setenv("DOCKET_MAX_EVENTS", "many")
	code, out = runMain(t, "config")
	require.Equal(t, cli.ExitMisconfigured, code, out)
	require.NoError(t, os.Unsetenv("DOCKET_MAX_EVENTS"))
	t.Setenv("DOCKET_MAX_EVENT", "7")
	code, out = runMain(t, "config")
	require.Equal(t, cli.ExitDone, code, out)
	require.Contains(t, out, "docket: DOCKET_MAX_EVENT is no setting; is it spelled wrong?")
}

func TestMappingTest(t *testing.T) {
	file := filepath.Join(t.TempDir(), "docket.yaml")
	events := filepath.Join(t.TempDir(), "events.json")
	require.NoError(t, os.WriteFile(file, []byte(`
mappings:
  - path: shop/*
    denied:
      - {pointer: /result/level, when: {equals: 9}}
      - /result/problems
    undefined: allowed
    reason: /result/why
    principal: [/input/who]
`), 0o600))
	require.NoError(t, os.WriteFile(events, []byte(`[
{"decision_id":"a","path":"shop/pay","input":{"who":"jo"},"result":{"level":9,"why":"too much"}},
{"decision_id":"b","path":"shop/pay","result":{"problems":[]}},{"decision_id":"c","path":"shop/pay"},
{"decision_id":"d","path":"other","result":{"allow":false},"input":{"user":"***"},"masked":["/input/user"]}]`), 0o600))
	code, out := runMain(t, "--config", file, "mapping", "test", events)
	require.Equal(t, cli.ExitDone, code, out)
	require.Equal(t, `DENIED  shop/pay
  decided by  mapping shop/*: /result/level
  reason      too much
  principal   jo
  action      -
  resource    -
  decision    a

ALLOWED  shop/pay
  decided by  mapping shop/*: /result/problems
  reason      -
  principal   -
  action      -
  resource    -
  decision    b

ALLOWED  shop/pay
  decided by  mapping shop/*: undefined
  reason      -
  principal   -
  action      -
  resource    -
  decision    c

DENIED  other
  decided by  boolean at /result/allow
  reason      -
  principal   ***
  action      -
  resource    -
  masked      principal
  decision    d
`, out)
	code, out = runMain(t, "--config", file, "mapping", "test", events, "-o", "json")
	require.Equal(t, cli.ExitDone, code, out)
	var all []struct{ Outcome, Rule string }
	require.NoError(t, json.Unmarshal([]byte(out), &all))
	require.Len(t, all, 4)
	for _, c := range []struct{ text, says string }{
		{`[1]`, "value 1 is no event"}, {``, "there is no event"}, {`{"a":`, "unexpected EOF"},
	} {
		require.NoError(t, os.WriteFile(events, []byte(c.text), 0o600))
		code, out = runMain(t, "mapping", "test", events)
		require.Equal(t, cli.ExitFailed, code, out)
		require.Contains(t, out, c.says)
	}
	code, spelled := runMain(t, "--config", file, "config")
	require.Equal(t, cli.ExitDone, code, spelled)
	require.NoError(t, os.WriteFile(file, []byte(spelled), 0o600))
	code, again := runMain(t, "--config", file, "config")
	require.Equal(t, cli.ExitDone, code, again)
	require.Equal(t, spelled, again, "what config prints can be used as a file")
}

// help is what --help prints, which ends the process.
func help(t *testing.T, name string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestHelpProcess$")
	cmd.Env = append(os.Environ(), "DOCKET_TEST_HELP="+name)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return string(out)
}

// TestHelpProcess is the process of help.
func TestHelpProcess(t *testing.T) {
	if name := os.Getenv("DOCKET_TEST_HELP"); name != "" {
		command.Main(t.Context(), []string{name, "--help"}, os.Stdout, os.Stderr)
	}
}

func TestPolicyTest(t *testing.T) {
	dir := t.TempDir()
	file, keys := filepath.Join(dir, "docket.yaml"), filepath.Join(dir, "keys")
	require.NoError(t, os.WriteFile(keys, []byte("v1 "+strings.Repeat("6b", 32)+"\n"), 0o600))
	require.NoError(t, os.WriteFile(file, []byte(`
mask_keys_file: `+keys+`
policies:
  - name: pii
    tenants: [shop]
    masks: [{remove: /input/password}, {hash: /input/user}, {replace: /result/allow}]
  - name: health
    paths: [system/health]
    samples: [{outcomes: [allowed], keep: 0}]
`), 0o600))
	events := filepath.Join(dir, "events.json")
	require.NoError(t, os.WriteFile(events, []byte(`[
{"decision_id":"a","path":"shop/pay","input":{"password":"p","user":"jo"},"result":{"allow":true}},
{"decision_id":"b","path":"system/health","result":{"allow":true}},7]`), 0o600))
	code, out := runMain(t, "--config", file, "policy", "test", "--tenant", "shop", events)
	require.Equal(t, cli.ExitDone, code, out)
	require.Equal(t, `KEPT
  outcome   unknown, before the masks allowed
  policies  pii: masked
  erased    /input/password
  masked    /input/user, /result/allow
  decision  a
  {"decision_id":"a","path":"shop/pay","input":{"user":"hmac-sha256:v1:HASH"},"result":{"allow":"***"},`+
		`"erased":["/input/password"],"masked":["/input/user","/result/allow"]}

DROPPED
  outcome   allowed
  policies  health: dropped
  decision  b

DROPPED  not_object
  policies  pii: unmaskable
`, regexp.MustCompile(`v1:[0-9a-f]{32}`).ReplaceAllString(out, "v1:HASH"))
	code, out = runMain(t, "--config", file, "policy", "test", events, "-o", "json")
	require.Equal(t, cli.ExitDone, code, out)
	var all []struct {
		Result string
		Event  json.RawMessage
	}
	require.NoError(t, json.Unmarshal([]byte(out), &all))
	require.Equal(t, "kept", all[0].Result)
	require.Contains(t, string(all[0].Event), `"password": "p"`, "nothing is masked of the tenant default")
	require.Equal(t, "quarantined", all[2].Result)
	code, out = runMain(t, "policy", "test", events)
	require.Equal(t, cli.ExitDone, code, out)
	require.Contains(t, out, "no policy of the configuration says anything of events of the tenant default (--tenant)")
	require.NoError(t, os.WriteFile(keys, nil, 0o600))
	code, out = runMain(t, "--config", file, "policy", "test", events)
	require.Equal(t, cli.ExitMisconfigured, code, out)
	require.Contains(t, out, "mask_keys_file "+keys+": there is no key")
}
