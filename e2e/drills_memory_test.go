package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// mostMemory is what a consumer may take, in MiB, whatever is uploaded.
const mostMemory = 256

// repetitive is an upload of fifteen events of almost 4 MiB, which gzip makes 300 KB of.
func repetitive(prefix string) (body []byte) {
	var events []string
	for n := range 15 {
		events = append(events, fmt.Sprintf(
			idMark+`%s-%d","labels":{"id":"opa-1"},"path":"http/authz/allow","result":true,"timestamp":%q,"input":{"pad":%q}}`,
			prefix, n, time.Now().UTC().Format(time.RFC3339Nano), strings.Repeat("abcdefghijklmnop", 4_000_000/16),
		))
	}
	return zipped("[" + strings.Join(events, ",") + "]")
}

// TestDrillMemory uploads what is small on the wire and 0.5 GiB in memory, while the database is away: the saver parks
// it, the parking role replays it, and the console looks for a decision behind it. Normal traffic flows beside.
func TestDrillMemory(t *testing.T) { memoryDrill(t, 8) }

// TestLongDrillMemory has 2.4 GiB of it.
func TestLongDrillMemory(t *testing.T) { memoryDrill(t, 40) }

// TestLongDrillMemoryBeside has as much of it while the saver stores 5,000 ordinary decisions a second, if it can.
func TestLongDrillMemoryBeside(t *testing.T) {
	c := oneBroker(t)
	prefix := shortName()
	fault := "40 uploads of fifteen repetitive events of 4 MiB beside 5,000 decisions a second"
	d := c.drill(t, fault, 100, func(n int) (out []string) {
		for i := range 50 {
			out = append(out, fmt.Sprintf(
				idMark+`%s-%d-%d","labels":{"id":"opa-%d"},"path":"http/authz/allow","input":{"user":"user-%d","pad":%q},"result":true,"timestamp":%q}`,
				prefix, n, i, n%200, (n*50+i)%20_000, padding[(n+i)%100:], time.Now().UTC().Format(time.RFC3339Nano),
			))
		}
		return out
	})
	stored := func() (float64, time.Time) {
		n, err := c.roles["saver"].metric(`docket_save_records_total{result="saved"}`)
		require.NoError(t, err)
		return n, time.Now()
	}
	d.inject(func() func() { return nothing })
	before, from := stored()
	for range 40 {
		body := repetitive(shortName())
		eventually(t, time.Minute, func() error { return post(d.load.client, d.load.target, body) })
		c.ledger.note(t, body, true, true)
	}
	after, to := stored()
	t.Logf("%.0f rows a second for %s", (after-before)/to.Sub(from).Seconds(), to.Sub(from))
	d.heal()
	d.verify(3*time.Minute, 0)
	d.unspent()
	for _, name := range []string{"saver", "parking", "console"} {
		t.Logf("%s: peak memory %d MiB", name, peakRSS(t, c.roles[name].Pid()))
	}
}

func memoryDrill(t *testing.T, uploads int) {
	c := oneBroker(t)
	d := c.drill(
		t, fmt.Sprintf("%d uploads of fifteen repetitive events of 4 MiB, the database stopped for as long", uploads), 100,
		decisions(shortName(), 0),
	)
	d.inject(func() func() {
		require.NoError(t, c.servers.postgres.Stop(true))
		return func() { require.NoError(t, c.servers.postgres.Start()) }
	})
	for range uploads {
		body := repetitive(shortName())
		eventually(t, time.Minute, func() error { return post(d.load.client, d.load.target, body) })
		c.ledger.note(t, body, true, true)
	}
	for range 4 { // it looks through what waits
		resp, err := http.Get("http://" + c.console + "/api/v1/decisions/never-sent/trail")
		require.NoError(t, err)
		var answer struct{ State string }
		require.NoError(t, json.NewDecoder(resp.Body).Decode(&answer))
		require.NoError(t, resp.Body.Close())
		require.Equal(t, "unknown", answer.State, "the database is away")
	}
	d.heal()
	d.verify(3*time.Minute, 0)
	d.unspent()
	for _, name := range []string{"saver", "parking", "console"} {
		peak := peakRSS(t, c.roles[name].Pid())
		t.Logf("%s: peak memory %d MiB", name, peak)
		require.Less(t, peak, mostMemory, name)
	}
}
