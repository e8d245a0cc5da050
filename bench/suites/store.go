package suites

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/docket-project/docket/bench/events"
	"github.com/docket-project/docket/bench/stack"
	"github.com/docket-project/docket/internal/adapters/postgres"
	"github.com/docket-project/docket/internal/dictionary"
	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/testserver"
)

// batchRows is the saver's batch.
const batchRows = 1000

// storeKinds are the choices that the ADRs compare, as changes to the shipped schema.
var storeKinds = []struct {
	name string
	json bool
	ddl  []string
}{
	{"shipped", false, nil},
	{"events as json", true, nil},
	{"without the indexes of search", false, dropIndexes},
	{"hash index on the principal instead", false, append(dropIndexes, `CREATE INDEX kind ON decisions USING hash (principal)`)},
	{
		"btree on tenant, principal and time instead", false,
		append(dropIndexes, `CREATE INDEX kind ON decisions (tenant, principal, timestamp)`),
	},
	{"btree on the id", false, []string{`DROP INDEX decisions_id`, `CREATE INDEX kind ON decisions (decision_id)`}},
	{
		"id-first key, btree on the time", false,
		[]string{
			`ALTER TABLE decisions DROP CONSTRAINT decisions_pkey`,
			`ALTER TABLE decisions ADD PRIMARY KEY (decision_id, tenant, timestamp)`,
			`DROP INDEX decisions_id`, `CREATE INDEX kind ON decisions (timestamp)`,
		},
	},
	{"json and GIN on it", true, []string{`CREATE INDEX kind ON decisions USING gin ((event::text::jsonb) jsonb_path_ops)`}},
}

var dropIndexes = []string{`DROP INDEX IF EXISTS decisions_bloom`, `DROP INDEX IF EXISTS decisions_not_allowed`}

// StoreSuite saves rows of 30 days, in batches as the saver makes them, and measures what a row costs in CPU and bytes,
// how that changes as rows add up, and how long rare values take to find. all compares what the ADRs do.
func StoreSuite(rows int, only string, all bool, out string) error {
	var results []storeResult
	for i, kind := range storeKinds {
		if i > 1 && !all || !strings.Contains(kind.name, only) {
			continue
		}
		r, err := storeRun(kind.name, kind.json, kind.ddl, rows)
		if err != nil {
			return fmt.Errorf("%s: %w", kind.name, err)
		}
		results = append(results, r...)
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "SCHEMA\tROWS\tSAVED rows/s\tPOSTGRESQL s/100k\tSAVER s/100k\tBYTES A ROW\tOF THEM INDEXES")
	for _, r := range results {
		fmt.Fprintf(
			w, "%s\t%s\t%.0f\t%.2f\t%.2f\t%.0f\t%.0f\n", r.Schema, r.Rows, r.Save, r.Server, r.Saver, r.Bytes, r.Indexes,
		)
	}
	_ = w.Flush()
	return writeJSON(out, "store.json", results)
}

// storeResult is one stretch of the load.
type storeResult struct {
	Schema string `json:"schema"`
	Rows   string `json:"rows"`
	// Save is rows a second of wall time, by one connection.
	Save float64 `json:"save_batch_rows_per_second"`
	// Server and Saver are CPU seconds for 100,000 rows: of PostgreSQL with all of its processes, and of the saver from
	// the record to the answer. Copy is PostgreSQL's for the same columns by COPY, without looking for duplicates.
	Server float64 `json:"postgresql_cpu_seconds_per_100k"`
	Saver  float64 `json:"saver_cpu_seconds_per_100k"`
	// Bytes are what a row takes with its indexes, of all rows so far.
	Bytes   float64 `json:"bytes_per_row"`
	Indexes float64 `json:"bytes_of_indexes_per_row"`
}

// taught is how many rows there are before a dictionary is made.
const taught = 5000

// benchStore is a store on a server of its own, with what fills it.
type benchStore struct {
	*postgres.Store
	server    *testserver.Postgres
	corpus    corpus
	projector *domain.Projector
}

