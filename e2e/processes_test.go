// Package e2e runs docket as its users do: real processes, a real OPA in front, and a checker that compares what was
// acknowledged with what is stored as sets of bytes. It has a module of its own, so that none of it is in the product.
package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/testserver"
)

// docketBinary is built by `make e2e` in front of the tests.
var docketBinary = env("DOCKET_BINARY", "../bin/docket")

// opaBinary is an OPA of a version, built by `make e2e`.
func opaBinary(t *testing.T, version string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join(env("OPA_BINARIES", ".bin"), "opa-"+version))
	require.NoError(t, err)
	need(t, path)
	return path
}

func env(name, fallback string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return fallback
}

// need skips a test on a laptop where something is missing, and fails it in CI.
func need(t *testing.T, path string) {
	t.Helper()
	if _, err := exec.LookPath(path); err != nil {
		if os.Getenv("CI") != "" {
			require.NoError(t, err, "make e2e installs it")
		}
		t.Skipf("%s is missing: run make e2e", path)
	}
}

// output keeps what a process prints.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// process is a running child, and what it prints.
type process struct {
	*testserver.Process
	out *output
}

func start(t *testing.T, vars []string, name string, args ...string) *process {
	t.Helper()
	out := &output{}
	p, err := testserver.Launch(vars, out, name, args...)
	require.NoError(t, err)
	return keep(t, p, out, name)
}

// startDocket starts a process of docket.
func startDocket(t *testing.T, role, admin string, vars []string) *process {
	t.Helper()
	out := &output{}
	d, err := testserver.LaunchDocket(testserver.DocketOptions{
		Binary: docketBinary, Role: role, Admin: admin, Vars: vars, Output: out,
	})
	require.NoError(t, err)
	return keep(t, d.Process, out, "docket "+role)
}

// keep ends a process with its test, and shows what it printed where that failed.
func keep(t *testing.T, p *testserver.Process, out *output, name string) *process {
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() {
			t.Logf("%s printed:\n%s", filepath.Base(name), out)
		}
	})
	return &process{p, out}
}

// wait returns the exit code, or fails after d.
func (p *process) wait(t *testing.T, d time.Duration) int {
	t.Helper()
	if !p.Within(d) {
		_ = p.Signal(syscall.SIGQUIT) // it prints what every goroutine waits for
		<-p.Done()
		require.FailNow(t, "the process did not end", "%s", p.out)
	}
	return p.ExitCode()
}

// docket is a running `docket serve`.
type docket struct {
	*process
	dir                    string
	upload, console, admin string
	vars                   []string
}

// freeAddr finds a free port below those that the kernel gives to outgoing connections: a docket that is killed and
// started again has to find its ports free.
func freeAddr(t *testing.T) string {
	t.Helper()
	addr, err := testserver.FreeAddr()
	require.NoError(t, err)
	return addr
}

// newDocket prepares a docket on ports of its own; serve starts it.
func newDocket(t *testing.T, dir string, vars ...string) *docket {
	need(t, docketBinary)
	d := &docket{dir: dir, upload: freeAddr(t), console: freeAddr(t), admin: freeAddr(t)}
	d.vars = append([]string{
		"DOCKET_DATA=" + dir,
		"DOCKET_LISTEN=" + d.upload,
		"DOCKET_CONSOLE_LISTEN=" + d.console,
		"DOCKET_ADMIN_LISTEN=" + d.admin,
	}, vars...)
	return d
}

func (d *docket) serve(t *testing.T) {
	t.Helper()
	d.process = startDocket(t, "serve", d.admin, d.vars)
	d.ready(t)
}

func (d *docket) ready(t *testing.T) {
	t.Helper()
	require.NoError(t, testserver.WaitReady(d.admin, 30*time.Second))
}

func (d *docket) kill(t *testing.T) {
	t.Helper()
	d.Kill()
}

// terminate stops it in good order.
func (d *docket) terminate(t *testing.T) {
	t.Helper()
	require.NoError(t, d.Signal(syscall.SIGTERM))
	require.Zero(t, d.wait(t, 25*time.Second), "%s", d.out)
}

// run runs one command of docket's against it.
func (d *docket) run(t *testing.T, args ...string) (string, int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, docketBinary, args...)
	cmd.Env = append(
		os.Environ(), "DOCKET_SERVER=http://"+d.console, "DOCKET_UPLOAD_SERVER=http://"+d.upload, "DOCKET_DATA="+d.dir,
	)
	out, _ := cmd.CombinedOutput()
	return string(out), cmd.ProcessState.ExitCode()
}

// eventually repeats try until it succeeds.
func eventually(t *testing.T, d time.Duration, try func() error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(d); time.Now().Before(deadline); {
		if err = try(); err == nil {
			return
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-t.Context().Done():
			require.FailNow(t, "the test ended")
		}
	}
	require.NoError(t, err)
}

