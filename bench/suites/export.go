package suites

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"time"

	"github.com/docket-project/docket/internal/adapters/auth"
	"github.com/docket-project/docket/internal/adapters/queryapi"
	"github.com/docket-project/docket/internal/adapters/web"
	"github.com/docket-project/docket/internal/domain"
)

// exportResult is how fast a search is exported. Heap is how much more of it there was at most than before, in bytes,
// the client's share included.
type exportResult struct {
	Query     string  `json:"query"`
	Rows      int     `json:"rows"`
	Bytes     float64 `json:"bytes"`
	PerSecond float64 `json:"rows_per_second"`
	Heap      float64 `json:"heap_bytes"`
}

// exportAll exports everything over HTTP, in each form, and one search whose rows have to be judged.
func exportAll(ctx context.Context, store *benchStore) (out []exportResult, err error) {
	s := httptest.NewServer(queryapi.New(queryapi.Parts{
		Decisions: store, Control: store,
		Who: auth.Anonymous{Caller: domain.Caller{Tenants: domain.AllTenants(), Role: domain.Viewer}},
	}, web.Door{Metrics: web.NewMetrics(nil), Logger: slog.New(slog.DiscardHandler)}))
	defer s.Close()
	for _, query := range []string{
		"format=ndjson", "format=csv", "format=ndjson&with_event=false", "q=-input.user:nobody",
	} {
		r, err := exportOne(ctx, s.URL+"/api/v1/decisions/export?since=24h&"+query)
		if err != nil {
			return nil, err
		}
		r.Query = query
		out = append(out, r)
	}
	return out, nil
}

func exportOne(ctx context.Context, url string) (r exportResult, err error) {
	runtime.GC()
	var before, now runtime.MemStats
	runtime.ReadMemStats(&before)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return r, err
	}
	began := time.Now()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return r, err
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		r.Rows++
		r.Bytes += float64(len(lines.Bytes()))
		if r.Rows%5000 == 0 {
			runtime.ReadMemStats(&now)
			r.Heap = max(r.Heap, float64(now.HeapInuse)-float64(before.HeapInuse))
		}
	}
	r.PerSecond = float64(r.Rows) / time.Since(began).Seconds()
	if end := resp.Trailer.Get("Docket-Complete"); !strings.HasPrefix(end, "true; ") {
		return r, fmt.Errorf("the export is not complete: %s: %w", end, lines.Err())
	}
	return r, nil
}
