package suites

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/docket-project/docket/bench/stack"
	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/search"
	"github.com/docket-project/docket/internal/testserver"
)

// beside are the same questions in docket's language and in LogsQL
// (https://docs.victoriametrics.com/victorialogs/logsql/). VictoriaLogs has the members of an event as fields of their
// own; the outcome is docket's alone, and stands beside the event there.
var beside = []struct{ what, docket, logsQL string }{
	{"by id", "id:rare", `decision_id:="rare"`},
	{"the newest denials", "outcome:denied", `docket.outcome:="denied"`},
	{"a rare principal", "principal:rare-user", `input.user:="rare-user"`},
	{"a rare resource", "resource:rare-resource", `input.resource:="rare-resource"`},
	{"JSON equality", `input.method:"NOSUCH"`, `input.method:="NOSUCH"`},
	{"a range", "input.source.port>99999", `input.source.port:>99999`},
	{"negation", "-input.user:*", `!input.user:*`},
	{"free text", `"no such text"`, `*:"no such text"`},
	{"denials of a port", "outcome:denied input.source.port:99999", `docket.outcome:="denied" input.source.port:=99999`},
}

// besideResult is how long both take, in milliseconds.
type besideResult struct {
	What         string  `json:"what"`
	Docket       float64 `json:"docket_ms"`
	DocketFound  int     `json:"docket_found"`
	VictoriaLogs float64 `json:"victorialogs_ms"`
	VictoriaHas  int     `json:"victorialogs_found"`
}

// victoriaLogs is a running one.
type victoriaLogs struct {
	binary, dir, addr string
	process           *testserver.Process
}

func (v *victoriaLogs) start() (err error) {
	v.process, err = testserver.Launch(
		os.Environ(), io.Discard, v.binary, "-storageDataPath="+v.dir, "-httpListenAddr="+v.addr, "-retentionPeriod=100d",
		"-loggerLevel=ERROR",
	)
	if err != nil {
		return err
	}
	const patience = 30 * time.Second
	for began := time.Now(); time.Since(began) < patience; time.Sleep(50 * time.Millisecond) {
		if _, err = v.get("/health", nil); err == nil {
			return nil
		}
	}
	return fmt.Errorf("VictoriaLogs does not answer: %w", err)
}

func (v *victoriaLogs) get(path string, params url.Values) ([]byte, error) {
	resp, err := http.PostForm("http://"+v.addr+path, params)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode/100 != 2 {
		err = fmt.Errorf("%s: %s", resp.Status, body)
	}
	return body, err
}

// insert stores decisions, one a line.
func (v *victoriaLogs) insert(records []domain.Record, outcomes []domain.Outcome) error {
	var b bytes.Buffer
	for i, r := range records {
		fmt.Fprintf(&b, `{"docket":{"outcome":%q},%s`, outcomes[i], r.Value[1:])
		b.WriteByte('\n')
	}
	resp, err := http.Post(
		"http://"+v.addr+"/insert/jsonline?_time_field=timestamp&_stream_fields=labels.app", "application/stream+json", &b,
	)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		return errors.New(resp.Status)
	}
	return nil
}

func (v *victoriaLogs) bytes() (n int64, err error) {
	err = filepath.WalkDir(v.dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			n += info.Size()
		}
		return err
	})
	return n, err
}

// VictoriaLogsSuite has docket's store and VictoriaLogs hold the same decisions, and asks both the same.
func VictoriaLogsSuite(binary string, rows, days int, out string) (err error) {
	ctx := context.Background()
	store, err := newBenchStore(ctx, false, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.close()) }()
	dir, err := os.MkdirTemp("", "victorialogs")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	addr, err := testserver.FreeAddr()
	if err != nil {
		return err
	}
	logs := &victoriaLogs{binary: binary, dir: dir, addr: addr}
	if err := logs.start(); err != nil {
		return err
	}
	defer func() { logs.process.Kill() }()
	var took [2]time.Duration
	err = store.fill(ctx, rows, days, func(records []domain.Record) error {
		outcomes := make([]domain.Outcome, len(records))
		for i, r := range records {
			outcomes[i] = store.projector.Project(r).Outcome
		}
		began := time.Now()
		if err := store.save(ctx, records); err != nil {
			return err
		}
		took[0] += time.Since(began)
		began = time.Now()
		err := logs.insert(records, outcomes)
		took[1] += time.Since(began)
		return err
	})
	if err != nil {
		return err
	}
	if _, err := logs.get("/internal/force_flush", nil); err != nil {
		return err
	}
	results, err := askBoth(ctx, store, logs)
	if err != nil {
		return err
	}
	stats, err := countBoth(ctx, store, logs)
	if err != nil {
		return err
	}
	results = append(results, stats...)
	size, err := logs.bytes()
	if err != nil {
		return err
	}
	conn, err := pgx.Connect(ctx, store.server.URL("postgres", ""))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	own, _, err := bytesOfRows(ctx, conn)
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "QUESTION\tDOCKET ms\tFOUND\tVICTORIALOGS ms\tFOUND")
	for _, r := range results {
		fmt.Fprintf(w, "%s\t%.1f\t%d\t%.1f\t%d\n", r.What, r.Docket, r.DocketFound, r.VictoriaLogs, r.VictoriaHas)
	}
	fmt.Fprintf(w, "bytes a row\t%.0f\t\t%.0f\t\n", own, float64(size)/float64(rows))
	perSecond := func(d time.Duration) float64 { return float64(rows) / d.Seconds() }
	fmt.Fprintf(w, "rows/s, one connection\t%.0f\t\t%.0f\t\n", perSecond(took[0]), perSecond(took[1]))
	_ = w.Flush()
	lost, err := logs.killed(store)
	if err != nil {
		return err
	}
	fmt.Printf("kill -9: VictoriaLogs has lost %d of %d decisions that it had answered with 200\n", lost, batchRows)
	return writeJSON(out, "victorialogs.json", results)
}

