package e2e

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
)

// TestPoliciesOfOPA: a real OPA sends more than its quota allows. It is refused and sends again, until all of it is
// there; what docket masks is listed beside what OPA masked itself, and stands nowhere.
func TestPoliciesOfOPA(t *testing.T) {
	dir := t.TempDir()
	config := filepath.Join(dir, "docket.yaml")
	require.NoError(t, os.WriteFile(config, []byte(`
policies:
  - name: pii
    paths: ["http/authz/*"]
    masks:
      - remove: /input/n
      - hash: /input/user
  - name: small
    quota: {events_per_second: 300, burst: 1s}
`), 0o600))
	keys := filepath.Join(dir, "keys")
	require.NoError(t, os.WriteFile(keys, []byte("v1 "+strings.Repeat("5a", 32)+"\n"), 0o600))
	d := newDocket(t, filepath.Join(dir, "data"), "DOCKET_CONFIG="+config, "DOCKET_MASK_KEYS_FILE="+keys)
	d.serve(t)
	o := startOPA(t, "1.22", "http://"+d.upload, tokenFile(t, "unused"), "testdata/policy.rego")
	answered := map[string]bool{}
	eventually(t, time.Minute, func() error { // OPA uploads every second or two: the second upload is one too many
		for id := range askAll(t, o, 100) {
			answered[id] = true
		}
		resp, err := http.Get("http://" + d.admin + "/metrics")
		require.NoError(t, err)
		defer resp.Body.Close()
		metrics, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		if strings.Contains(string(metrics), `docket_quota_refused_total{kind="events"} 0`) {
			return errors.New("the quota has refused nothing")
		}
		return nil
	})
	eventually(t, 3*time.Minute, func() error {
		seen, more := 0, ""
		for {
			var page struct {
				Items []struct {
					ID        string `json:"decision_id"`
					Principal string
				}
				Cursor string `json:"next_cursor"`
			}
			require.Equal(t, 200, d.getJSON(t, "/api/v1/decisions?limit=1000"+more, &page))
			for _, item := range page.Items {
				require.True(t, answered[item.ID], item.ID)
				require.True(t, strings.HasPrefix(item.Principal, "hmac-sha256:v1:"), item.Principal)
			}
			seen += len(page.Items)
			if page.Cursor == "" {
				break
			}
			more = "&cursor=" + url.QueryEscape(page.Cursor)
		}
		if seen < len(answered) {
			return fmt.Errorf("%d of %d are there", seen, len(answered))
		}
		return nil
	})
	for id := range answered {
		var got struct {
			Masked []string
			Event  struct {
				Input          map[string]any
				Erased, Masked []string
			}
		}
		require.Equal(t, 200, d.getJSON(t, "/api/v1/decisions/"+id, &got))
		require.Contains(t, got.Event.Erased, "/input/n")
		require.Contains(t, got.Event.Masked, "/input/user")
		require.Contains(t, got.Masked, "principal")
		require.NotContains(t, got.Event.Input, "n")
		break
	}
}

// TestHerd: 500 OPAs come back after an outage, each with a backlog, and their tenant has a quota. No more comes
// through than the quota allows, and in the end all of it. How evenly it does is TestHerd's of the quotas, without a
// clock.
func TestHerd(t *testing.T) {
	const opas, uploads, events, perSecond = 500, 4, 20, 5000
	dir := t.TempDir()
	config := filepath.Join(dir, "docket.yaml")
	require.NoError(t, os.WriteFile(config, []byte(
		fmt.Sprintf("policies: [{name: herd, quota: {events_per_second: %d, burst: 1s, uploads_at_once: 100}}]\n", perSecond),
	), 0o600))
	d := newDocket(t, filepath.Join(dir, "data"), "DOCKET_CONFIG="+config)
	d.serve(t)
	transport := &http.Transport{MaxIdleConnsPerHost: opas}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: 30 * time.Second}
	var refused atomic.Int64
	post := func(body string) error {
		for delay := 100 * time.Millisecond; ; delay = min(delay*16/10, 5*time.Second) { // as OPA waits
			resp, err := client.Post("http://"+d.upload+"/logs", "application/json", strings.NewReader(body))
			if err != nil {
				return err
			}
			answer, err := io.ReadAll(resp.Body)
			if err := errors.Join(err, resp.Body.Close()); err != nil {
				return err
			}
			switch resp.StatusCode {
			case http.StatusOK:
				return nil
			case http.StatusTooManyRequests:
				refused.Add(1)
				time.Sleep(time.Duration(float64(delay) * (0.8 + 0.4*rand.Float64())))
			default:
				return fmt.Errorf("%d: %s", resp.StatusCode, answer)
			}
		}
	}
	began := time.Now()
	var herd errgroup.Group
	for n := range opas {
		herd.Go(func() error {
			for k := range uploads {
				var batch []string
				for i := range events {
					batch = append(batch, fmt.Sprintf(`{"decision_id":"%d-%d-%d","labels":{"id":"opa-%d"},"result":true}`, n, k, i, n))
				}
				if err := post("[" + strings.Join(batch, ",") + "]"); err != nil {
					return err
				}
			}
			return nil
		})
	}
	require.NoError(t, herd.Wait())
	took := time.Since(began)
	const all = opas * uploads * events
	best := float64(all-perSecond) / perSecond
	t.Logf("%d events in %.1f s, %.1f at best; %d refusals", all, took.Seconds(), best, refused.Load())
	require.Positive(t, refused.Load())
	// A burst, and what is on the way when it is used up.
	require.GreaterOrEqual(t, took.Seconds(), float64(all-2*perSecond-100*events)/perSecond)
	d.holds(t, all)
}
