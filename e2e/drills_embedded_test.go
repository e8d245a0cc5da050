package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// embedded is a docket serve under drill, without what is at a place of its own.
type embedded struct {
	*docket
	but []string // decisions that are not asked for
}

func (e *embedded) uploads() string  { return "http://" + e.upload }
func (e *embedded) admins() []string { return []string{e.admin} }

// settle asks the API.
func (e *embedded) settle(t *testing.T) outcome {
	t.Helper()
	return outcome{rows: e.stored(t, e.but...), parked: unmeasured}
}

// drill puts a load on an embedded docket.
func (d *docket) drill(t *testing.T, fault string, but ...string) *drill {
	t.Helper()
	return newDrill(t, fault, "embedded", &embedded{d, but}, newLedger(), 100, 2*time.Second, decisions(shortName(), 0))
}

// killDrill kills docket so many times in the middle of its work.
func killDrill(t *testing.T, kills int) {
	dk := newDocket(t, t.TempDir())
	dk.serve(t)
	d := dk.drill(t, fmt.Sprintf("kill -9, %d times", kills))
	d.inject(func() func() { return nothing })
	for range kills {
		sleepFor(t, time.Duration(100+rand.IntN(400))*time.Millisecond)
		dk.kill(t)
		dk.serve(t)
	}
	d.heal()
	d.verify(time.Minute, 0)
	dk.terminate(t)
}

func TestDrillEmbeddedKill(t *testing.T)     { killDrill(t, 20) }
func TestLongDrillEmbeddedKill(t *testing.T) { killDrill(t, 200) }

// TestDrillEmbeddedStop stops docket in good order under load, as a supervisor does, a terminal that is closed, and a
// person.
func TestDrillEmbeddedStop(t *testing.T) {
	dk := newDocket(t, t.TempDir())
	dk.serve(t)
	d := dk.drill(t, "SIGTERM, SIGHUP and SIGINT")
	d.inject(func() func() { return nothing })
	for _, stop := range []syscall.Signal{syscall.SIGTERM, syscall.SIGHUP, syscall.SIGINT} {
		sleepFor(t, 500*time.Millisecond)
		require.NoError(t, dk.Signal(stop))
		require.Zero(t, dk.wait(t, 25*time.Second), "%s: %s", stop, dk.out)
		dk.serve(t)
	}
	d.heal()
	d.verify(time.Minute, 0)
}

// TestDrillEmbeddedFullDisk fills the file system that the data directory is on, and frees it.
func TestDrillEmbeddedFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		require.Empty(t, os.Getenv("CI"), "mounting a tmpfs needs root")
		t.Skip("mounting a tmpfs needs root")
	}
	mount := t.TempDir()
	require.NoError(t, syscall.Mount("tmpfs", mount, "tmpfs", 0, "size=24m"))
	t.Cleanup(func() { _ = syscall.Unmount(mount, syscall.MNT_DETACH) })
	dk := newDocket(t, filepath.Join(mount, "data"))
	dk.serve(t)
	d := dk.drill(t, "the disk is full")
	ballast := filepath.Join(mount, "ballast")
	d.inject(func() func() {
		fill(t, ballast)
		return func() { require.NoError(t, os.Remove(ballast)) }
	})
	eventually(t, 60*time.Second, func() error { // until the free pages inside the files are used up as well
		if d.load.refused.Load() == 0 {
			return errors.New("still takes uploads")
		}
		return nil
	})
	sleepFor(t, 2*time.Second)
	d.heal()
	d.verify(time.Minute, 0)
	dk.terminate(t)
}

// fill writes a file until nothing is left.
func fill(t *testing.T, name string) {
	f, err := os.Create(name)
	require.NoError(t, err)
	defer f.Close()
	for chunk := make([]byte, 64<<10); ; {
		if _, err := f.Write(chunk); err != nil {
			require.ErrorIs(t, err, syscall.ENOSPC)
			if len(chunk) == 1 {
				return
			}
			chunk = chunk[:len(chunk)/2]
		}
	}
}

// TestDrillEmbeddedFsyncError lets an fsync fail: docket ends at once and acknowledges nothing more.
func TestDrillEmbeddedFsyncError(t *testing.T) {
	need(t, "strace")
	dk := newDocket(t, t.TempDir())
	dk.serve(t)
	d := dk.drill(t, "an fsync fails (EIO)")
	d.inject(func() func() {
		cmd := exec.Command(
			"strace", "-f", "-qq", "-o", "/dev/null", "-p", strconv.Itoa(dk.Pid()), "-e", "trace=fsync,fdatasync",
			"-e", "inject=fsync,fdatasync:error=EIO",
		)
		require.NoError(t, cmd.Start())
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		require.Equal(t, 1, dk.wait(t, 20*time.Second), "%s", dk.out)
		require.Contains(t, dk.out.String(), "the disk lost a write")
		return func() { dk.serve(t) }
	})
	d.heal()
	d.verify(time.Minute, 0)
}

