// Command golden makes the uploads in internal/domain/testdata/opa: it runs the real OPA that this module pins, asks it
// what the tests need, and keeps the bodies it uploads, inflated. `make golden` runs it.
package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
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

// question is one request to OPA.
type question struct {
	Post   string          `json:"post"`
	Accept string          `json:"accept"`
	Body   json.RawMessage `json:"body"`
}

// run makes every file: opa is the binary, testdata a directory with policies, out where the files go.
func run(opa, testdata, out string) error {
	keep := func(name string, do func(url string) error) error {
		body, err := record(do)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		return os.WriteFile(filepath.Join(out, name+".json"), body, 0o644)
	}
	policy, mask := filepath.Join(testdata, "policy.rego"), filepath.Join(testdata, "mask.rego")
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
		var questions []question
		for i := 0; i+1 < len(c.queries); i += 2 {
			questions = append(questions, question{
				Post: "/v1/data/" + c.queries[i], Body: json.RawMessage(`{"input":` + c.queries[i+1] + `}`),
			})
		}
		do := func(url string) error { return ask(opa, []string{policy, mask}, url, questions) }
		if err := keep(c.name, do); err != nil {
			return err
		}
	}
	if err := kinds(opa, filepath.Join(testdata, "policies"), keep); err != nil {
		return err
	}
	return keep("batch-and-intermediate-results", embedded)
}

// kinds records what the kinds of policies that people write lead to: NAME.json are the questions, NAME.rego and
// NAME.*.rego the policy.
func kinds(opa, dir string, keep func(name string, do func(url string) error) error) error {
	names, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return err
	}
	for _, file := range names {
		b, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		var questions []question
		if err := json.Unmarshal(b, &questions); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		name := strings.TrimSuffix(filepath.Base(file), ".json")
		modules, err := filepath.Glob(filepath.Join(dir, name+".*rego"))
		if err != nil {
			return err
		}
		if err := keep(name, func(url string) error { return ask(opa, modules, url, questions) }); err != nil {
			return err
		}
	}
	return nil
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

// ask runs the binary with modules and asks it; stopping it makes it upload.
func ask(opa string, modules []string, url string, questions []question) error {
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
	cmd := exec.Command(opa, append([]string{
		"run", "--server", "--addr", addr, "--config-file", file, "--log-level", "error", "--skip-version-check",
	}, modules...)...)
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
	for _, q := range questions {
		req, err := http.NewRequest(http.MethodPost, "http://"+addr+q.Post, bytes.NewReader(q.Body))
		if err != nil {
			return err
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Accept", q.Accept)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		answer, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if expected := bytes.Contains(answer, []byte("eval_conflict_error")); resp.StatusCode != http.StatusOK && !expected {
			return fmt.Errorf("%s: %s: %s", q.Post, resp.Status, answer)
		}
	}
	return nil
}

// embedded drives OPA's decision-log plugin as an embedder does: the stock server has no batch API, and fills in
// intermediate results only for those who embed it.
func embedded(url string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second) // stopping uploads within that
	defer cancel()
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
