package e2e

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/docket-project/docket/internal/testserver"
)

// ownServers are servers with settings that no other test may have.
func ownServers(t *testing.T, kafka ...string) *servers {
	t.Helper()
	p, err := testserver.StartPostgres("")
	testserver.Need(t, err)
	t.Cleanup(func() { require.NoError(t, p.Close()) })
	require.NoError(t, p.Exec("postgres", "CREATE ROLE docket LOGIN"))
	k, err := testserver.StartKafka(1, kafka...)
	testserver.Need(t, err)
	t.Cleanup(func() { require.NoError(t, k.Close()) })
	return &servers{k, p, k.Brokers()}
}

// client is one that knows nothing of docket.
func (c *cluster) client(t *testing.T, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(append(opts, kgo.SeedBrokers(c.servers.brokers...))...)
	require.NoError(t, err)
	t.Cleanup(cl.Close)
	return cl
}

// TestDrillSkippedRows has a trigger skip rows without an error: they alone are tried again, and nobody waits for them.
func TestDrillSkippedRows(t *testing.T) {
	c := oneBroker(t, with("DOCKET_PARKING_BACKOFF_MAX=4s"))
	d := c.drill(t, "a trigger skips 0.2 % of the rows in silence", 200, decisions(shortName(), 2))
	d.inject(func() func() { return c.refuse(t, "RETURN NULL") })
	eventually(t, 30*time.Second, func() error { // one of them has come
		if n := len(c.records(t, "parking")); n == 0 {
			return fmt.Errorf("%d records are parked", n)
		}
		return nil
	})
	sleepFor(t, 5*time.Second)
	require.LessOrEqual(t, c.visible(t, d.injected), 2*time.Second, "the others are stored")
	require.Zero(t, c.metric(t, "saver", "docket_breaker_state"))
	d.heal()
	d.verify(time.Minute, 0)
	require.Zero(t, d.refused)
}

// TestDrillRestoredStore puts the store back to what it was some seconds ago, while docket runs: everything that the
// log has is stored again.
func TestDrillRestoredStore(t *testing.T) {
	c := oneBroker(t)
	d := c.drill(t, "the store is put back by some seconds", 200, decisions(shortName(), 0))
	c.exec(t, `CREATE TABLE backup_of_marks AS SELECT * FROM log_marks`)
	var before int64
	c.query(t, &before, `SELECT count(*) FROM decisions`)
	c.exec(t, `CREATE TABLE backup_of_rows AS SELECT tenant, decision_id FROM decisions`)
	sleepFor(t, 5*time.Second)
	d.inject(func() func() {
		c.exec(t, `BEGIN; LOCK TABLE decisions, decision_counts IN EXCLUSIVE MODE;
			DELETE FROM decisions WHERE (tenant, decision_id) NOT IN (SELECT tenant, decision_id FROM backup_of_rows);
			UPDATE log_marks m SET next_offset = b.next_offset FROM backup_of_marks b WHERE
			(m.consumer_group, m.topic, m.topic_id, m.partition) = (b.consumer_group, b.topic, b.topic_id, b.partition);
			DELETE FROM decision_counts; -- they are restored with the rows
			INSERT INTO decision_counts SELECT date_trunc('minute', timestamp, 'UTC'), 60, false, tenant, coalesce(path, ''),
				outcome, count(*) FROM decisions GROUP BY 1, 4, 5, 6; COMMIT`)
		return nothing
	})
	d.heal()
	d.verify(time.Minute, 0)
	d.unspent()
	require.Zero(t, d.refused)
	require.Contains(t, c.roles["saver"].out.String(), "the store is older than what this group had saved to it")
}

