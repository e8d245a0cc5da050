package events_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/bench/events"
)

func TestUploadsAreWhatTheySay(t *testing.T) {
	run := events.Run("0abcdef")
	at := time.Date(2026, 11, 22, 8, 0, 1, 2_000_000, time.UTC)
	for upload := range int64(40) {
		z, err := gzip.NewReader(bytes.NewReader(run.Append(nil, upload, at)))
		require.NoError(t, err)
		b, err := io.ReadAll(z)
		require.NoError(t, err, "upload %d: its checksum and length are wrong", upload)
		var decisions []struct {
			DecisionID string `json:"decision_id"`
			Timestamp  time.Time
			Path       string
		}
		require.NoError(t, json.Unmarshal(b, &decisions), "%s", b)
		require.Len(t, decisions, events.Size(upload))
		for k, d := range decisions {
			assert.Equal(t, run.ID(upload*events.PerUpload+int64(k)), d.DecisionID)
			assert.Equal(t, at, d.Timestamp)
			assert.Equal(t, "http/authz/allow", d.Path)
		}
	}
}

func TestNumber(t *testing.T) {
	run := events.Run("0abcdef")
	for _, n := range []int64{0, 1, 4, 1 << 30, 1<<32 - 1} {
		got, ok := run.Number(run.ID(n))
		assert.True(t, ok)
		assert.Equal(t, n, got)
	}
	for name, id := range map[string]string{
		"empty": "", "another run": events.Run("0abcdee").ID(7), "another scatter": "00000001" +
			run.ID(7)[8:], "no number": run.ID(7)[:24] + "zzzzzzzzzzzz",
	} {
		_, ok := run.Number(id)
		assert.False(t, ok, name)
	}
}

// k6 has its parts from the same source.
func TestPartsOfK6AreCurrent(t *testing.T) {
	var want bytes.Buffer
	require.NoError(t, events.WriteParts(&want))
	got, err := os.ReadFile("../../k6/events.json")
	require.NoError(t, err)
	assert.Equal(t, want.String(), string(got), "k6/events.json is not what this package makes: run make generate")
}

func BenchmarkAppend(b *testing.B) {
	run, at := events.NewRun(), time.Now()
	var buf []byte
	for i := int64(0); b.Loop(); i++ {
		buf = run.Append(buf[:0], i, at)
	}
}
