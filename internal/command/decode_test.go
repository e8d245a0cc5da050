package command_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/adapters/cli"
)

// TestValuesAsPeopleWriteThem has the spaces, new lines and empty values that manifests and secrets have.
func TestValuesAsPeopleWriteThem(t *testing.T) {
	for _, c := range []struct{ name, variable, value, key, want string }{
		{"spaces in a list", "DOCKET_KAFKA_BROKERS", " a:9092, b:9092 ,", "kafka_brokers", `["a:9092","b:9092"]`},
		{"a list of nothing", "DOCKET_KAFKA_BROKERS", " ", "kafka_brokers", `[]`},
		{"names with spaces", "DOCKET_ALLOWED_HOSTS", "x.example ,y.example", "allowed_hosts", `["x.example","y.example"]`},
		{"a new line behind a secret", "DOCKET_DATABASE_URL", "postgres://db/x\n", "database_url", `"********"`},
		{"an empty secret", "DOCKET_DATABASE_URL", "\n", "database_url", `""`},
		{"an empty file", "DOCKET_UPLOAD_TOKENS_FILE", "", "upload_tokens_file", `""`},
		{"a file of spaces", "DOCKET_UPLOAD_TOKENS_FILE", " ", "upload_tokens_file", `""`},
		{"a file with a new line", "DOCKET_UPLOAD_TOKENS_FILE", "/tokens\n", "upload_tokens_file", `"/tokens"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv(c.variable, c.value)
			require.Equal(t, c.want, printed(t, c.key))
		})
	}
	t.Run("an empty file of settings", func(t *testing.T) {
		t.Setenv("DOCKET_CONFIG", "")
		require.Equal(t, "4", printed(t, "saver_concurrency"))
	})
	t.Run("aliases in the file", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "docket.yaml")
		require.NoError(t, os.WriteFile(
			file, []byte("listen: &here 127.0.0.1:99\nconsole_listen: *here\nsaver: &n {concurrency: 3}\nparking: *n\n"), 0o600,
		))
		require.Equal(t, `"127.0.0.1:99"`, printed(t, "console_listen", "--config", file))
		require.Equal(t, "3", printed(t, "parking_concurrency", "--config", file))
	})
}

// TestServiceLinks has what Kubernetes sets beside a service that is called docket or docket-console, and what it does
// not.
func TestServiceLinks(t *testing.T) {
	for name, value := range map[string]string{
		"DOCKET_SERVICE_HOST": "10.0.0.1", "DOCKET_SERVICE_PORT": "8080", "DOCKET_SERVICE_PORT_UPLOAD": "8080",
		"DOCKET_PORT": "tcp://10.0.0.1:8080", "DOCKET_PORT_8080_TCP": "tcp://10.0.0.1:8080",
		"DOCKET_PORT_8080_TCP_PROTO": "tcp", "DOCKET_PORT_8080_TCP_PORT": "8080", "DOCKET_PORT_8080_TCP_ADDR": "10.0.0.1",
		"DOCKET_CONSOLE_SERVICE_HOST": "10.0.0.1", "DOCKET_CONSOLE_PORT": "tcp://10.0.0.1:8081",
	} {
		t.Setenv(name, value)
	}
	code, out := runMain(t, "config")
	require.Equal(t, cli.ExitDone, code, out)
	require.NotContains(t, out, "is no setting")
	t.Setenv("DOCKET_PORT", "8080")
	_, out = runMain(t, "config")
	require.Contains(t, out, "DOCKET_PORT is no setting", "somebody means the port by it")
}