// getJSON reads from the console listener.
func (d *docket) getJSON(t *testing.T, path string, into any) int {
	t.Helper()
	status, body, err := d.get(path)
	require.NoError(t, err)
	if status == http.StatusOK {
		require.NoError(t, json.Unmarshal(body, into), "%s", body)
	}
	return status
}

func (d *docket) get(path string) (int, []byte, error) {
	resp, err := http.Get("http://" + d.console + path)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, body, err
}

// backlog asks how much waits at each stage, and for how many seconds.
func (d *docket) backlog() (waiting map[string]int64, oldest map[string]float64, err error) {
	var p struct {
		Stages []struct {
			Name          string
			Waiting       int64
			OldestSeconds float64 `json:"oldest_seconds"`
		}
		SampledAt time.Time `json:"sampled_at"`
	}
	status, body, err := d.get("/api/v1/pipeline")
	if err != nil || status != http.StatusOK {
		return nil, nil, fmt.Errorf("%d %w", status, err)
	}
	if err := json.Unmarshal(body, &p); err != nil {
		return nil, nil, err
	}
	if len(p.Stages) == 0 || time.Since(p.SampledAt) > time.Second {
		return nil, nil, fmt.Errorf(
			"not sampled since %s",
			p.SampledAt,
		) // a log that does not answer in time is shown as it was
	}
	waiting, oldest = map[string]int64{}, map[string]float64{}
	for _, s := range p.Stages {
		waiting[s.Name], oldest[s.Name] = s.Waiting, s.OldestSeconds
	}
	return waiting, oldest, nil
}

// drained waits until nothing is on its way to the store.
func (d *docket) drained(t *testing.T) {
	t.Helper()
	eventually(t, 3*time.Minute, func() error {
		waiting, _, err := d.backlog()
		if err != nil {
			return err
		}
		for stage, n := range waiting {
			if n > 0 {
				return fmt.Errorf("%d wait at %s", n, stage)
			}
		}
		return nil
	})
}

// opa is a running OPA.
type opa struct {
	*process
	addr string
}

// opaVersion is what the OPA of that release says its version is; go.mod says which one is built.
func opaVersion(t *testing.T, release string) string {
	t.Helper()
	out, err := exec.Command(opaBinary(t, release), "version").Output()
	require.NoError(t, err)
	first, _, _ := strings.Cut(string(out), "\n")
	version, ok := strings.CutPrefix(first, "Version: "+release+".")
	require.True(t, ok, "%s", out)
	return release + "." + version
}

// startOPA runs an OPA whose decisions go to url.
func startOPA(t *testing.T, version, url, tokenFile string, args ...string) *opa {
	t.Helper()
	config, err := os.ReadFile("../deploy/opa/config.yaml")
	require.NoError(t, err)
	text := string(config)
	require.Contains(t, text, "http://docket.example:8080")
	text = strings.Replace(text, "http://docket.example:8080", url, 1)
	text = strings.Replace(text, "/etc/docket/token", tokenFile, 1)
	if strings.HasPrefix(version, "0.45") {
		// A status plugin of that age has no trigger to upload before its first bundle; the rest is as we ship it.
		text = strings.Replace(text, "\nstatus:\n  service: docket\n", "\n", 1)
	}
	return runOPA(t, version, text, args...)
}

// runOPA runs an OPA with a configuration.
func runOPA(t *testing.T, version, text string, args ...string) *opa {
	t.Helper()
	file := filepath.Join(t.TempDir(), "config.yaml")
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	o := &opa{addr: freeAddr(t)}
	args = append(
		[]string{
			"run",
			"--server",
			"--addr",
			o.addr,
			"--config-file",
			file,
			"--set",
			"nd_builtin_cache=true",
			"--log-level",
			"error",
		},
		args...)
	if !strings.HasPrefix(version, "0.45") {
		args = append(args, "--disable-telemetry")
	} else {
		args = append(args, "--skip-version-check")
	}
	o.process = start(t, nil, opaBinary(t, version), args...)
	eventually(t, 30*time.Second, func() error {
		resp, err := http.Get("http://" + o.addr + "/health")
		if err != nil {
			return err
		}
		return resp.Body.Close()
	})
	return o
}

// ask queries a policy and returns the decision id that OPA answers.
func (o *opa) ask(t *testing.T, path, input string) string {
	t.Helper()
	resp, err := http.Post("http://"+o.addr+"/v1/data/"+path, "application/json", strings.NewReader(`{"input":`+input+`}`))
	require.NoError(t, err)
	defer resp.Body.Close()
	var answer struct {
		DecisionID string `json:"decision_id"`
	}
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(body, &answer), "%s", body)
	return answer.DecisionID
}
