package testserver

import (
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestPause checks that nothing of a server runs on once Pause has returned: a signal takes effect after it is sent.
func TestPause(t *testing.T) {
	k, err := StartKafka(1)
	Need(t, err)
	t.Cleanup(func() { require.NoError(t, k.Close()) })
	p, err := StartPostgres("")
	Need(t, err)
	t.Cleanup(func() { require.NoError(t, p.Close()) })
	for name, s := range map[string]*server{"Kafka": k.nodes[0].server, "PostgreSQL": p.server} {
		t.Run(name, func(t *testing.T) {
			for range 20 {
				require.NoError(t, s.pause())
				require.Empty(t, s.running())
				s.signalAll(syscall.SIGCONT)
				require.NotEmpty(t, s.running())
			}
		})
	}
}

// TestFreePort asks for more ports than chance would keep apart: a docket's three listeners must not meet.
func TestFreePort(t *testing.T) {
	given := map[int]bool{}
	for range 1000 {
		port, err := FreePort()
		require.NoError(t, err)
		require.False(t, given[port], "port %d was given before", port)
		given[port] = true
	}
}
