package stack

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"os"
	"time"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/labstack/echo/v4"

	"github.com/docket-project/docket/internal/testserver"
)

// ServeBaseline is what one would write first: it inserts the decisions of an upload before it answers. It runs in a
// process of its own (docket-bench baseline-serve) so that its CPU can be counted.
func ServeBaseline(listen, databaseURL string) error {
	config, err := pgxpool.ParseConfig(databaseURL)
	if err != nil {
		return err
	}
	config.MaxConns = 8 // docket's
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	if err != nil {
		return err
	}
	e := echo.New()
	e.HideBanner, e.HidePort = true, true
	e.POST("/logs", func(c echo.Context) error {
		ctx, cancel := context.WithTimeout(c.Request().Context(), 8*time.Second)
		defer cancel()
		z, err := gzip.NewReader(c.Request().Body)
		if err != nil {
			return c.NoContent(http.StatusBadRequest)
		}
		var events []map[string]any
		if err := json.NewDecoder(z).Decode(&events); err != nil {
			return c.NoContent(http.StatusBadRequest)
		}
		if err := insertAll(ctx, pool, events); err != nil {
			return c.NoContent(http.StatusServiceUnavailable)
		}
		return c.NoContent(http.StatusOK)
	})
	return e.Start(listen)
}

func insertAll(ctx context.Context, pool *pgxpool.Pool, events []map[string]any) error {
	return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		for _, event := range events {
			b, err := json.Marshal(event)
			if err != nil {
				return err
			}
			if _, err := tx.Exec(
				ctx,
				`INSERT INTO baseline (decision_id, timestamp, path, event) VALUES ($1, $2::text::timestamptz, $3, $4) ON CONFLICT DO NOTHING`,
				event["decision_id"], event["timestamp"], event["path"], b,
			); err != nil {
				return err
			}
		}
		return nil
	})
}

// service is what is measured: docket with all its roles, or the synchronous service on the same database.
type service struct {
	*Stack
	Docket bool
	Table  string
	far    *toxiproxy.Proxy // nil where the database is as near as it is
}

// Synchronous is the name of the service that is not docket.
const Synchronous = "synchronous"

// StartService starts servers and the service. The database answers later by the delay.
func StartService(docket, name string, delay time.Duration) (_ *service, err error) {
	s := &service{Docket: name != Synchronous, Table: "decisions"}
	if s.Stack, err = StartStack(docket, 1); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	database := s.Postgres.Addr()
	if delay > 0 {
		if s.far, err = NewDistance(database, delay); err != nil {
			return nil, err
		}
		database = s.far.Listen
	}
	url := "postgres://postgres@" + database + "/postgres?sslmode=disable"
	if s.Docket {
		s.Vars = append(s.Vars, "DOCKET_DATABASE_URL="+url)
		return s, s.StartAll("ingest", "saver", "parking", "console")
	}
	s.Table = "baseline"
	if err := s.Postgres.Exec(
		"postgres",
		`CREATE TABLE baseline (decision_id text PRIMARY KEY, timestamp timestamptz, path text, event jsonb)`,
	); err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	started, err := testserver.Launch(nil, os.Stderr, self, "-listen", s.Upload, "-database", url, "baseline-serve")
	if err != nil {
		return nil, err
	}
	p := &RoleProcess{Process: Process{started, started.Pid()}}
	s.Roles[Synchronous] = p
	return s, waitListening(s.Upload)
}

func (s *service) Close() {
	s.Stack.Close()
	if s.far != nil {
		s.far.Stop()
	}
}

// Settled returns when nothing is on its way any more.
func (s *service) Settled() error {
	if s.Docket {
		return s.API().Drained()
	}
	return nil
}

// CPU of every process of docket's, or of the baseline, in seconds.
func (s *Stack) CPU() float64 {
	sum := 0.0
	for _, r := range s.Roles {
		sum += r.CPU()
	}
	return sum
}

// Count asks the database itself.
func (s *Stack) Count(table string) (n int, err error) {
	conn, err := pgx.Connect(context.Background(), s.Postgres.URL("postgres", ""))
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, conn.Close(context.Background())) }()
	return n, conn.QueryRow(context.Background(), `SELECT count(*) FROM `+table).Scan(&n)
}

func waitListening(addr string) error {
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if c, err := net.DialTimeout("tcp", addr, time.Second); err == nil {
			return c.Close()
		}
	}
	return errors.New("nobody listens at " + addr)
}

// IngestCPU is that of the process that takes uploads, in seconds.
func (s *service) IngestCPU() float64 {
	if s.Docket {
		return s.Roles["ingest"].CPU()
	}
	return s.Roles[Synchronous].CPU()
}