// TestDrillEmbeddedSecondProcess refuses a second docket on the same directory; the first works on.
func TestDrillEmbeddedSecondProcess(t *testing.T) {
	dk := newDocket(t, t.TempDir())
	dk.serve(t)
	d := dk.drill(t, "a second process on the same directory")
	d.inject(func() func() {
		second := newDocket(t, dk.dir)
		p := start(t, second.vars, docketBinary, "serve")
		require.Equal(t, 6, p.wait(t, 10*time.Second))
		require.Contains(t, p.out.String(), "is in use by process "+strconv.Itoa(dk.Pid()))
		require.Equal(t, 1, strings.Count(strings.TrimSpace(p.out.String()), "\n")+1, "one message: %s", p.out)
		return nothing
	})
	d.heal()
	d.verify(time.Minute, 0)
	require.Zero(t, d.refused)
}

// flip changes one byte of a text in a file, wherever it stands: pages that are free now may hold copies.
func flip(t *testing.T, file, text string) {
	t.Helper()
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Contains(t, string(b), text)
	for rest := b; ; {
		i := bytes.Index(rest, []byte(text))
		if i < 0 {
			break
		}
		rest[i] ^= 1
		rest = rest[i+len(text):]
	}
	require.NoError(t, os.WriteFile(file, b, 0o600))
}

// TestDrillEmbeddedDamagedLog flips a byte of a record that is kept, while docket is not running.
func TestDrillEmbeddedDamagedLog(t *testing.T) {
	dk := newDocket(t, t.TempDir())
	dk.serve(t)
	resp, err := http.Post("http://"+dk.upload+"/logs", "application/json", strings.NewReader(`["QUARANTINED-AND-KEPT"]`))
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	d := dk.drill(t, "a byte flipped in log.db")
	d.inject(func() func() {
		dk.terminate(t)
		flip(t, filepath.Join(dk.dir, "log.db"), "QUARANTINED-AND-KEPT")
		p := start(t, dk.vars, docketBinary, "serve")
		require.Equal(t, 6, p.wait(t, 10*time.Second))
		require.Contains(t, p.out.String(), "docket.dlq/0/0 is damaged")
		require.Contains(t, p.out.String(), "docket log accept-loss --data "+dk.dir)
		return func() {
			out, code := dk.run(t, "log", "accept-loss", "--yes")
			require.Zero(t, code, out)
			dk.serve(t)
		}
	})
	out, code := dk.run(t, "log", "accept-loss")
	require.Equal(t, 1, code, out)
	require.Contains(t, out, "docket.dlq offsets 0 to 0: 1 records")
	require.Contains(t, out, "nothing was changed")
	d.heal()
	d.verify(time.Minute, 0)
	out, code = dk.run(t, "trail", "QUARANTINED-AND-KEPT")
	require.Equal(t, 4, code, out)
	require.Contains(t, out, "may be among the 1 records that the log has lost")
}

// TestDrillEmbeddedDamagedStore flips a byte of a stored decision: it is not served, and everything else is.
func TestDrillEmbeddedDamagedStore(t *testing.T) {
	dk := newDocket(t, t.TempDir())
	dk.serve(t)
	resp, err := http.Post(
		"http://"+dk.upload+"/logs", "application/json",
		strings.NewReader(`[{"decision_id":"victim","mark":"TO-BE-FLIPPED"}]`),
	)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	dk.drained(t)
	d := dk.drill(t, "a byte flipped in store.db", "victim")
	d.inject(func() func() {
		dk.terminate(t)
		flip(t, filepath.Join(dk.dir, "store.db"), "TO-BE-FLIPPED")
		return func() { dk.serve(t) }
	})
	d.heal()
	out, code := dk.run(t, "show", "victim")
	require.Equal(t, 6, code, out)
	require.Contains(t, out, "victim is damaged")
	d.verify(time.Minute, 0)
	status, _, err := dk.get("/api/v1/decisions/victim/raw")
	require.NoError(t, err)
	require.Equal(t, http.StatusServiceUnavailable, status)
}
