// Command golden makes the uploads in internal/domain/testdata/opa: it runs the real OPA that this module pins, asks it
// what the tests need, and keeps the bodies it uploads, inflated. `make golden` runs it.
package main

import (
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/open-policy-agent/opa/v1/plugins"
	"github.com/open-policy-agent/opa/v1/plugins/logs"
	"github.com/open-policy-agent/opa/v1/server"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
)

const config = `{
  "services": {"docket": {"url": %q}},
  "labels": {"app": "golden", "env": "test"},
  "decision_logs": {"service": "docket", "reporting": {
    "min_delay_seconds": 1, "max_delay_seconds": 1, "upload_size_limit_bytes": 1048576}},
  "nd_builtin_cache": true
}`

func main() {
	if err := run(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, "golden:", err)
		os.Exit(1)
	}
}

// run makes every file: opa is the binary, policies a directory, out where the files go.
func run(opa, policies, out string) error {
	for _, c := range []struct {
		name    string
		queries []string // path, then input
	}{
		{"boolean", []string{"http/authz/allow", `{"user":"a","owner":"a"}`, "http/authz/allow", `{"user":"a","owner":"b"}`}},
		{"object", []string{"http/authz/decision", `{"user":"a","owner":"b","method":"GET","path":["x","y"]}`}},
		{"undefined", []string{"http/authz/undefined_for_guests", `{"user":"guest"}`}},
		{"error", []string{"http/authz/conflict", `{"user":"a"}`}},
		{"masked-and-erased", []string{"http/authz/allow", `{"user":"a","owner":"a","password":"p","card":"4111"}`}},
		{"nd-builtin-cache", []string{"http/authz/remote", `{"user":"a"}`}},
	} {
		body, err := record(func(url string) error { return ask(opa, policies, url, c.queries) })
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		if err := os.WriteFile(filepath.Join(out, c.name+".json"), body, 0o644); err != nil {
			return err
		}
	}
	body, err := record(embedded)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(out, "batch-and-intermediate-results.json"), body, 0o644)
}

// record keeps the first upload to /logs that happens while do runs, or soon after.
func record(do func(url string) error) ([]byte, error) {
	var once sync.Once
	bodies := make(chan []byte, 1)
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		z, err := gzip.NewReader(r.Body)
		if err != nil {
			return
		}
		if body, err := io.ReadAll(z); err == nil {
			once.Do(func() { bodies <- body })
		}
	}))
	defer receiver.Close()
	if err := do(receiver.URL); err != nil {
		return nil, err
	}
	select {
	case body := <-bodies:
		return body, nil
	case <-time.After(10 * time.Second):
		return nil, fmt.Errorf("nothing was uploaded")
	}
}

// ask runs the binary and sends it queries; stopping it makes it upload.
func ask(opa, policies, url string, queries []string) error {
	file := filepath.Join(os.TempDir(), "docket-golden.json")
	if err := os.WriteFile(file, fmt.Appendf(nil, config, url), 0o600); err != nil {
		return err
	}
	defer os.Remove(file)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	addr := l.Addr().String()
	_ = l.Close()
	cmd := exec.Command(
		opa, "run", "--server", "--addr", addr, "--config-file", file, "--log-level", "error", "--skip-version-check",
		filepath.Join(policies, "policy.rego"), filepath.Join(policies, "mask.rego"),
	)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	defer func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait()
	}()
	for i := 0; ; i++ {
		if resp, err := http.Get("http://" + addr + "/health"); err == nil {
			_ = resp.Body.Close()
			break
		} else if i == 100 {
			return err
		}
		time.Sleep(50 * time.Millisecond)
	}
	for i := 0; i+1 < len(queries); i += 2 {
		resp, err := http.Post(
			"http://"+addr+"/v1/data/"+queries[i], "application/json", strings.NewReader(`{"input":`+queries[i+1]+`}`),
		)
		if err != nil {
			return err
		}
		_ = resp.Body.Close()
	}
	return nil
}

// embedded drives OPA's decision-log plugin as an embedder does: the stock server has no batch API, and fills in
// intermediate results only for those who embed it.
func embedded(url string) error {
	ctx := context.Background()
	manager, err := plugins.New(fmt.Appendf(nil, config, url), "embedded-opa", inmem.New())
	if err != nil {
		return err
	}
	cfg, err := logs.ParseConfig(
		[]byte(`{"service":"docket","reporting":{"min_delay_seconds":1,"max_delay_seconds":1}}`), []string{"docket"}, nil,
	)
	if err != nil {
		return err
	}
	plugin := logs.New(cfg, manager)
	if err := plugin.Start(ctx); err != nil {
		return err
	}
	defer plugin.Stop(ctx)
	for i, allowed := range []any{true, false} {
		var input any = map[string]any{"user": "alice", "n": i}
		info := &server.Info{
			BatchDecisionID: "batch-1", DecisionID: fmt.Sprintf("batch-1-%d", i), Path: "/http/authz/allow",
			Timestamp: time.Now().UTC(), Input: &input, Results: &allowed, RemoteAddr: "127.0.0.1:1",
			IntermediateResults: map[string]any{"data.http.authz.is_owner": allowed},
		}
		if err := plugin.Log(ctx, info); err != nil {
			return err
		}
	}
	return nil
}
