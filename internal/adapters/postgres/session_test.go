package postgres

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/testserver"
)

// TestSessionsArePinned has a role whose defaults would spoil batches, directly and through a pooler.
func TestSessionsArePinned(t *testing.T) {
	p := postgres(t)
	pooler, err := testserver.StartPgBouncer(p)
	testserver.Need(t, err)
	t.Cleanup(func() { require.NoError(t, pooler.Close()) })
	const assert = `CREATE FUNCTION pinned() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		ASSERT current_setting('transaction_isolation') = 'read committed', current_setting('transaction_isolation');
		ASSERT current_setting('client_encoding') = 'UTF8', current_setting('client_encoding');
		ASSERT current_setting('TimeZone') = 'UTC', current_setting('TimeZone');
		ASSERT current_setting('DateStyle') LIKE 'ISO%', current_setting('DateStyle');
		ASSERT current_setting('standard_conforming_strings') = 'on', 'strings';
		RETURN NEW; END $$`
	for name, url := range map[string]func(database string) string{
		"direct": func(database string) string {
			return p.URL(database, "", "client_encoding=LATIN1", "timezone=Asia%2FKolkata")
		},
		"pooler": func(database string) string { return pooler.URL(database) },
	} {
		t.Run(name, func(t *testing.T) {
			database := newDatabase(t, p)
			for _, setting := range []string{
				"default_transaction_isolation='serializable'", "client_encoding='LATIN1'", "standard_conforming_strings=off",
				"TimeZone='Asia/Kolkata'", "DateStyle='German'", "IntervalStyle='sql_standard'", "bytea_output='escape'",
				"default_transaction_deferrable=on", "extra_float_digits=0",
			} {
				require.NoError(t, p.Exec("postgres", "ALTER DATABASE "+database+" SET "+setting))
			}
			s := newStore(t, url(database), func(o *Options) { o.JSON = true })
			require.NoError(t, p.Exec(database, assert,
				`CREATE TRIGGER pinned BEFORE INSERT ON decisions FOR EACH ROW EXECUTE FUNCTION pinned()`,
				`CREATE TRIGGER pinned BEFORE INSERT ON decisions_out_of_window FOR EACH ROW EXECUTE FUNCTION pinned()`))
			require.NoError(t, s.Probe(t.Context()))
			var savers sync.WaitGroup
			errs := make(chan error, 400)
			for g := range 4 {
				savers.Go(func() {
					for n := range 20 {
						errs <- saveSome(t.Context(), s, fmt.Sprintf("%d-%d", g, n))
					}
				})
			}
			savers.Wait()
			close(errs)
			for err := range errs {
				require.NoError(t, err)
			}
			found, err := s.Decisions(t.Context(), domain.AllTenants(), "3-19-żółć-0")
			require.NoError(t, err)
			require.Len(t, found, 1)
			require.Equal(t, `{"a":"Łódź é 日本 \\ '"}`, string(found[0].Event))
			require.NoError(t, p.Exec(database, `DO $$ BEGIN ASSERT (SELECT bool_and(
				sha256(convert_to(event::text, 'UTF8')) = sha256) FROM decisions), 'the bytes differ'; END $$`))
		})
	}
}

// saveSome saves rows of both tables.
func saveSome(ctx context.Context, s *Store, prefix string) error {
	var rows []domain.Decision
	for i := range 40 {
		at := time.Now()
		if i%4 == 3 {
			at = time.Time{}
		}
		rows = append(rows, decision(fmt.Sprintf("%s-żółć-%d", prefix, i), at, `{"a":"Łódź é 日本 \\ '"}`))
	}
	statuses, err := s.SaveBatch(ctx, rows)
	for i, status := range statuses {
		if status != domain.Saved {
			return fmt.Errorf("row %d is %s", i, status)
		}
	}
	return err
}

