package e2e

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
)

// aged is decisions, of which every hundredth was made yesterday.
func aged(prefix string, rejected int) func(n int) []string {
	fresh := decisions(prefix, rejected)
	return func(n int) []string {
		out := fresh(n)
		if n%50 != 0 {
			return out
		}
		last := out[len(out)-1]
		at := strings.LastIndex(last, `"timestamp":"`) + len(`"timestamp":"`)
		out[len(out)-1] = last[:at] + time.Now().UTC().AddDate(0, 0, -1).Format(time.RFC3339Nano) + `"}`
		return out
	}
}

// lockYesterday takes yesterday's partition for itself, as VACUUM FULL does.
func (c *cluster) lockYesterday(t *testing.T) (unlock func()) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), c.servers.postgres.URL(c.database, ""))
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), `BEGIN; LOCK TABLE decisions_`+
		time.Now().UTC().AddDate(0, 0, -1).Format("20060102")+` IN ACCESS EXCLUSIVE MODE`)
	require.NoError(t, err)
	return func() { require.NoError(t, conn.Close(context.Background())) }
}

// keepOut has row-level security keep a tenant out.
func (c *cluster) keepOut(t *testing.T, tenant string) (restore func()) {
	t.Helper()
	c.exec(t, `ALTER TABLE decisions ENABLE ROW LEVEL SECURITY`, `ALTER TABLE decisions FORCE ROW LEVEL SECURITY`,
		`CREATE POLICY others ON decisions USING (true) WITH CHECK (tenant <> '`+tenant+`')`)
	return func() {
		c.exec(t, `DROP POLICY others ON decisions`, `ALTER TABLE decisions NO FORCE ROW LEVEL SECURITY`,
			`ALTER TABLE decisions DISABLE ROW LEVEL SECURITY`)
	}
}

// ofTenant has a tenant upload so many decisions a second until it is told to end. They are written as ingest does.
func (c *cluster) ofTenant(t *testing.T, tenant string, rate int) (end func()) {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(c.servers.brokers...))
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	prefix := shortName()
	go func() {
		tick := time.NewTicker(time.Second / time.Duration(rate))
		defer tick.Stop()
		for n := 0; ; n++ {
			select {
			case <-ctx.Done():
				done <- nil
				return
			case <-tick.C:
			}
			now := time.Now().UTC().Format(time.RFC3339Nano)
			id := fmt.Sprintf("%s-%d", prefix, n)
			event := fmt.Sprintf(idMark+`%s","path":"a/b","result":true,"timestamp":%q}`, id, now)
			c.ledger.sends(id, sha256.Sum256([]byte(event)))
			err := cl.ProduceSync(context.WithoutCancel(ctx), &kgo.Record{
				Topic: c.topics + "decisions", Key: []byte(id), Value: []byte(event),
				Headers: []kgo.RecordHeader{
					{Key: "docket-tenant", Value: []byte(tenant)}, {Key: "docket-received-at", Value: []byte(now)},
				},
			}).FirstErr()
			if err != nil {
				done <- err
				return
			}
			c.ledger.acks(id)
		}
	}()
	return func() {
		cancel()
		require.NoError(t, <-done)
		cl.Close()
	}
}

// visible is how long after their receipt fresh decisions of the others were stored, at p95, since a time. It looks at
// today's partition alone: whoever asks for decisions waits for the day that is locked.
func (c *cluster) visible(t *testing.T, since time.Time) time.Duration {
	t.Helper()
	var seconds float64
	c.query(t, &seconds, `SELECT coalesce(percentile_cont(0.95) WITHIN GROUP
		(ORDER BY extract(epoch FROM saved_at - received_at)), 1e9)::float8
		FROM decisions_`+time.Now().UTC().Format("20060102")+` WHERE tenant = 'default' AND received_at >= $1
		AND principal IS DISTINCT FROM 'mallory'`, since)
	return time.Duration(seconds * float64(time.Second))
}

// rewritten is how often a held decision was written at most.
func (c *cluster) rewritten(t *testing.T) (most int) {
	t.Helper()
	times := map[string]int{}
	for _, r := range c.records(t, "held") {
		times[r.id]++
		most = max(most, times[r.id])
	}
	return most
}

// TestLongDrillHeld has one day locked, one tenant kept out and 2 % of the rows rejected: nobody else waits for any of
// them, and nothing is written anew more often than once a minute.
func TestLongDrillHeld(t *testing.T) {
	c := oneBroker(t)
	end := c.ofTenant(t, "kept-out", 5)
	d := c.drill(
		t, "one day locked, one tenant kept out, 2 % of the rows rejected", 300, aged(shortName(), 20),
	)
	c.judged(t)
	d.inject(func() func() {
		// The lock comes last, and goes first: a constraint wants every day.
		undo := []func(){c.keepOut(t, "kept-out"), c.constrain(), c.lockYesterday(t)}
		return func() {
			for _, f := range slices.Backward(undo) {
				f()
			}
		}
	})
	eventually(t, 30*time.Second, func() error {
		reasons, err := complaints(c.roles["saver"].addr)
		said := strings.Join(reasons, "; ")
		if !strings.Contains(said, "day:") || !strings.Contains(said, "tenant:kept-out") {
			return fmt.Errorf("the saver says: %s %w", said, errors.Join(err))
		}
		return nil
	})
	sleepFor(t, 150*time.Second) // long enough to see how often anything is written anew
	p95, waited := c.visible(t, d.injected), time.Since(d.injected)
	require.LessOrEqual(t, p95, 2*time.Second, "fresh decisions of the others are visible")
	require.Zero(t, c.metric(t, "saver", "docket_breaker_state"), "the store is not away")
	require.LessOrEqual(t, c.rewritten(t), 2+int(waited/time.Minute), "written anew more often than once a minute")
	d.heal()
	end()
	c.exec(t, `DELETE FROM rejections`) // ten minutes later
	d.verify(4*time.Minute, 0)
	require.Zero(t, d.refused)
	t.Logf("fresh decisions of the others were visible within %s (p95); held at most %d times", p95, c.rewritten(t))
}