// TestLongDrillOffsetsExpire has the savers away until Kafka has forgotten their offsets and some of their records.
func TestLongDrillOffsetsExpire(t *testing.T) {
	s := ownServers(t, "offsets.retention.minutes=1", "offsets.retention.check.interval.ms=5000")
	c := newCluster(t, s)
	d := c.drill(t, "committed offsets expire, and the oldest records with them", 50, decisions(shortName(), 0))
	var gone int64
	d.inject(func() func() {
		c.roles["saver"].terminate(t)
		return c.roles["saver"].start
	})
	eventually(t, 3*time.Minute, func() error {
		for p := range int32(12) {
			if at := c.committed(t, "docket-saver", "decisions", p); at >= 0 {
				return fmt.Errorf("partition %d is committed up to %d", p, at)
			}
		}
		return nil
	})
	d.load.finish()
	adm := kadm.NewClient(c.client(t))
	ends, err := adm.ListEndOffsets(t.Context(), c.topics+"decisions")
	require.NoError(t, err)
	marks := map[int32]int64{}
	for p := range int32(12) {
		var at int64
		c.query(t, &at, `SELECT coalesce(max(next_offset), 0) FROM log_marks WHERE consumer_group = $1 AND partition = $2`,
			c.topics+"docket-saver", p)
		marks[p] = at
	}
	ends.Each(func(o kadm.ListedOffset) {
		require.NoError(t, s.kafka.DeleteRecords(t.Context(), o.Topic, o.Partition, max(o.Offset-5, 0)))
		gone += max(o.Offset-5-marks[o.Partition], 0)
	})
	d.heal()
	eventually(t, time.Minute, func() error {
		n, err := c.roles["saver"].metric("docket_log_data_loss_total")
		if err == nil && int64(n) != gone {
			err = fmt.Errorf("%v of %d lost records are counted", n, gone)
		}
		return err
	})
	require.Positive(t, gone)
	c.drained(t)
	lost, twice, phantom, altered := c.ledger.judge(c.settle(t).rows, nil)
	require.LessOrEqual(t, int64(len(lost)), gone, "no more than docket says")
	require.NotEmpty(t, lost)
	require.Contains(t, c.operate(t, 4, "trail", lost[0]), "records that the log has lost")
	require.Empty(t, append(append(twice, phantom...), altered...))
}

// TestLongDrillRetentionBytes has brokers whose default bounds the size of partitions: docket's topics do not have it.
func TestLongDrillRetentionBytes(t *testing.T) {
	s := ownServers(t, "log.retention.bytes=200000", "log.segment.bytes=1048576", "log.retention.check.interval.ms=3000",
		"log.segment.delete.delay.ms=1000", "log.message.timestamp.type=CreateTime")
	c := newCluster(t, s)
	d := c.drill(t, "the brokers keep 200 KB a partition by default; PostgreSQL is away", 300, decisions(shortName(), 0))
	d.inject(func() func() {
		require.NoError(t, s.postgres.Stop(true))
		return func() { require.NoError(t, s.postgres.Start()) }
	})
	sleepFor(t, 40*time.Second)
	d.heal()
	d.verify(2*time.Minute, 0)
	d.unspent()
}

// TestLongDrillSlowLogins has logins that take longer than a probe, and rejected rows: nothing is parked for them.
func TestLongDrillSlowLogins(t *testing.T) {
	s, err := single()
	testserver.Need(t, err)
	addr := testserver.SlowLogins(t, s.postgres.Addr(), 1200*time.Millisecond)
	c := newCluster(t, s, databaseAt(addr))
	d := c.drill(t, "logins take 1.2 s, 0.1 % of the rows rejected", 100, decisions(shortName(), 1))
	d.inject(c.constrain)
	sleepFor(t, 30*time.Second)
	require.LessOrEqual(t, c.visible(t, d.injected), 2*time.Second)
	d.heal()
	d.verify(time.Minute, 0)
	require.Zero(t, d.parked)
	require.Positive(t, d.dead)
}

// TestLongDrillSerializable has a role whose transactions would end each other.
func TestLongDrillSerializable(t *testing.T) {
	s, err := single()
	testserver.Need(t, err)
	c := newCluster(t, s, func(c *cluster, vars []string) []string {
		require.NoError(t, s.postgres.Exec(
			"postgres", `ALTER ROLE docket IN DATABASE `+c.database+` SET default_transaction_isolation = 'serializable'`,
		))
		return vars
	})
	fresh := decisions(shortName(), 0)
	d := c.drill(t, "the role's transactions are serializable by default", 300, func(n int) []string {
		out := fresh(n)
		if n%5 == 0 {
			head, _, _ := strings.Cut(out[0], `,"timestamp"`)
			out[0] = head + "}"
		}
		return out
	})
	d.inject(func() func() { return nothing })
	sleepFor(t, 20*time.Second)
	d.heal()
	d.verify(time.Minute, 0)
	d.unspent()
	require.Zero(t, d.parked)
	require.NotContains(t, c.roles["saver"].out.String(), "the store is away")
}

