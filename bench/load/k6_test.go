package load

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestReadLedger(t *testing.T) {
	began := time.UnixMilli(1_000_000)
	metrics := map[string]K6Trend{
		"uploads_accepted": {"count": 2},
		"uploads_refused":  {"count": 1},
		"uploads_failed":   {"count": 1},
	}
	for _, c := range []struct {
		name, lines string
		sent, acked []int64
		fails       string
	}{
		{name: "all kinds", lines: "0 200 1000100 1.5\n2 503 1000200 3\nRequest Failed\n7 0 1001300 10000.25\n1 200 " +
			"1001400 2.5\n", sent: []int64{0, 1, 2, 7}, acked: []int64{0, 1}},
		{name: "a line is missing", lines: "0 200 1000100 1.5\n", fails: "k6 made 4 uploads and wrote of 1"},
		{name: "something else", lines: "hello\n", fails: `k6 wrote "hello"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			name := filepath.Join(t.TempDir(), "ledger")
			require.NoError(t, os.WriteFile(name, []byte(c.lines), 0o600))
			r := &K6Result{Metrics: metrics}
			err := r.readLedger(name, began)
			if c.fails != "" {
				require.ErrorContains(t, err, c.fails)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, c.sent, slices.Collect(r.Sent.all()))
			assert.Equal(t, c.acked, slices.Collect(r.Acked.all()))
			assert.InDelta(t, 3, r.P95(0, 1), 0.01, "of the first second")
			require.Len(t, r.Latency, 4)
			assert.Len(t, r.Latency[0].Points, 2, "a point a second")
		})
	}
}

func TestTallyIsSound(t *testing.T) {
	for _, c := range []struct {
		name  string
		tally Tally
		sound bool
	}{
		{"everything", Tally{Sent: 3, Acked: 3, Stored: 3}, true},
		{"stored although it was refused", Tally{Sent: 3, Acked: 2, Stored: 3}, true},
		{"lost", Tally{Sent: 3, Acked: 3, Stored: 2, Lost: 1}, false},
		{"twice", Tally{Sent: 3, Acked: 3, Stored: 3, Twice: 1}, false},
		{"never sent", Tally{Sent: 3, Acked: 3, Stored: 3, Strangers: 1}, false},
	} {
		t.Run(c.name, func(t *testing.T) { assert.Equal(t, c.sound, c.tally.Sound() == nil) })
	}
}

func TestBits(t *testing.T) {
	b := UpTo(130)
	assert.Equal(t, 130, b.Count())
	assert.True(t, b.has(129))
	assert.False(t, b.has(130))
	assert.False(t, b.has(1_000_000))
	var few bits
	few.set(64)
	few.set(3)
	assert.Equal(t, []int64{3, 64}, slices.Collect(few.all()))
}