// newBenchStore starts one, with the schema changed by ddl.
func newBenchStore(ctx context.Context, json bool, ddl []string) (b *benchStore, err error) {
	b = &benchStore{corpus: corpus{run: events.NewRun()}}
	if b.server, err = testserver.StartPostgres("", stack.PostgresSettings...); err != nil {
		return nil, err
	}
	b.Store, err = postgres.Open(postgres.Options{
		URL:    b.server.URL("postgres", ""),
		Window: domain.Window{Retention: 90 * 24 * time.Hour, Ahead: domain.DefaultAhead},
		Log:    slog.New(slog.DiscardHandler), JSON: json,
	})
	if err != nil {
		return nil, errors.Join(err, b.server.Close())
	}
	err = b.Migrate(ctx)
	if err == nil {
		err = b.server.Exec("postgres", ddl...)
	}
	if err == nil {
		b.projector, err = domain.NewProjector(nil)
	}
	if err != nil {
		return nil, errors.Join(err, b.close())
	}
	return b, nil
}

func (b *benchStore) close() error {
	b.Close()
	return b.server.Close()
}

// save stores records as the saver does.
func (b *benchStore) save(ctx context.Context, records []domain.Record) error {
	batch := make([]domain.Decision, len(records))
	for i, r := range records {
		batch[i] = b.projector.Project(r)
	}
	statuses, err := b.SaveBatch(ctx, batch)
	if err == nil && slices.ContainsFunc(statuses, func(s domain.SaveStatus) bool { return s != domain.Saved }) {
		err = errors.New("a new row was not saved")
	}
	return err
}

// teach makes the dictionary of the first rows.
func (b *benchStore) teach(ctx context.Context) error {
	now := time.Now()
	for range taught / batchRows {
		if err := b.save(ctx, b.corpus.batch(now.Add(-time.Hour), time.Millisecond)); err != nil {
			return err
		}
	}
	return dictionary.New(b.Store, "bench", slog.New(slog.DiscardHandler)).Look(ctx)
}

func storeRun(name string, json bool, ddl []string, rows int) (_ []storeResult, err error) {
	ctx := context.Background()
	store, err := newBenchStore(ctx, json, ddl)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, store.close()) }()
	conn, err := pgx.Connect(ctx, store.server.URL("postgres", ""))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	if !json {
		if err := store.teach(ctx); err != nil {
			return nil, err
		}
	}
	now := time.Now()
	const days = 30
	at, gap := now.Add(-days*24*time.Hour), days*24*time.Hour/time.Duration(rows)
	var results []storeResult
	step := max(rows/10, batchRows)
	for from := 0; from < rows; from += step {
		var took time.Duration
		spent := 0.0
		before, _ := stack.Spent(store.server.Pid())
		for done := 0; done < step; done += batchRows {
			records := store.corpus.batch(at, gap)
			if from+done <= rows/2 && from+done+batchRows > rows/2 {
				records[7] = rare(at)
			}
			at = at.Add(batchRows * gap)
			start, cpu := time.Now(), ownCPU()
			if err := store.save(ctx, records); err != nil {
				return nil, err
			}
			took += time.Since(start)
			spent += ownCPU() - cpu
		}
		if err := store.Tend(ctx, "bench"); err != nil {
			return nil, err
		}
		after, _ := stack.Spent(store.server.Pid())
		per := 100_000 / float64(step)
		r := storeResult{
			Schema: name, Rows: fmt.Sprintf("%d to %d", from, from+step), Save: float64(step) / took.Seconds(),
			Server: (after - before) * per, Saver: spent * per,
		}
		if r.Bytes, r.Indexes, err = bytesOfRows(ctx, conn); err != nil {
			return nil, err
		}
		fmt.Fprintf(os.Stderr, "%s, %s: %.0f rows/s, PostgreSQL %.2f s, saver %.2f s, %.0f B of which %.0f B indexes\n", name,
			r.Rows, r.Save, r.Server, r.Saver, r.Bytes, r.Indexes)
		results = append(results, r)
	}
	return results, findRare(ctx, name, store.Store, now, rows)
}

