package suites

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/docket-project/docket/bench/events"
	"github.com/docket-project/docket/bench/stack"
	"github.com/docket-project/docket/internal/adapters/postgres"
	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/testserver"
)

// batchRows is the saver's batch.
const batchRows = 500

// indexKinds are the choices that the ADR compares, as changes to the shipped schema.
var indexKinds = []struct {
	name string
	ddl  []string
}{
	{"shipped: time-first key, hash index on the id", nil},
	{
		"time-first key, btree index on the id",
		[]string{`DROP INDEX decisions_id`, `CREATE INDEX decisions_id ON decisions (decision_id)`},
	},
	{
		"id-first key, btree index on the time",
		[]string{
			`ALTER TABLE decisions DROP CONSTRAINT decisions_pkey`,
			`ALTER TABLE decisions ADD PRIMARY KEY (decision_id, tenant, timestamp)`,
			`DROP INDEX decisions_id`,
			`CREATE INDEX decisions_time ON decisions (timestamp)`,
		},
	},
}

// StoreSuite measures SaveBatch against COPY of the same rows into the same schema, and how both change as a day grows.
func StoreSuite(rows int, all bool, out string) error {
	var results []storeResult
	for i, kind := range indexKinds {
		if i > 0 && !all {
			break
		}
		r, err := storeRun(kind.name, kind.ddl, rows)
		if err != nil {
			return fmt.Errorf("%s: %w", kind.name, err)
		}
		results = append(results, r...)
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "SCHEMA\tROWS OF THE DAY\tSAVEBATCH rows/s\tCOPY rows/s\tRATIO\tCOPY WITHOUT INDEXES rows/s")
	for _, r := range results {
		fmt.Fprintf(w, "%s\t%s\t%.0f\t%.0f\t%.2f\t%.0f\n", r.Schema, r.Rows, r.Save, r.Copy, r.Save/r.Copy, r.Bare)
	}
	_ = w.Flush()
	return writeJSON(out, "store.json", results)
}

// storeResult is one stretch of a day. Rates are rows a second.
type storeResult struct {
	Schema string  `json:"schema"`
	Rows   string  `json:"rows_of_the_day"`
	Save   float64 `json:"save_batch_rows_per_second"`
	Copy   float64 `json:"copy_rows_per_second"`
	Bare   float64 `json:"copy_without_indexes_rows_per_second"`
}

