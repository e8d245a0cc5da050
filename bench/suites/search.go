package suites

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/docket-project/docket/bench/stack"
	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/search"
)

// questions are what SearchSuite asks of a day, besides rareValues: most of them look at every row, because none fits.
var questions = []string{
	"outcome:denied", "id:rare", "path:*no-such-path*", "input.no_such_key:x", `input.method:"NOSUCH"`, "input.source.port:99999",
	"input.source.port>99999", "-input.user:*", "latency>1h", `"no such text"`, "outcome:denied input.source.port:99999",
}

// searchResult is how long a question takes, in milliseconds.
type searchResult struct {
	Query    string  `json:"query"`
	Writing  bool    `json:"while_rows_are_saved"`
	Found    int     `json:"found"`
	LookedAt int     `json:"looked_at"`
	Median   float64 `json:"median_ms"`
	Least    float64 `json:"least_ms"`
	Most     float64 `json:"most_ms"`
}

// What SearchSuite saves beside its questions: so many rows at once, and how often.
const (
	writtenRows  = 1000
	writtenEvery = 400 * time.Millisecond
	upkeepAfter  = 37 // of these, as often as a saver does it: every 15 s
)

// SearchSuite asks questions of rows of some days, quiet and while more rows are saved.
func SearchSuite(rows, days int, out string) (err error) {
	ctx := context.Background()
	store, err := newBenchStore(ctx, false, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.close()) }()
	save := func(records []domain.Record) error { return store.save(ctx, records) }
	if err := store.fill(ctx, rows, days, save); err != nil {
		return err
	}
	var asked []string
	for _, q := range questions {
		asked = append(asked, "since:24h "+q)
	}
	for _, r := range rareValues {
		asked = append(asked, "since:24h "+string(r.field)+":"+r.value)
		if days > 1 {
			asked = append(asked, fmt.Sprintf("since:%dd %s:%s", days, r.field, r.value+"-of-nobody"))
		}
	}
	quiet, err := askAll(ctx, store, asked, false)
	if err != nil {
		return err
	}
	pages, err := turnPages(ctx, store)
	if err != nil {
		return err
	}
	quiet = append(quiet, pages...)
	counted, err := countAll(ctx, store, days)
	if err != nil {
		return err
	}
	exports, err := exportAll(ctx, store)
	if err != nil {
		return err
	}
	writing, stop := context.WithCancel(ctx)
	var writer sync.WaitGroup
	var failed error
	writer.Go(func() { failed = keepSaving(writing, store) })
	busy, err := askAll(ctx, store, asked, true)
	stop()
	writer.Wait()
	if err := errors.Join(err, failed); err != nil {
		return err
	}
	results := slices.Concat(quiet, busy)
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "QUERY\tWHILE SAVING\tFOUND\tLOOKED AT\tMEDIAN ms\tLEAST ms\tMOST ms")
	for _, r := range results {
		fmt.Fprintf(
			w, "%s\t%t\t%d\t%d\t%.1f\t%.1f\t%.1f\n", r.Query, r.Writing, r.Found, r.LookedAt, r.Median, r.Least, r.Most,
		)
	}
	fmt.Fprintln(w, "\nSTATISTICS\tITEMS\tDECISIONS\tCOMPLETE\tMEDIAN ms\tLEAST ms\tMOST ms")
	for _, r := range counted {
		fmt.Fprintf(
			w, "%s\t%d\t%d\t%t\t%.1f\t%.1f\t%.1f\n", r.Query, r.Items, r.Decisions, r.Complete, r.Median, r.Least, r.Most,
		)
	}
	fmt.Fprintln(w, "\nEXPORT\tROWS\tMiB\tROWS/S\tHEAP MiB")
	for _, r := range exports {
		fmt.Fprintf(w, "%s\t%d\t%.0f\t%.0f\t%.0f\n", r.Query, r.Rows, r.Bytes/(1<<20), r.PerSecond, r.Heap/(1<<20))
	}
	_ = w.Flush()
	return errors.Join(
		writeJSON(out, "search.json", results), writeJSON(out, "stats.json", counted), writeJSON(out, "export.json", exports),
	)
}

// fill has save store rows of some days up to now, among them a rare one of the last day. The store knows a dictionary
// before and its statistics afterwards.
func (b *benchStore) fill(ctx context.Context, rows, days int, save func([]domain.Record) error) error {
	if err := b.teach(ctx); err != nil {
		return err
	}
	span := time.Duration(days)*24*time.Hour - time.Hour
	at, gap := time.Now().Add(-span), span/time.Duration(rows)
	for done := 0; done < rows; done += batchRows {
		records := b.corpus.batch(at, gap)
		if rareAt := rows - rows/days*2/3; done <= rareAt && done+batchRows > rareAt {
			records[7] = rare(at)
		}
		at = at.Add(batchRows * gap)
		if err := save(records); err != nil {
			return err
		}
	}
	return errors.Join(b.Tend(ctx, "bench"), b.server.Exec("postgres", "ANALYZE decisions"))
}

// turnPages reads a thousand pages of the last day, and tells how long the first ones and the last ones took.
func turnPages(ctx context.Context, store *benchStore) (out []searchResult, err error) {
	const turned, each = 1000, 9
	q := domain.Query{Filter: domain.Filter{Since: time.Now().Add(-domain.DefaultSpan)}, Limit: domain.DefaultPage}
	var took []float64
	for len(took) < turned {
		began := time.Now()
		page, err := store.Search(ctx, domain.AllTenants(), q)
		if err != nil {
			return nil, err
		}
		took = append(took, stack.Millis(time.Since(began)))
		if q.After = page.Next; q.After == nil {
			break
		}
	}
	of := func(name string, pages []float64) searchResult {
		slices.Sort(pages)
		return searchResult{
			Query: name, Found: q.Limit, Median: pages[len(pages)/2], Least: pages[0], Most: pages[len(pages)-1],
		}
	}
	return []searchResult{
		of("the first 9 pages", slices.Clone(took[:min(each, len(took))])),
		of(fmt.Sprintf("the last 9 of %d pages", len(took)), took[max(0, len(took)-each):]),
	}, nil
}

// keepSaving saves rows until ctx is done, with the upkeep of a store.
func keepSaving(ctx context.Context, store *benchStore) error {
	tick := time.NewTicker(writtenEvery)
	defer tick.Stop()
	for n := 1; ; n++ {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		err := store.save(context.WithoutCancel(ctx), store.corpus.batch(time.Now(), writtenEvery/writtenRows))
		if err == nil && n%upkeepAfter == 0 {
			err = store.Tend(context.WithoutCancel(ctx), "bench")
		}
		if err != nil {
			return err
		}
	}
}

// askAll asks every question some times, a little apart.
func askAll(ctx context.Context, store *benchStore, asked []string, writing bool) (out []searchResult, err error) {
	const times = 9
	for _, query := range asked {
		r := searchResult{Query: query, Writing: writing}
		var took []float64
		for range times {
			q, err := search.Parse(query, time.Now())
			if err != nil {
				return nil, err
			}
			start := time.Now()
			page, err := store.Search(
				ctx, domain.Tenants(domain.DefaultTenant), domain.Query{Filter: q.Filter, Limit: domain.DefaultPage},
			)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", query, err)
			}
			took = append(took, stack.Millis(time.Since(start)))
			r.Found, r.LookedAt = len(page.Items), page.LookedAt
			time.Sleep(50 * time.Millisecond)
		}
		slices.Sort(took)
		r.Median, r.Least, r.Most = took[times/2], took[0], took[times-1]
		out = append(out, r)
	}
	return out, nil
}