// askBoth asks for the first page of each question, in the last 24 hours.
func askBoth(ctx context.Context, store *benchStore, logs *victoriaLogs) (out []besideResult, err error) {
	const times = 9
	for _, b := range beside {
		r := besideResult{What: b.what}
		var own, other []float64
		for range times {
			q, err := search.Parse("since:24h "+b.docket, time.Now())
			if err != nil {
				return nil, err
			}
			began := time.Now()
			page, err := store.Search(ctx, domain.AllTenants(), domain.Query{Filter: q.Filter, Limit: domain.DefaultPage})
			if err != nil {
				return nil, err
			}
			own, r.DocketFound = append(own, stack.Millis(time.Since(began))), len(page.Items)
			began = time.Now()
			body, err := logs.get("/select/logsql/query", url.Values{
				"query": {"_time:24h " + b.logsQL}, "limit": {fmt.Sprint(domain.DefaultPage)},
			})
			if err != nil {
				return nil, err
			}
			other, r.VictoriaHas = append(other, stack.Millis(time.Since(began))), strings.Count(string(body), "\n")
		}
		slices.Sort(own)
		slices.Sort(other)
		r.Docket, r.VictoriaLogs = own[times/2], other[times/2]
		out = append(out, r)
	}
	return out, nil
}

// countBoth takes the same statistics.
func countBoth(ctx context.Context, store *benchStore, logs *victoriaLogs) (out []besideResult, err error) {
	const times = 5
	for _, b := range []struct{ what, docket, logsQL string }{
		{"outcomes of 24 h each 5 min", "by=outcome&every=5m", `_time:24h | stats by (_time:5m, docket.outcome) count()`},
		{"the most frequent principals of 24 h", "by=principal&limit=20", `_time:24h | top 20 by (input.user)`},
		{"methods of 24 h", "by=input.method", `_time:24h | top 20 by (input.method)`},
	} {
		r := besideResult{What: b.what}
		var own, other []float64
		for range times {
			now := time.Now()
			asked, err := search.ParseStats(b.docket, now)
			if err != nil {
				return nil, err
			}
			stats, err := search.Count(ctx, store, domain.AllTenants(), asked, now)
			if err != nil {
				return nil, err
			}
			own, r.DocketFound = append(own, stack.Millis(time.Since(now))), len(stats.Items)
			began := time.Now()
			body, err := logs.get("/select/logsql/query", url.Values{"query": {b.logsQL}})
			if err != nil {
				return nil, err
			}
			other, r.VictoriaHas = append(other, stack.Millis(time.Since(began))), strings.Count(string(body), "\n")
		}
		slices.Sort(own)
		slices.Sort(other)
		r.Docket, r.VictoriaLogs = own[times/2], other[times/2]
		out = append(out, r)
	}
	return out, nil
}

// killed stores one batch, ends VictoriaLogs by kill -9 once it has answered, and counts what is not there afterwards.
func (v *victoriaLogs) killed(store *benchStore) (lost int, err error) {
	records := store.corpus.batch(time.Now(), time.Microsecond)
	outcomes := make([]domain.Outcome, len(records))
	for i := range records {
		outcomes[i] = "killed"
	}
	if err := v.insert(records, outcomes); err != nil {
		return 0, err
	}
	v.process.Kill()
	if err := v.start(); err != nil {
		return 0, err
	}
	body, err := v.get("/select/logsql/query", url.Values{"query": {`docket.outcome:="killed" | fields decision_id`}})
	return len(records) - strings.Count(string(body), "\n"), err
}