func storeRun(name string, ddl []string, rows int) (_ []storeResult, err error) {
	server, err := testserver.StartPostgres("", stack.PostgresSettings...)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, server.Close()) }()
	ctx := context.Background()
	now := time.Now()
	store, err := postgres.Open(postgres.Options{
		URL: server.URL("postgres", ""), Window: domain.Window{Retention: 90 * 24 * time.Hour, Ahead: domain.DefaultAhead},
		Log: slog.New(slog.DiscardHandler), Now: func() time.Time { return now },
	})
	if err != nil {
		return nil, err
	}
	defer store.Close()
	if err := store.Migrate(ctx); err != nil {
		return nil, err
	}
	// COPY goes to a table of the same schema and indexes, with the rows of the same days.
	if err := server.Exec(
		"postgres",
		append(
			ddl, `CREATE TABLE copied (LIKE decisions INCLUDING ALL)`, `CREATE TABLE bare (LIKE decisions)`,
		)...); err != nil {
		return nil, err
	}
	conn, err := pgx.Connect(ctx, server.URL("postgres", ""))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	p, err := domain.NewProjector(nil)
	if err != nil {
		return nil, err
	}
	c := &corpus{run: events.NewRun(), projector: p}
	var results []storeResult
	stretch := func(label string, n int, at time.Time, bare bool) error {
		var save, copied, plain time.Duration
		for done := 0; done < n; done += batchRows {
			batch := c.batch(at)
			at = at.Add(150 * time.Millisecond)
			start := time.Now()
			statuses, err := store.SaveBatch(ctx, batch)
			if err != nil {
				return err
			}
			save += time.Since(start)
			for _, f := range statuses {
				if f != domain.Saved {
					return fmt.Errorf("a new row is %s", f)
				}
			}
			start = time.Now()
			if err := copyRows(ctx, conn, "copied", batch); err != nil {
				return err
			}
			copied += time.Since(start)
			if !bare {
				continue
			}
			start = time.Now()
			if err := copyRows(ctx, conn, "bare", batch); err != nil {
				return err
			}
			plain += time.Since(start)
		}
		r := storeResult{Schema: name, Rows: label, Save: float64(n) / save.Seconds(), Copy: float64(n) / copied.Seconds()}
		if bare {
			r.Bare = float64(n) / plain.Seconds()
		}
		fmt.Fprintf(os.Stderr, "%s, %s: %.0f rows/s, COPY %.0f\n", name, label, r.Save, r.Copy)
		results = append(results, r)
		return nil
	}
	day := now.UTC().Truncate(24 * time.Hour)
	step := max(rows/10, batchRows)
	for from := 0; from < rows; from += step {
		if err := stretch(
			fmt.Sprintf("%d to %d", from, from+step), step, day.Add(time.Duration(from)*300*time.Microsecond), from == step,
		); err != nil {
			return nil, err
		}
	}
	if err := server.Exec("postgres", `TRUNCATE copied`, `TRUNCATE bare`); err != nil {
		return nil, err
	}
	return results, stretch("the first of a new day", step, day.Add(24*time.Hour), false)
}

// corpus makes batches of projected rows.
type corpus struct {
	run       events.Run
	projector *domain.Projector
	upload    int64
}

// batch makes the next one. The garbage of making them is collected before anything is measured.
func (c *corpus) batch(at time.Time) []domain.Decision {
	out := make([]domain.Decision, 0, batchRows)
	for len(out) < batchRows {
		for k := range min(events.Size(c.upload), batchRows-len(out)) {
			n := c.upload*events.PerUpload + int64(k)
			d := c.projector.Project(domain.Record{
				Value:   events.AppendDecision(nil, c.run.ID(n), c.upload, k, at),
				Headers: domain.Headers{Tenant: domain.DefaultTenant, ReceivedAt: at},
			})
			d.Timestamp = at.Add(time.Duration(len(out)) * 300 * time.Microsecond).Truncate(time.Microsecond)
			out = append(out, d)
		}
		c.upload++
	}
	if c.upload%100 < 2 {
		runtime.GC()
	}
	return out
}

var copyColumns = strings.Fields(
	"timestamp received_at saved_at sanitised unsearchable sha256 tenant decision_id outcome path reason principal " +
		"action resource opa app trace_id requested_by error bundles event",
)

// copyRows writes the same rows by COPY, in a transaction of their own.
func copyRows(ctx context.Context, conn *pgx.Conn, table string, batch []domain.Decision) error {
	null := func(s string) any {
		if s == "" {
			return nil
		}
		return s
	}
	now := time.Now()
	_, err := conn.CopyFrom(
		ctx,
		pgx.Identifier{table},
		copyColumns,
		pgx.CopyFromSlice(len(batch), func(i int) ([]any, error) {
			d := &batch[i]
			return []any{
				d.Timestamp,
				d.ReceivedAt,
				now,
				d.Sanitised,
				d.Unsearchable,
				d.SHA256[:],
				d.Tenant,
				d.ID,
				string(d.Outcome),
				null(d.Path),
				null(d.Reason),
				null(d.Principal),
				null(d.Action),
				null(d.Resource),
				null(d.OPA),
				null(d.App),
				null(d.TraceID),
				null(d.RequestedBy),
				null(d.Error),
				null(domain.EncodeBundles(d.Bundles)),
				string(d.Event),
			}, nil
		}),
	)
	return err
}