// TestLongDrillForeignRecords has another program write a record that is larger than anything docket takes, and end its
// transactions with markers: nobody waits for either, and the job lane is free.
func TestLongDrillForeignRecords(t *testing.T) {
	c := oneBroker(t)
	d := c.drill(t, "another program's record of 20 MiB, and transactions", 100, decisions(shortName(), 0))
	huge := strings.Repeat("z", 20<<20)
	d.inject(func() func() {
		cl := c.client(
			t, kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchMaxBytes(60<<20),
			kgo.BrokerMaxWriteBytes(200<<20), kgo.ProducerBatchCompression(kgo.ZstdCompression()),
		)
		require.NoError(t, cl.ProduceSync(t.Context(), &kgo.Record{
			Topic: c.topics + "decisions", Partition: 3, Key: []byte("huge"), Value: []byte(huge),
		}).FirstErr())
		mirror := c.client(t, kgo.TransactionalID("mirror-"+c.topics))
		for _, topic := range []string{"dlq", "decisions"} {
			id := "mirrored-" + topic
			event := fmt.Sprintf(idMark+`%s","path":"a/b","result":true,"timestamp":%q}`, id,
				time.Now().UTC().Format(time.RFC3339Nano))
			c.ledger.sends(id, sha256.Sum256([]byte(event)))
			require.NoError(t, mirror.BeginTransaction())
			require.NoError(t, mirror.ProduceSync(t.Context(), &kgo.Record{
				Topic: c.topics + topic, Key: []byte(id), Value: []byte(event),
			}).FirstErr())
			require.NoError(t, mirror.EndTransaction(t.Context(), kgo.TryCommit))
			c.ledger.acks(id)
		}
		return nothing
	})
	eventually(t, time.Minute, func() error {
		parts, bytes := 0, 0
		for _, r := range c.records(t, "dlq") {
			if r.id == "huge" {
				parts++
				bytes += r.bytes
			}
		}
		if parts != 3 || bytes != len(huge) {
			return fmt.Errorf("%d parts of %d bytes", parts, bytes)
		}
		return nil
	})
	began := time.Now()
	out, code := c.command(t, "dlq", "reindex")
	require.Zero(t, code, out)
	require.Less(t, time.Since(began), 40*time.Second)
	d.heal()
	lost, twice, _, altered := d.conclude(time.Minute, 0)
	require.Empty(t, append(append(lost, twice...), altered...))
}

// TestLongDrillRecreatedTopic has somebody delete the topic of decisions under load, and docket migrate make it anew.
func TestLongDrillRecreatedTopic(t *testing.T) {
	c := oneBroker(t)
	l := startLoad(t, newClient(t), c.uploads(), c.ledger, 50, decisions(shortName(), 0))
	sleepFor(t, 3*time.Second)
	_, err := kadm.NewClient(c.client(t)).DeleteTopics(t.Context(), c.topics+"decisions")
	require.NoError(t, err)
	sleepFor(t, 3*time.Second)
	out, code := c.command(t, "migrate")
	require.Zero(t, code, out)
	fresh := startLoad(t, newClient(t), c.uploads(), newLedger(), 50, decisions(shortName(), 0))
	eventually(t, time.Minute, func() error {
		if refused := l.refused.Load() + fresh.refused.Load(); refused > 0 {
			l.refused.Store(0)
			fresh.refused.Store(0)
			return fmt.Errorf("%d uploads were refused", refused)
		}
		w, oldest, err := c.backlog()
		if err != nil || oldest["saver"] > 1.5 {
			return fmt.Errorf("waiting %v, oldest %v %w", w, oldest, err)
		}
		return nil
	})
	fresh.finish()
	l.finish()
	c.drained(t)
	lost, _, _, _ := fresh.ledger.judge(c.rows(t), nil)
	require.Empty(t, lost, "what came afterwards is stored")
	require.Positive(t, c.metric(t, "saver", "docket_log_data_loss_total"), "what was in it is gone, and said to be")
}

// TestDrillShortRetention has a saver that is told to keep a day only, by mistake: no day goes.
func TestDrillShortRetention(t *testing.T) {
	c := oneBroker(t)
	prefix := shortName()
	fresh := decisions(prefix, 0)
	d := c.drill(t, "a saver keeps one day only, by mistake", 50, func(n int) []string {
		out := fresh(n)
		if n%10 == 0 { // of the last two months
			head, _, _ := strings.Cut(out[0], `,"timestamp"`)
			at := time.Now().UTC().AddDate(0, 0, -(n/10)%60)
			out[0] = fmt.Sprintf(`%s,"timestamp":%q}`, head, at.Format(time.RFC3339Nano))
		}
		return out
	})
	sleepFor(t, 5*time.Second)
	d.inject(func() func() {
		mistaken := c.add("saver2", "saver", "DOCKET_RETENTION=24h")
		mistaken.ready(t)
		eventually(t, 30*time.Second, func() error {
			if !strings.Contains(mistaken.out.String(), "kept for longer than is configured") {
				return fmt.Errorf("it says %s", mistaken.out.String())
			}
			return nil
		})
		return nothing
	})
	sleepFor(t, 5*time.Second)
	d.heal()
	d.verify(time.Minute, 0)
	require.Zero(t, d.dead, "nor is anything expired")
	out, code := c.command(t, "retention", "apply", "--retention", "30d")
	require.Zero(t, code, out)
	require.Contains(t, out, "Nothing was changed.")
}
