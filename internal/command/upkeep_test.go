package command_test

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/docket-project/docket/internal/adapters/cli"
	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/saver"
)

// TestBackupAndVerify copy a data directory and read both.
func TestBackupAndVerify(t *testing.T) {
	data, backup := t.TempDir(), filepath.Join(t.TempDir(), "backup")
	code, out := runMain(t, "migrate", "--data", data)
	require.Equal(t, cli.ExitDone, code, out)
	code, out = runMain(t, "backup", backup, "--data", data)
	require.Equal(t, cli.ExitDone, code, out)
	require.Contains(t, out, "Copied log.db and store.db")
	require.Contains(t, out, "is whole")
	code, out = runMain(t, "verify", "--data", backup)
	require.Equal(t, cli.ExitDone, code, out)
	code, out = runMain(t, "backup", backup, "--data", data)
	require.Equal(t, cli.ExitMisconfigured, code, out)
	require.Contains(t, out, "is not empty")
	code, out = runMain(t, "verify", "--data", filepath.Join(data, "nowhere"))
	require.Equal(t, cli.ExitMisconfigured, code, out)
}

// TestRetentionApply shows what would go, and puts it in force when it is told to.
func TestRetentionApply(t *testing.T) {
	data := t.TempDir()
	code, out := runMain(t, "migrate", "--data", data)
	require.Equal(t, cli.ExitDone, code, out)
	apply := []string{"retention", "apply", "--data", data, "--retention"}
	code, out = runMain(t, append(apply, "9d")...)
	require.Equal(t, cli.ExitDone, code, out)
	require.Contains(t, out, "In force: nothing yet. Configured: 9d.")
	require.Contains(t, out, "Nothing was changed.")
	code, out = runMain(t, append(apply, "9d", "--yes")...)
	require.Equal(t, cli.ExitDone, code, out)
	require.Contains(t, out, "The retention is 9d now")
	code, out = runMain(t, append(apply, "30d")...)
	require.Equal(t, cli.ExitDone, code, out)
	require.Contains(t, out, "In force: 9d. Configured: 30d.")
	code, out = runMain(t, append(apply, "23h")...)
	require.Equal(t, cli.ExitMisconfigured, code, out)
	require.Contains(t, out, "at least a day")
}

// TestRewind moves the saver's group back to what the topic took since a time.
func TestRewind(t *testing.T) {
	k := fakeKafka(t)
	topics := domain.TopicsWithPrefix("back.")
	settings := []string{"--kafka-brokers", k.ListenAddrs()[0], "--data", t.TempDir(), "--topic-prefix", "back."}
	code, out := runMain(t, append([]string{"migrate"}, settings...)...)
	require.Equal(t, cli.ExitDone, code, out)
	cl, err := kgo.NewClient(kgo.SeedBrokers(k.ListenAddrs()...), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	require.NoError(t, err)
	defer cl.Close()
	for range 10 {
		require.NoError(
			t,
			cl.ProduceSync(t.Context(), &kgo.Record{Topic: topics.Decisions, Partition: 3, Value: []byte("{}")}).FirstErr(),
		)
	}
	var at kadm.Offsets
	at.AddOffset(topics.Decisions, 3, 10, -1)
	adm := kadm.NewClient(cl)
	_, err = adm.CommitOffsets(t.Context(), topics.Group(saver.Group), at)
	require.NoError(t, err)
	rewind := append([]string{"log", "rewind"}, settings...)

	code, out = runMain(t, append(rewind, "--since", time.Now().Add(time.Hour).Format(time.RFC3339))...)
	require.Equal(t, cli.ExitDone, code, out)
	require.Contains(t, out, "No group has gone on")
	code, out = runMain(t, append(rewind, "--since", "1h")...)
	require.Equal(t, cli.ExitDone, code, out)
	require.Contains(t, out, "back.decisions/3 from offset 10 back to 0: 10 records again")
	require.Contains(t, out, "Nothing was changed")
	committed := func() int64 {
		offsets, err := adm.FetchOffsets(t.Context(), topics.Group(saver.Group))
		require.NoError(t, err)
		o, _ := offsets.Lookup(topics.Decisions, 3)
		return o.At
	}
	require.EqualValues(t, 10, committed())
	code, out = runMain(t, append(rewind, "--since", "1h", "--yes")...)
	require.Equal(t, cli.ExitDone, code, out)
	require.Contains(t, out, "10 records are read again")
	require.Zero(t, committed())
	code, out = runMain(t, append(rewind, "--since", "yesterday")...)
	require.Equal(t, cli.ExitMisconfigured, code, out)
	code, out = runMain(t, "log", "rewind", "--since", "1h", "--data", t.TempDir())
	require.Equal(t, cli.ExitMisconfigured, code, out)
	require.Contains(t, out, "embedded log keeps nothing")
}
