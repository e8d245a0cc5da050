package e2e

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
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
