package e2e

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestBadStart has everything that keeps docket from starting: one message, and the exit code that scripts wait for.
func TestBadStart(t *testing.T) {
	need(t, docketBinary)
	busy := newDocket(t, t.TempDir())
	busy.serve(t)
	write := func(name, text string) string {
		file := filepath.Join(t.TempDir(), name)
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
		return file
	}
	for _, c := range []struct {
		name string
		vars []string
		args []string
		code int
		want string
	}{
		{"an occupied port", []string{"DOCKET_LISTEN=" + busy.upload}, nil, 6, "upload listener cannot take " + busy.upload},
		{"off loopback without tokens", []string{"DOCKET_LISTEN=0.0.0.0:0"}, nil, 6, "DOCKET_UPLOAD_TOKENS_FILE"},
		{"a token file that is none", []string{"DOCKET_UPLOAD_TOKENS_FILE=" +
			write("t", "just a token\n")}, nil, 6, "line 1"},
		{"a token file that is missing", []string{"DOCKET_CONSOLE_TOKENS_FILE=/no/such/file"}, nil, 6, "/no/such/file"},
		{"a role that is none", []string{"DOCKET_CONSOLE_TOKENS_FILE=" +
			write("t", "ann king "+strings.Repeat("0", 64))}, nil, 6, "the second field is no role"},
		{"half of TLS", []string{"DOCKET_TLS_CERT_FILE=/x"}, nil, 6, "set both or neither"},
		{"a certificate that is none", []string{"DOCKET_TLS_CERT_FILE=" + write("c", "x"), "DOCKET_TLS_KEY_FILE=" +
			write("k", "x")}, nil, 6, "certificate"},
		{"an unknown key in the file", []string{"DOCKET_CONFIG=" + write("c.yaml",
			"listen: 127.0.0.1:0\nconsol_listen: x\n")}, nil, 6, "line 2: there is no setting \"consol_listen\""},
		{"a file that is no YAML", []string{"DOCKET_CONFIG=" + write("c.yaml", "listen: [\n")}, nil, 6, "c.yaml"},
		{"a value that is none, in the file", []string{"DOCKET_CONFIG=" +
			write("c.yaml", "parking:\n  max_attempts: many\n")}, nil, 6, "c.yaml: --parking-max-attempts"},
		{"a value that is none", []string{"DOCKET_RETENTION=long"}, nil, 6, "DOCKET_RETENTION"},
		{"a mapping with an unknown key", []string{"DOCKET_CONFIG=" +
			write("c.yaml", "mappings:\n  - {path: x, bogus: [/a]}\n")}, nil, 6, "bogus"},
		{"a mapping that is no pointer", []string{"DOCKET_CONFIG=" +
			write("c.yaml", "mappings:\n  - {path: x, allowed: [a]}\n")}, nil, 6, "no JSON pointer"},
		{"a key that is set twice", []string{"DOCKET_CONFIG=" + write("c.yaml", "retention: 1d\nretention: 2d\n")}, nil, 6,
			"line 2: retention is set already, in line 1"},
		{"an unknown flag", nil, []string{"--consol-listen", "x"}, 2, "consol-listen"},
		{"a directory that is a file", []string{"DOCKET_DATA=" + write("f", "x")}, nil, 6, "data directory"},
		{"a log that is no database", []string{"DOCKET_DATA=" + filepath.Dir(write("log.db", strings.Repeat("not a database ",
			500)))}, nil, 6, "damaged"},
		{"a store that is no database", []string{"DOCKET_DATA=" + filepath.Dir(write("store.db",
			strings.Repeat("not a database ", 500)))}, nil, 6, "damaged"},
		{"half of a login to Kafka", []string{"DOCKET_KAFKA_BROKERS=127.0.0.1:9092", "DOCKET_KAFKA_SASL=plain"}, nil, 6,
			"kafka_password_file go together"},
		{"a database URL that is none", []string{"DOCKET_DATABASE_URL=postgres://user:s3cret@:bad:/x"}, nil, 6,
			"DOCKET_DATABASE_URL"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newDocket(t, t.TempDir(), c.vars...)
			p := start(t, d.vars, docketBinary, append([]string{"serve"}, c.args...)...)
			require.Equal(t, c.code, p.wait(t, 10*time.Second), "%s", p.out)
			require.Contains(t, p.out.String(), c.want)
			require.NotContains(t, p.out.String(), "goroutine ")
		})
	}
	t.Run("an unknown variable is a warning", func(t *testing.T) {
		d := newDocket(t, t.TempDir(), "DOCKET_LISTENN=x")
		d.serve(t)
		require.Contains(t, d.out.String(), "DOCKET_LISTENN")
	})
}

