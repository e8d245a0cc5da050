package suites

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"github.com/docket-project/docket/bench/stack"
	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/search"
)

// stampedeResult is how long readers of the same statistics wait, in milliseconds, and what they cost.
type stampedeResult struct {
	Remembered bool    `json:"remembered"`
	Readers    int     `json:"readers"`
	Seconds    float64 `json:"seconds"`
	Asked      int     `json:"asked"`
	Failed     int     `json:"failed"`
	Queries    int64   `json:"queries"`
	Median     float64 `json:"median_ms"`
	P95        float64 `json:"p95_ms"`
	Most       float64 `json:"most_ms"`
	SaveP95    float64 `json:"save_p95_ms"`
}

// countedQueries counts what the store is asked.
type countedQueries struct {
	search.Counter
	n atomic.Int64
}

func (c *countedQueries) CountDecisions(
	ctx context.Context, scope domain.Scope, q domain.CountQuery,
) (domain.Counts, error) {
	c.n.Add(1)
	return c.Counter.CountDecisions(ctx, scope, q)
}

// StampedeSuite has 500 readers ask for the same statistics of a day, each a second after it was answered, while rows
// are saved: without remembering what was counted, and with it.
func StampedeSuite(rows, seconds int, out string) (err error) {
	ctx := context.Background()
	store, err := newBenchStore(ctx, false, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.close()) }()
	save := func(records []domain.Record) error { return store.save(ctx, records) }
	if err := store.fill(ctx, rows, 1, save); err != nil {
		return err
	}
	var results []stampedeResult
	for _, remembered := range []bool{false, true, false, true} {
		r, err := stampede(ctx, store, remembered, time.Duration(seconds)*time.Second)
		if err != nil {
			return err
		}
		results = append(results, r)
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "REMEMBERED\tREADERS\tASKED\tFAILED\tQUERIES\tMEDIAN ms\tP95 ms\tMOST ms\tSAVE P95 ms")
	for _, r := range results {
		fmt.Fprintf(w, "%t\t%d\t%d\t%d\t%d\t%.1f\t%.1f\t%.1f\t%.1f\n", r.Remembered, r.Readers, r.Asked, r.Failed, r.Queries,
			r.Median, r.P95, r.Most, r.SaveP95)
	}
	_ = w.Flush()
	return writeJSON(out, "stampede.json", results)
}

func stampede(ctx context.Context, store *benchStore, remembered bool, length time.Duration) (stampedeResult, error) {
	const readers, question = 500, "by=outcome&every=5m"
	r := stampedeResult{Remembered: remembered, Readers: readers, Seconds: length.Seconds()}
	in := &countedQueries{Counter: store}
	statistics := search.NewStatistics(in, nil, slog.New(slog.DiscardHandler))
	defer statistics.Stop()
	ask := func(ctx context.Context) error {
		now := time.Now()
		asked, err := search.ParseStats(question, now)
		if err == nil {
			_, err = search.Count(ctx, in, domain.AllTenants(), asked, now)
		}
		return err
	}
	if remembered {
		ask = func(ctx context.Context) error {
			q, err := statistics.Question(domain.AllTenants(), "", question)
			if err == nil {
				_, err = statistics.Count(ctx, q, false, func(context.Context) (func(), error) { return func() {}, nil })
			}
			return err
		}
	}
	running, stop := context.WithTimeout(ctx, length)
	defer stop()
	var mu sync.Mutex
	var took, saves []float64
	var all sync.WaitGroup
	var failed error
	all.Go(func() {
		tick := time.NewTicker(writtenEvery)
		defer tick.Stop()
		for running.Err() == nil && failed == nil {
			<-tick.C
			began := time.Now()
			failed = store.save(ctx, store.corpus.batch(time.Now(), writtenEvery/writtenRows))
			saves = append(saves, stack.Millis(time.Since(began)))
		}
	})
	for range readers {
		all.Go(func() {
			time.Sleep(time.Duration(rand.Int64N(int64(time.Second))))
			for running.Err() == nil {
				began := time.Now()
				err := ask(ctx)
				mu.Lock()
				took = append(took, stack.Millis(time.Since(began)))
				if err != nil {
					r.Failed++
				}
				mu.Unlock()
				time.Sleep(time.Second)
			}
		})
	}
	all.Wait()
	slices.Sort(took)
	slices.Sort(saves)
	const p95 = 0.95
	r.Asked, r.Queries = len(took), in.n.Load()
	r.Median, r.P95, r.Most = took[len(took)/2], took[int(p95*float64(len(took)))], took[len(took)-1]
	r.SaveP95 = saves[int(p95*float64(len(saves)))]
	return r, failed
}