// TestADatabaseThatCannotHoldEveryCharacter is refused by all that asks it.
func TestADatabaseThatCannotHoldEveryCharacter(t *testing.T) {
	p := postgres(t)
	for _, encoding := range []string{"LATIN1", "SQL_ASCII"} {
		t.Run(encoding, func(t *testing.T) {
			name := "encoded_" + strings.ToLower(encoding)
			require.NoError(t, p.Exec("postgres", fmt.Sprintf(
				"CREATE DATABASE %s ENCODING '%s' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0", name, encoding,
			)))
			t.Cleanup(func() { _ = p.Exec("postgres", "DROP DATABASE "+name+" WITH (FORCE)") })
			s, err := Open(Options{URL: p.URL(name, ""), Window: testWindow, Log: slog.New(slog.DiscardHandler)})
			require.NoError(t, err)
			defer s.Close()
			_, saved := s.SaveBatch(t.Context(), []domain.Decision{decision("x", time.Now(), "{}")})
			_, searched := s.Search(t.Context(), domain.AllTenants(), domain.Query{Limit: 1})
			for what, err := range map[string]error{
				"migrate": s.Migrate(t.Context()), "check": s.CheckSchema(t.Context()), "probe": s.Probe(t.Context()),
				"save": saved, "search": searched,
			} {
				require.Equal(t, domain.Misconfigured, domain.ClassOf(err), "%s: %v", what, err)
				require.ErrorContains(t, err, "has the encoding "+encoding, what)
			}
		})
	}
}

// TestSlowLoginsAreNoOutage has logins that take longer than a probe may, and a row that the database rejects: it alone
// is, and the rest is stored.
func TestSlowLoginsAreNoOutage(t *testing.T) {
	p := postgres(t)
	database := newDatabase(t, p)
	s := newStore(t, strings.Replace(
		p.URL(database, ""), p.Addr(), testserver.SlowLogins(t, p.Addr(), 1200*time.Millisecond), 1,
	), func(o *Options) { o.JSON = true })
	b := &bench{server: p, database: database, store: s}
	b.use(t, s)
	b.exec(t, `ALTER TABLE decisions ADD CONSTRAINT innocent CHECK (event::text NOT LIKE '%faulty%')`)
	for range 2 { // the first time every connection has to be made
		o := b.save(t, records(100, map[int]string{50: "faulty"}))
		require.Equal(t, []string{"id-50"}, o.rejected, "%v", o.err)
		require.Equal(t, map[domain.Class]int{domain.Invalid: 1}, o.classes)
		s.probes.Reset()
		s.write.Reset()
	}
	began := time.Now()
	require.NoError(t, s.Probe(t.Context()), "a connection that has to be made is no reason")
	require.Greater(t, time.Since(began), time.Second)
}

// TestTransactionsThatMeet deadlock or cannot be serialized a few times, as other people's statements make them; the
// store repeats them at once.
func TestTransactionsThatMeet(t *testing.T) {
	for _, c := range []struct {
		code  string
		times int
		class domain.Class // "" is stored
	}{
		{code: "40001", times: collisions - 1},
		{code: "40P01", times: collisions - 1},
		{code: "40P01", times: 1000, class: domain.Unavailable},
	} {
		t.Run(fmt.Sprint(c.code, " ", c.times), func(t *testing.T) {
			p := postgres(t)
			database := newDatabase(t, p)
			s := newStore(t, p.URL(database, ""), nil)
			require.NoError(t, p.Exec(database, `CREATE SEQUENCE met`, fmt.Sprintf(`CREATE FUNCTION meet() RETURNS trigger
				LANGUAGE plpgsql AS $$ BEGIN IF nextval('met') <= %d THEN RAISE 'met' USING ERRCODE = '%s'; END IF;
				RETURN NEW; END $$`, c.times, c.code),
				`CREATE TRIGGER meet BEFORE INSERT ON decisions FOR EACH ROW EXECUTE FUNCTION meet()`))
			statuses, err := s.SaveBatch(t.Context(), []domain.Decision{decision("x", time.Now(), "{}")})
			if c.class != "" {
				require.Equal(t, c.class, domain.ClassOf(err), "%v", err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, []domain.SaveStatus{domain.Saved}, statuses)
		})
	}
}
