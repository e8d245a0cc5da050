package app

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/docket-project/docket/internal/config"
	"github.com/docket-project/docket/internal/testserver"
)

func fakeKafka(t *testing.T) *kfake.Cluster {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(1))
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

// TestServeTakesEitherServer has Kafka with the embedded store, PostgreSQL with the embedded log, and both.
func TestServeTakesEitherServer(t *testing.T) {
	k := fakeKafka(t)
	p, err := testserver.StartPostgres("", "fsync=off")
	testserver.Need(t, err)
	t.Cleanup(func() { require.NoError(t, p.Close()) })
	for name, edit := range map[string]func(*Config){
		"kafka": func(c *Config) { c.Kafka.Brokers, c.TopicPrefix = k.ListenAddrs(), "one." },
		"postgres": func(c *Config) {
			require.NoError(t, p.Exec("postgres", "CREATE DATABASE one"))
			c.DatabaseURL = config.Secret(p.URL("one", ""))
		},
		"both": func(c *Config) {
			require.NoError(t, p.Exec("postgres", "CREATE DATABASE two"))
			c.Kafka.Brokers, c.TopicPrefix, c.DatabaseURL = k.ListenAddrs(), "two.", config.Secret(p.URL("two", ""))
		},
	} {
		t.Run(name, func(t *testing.T) {
			a := startApp(t, edit)
			_, status := postLogs(
				t,
				a,
				[]byte(
					`[{"decision_id":"x","result":true,"timestamp":"`+time.Now().UTC().Format(
						time.RFC3339Nano,
					)+`"},{"decision_id":"y"}]`,
				),
				"",
			)
			require.Equal(t, http.StatusOK, status)
			for _, id := range []string{"x", "y"} {
				require.Eventually(t, func() bool { return a.status(t, id) == http.StatusOK }, testPatience, testTick)
			}
			code, body := a.get(t, a.AdminAddr(), "/readyz?verbose")
			require.Equal(t, http.StatusOK, code, "%s", body)
		})
	}
}

// TestServeStartsWithoutItsDatabase takes uploads from the first moment, and stores them when the database comes.
func TestServeStartsWithoutItsDatabase(t *testing.T) {
	p, err := testserver.StartPostgres("", "fsync=off")
	testserver.Need(t, err)
	t.Cleanup(func() { require.NoError(t, p.Close()) })
	require.NoError(t, p.Stop(false))
	a := startApp(t, func(c *Config) { c.DatabaseURL = config.Secret(p.URL("postgres", "")) })
	_, status := postLogs(t, a, []byte(`[{"decision_id":"early"}]`), "")
	require.Equal(t, http.StatusOK, status)
	code, body := a.get(t, a.AdminAddr(), "/readyz")
	require.Equal(t, http.StatusOK, code, "a database outage does not unready uploads: %s", body)
	require.NoError(t, p.Start())
	require.Eventually(t, func() bool { return a.status(t, "early") == http.StatusOK }, testPatience, testTick)
}
