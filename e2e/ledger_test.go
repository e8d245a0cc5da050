package e2e

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
)

// ledger keeps the hash of every event that was sent, and which were acknowledged.
type ledger struct {
	mu    sync.Mutex
	sent  map[string][sha256.Size]byte // by decision id
	acked map[string]bool
}

func newLedger() *ledger {
	return &ledger{sent: map[string][sha256.Size]byte{}, acked: map[string]bool{}}
}

// note enters the events of an upload.
func (l *ledger) note(t testing.TB, body []byte, gzipped bool, acked bool) {
	if gzipped {
		z, err := gzip.NewReader(bytes.NewReader(body))
		require.NoError(t, err)
		body, err = io.ReadAll(z)
		require.NoError(t, err)
	}
	var events []json.RawMessage
	require.NoError(t, json.Unmarshal(body, &events))
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range events {
		var id struct {
			DecisionID string `json:"decision_id"`
		}
		require.NoError(t, json.Unmarshal(e, &id))
		sum := sha256.Sum256(e)
		if old, ok := l.sent[id.DecisionID]; ok {
			require.Equal(t, old, sum, "%s was sent with two different bodies", id.DecisionID)
		}
		l.sent[id.DecisionID] = sum
		if acked {
			l.acked[id.DecisionID] = true
		}
	}
}

// sends enters one decision; acks says that some were acknowledged.
func (l *ledger) sends(id string, sum [sha256.Size]byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sent[id] = sum
}

func (l *ledger) acks(ids ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, id := range ids {
		l.acked[id] = true
	}
}

// unacknowledged are the decisions that were sent and never acknowledged.
func (l *ledger) unacknowledged() (ids []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id := range l.sent {
		if !l.acked[id] {
			ids = append(ids, id)
		}
	}
	return ids
}

// where is where a decision was found, with the hash of its bytes.
type where struct {
	id  string
	sum [sha256.Size]byte
}

// judge compares what was acknowledged with what is stored and dead: acked ⊆ stored ∪ dead ⊆ sent, no row twice, and
// every byte as it was sent.
func (l *ledger) judge(stored, dead []where) (lost, twice, phantom, altered []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	found, rows := map[string]bool{}, map[string]int{}
	for i, w := range append(slices.Clone(stored), dead...) {
		if sum, ok := l.sent[w.id]; !ok {
			phantom = append(phantom, w.id)
		} else if sum != w.sum {
			altered = append(altered, w.id)
		}
		found[w.id] = true
		if i < len(stored) {
			if rows[w.id]++; rows[w.id] > 1 {
				twice = append(twice, w.id)
			}
		}
	}
	for id := range l.acked {
		if !found[id] {
			lost = append(lost, id)
		}
	}
	return lost, twice, phantom, altered
}

func (l *ledger) ackedIDs() map[string]bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make(map[string]bool, len(l.acked))
	for id := range l.acked {
		out[id] = true
	}
	return out
}

// recorder stands between OPA and docket and enters everything that passes.
func recorder(t *testing.T, target string, l *ledger) (address string) {
	u, err := url.Parse("http://" + target)
	require.NoError(t, err)
	proxy := httputil.NewSingleHostReverseProxy(u)
	var uploads sync.WaitGroup
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.URL.Path, "/logs") {
			proxy.ServeHTTP(w, r)
			return
		}
		uploads.Add(1)
		defer uploads.Done()
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		answer := httptest.NewRecorder()
		proxy.ServeHTTP(answer, r)
		l.note(t, body, r.Header.Get("Content-Encoding") == "gzip", answer.Code/100 == 2)
		for k, v := range answer.Header() {
			w.Header()[k] = v
		}
		w.WriteHeader(answer.Code)
		_, _ = w.Write(answer.Body.Bytes())
	}))
	t.Cleanup(func() {
		server.Close()
		uploads.Wait()
	})
	return server.URL
}

// check is the invariant: acked ⊆ stored ⊆ sent, nothing twice, and every byte as it was sent.
func (l *ledger) check(t *testing.T, d *docket) {
	t.Helper()
	d.drained(t)
	stored := d.stored(t)
	lost, twice, phantom, altered := l.judge(stored, nil)
	require.Empty(t, lost, "acknowledged and lost")
	require.Empty(t, phantom, "stored and never sent")
	require.Empty(t, twice, "stored twice")
	require.Empty(t, altered, "the stored bytes are not those that were sent")
	t.Logf("sent %d, acknowledged %d, stored %d, lost 0, twice 0, phantom 0", len(l.sent), len(l.acked), len(stored))
}

// stored reads everything through the API, but for some decisions.
func (d *docket) stored(t *testing.T, but ...string) (out []where) {
	t.Helper()
	query := url.Values{"since": {"2000h"}, "limit": {"1000"}}
	for {
		var page struct {
			Items []struct {
				DecisionID string `json:"decision_id"`
			}
			NextCursor *string `json:"next_cursor"`
		}
		require.Equal(t, http.StatusOK, d.getJSON(t, "/api/v1/decisions?"+query.Encode(), &page))
		for _, i := range page.Items {
			if !slices.Contains(but, i.DecisionID) {
				out = append(out, where{id: i.DecisionID})
			}
		}
		if page.NextCursor == nil {
			break
		}
		query.Set("cursor", *page.NextCursor)
	}
	var g errgroup.Group
	g.SetLimit(8)
	for i := range out {
		g.Go(func() error {
			status, body, err := d.get("/api/v1/decisions/" + url.PathEscape(out[i].id) + "/raw")
			if err != nil || status != http.StatusOK {
				return fmt.Errorf("%s: %d %w", out[i].id, status, err)
			}
			out[i].sum = sha256.Sum256(body)
			return nil
		})
	}
	require.NoError(t, g.Wait())
	return out
}

// post makes one upload; nil means that it was acknowledged.
func post(client *http.Client, target string, body []byte) error {
	req, err := http.NewRequest(http.MethodPost, target+"/logs", bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Encoding", "gzip")
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, _ := io.ReadAll(resp.Body)
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("%s: %s", resp.Status, answer)
	}
	return nil
}
