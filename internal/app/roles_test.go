package app

import (
	"bytes"
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/docket-project/docket/internal/adapters/cli"
	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/saver"
	"github.com/docket-project/docket/internal/testserver"
)

// run runs docket's command line.
func runMain(t *testing.T, args ...string) (code int, output string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testPatience)
	defer cancel()
	var out bytes.Buffer
	code = Main(ctx, args, &out, &out)
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
	for _, role := range []Role{Ingest, Saver, Parking, Console} {
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
	code, out := runMain(t, "ingest", "--kafka-brokers", brokers, "--database-url", nowhere, "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0")
	require.Equal(t, cli.ExitMisconfigured, code, out)
	require.Contains(t, out, "docket migrate")
	code, out = runMain(t, "migrate", "--kafka-brokers", brokers, "--data", data)
	require.Equal(t, cli.ExitDone, code, out)
	require.Contains(t, out, "Topic docket.decisions was created.")
	require.Contains(t, out, "1 replicas of at least 3")
	code, out = runMain(t, "ingest", "--kafka-brokers", brokers, "--database-url", nowhere, "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0")
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
		require.NoError(t, cl.ProduceSync(t.Context(), &kgo.Record{Topic: topics.Decisions, Partition: 3, Value: []byte("{}")}).FirstErr())
	}
	cl.Close()
	member, err := kgo.NewClient(kgo.SeedBrokers(k.ListenAddrs()...), kgo.ConsumerGroup(saver.Group), kgo.ConsumeTopics(topics.Decisions), kgo.DisableAutoCommit())
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
	require.Contains(t, out, "loss.decisions/3 offsets 1 to 7: 7 records that docket-saver had not done")
	require.Contains(t, out, "nothing was changed")
	code, out = runMain(t, append(accept, "--yes")...)
	require.Equal(t, cli.ExitDone, code, out)
	code, out = runMain(t, accept...)
	require.Equal(t, cli.ExitDone, code, out)
	require.Contains(t, out, "nothing to give up")
}

// TestServeTakesEitherServer has Kafka with the embedded store, PostgreSQL with the embedded log, and both.
func TestServeTakesEitherServer(t *testing.T) {
	k := fakeKafka(t)
	p, err := testserver.StartPostgres("", "fsync=off")
	testserver.Need(t, err)
	t.Cleanup(func() { require.NoError(t, p.Close()) })
	for name, edit := range map[string]func(*Config){
		"kafka": func(c *Config) { c.KafkaBrokers, c.TopicPrefix = k.ListenAddrs(), "one." },
		"postgres": func(c *Config) {
			require.NoError(t, p.Exec("postgres", "CREATE DATABASE one"))
			c.DatabaseURL = Secret(p.URL("one", ""))
		},
		"both": func(c *Config) {
			require.NoError(t, p.Exec("postgres", "CREATE DATABASE two"))
			c.KafkaBrokers, c.TopicPrefix, c.DatabaseURL = k.ListenAddrs(), "two.", Secret(p.URL("two", ""))
		},
	} {
		t.Run(name, func(t *testing.T) {
			a := startApp(t, edit)
			_, status := postLogs(t, a, []byte(`[{"decision_id":"x","result":true,"timestamp":"`+time.Now().UTC().Format(time.RFC3339Nano)+`"},{"decision_id":"y"}]`), "")
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
	a := startApp(t, func(c *Config) { c.DatabaseURL = Secret(p.URL("postgres", "")) })
	_, status := postLogs(t, a, []byte(`[{"decision_id":"early"}]`), "")
	require.Equal(t, http.StatusOK, status)
	code, body := a.get(t, a.AdminAddr(), "/readyz")
	require.Equal(t, http.StatusOK, code, "a database outage does not unready uploads: %s", body)
	require.NoError(t, p.Start())
	require.Eventually(t, func() bool { return a.status(t, "early") == http.StatusOK }, testPatience, testTick)
}
