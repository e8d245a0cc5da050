package suites

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"os"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/testserver"
)

// pageResult is how long a page takes, in milliseconds, and how many bytes go to the browser.
type pageResult struct {
	Page      string  `json:"page"`
	Times     int     `json:"times"`
	FirstByte float64 `json:"first_byte_median_ms"`
	FirstP95  float64 `json:"first_byte_p95_ms"`
	Results   float64 `json:"results_median_ms"`
	ResultP95 float64 `json:"results_p95_ms"`
	Whole     float64 `json:"whole_median_ms"`
	WholeP95  float64 `json:"whole_p95_ms"`
	Bytes     int     `json:"bytes_most"`
	// Slowest is the page whose results took longest.
	Slowest string `json:"slowest"`
}

// pageTimes is how often each page is asked for.
const pageTimes = 25

// PagesSuite asks for pages of the console over rows of some days in PostgreSQL: how long until the browser has the
// first byte, the results, and the whole page. Clicks on the values beside a search are each asked for once, so that
// nothing is remembered of them.
func PagesSuite(binary string, rows, days int, out string) (err error) {
	ctx := context.Background()
	store, err := newBenchStore(ctx, false, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.close()) }()
	if err := store.fill(ctx, rows, days, func(r []domain.Record) error { return store.save(ctx, r) }); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "docket-pages-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var addrs [3]string
	for i := range addrs {
		if addrs[i], err = testserver.FreeAddr(); err != nil {
			return err
		}
	}
	docket, err := testserver.LaunchDocket(testserver.DocketOptions{
		Binary: binary, Role: "serve", Admin: addrs[2], Output: os.Stderr,
		Vars: []string{
			"DOCKET_DATA=" + dir, "DOCKET_LISTEN=" + addrs[0], "DOCKET_CONSOLE_LISTEN=" + addrs[1],
			"DOCKET_DATABASE_URL=" + store.server.URL("postgres", ""), "DOCKET_LOG_LEVEL=error",
		},
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, docket.Terminate(time.Minute)) }()
	if err := testserver.WaitReady(addrs[2], time.Minute); err != nil {
		return err
	}
	base := "http://" + addrs[1]
	id, clicks, err := linksOf(base + "/decisions?q=outcome:denied")
	if err != nil {
		return err
	}
	_, more, err := linksOf(base + "/decisions")
	if err != nil {
		return err
	}
	var results []pageResult
	for _, ask := range []struct {
		name  string
		paths []string
	}{
		{"Overview", repeated("/", pageTimes)},
		{"Decisions", repeated("/decisions", pageTimes)},
		{"Decisions, denials", repeated("/decisions?q=outcome:denied", pageTimes)},
		{"Decisions, another search each time", searchesFor(pageTimes)},
		{"a click on a value, of denials", clicks},
		{"a click on a value, of everything", more},
		{"a decision", repeated(id, pageTimes)},
		{"Contrast of denials", repeated("/contrast?q=outcome:denied", 5)},
	} {
		r, err := askPages(base, ask.name, ask.paths)
		if err != nil {
			return err
		}
		results = append(results, r)
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "PAGE\tTIMES\tFIRST BYTE ms\tp95\tRESULTS ms\tp95\tWHOLE ms\tp95\tKB\tSLOWEST RESULTS")
	for _, r := range results {
		fmt.Fprintf(
			w, "%s\t%d\t%.1f\t%.1f\t%.1f\t%.1f\t%.1f\t%.1f\t%.1f\t%s\n", r.Page, r.Times, r.FirstByte, r.FirstP95,
			r.Results, r.ResultP95, r.Whole, r.WholeP95, float64(r.Bytes)/1000, r.Slowest,
		)
	}
	_ = w.Flush()
	return writeJSON(out, "pages.json", results)
}

func repeated(path string, times int) []string { return slices.Repeat([]string{path}, times) }

// searchesFor are searches none of which was asked before.
func searchesFor(n int) (paths []string) {
	for i := range n {
		paths = append(paths, fmt.Sprintf("/decisions?q=-principal:nobody-%d", i))
	}
	return paths
}

var (
	valueLink    = regexp.MustCompile(`<a class="(?:value|without)"[^>]* href="([^"]+)"`)
	decisionLink = regexp.MustCompile(`href="(/decisions/[^"]+)"`)
)

// linksOf are the first decision of a page and the clicks that narrow its search.
func linksOf(url string) (decision string, clicks []string, err error) {
	_, body, err := askPage(url)
	if err != nil {
		return "", nil, err
	}
	unescape := strings.NewReplacer("&amp;", "&", "&#34;", `"`, "&#39;", "'")
	for _, m := range valueLink.FindAllStringSubmatch(body, -1) {
		clicks = append(clicks, unescape.Replace(m[1]))
	}
	m := decisionLink.FindStringSubmatch(body)
	if m == nil || len(clicks) == 0 {
		return "", nil, errors.New("the page has no decision, or no values")
	}
	return unescape.Replace(m[1]), clicks, nil
}

// pageTook is when parts of a page came, in milliseconds.
type pageTook struct {
	first, results, whole float64
}

// askPage reads a page as a browser does.
func askPage(url string) (took pageTook, body string, err error) {
	began := time.Now()
	since := func() float64 { return float64(time.Since(began).Microseconds()) / 1000 }
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return took, "", err
	}
	req.Header.Set("Accept", "text/html")
	trace := &httptrace.ClientTrace{GotFirstResponseByte: func() { took.first = since() }}
	resp, err := http.DefaultTransport.RoundTrip(req.WithContext(httptrace.WithClientTrace(req.Context(), trace)))
	if err != nil {
		return took, "", err
	}
	defer resp.Body.Close()
	var page strings.Builder
	buffer := make([]byte, 64<<10)
	for err == nil {
		var n int
		n, err = resp.Body.Read(buffer)
		page.Write(buffer[:n])
		if took.results == 0 && strings.Contains(page.String(), "</table>") {
			took.results = since()
		}
	}
	took.whole = since()
	if !errors.Is(err, io.EOF) {
		return took, "", err
	}
	if resp.StatusCode != http.StatusOK {
		return took, "", fmt.Errorf("%s: %s", url, resp.Status)
	}
	return took, page.String(), nil
}

// sizeOf is how many bytes a browser gets.
func sizeOf(url string) (int, error) {
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	req.Header.Set("Accept", "text/html")
	req.Header.Set("Accept-Encoding", "gzip")
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	n, err := io.Copy(io.Discard, resp.Body)
	return int(n), err
}

func askPages(base, name string, paths []string) (pageResult, error) {
	r := pageResult{Page: name, Times: len(paths)}
	var first, results, whole []float64
	for _, path := range paths {
		took, _, err := askPage(base + path)
		if err != nil {
			return r, err
		}
		if len(results) == 0 || took.results > slices.Max(results) {
			r.Slowest = path
		}
		first, results, whole = append(first, took.first), append(results, took.results), append(whole, took.whole)
	}
	var err error
	if r.Bytes, err = sizeOf(base + paths[0]); err != nil {
		return r, err
	}
	r.FirstByte, r.FirstP95 = middle(first)
	r.Results, r.ResultP95 = middle(results)
	r.Whole, r.WholeP95 = middle(whole)
	return r, nil
}

// middle is the median and the 95th of a hundred.
func middle(took []float64) (median, p95 float64) {
	slices.Sort(took)
	return took[len(took)/2], took[min(len(took)*95/100, len(took)-1)]
}
