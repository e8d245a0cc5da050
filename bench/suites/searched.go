package suites

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/docket-project/docket/bench/load"
	"github.com/docket-project/docket/bench/stack"
)

// How searches stand beside uploads: so many readers, each so long after it was answered.
const (
	searchReaders = 4
	searchPause   = 100 * time.Millisecond
	// searchWarm are uploads that are stored before.
	searchWarm = 150_000
)

// indexedSearches are answered by indexes and counts: the newest of what many decisions have, values that few have, and
// statistics.
func indexedSearches() []string {
	asked := []string{
		"/api/v1/decisions?q=outcome:denied", "/api/v1/decisions?q=", "/api/v1/decisions/stats?by=outcome&every=5m",
	}
	for _, r := range rareValues {
		asked = append(asked, "/api/v1/decisions?q="+url.QueryEscape(string(r.field)+":"+r.value))
	}
	return asked
}

// searchedResult is how long uploads and searches take, in milliseconds, each alone and beside the other.
type searchedResult struct {
	Uploads      bool    `json:"uploads"`
	Readers      int     `json:"readers"`
	UploadMedian float64 `json:"upload_median_ms"`
	UploadP95    float64 `json:"upload_p95_ms"`
	Refused      int     `json:"refused"`
	Searches     int     `json:"searches"`
	SearchMedian float64 `json:"search_median_ms"`
	SearchP95    float64 `json:"search_p95_ms"`
}

// SearchedSuite sends uploads at a rate while readers search, and each of them alone, in turn.
func SearchedSuite(docket, out string, rate, seconds, times int) error {
	s, err := stack.StartStack(docket, 1)
	if err != nil {
		return err
	}
	defer s.Close()
	if err := s.StartAll("ingest", "saver", "parking", "console"); err != nil {
		return err
	}
	c := load.NewCorpus()
	if _, err := warmUp(s, c, searchWarm, 64); err != nil {
		return err
	}
	length := time.Duration(seconds) * time.Second
	var results []searchedResult
	for range times {
		for _, phase := range []searchedResult{
			{Readers: searchReaders}, {Uploads: true}, {Uploads: true, Readers: searchReaders},
		} {
			if err := phase.run(s, c, rate, length); err != nil {
				return err
			}
			results = append(results, phase)
			if err := s.API().Drained(); err != nil {
				return err
			}
		}
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "UPLOADS/S\tREADERS\tUPLOAD MEDIAN ms\tP95 ms\tREFUSED\tSEARCHES\tSEARCH MEDIAN ms\tP95 ms")
	for _, r := range results {
		sent := 0
		if r.Uploads {
			sent = rate
		}
		fmt.Fprintf(w, "%d\t%d\t%.1f\t%.1f\t%d\t%d\t%.1f\t%.1f\n", sent, r.Readers, r.UploadMedian, r.UploadP95, r.Refused,
			r.Searches, r.SearchMedian, r.SearchP95)
	}
	_ = w.Flush()
	return writeJSON(out, "searched.json", results)
}

// run measures one phase.
func (r *searchedResult) run(s *stack.Stack, c *load.Corpus, rate int, length time.Duration) error {
	var all sync.WaitGroup
	var mu sync.Mutex
	var took []float64
	var failed error
	var requests []load.Request
	if r.Uploads { // made before, because that takes a core
		requests = c.Requests(s.Upload, rate*int(length.Seconds()))
	}
	ends := time.Now().Add(length)
	for reader := range r.Readers {
		all.Go(func() {
			asked := indexedSearches()
			for n := reader; time.Now().Before(ends); n++ {
				began := time.Now()
				err := s.API().Get(asked[n%len(asked)], new(json.RawMessage))
				mu.Lock()
				took, failed = append(took, stack.Millis(time.Since(began))), errors.Join(failed, err)
				mu.Unlock()
				time.Sleep(searchPause)
			}
		})
	}
	if r.Uploads {
		l, err := load.Open(s.Upload, requests, rate)
		mu.Lock()
		failed = errors.Join(failed, err)
		mu.Unlock()
		sent := l.Result("", nil)
		r.UploadMedian, r.UploadP95, r.Refused = sent.P50, sent.P95, sent.Refused
	}
	all.Wait()
	if failed != nil {
		return failed
	}
	if r.Searches = len(took); r.Searches > 0 {
		slices.Sort(took)
		r.SearchMedian, r.SearchP95 = took[len(took)/2], took[len(took)*95/100]
	}
	return nil
}
