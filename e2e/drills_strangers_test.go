package e2e

import (
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestDrillClientChosenIDs lets every decision come from an OPA of its own, by its word, beside one that is real. The
// crowd's ids grow the inventory within bounds, and do not hide the real one.
func TestDrillClientChosenIDs(t *testing.T) {
	const told, crowd = 1000, 50 // internal/ingest tells so many apart at their first upload
	c := oneBroker(t)
	real := `{"decision_id":"%s","labels":{"id":"the-real-one","version":"1.22.2"},"result":true,"timestamp":%q}`
	d := c.drill(t, "every decision has a labels.id of its own", 50, func(n int) (events []string) {
		now := time.Now().UTC().Format(time.RFC3339Nano)
		if n%10 == 0 {
			return []string{fmt.Sprintf(real, fmt.Sprint("real-", n), now)}
		}
		for i := range crowd {
			events = append(events, fmt.Sprintf(
				idMark+`made-up-%d-%d","labels":{"id":"made-up-%d-%d"},"result":true,"timestamp":%q}`, n, i, n, i, now,
			))
		}
		return events
	})
	d.inject(func() func() { return nothing })
	sleepFor(t, 14*time.Second) // two reports
	d.heal()
	d.verify(time.Minute, 0)
	require.Zero(t, d.refused)
	require.Zero(t, d.parked)
	var list struct {
		Items []struct {
			OPA    string
			Events int
		}
	}
	require.Equal(t, 200, c.getJSON(t, "/api/v1/opas", &list))
	events := map[string]int{}
	for _, o := range list.Items {
		events[o.OPA] += o.Events
	}
	require.LessOrEqual(t, len(events), told+400, "the crowd that warmed up, the first thousand, and a few")
	require.Positive(t, events["(others)"])
	require.Positive(t, events["the-real-one"])
	out, code := c.command(t, "opas")
	require.Zero(t, code, out)
	require.Contains(t, out, "the-real-one")
	require.Less(t, strings.Count(out, "\n"), 130, out)
	out, code = c.command(t, "status")
	require.Zero(t, code, out)
	require.Less(t, strings.Count(out, "\n"), 30, out)
}

// TestDrillSlowBodies has a thousand senders who have sent one byte of a body each, as many that sent nothing, and idle
// connections to the console. Others upload and ask as if they were not there, and the senders are shown out.
func TestDrillSlowBodies(t *testing.T) {
	const senders = 1000
	dk := newDocket(t, t.TempDir())
	dk.serve(t)
	d := dk.drill(t, "1,000 bodies that stand still, 1,000 silent and 1,000 idle connections")
	var conns []net.Conn
	open := func(addr, text string) net.Conn {
		t.Helper()
		conn, err := net.Dial("tcp", addr)
		require.NoError(t, err)
		conns = append(conns, conn)
		_, err = io.WriteString(conn, text)
		require.NoError(t, err)
		return conn
	}
	var slow []net.Conn
	d.inject(func() func() {
		for range senders { // about 2,000 a second: what to open them costs is not asked here
			sleepFor(t, time.Millisecond)
			slow = append(slow, open(dk.upload, "POST /logs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n["))
			open(dk.upload, "")
			open(dk.console, "GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n")
		}
		return func() {
			for _, conn := range conns {
				_ = conn.Close()
			}
		}
	})
	opened := time.Now()
	sleepFor(t, 4*time.Second)
	t.Logf(
		"p99 of the others' uploads: %s before, %s while the connections are opened, %s while they stand, %s while they end",
		d.load.percentile(99, d.began, d.injected), d.load.percentile(99, d.injected, opened),
		d.load.percentile(99, opened, opened.Add(3*time.Second)),
		d.load.percentile(99, opened.Add(3*time.Second), time.Now()),
	)
	for range 20 {
		code, _, err := dk.get("/api/v1/pipeline")
		require.NoError(t, err)
		require.Equal(t, 200, code)
	}
	for i, conn := range slow {
		require.NoError(t, conn.SetReadDeadline(time.Now().Add(20*time.Second)))
		answer := make([]byte, 12)
		n, err := io.ReadFull(conn, answer)
		require.True(t, err != nil || string(answer[:n]) == "HTTP/1.1 503", "%d: %q", i, answer[:n])
	}
	d.heal()
	d.verify(time.Minute, 0)
	require.Zero(t, d.refused, "nobody else is refused")
}
