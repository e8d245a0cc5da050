package suites

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/docket-project/docket/bench/stack"
	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/search"
)

// statsResult is how long statistics take, in milliseconds.
type statsResult struct {
	Query     string  `json:"query"`
	Items     int     `json:"items"`
	Decisions int64   `json:"decisions"`
	Complete  bool    `json:"complete"`
	Median    float64 `json:"median_ms"`
	Least     float64 `json:"least_ms"`
	Most      float64 `json:"most_ms"`
}

// countAll takes statistics some times each: what the store has counted, and what it looks at rows for.
func countAll(ctx context.Context, store *benchStore, days int) (out []statsResult, err error) {
	const times = 5
	all := fmt.Sprintf("&since=%dd", days)
	for _, query := range []string{
		"by=outcome&every=5m", "by=path,outcome", "by=path,outcome&every=5m", "by=outcome&every=1h" + all,
		"by=path,outcome&every=24h" + all, "by=outcome&q=path:shop/*" + all, "by=principal", "by=input.method",
		"by=outcome&q=input.method:DELETE", "by=principal&q=outcome:denied" + all,
	} {
		r := statsResult{Query: query}
		var took []float64
		for range times {
			now := time.Now()
			asked, err := search.ParseStats(query, now)
			if err != nil {
				return nil, err
			}
			stats, err := search.Count(ctx, store, domain.Tenants(domain.DefaultTenant), asked, now)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", query, err)
			}
			took = append(took, stack.Millis(time.Since(now)))
			r.Items, r.Decisions, r.Complete = len(stats.Items), stats.Total, stats.Why == ""
		}
		slices.Sort(took)
		r.Median, r.Least, r.Most = took[times/2], took[0], took[times-1]
		out = append(out, r)
	}
	return out, nil
}