// TestLostTail takes the write-ahead file away, as a careless copy does.
func TestLostTail(t *testing.T) {
	d := newDocket(t, t.TempDir())
	d.serve(t)
	resp, err := http.Post("http://"+d.upload+"/logs", "application/json", strings.NewReader(`["one",2,3]`))
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusOK, resp.StatusCode)
	d.kill(t)
	old := filepath.Join(t.TempDir(), "old")
	require.NoError(t, os.Rename(filepath.Join(d.dir, "log.db"), old))
	for _, leftover := range []string{"log.db-wal", "log.db-shm"} {
		require.NoError(t, os.RemoveAll(filepath.Join(d.dir, leftover)))
	}
	p := start(t, d.vars, docketBinary, "serve")
	require.Equal(t, 6, p.wait(t, 10*time.Second))
	require.Contains(t, p.out.String(), "docket.dlq/0/0 and everything up to offset 2 is missing")
}

// TestBombs has many uploads that inflate to gigabytes at once: memory stays within its budget, and good uploads beside
// them are taken.
func TestBombs(t *testing.T) {
	d := newDocket(t, t.TempDir())
	d.serve(t)
	var member bytes.Buffer
	z, err := gzip.NewWriterLevel(&member, gzip.BestCompression)
	require.NoError(t, err)
	spaces := bytes.Repeat([]byte(" "), 1<<20)
	for range 64 {
		_, err = z.Write(spaces)
		require.NoError(t, err)
	}
	require.NoError(t, z.Close())
	bomb := bytes.Repeat(member.Bytes(), 7*1024/64) // 7 GiB
	require.Less(t, len(bomb), 8<<20)

	l := newLedger()
	g := startLoad(t, newClient(t), "http://"+d.upload, l, 100, decisions(shortName(), 0))
	var wg sync.WaitGroup
	var taken, refused atomic.Int64
	for range 16 {
		wg.Go(func() {
			client := &http.Client{Timeout: 30 * time.Second}
			defer client.CloseIdleConnections()
			for range 4 {
				switch err := post(client, "http://"+d.upload, bomb); {
				case err == nil:
					taken.Add(1)
				case strings.Contains(err.Error(), "503"):
					refused.Add(1) // the budget is used up: OPA sends it again
				default:
					t.Errorf("%v", err)
				}
			}
		})
	}
	wg.Wait()
	before := len(l.ackedIDs())
	eventually(t, 10*time.Second, func() error {
		if len(l.ackedIDs()) < before+50 {
			return errors.New("good uploads are not taken")
		}
		return nil
	})
	g.finish()
	l.check(t, d)
	peak := peakRSS(t, d.Pid())
	t.Logf("64 bombs of 7 GiB: %d quarantined, %d refused; peak memory %d MiB", taken.Load(), refused.Load(), peak)
	require.Positive(t, taken.Load())
	require.Less(t, peak, 768, "MiB; 256 may be in flight, and Go is told to stay below twice that and 128 more")
}

// peakRSS is the most memory a process has had, in MiB.
func peakRSS(t *testing.T, pid int) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	require.NoError(t, err)
	_, rest, ok := strings.Cut(string(b), "VmHWM:")
	require.True(t, ok)
	n, err := strconv.Atoi(strings.Fields(rest)[0])
	require.NoError(t, err)
	return n / 1024
}