// ownCPU is the time that this process has spent, in seconds.
func ownCPU() float64 {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()).Seconds()
}

// bytesOfRows is what a row of the partitions takes.
func bytesOfRows(ctx context.Context, conn *pgx.Conn) (all, indexes float64, err error) {
	err = conn.QueryRow(ctx, `SELECT sum(pg_total_relation_size(inhrelid))::float8 / n, sum(pg_indexes_size(inhrelid))::float8 / n
		FROM pg_inherits, (SELECT count(*)::float8 AS n FROM decisions) c WHERE inhparent = 'decisions'::regclass GROUP BY n`).
		Scan(&all, &indexes)
	return all, indexes, err
}

// rare is a decision whose values no other one has.
func rare(at time.Time) domain.Record {
	return domain.Record{Key: "rare", Headers: domain.Headers{Tenant: domain.DefaultTenant, ReceivedAt: at},
		Value: fmt.Appendf(
			nil, `{"decision_id":"rare","batch_decision_id":"rare-batch","labels":{"id":"rare-opa"},"trace_id":"rare-trace",`+
				`"path":"http/authz/allow","input":{"user":"rare-user","resource":"rare-resource"},"result":{"allow":true},`+
				`"requested_by":"rare-address","timestamp":%q}`, at.UTC().Format(time.RFC3339Nano))}
}

// rareValues are those of rare, by the fields that have filters.
var rareValues = []struct {
	field domain.Field
	value string
}{
	{domain.FieldPrincipal, "rare-user"}, {domain.FieldResource, "rare-resource"}, {domain.FieldTraceID, "rare-trace"},
	{domain.FieldRequestedBy, "rare-address"}, {domain.FieldOPA, "rare-opa"}, {domain.FieldBatchID, "rare-batch"},
}

// findRare measures how long a search takes for a value that one row has, within its day and within 30 days.
func findRare(ctx context.Context, name string, store *postgres.Store, now time.Time, rows int) error {
	found, err := store.Decisions(ctx, domain.AllTenants(), "rare")
	if err != nil || len(found) != 1 {
		return errors.Join(err, fmt.Errorf("the rare decision is there %d times", len(found)))
	}
	day := domain.DayOf(found[0].Timestamp)
	for _, f := range rareValues {
		for _, span := range []struct {
			name         string
			since, until time.Time
		}{{"its day", day.Start(), day.End()}, {"30 days", now.Add(-30 * 24 * time.Hour), now}} {
			q := domain.Query{Limit: 50, Filter: domain.Filter{
				Since: span.since, Until: span.until, Where: domain.Expr{Op: domain.OpEqual, Field: f.field, Value: f.value},
			}}
			var times []float64
			found := 0
			for range 5 {
				start := time.Now()
				page, err := store.Search(ctx, domain.Tenants(domain.DefaultTenant), q)
				if err != nil {
					return err
				}
				times, found = append(times, stack.Millis(time.Since(start))), len(page.Items)
			}
			slices.Sort(times)
			fmt.Printf("%s, %d rows: %s in %s: %d found, median %.1f ms (%.1f to %.1f)\n", name, rows, f.field, span.name, found,
				times[2], times[0], times[4])
		}
	}
	return nil
}

// corpus makes batches of records.
type corpus struct {
	run    events.Run
	upload int64
}

// batch makes the next one, of rows so far apart. The garbage of making them is collected before anything is measured.
func (c *corpus) batch(at time.Time, gap time.Duration) []domain.Record {
	out := make([]domain.Record, 0, batchRows)
	for len(out) < batchRows {
		for k := range min(events.Size(c.upload), batchRows-len(out)) {
			n := c.upload*events.PerUpload + int64(k)
			id := c.run.ID(n)
			event := events.AppendDecision(nil, id, c.upload, k, at.Add(time.Duration(len(out))*gap))
			out = append(out, domain.Record{Key: id, Value: event, Headers: domain.Headers{
				Tenant: domain.DefaultTenant, ReceivedAt: at,
			}})
		}
		c.upload++
	}
	if c.upload%100 < 2 {
		runtime.GC()
	}
	return out
}
