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
	"github.com/docket-project/docket/internal/domain"
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
			Labels     struct{ ID string }
		}
		require.NoError(t, json.Unmarshal(b, &decisions), "%s", b)
		require.Len(t, decisions, events.Size(upload))
		for k, d := range decisions {
			assert.Equal(t, run.ID(upload*events.PerUpload+int64(k)), d.DecisionID)
			assert.Equal(t, at, d.Timestamp)
			assert.NotEmpty(t, d.Path)
			assert.Equal(t, decisions[0].Labels, d.Labels, "an upload is of one OPA")
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

// The corpus is what the documents say of it: without that, figures taken on it say nothing.
func TestTheCorpusIsAsScatteredAsItSays(t *testing.T) {
	at := time.Date(2026, 11, 22, 8, 0, 1, 2_000_000, time.UTC)
	principals, opas, paths := map[string]int{}, map[string]bool{}, map[string]bool{}
	n, bytes, longest, denied, traced := 0, 0, 0, 0, 0
	p, err := domain.NewProjector(nil)
	require.NoError(t, err)
	for upload := range int64(20_000) {
		for k := range events.Size(upload) {
			b := events.AppendDecision(nil, "id", upload, k, at)
			d := p.Project(domain.Record{Value: b})
			n, bytes, longest = n+1, bytes+len(b), max(longest, len(b))
			principals[d.Principal]++
			opas[d.OPA], paths[d.Path] = true, true
			if d.Outcome == domain.OutcomeDenied {
				denied++
				assert.NotEmpty(t, d.Reason)
			} else {
				assert.Equal(t, domain.OutcomeAllowed, d.Outcome, "%s", b)
			}
			if d.TraceID != "" {
				traced++
			}
		}
	}
	assert.InDelta(t, events.DecisionBytes, bytes/n, 0.03*events.DecisionBytes)
	assert.Less(t, longest, 64<<10)
	assert.Greater(t, longest, 32<<10)
	assert.InDelta(t, 0.08, float64(denied)/float64(n), 0.01)
	assert.InDelta(t, 0.7, float64(traced)/float64(n), 0.02)
	assert.Greater(t, len(principals), 10_000)
	assert.Len(t, paths, 40)
	assert.InDelta(t, 200, len(opas), 10)
	first := events.AppendDecision(nil, "id", 7, 1, at)
	assert.Equal(t, first, events.AppendDecision(nil, "id", 7, 1, at), "another run gets another load")
	later := p.Project(domain.Record{Value: events.AppendDecision(nil, "id", 7, 1, at.Add(24*time.Hour))})
	assert.NotEqual(t, p.Project(domain.Record{Value: first}).Bundles, later.Bundles)
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
