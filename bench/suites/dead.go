package suites

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/docket-project/docket/bench/stack"
	"github.com/docket-project/docket/internal/adapters/kafka"
	"github.com/docket-project/docket/internal/domain"
)

// figure is one line of the dead letters' table.
type figure struct {
	What  string  `json:"what"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
}

// deadBench measures what an operator does with many dead letters.
type deadBench struct {
	*stack.Stack
	log     *kafka.Log
	topics  domain.Topics
	n       int
	figures []figure
}

func (b *deadBench) add(what string, value float64, unit string) {
	b.figures = append(b.figures, figure{what, value, unit})
	fmt.Fprintf(os.Stderr, "%s: %.4g %s\n", what, value, unit)
}

// DeadSuite fills the dead-letter topics, looks at them, and replays them with the parking role killed on the way.
func DeadSuite(docket, out string, n int) error {
	s, err := stack.StartStack(docket, 1)
	if err != nil {
		return err
	}
	defer s.Close()
	b := &deadBench{Stack: s, topics: domain.TopicsWithPrefix("docket."), n: n}
	b.log, err = kafka.Open(kafka.Options{
		Brokers: s.Kafka.Brokers(), Topics: b.topics, MaxEvent: 4 << 20, MaxUpload: 8 << 20, MaxBuffered: 256 << 20,
		Lost: func(domain.Loss) {}, Stopped: func(string, int32, error) {}, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return err
	}
	defer func() { _ = b.log.Close() }() // it publishes nothing by then
	if err := s.StartAll("parking", "console"); err != nil {
		return err
	}
	for _, step := range []func() error{b.fill, b.look, b.dryRun, b.throttled, b.unthrottled, b.killed, b.trails} {
		if err := step(); err != nil {
			return err
		}
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	for _, f := range b.figures {
		fmt.Fprintf(w, "%s\t%.1f\t%s\t\n", f.What, f.Value, f.Unit)
	}
	_ = w.Flush()
	return writeJSON(out, "dead.json", b.figures)
}

// deadPaths are how many ways to fail there are, but for one that is rare.
const deadPaths = 40

func deadPath(i int) string {
	if i%10_000 == 0 {
		return "rare/allow"
	}
	return fmt.Sprintf("http/service%d/allow", i%deadPaths)
}

// event is about 1.2 KB.
func (b *deadBench) event(id string, i int, now time.Time) []byte {
	return fmt.Appendf(
		nil,
		`{"decision_id":"%s","labels":{"id":"opa-%d","app":"shop","version":"1.22.2"},"path":"%s","timestamp":"%s","input":{"user":"user%d",`+
			`"method":"GET","headers":{"x":"%s"},"note":"%s"},"result":{"allow":false,"reasons":["not the owner"]}}`,
		id,
		i%100,
		deadPath(i),
		now.Add(-time.Duration(i)*time.Millisecond).Format(time.RFC3339Nano),
		i,
		strings.Repeat("0123456789abcdef", 32),
		spreadText(i),
	)
}

// spreadText keeps compression honest.
func spreadText(i int) string {
	var b bytes.Buffer
	x := uint64(i)*0x9E3779B97F4A7C15 + 1
	for range 24 {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		fmt.Fprintf(&b, "%016x", x)
	}
	return b.String()
}

func deadID(i int) string { return fmt.Sprintf("dead-%08d", i) }

// fill publishes dead letters, half to each topic, and waits until they are indexed.
func (b *deadBench) fill() error {
	now := time.Now().UTC()
	start := now
	const batch = 2000
	for first := 0; first < b.n; first += batch {
		records := make([]domain.Record, 0, batch)
		for i := first; i < min(first+batch, b.n); i++ {
			r := domain.Record{Topic: b.topics.DLQ, Key: deadID(i), Value: b.event(deadID(i), i, now), Headers: domain.Headers{
				Tenant: "default", ReceivedAt: now, Upload: fmt.Sprintf("%064x", i/3), FirstFailedAt: now, Attempt: 1,
				ErrorClass: domain.Invalid, ErrorCode: "23514", Error: `new row violates check constraint "amount"`,
				Origin: "docket.decisions/0/1",
			}}
			if i%2 == 0 {
				r.Topic, r.Headers.ErrorClass, r.Headers.ErrorCode, r.Headers.Attempt, r.Headers.Error = b.topics.ParkingDLQ,
					domain.Unknown, "P0001", 10, "no such account"
			}
			records = append(records, r)
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		err := b.log.Publish(ctx, records)
		cancel()
		if err != nil {
			return err
		}
	}
	for {
		var p struct {
			Open int64 `json:"dead_letters_open"`
		}
		if err := b.API().Get("/api/v1/pipeline", &p); err != nil {
			return err
		}
		if p.Open >= int64(b.n) {
			break
		}
		time.Sleep(200 * time.Millisecond)
	}
	b.add(fmt.Sprintf("%d dead letters published and indexed", b.n), float64(b.n)/time.Since(start).Seconds(), "/s")
	return b.analyze()
}

// analyze lets the planner know, as autovacuum would within a minute.
func (b *deadBench) analyze() error {
	return b.Postgres.Exec("postgres", "VACUUM (ANALYZE) dead_letters", "VACUUM (ANALYZE) dead_letter_counts")
}

// latency asks for something many times, and adds its 95th percentile.
func (b *deadBench) latency(what string, times int, path func(i int) string) error {
	var took []float64
	for i := range times {
		start := time.Now()
		resp, err := http.Get("http://" + b.Console + path(i))
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		if err != nil {
			return err
		}
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("%s: %s", path(i), resp.Status)
		}
		took = append(took, stack.Millis(time.Since(start)))
	}
	slices.Sort(took)
	b.add(what+", p95", took[len(took)*95/100], "ms")
	b.add(what+", longest", took[len(took)-1], "ms")
	return nil
}

// look opens the pages that a person opens.
func (b *deadBench) look() error {
	const list = "/api/v1/dead-letters?"
	for name, query := range map[string]string{
		"list": "", "list open": "state=open", "list of a path": "path=http/service7/allow",
		"list of a rare path": "path=rare/allow", "list of a prefix": "path=http/service1*",
		"list of a class": "class=invalid&state=open", "list of a topic": "topic=docket.parking.dlq",
		"list of what is not there": "state=discarded", "list of one decision": "decision_id=" + deadID(7),
		"list of an hour": "since=1h&code=23514",
	} {
		if err := b.latency(name, 40, func(int) string { return list + query }); err != nil {
			return err
		}
	}
	for name, query := range map[string]string{"groups": "", "groups open": "state=open",
		"groups of a class": "class=unknown&since=1h"} {
		if err := b.latency(name, 40, func(int) string { return "/api/v1/dead-letters/groups?" + query }); err != nil {
			return err
		}
	}
	return nil
}

type deadJob struct {
	ID, State, Message            string
	Matched, Done, Stored, Failed int64
	CreatedAt                     time.Time  `json:"created_at"`
	FinishedAt                    *time.Time `json:"finished_at"`
}

// create asks for a job.
func (b *deadBench) create(body string) (j deadJob, err error) {
	resp, err := http.Post("http://"+b.Console+"/api/v1/dead-letters/replays", "application/json", strings.NewReader(body))
	if err != nil {
		return j, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusAccepted {
		err = fmt.Errorf("%s: %s", resp.Status, answer)
	}
	if err == nil {
		err = json.Unmarshal(answer, &j)
	}
	return j, err
}

// until asks for a job until it is as wanted.
func (b *deadBench) until(j *deadJob, wanted func() bool) error {
	for deadline := time.Now().Add(15 * time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if err := b.API().Get("/api/v1/jobs/"+j.ID, j); err != nil {
			return err
		}
		switch {
		case wanted():
			return nil
		case j.State != "pending" && j.State != "running":
			return fmt.Errorf("job %s is %s: %s", j.ID, j.State, j.Message)
		}
	}
	return fmt.Errorf("job %s did not come to its end", j.ID)
}

// dryRun times a dry run over everything.
func (b *deadBench) dryRun() error {
	start := time.Now()
	j, err := b.create(`{"filter":{}}`)
	if err != nil {
		return err
	}
	b.add("asking for a dry run of everything", stack.Millis(time.Since(start)), "ms")
	if err := b.until(&j, func() bool { return j.State == "done" }); err != nil {
		return err
	}
	b.add("the dry run of everything", time.Since(start).Seconds(), "s")
	return nil
}

// throttled measures how well a rate is kept, between two samples.
func (b *deadBench) throttled() error {
	const rate = 1000
	j, err := b.create(fmt.Sprintf(`{"filter":{},"dry_run":false,"comment":"bench","rate":%d,"max":%d}`, rate, 25*rate))
	if err != nil {
		return err
	}
	sample := func(above int64) (int64, time.Time, error) {
		last := int64(-1)
		err := b.until(&j, func() bool { // the moment at which it changes
			moved := last >= 0 && j.Done != last && j.Done > above
			last = j.Done
			return moved
		})
		return j.Done, time.Now(), err
	}
	first, from, err := sample(2 * rate)
	if err != nil {
		return err
	}
	last, to, err := sample(22 * rate)
	if err != nil {
		return err
	}
	b.add(fmt.Sprintf("a replay at %d/s", rate), float64(last-first)/to.Sub(from).Seconds(), "/s")
	return b.until(&j, func() bool { return j.State == "done" })
}

// unthrottled replays half of what is left.
func (b *deadBench) unthrottled() error {
	start := time.Now()
	half := int64(b.n / 2)
	j, err := b.create(fmt.Sprintf(`{"filter":{},"dry_run":false,"comment":"bench","max":%d}`, half))
	if err != nil {
		return err
	}
	if err := b.until(&j, func() bool { return j.Done >= half }); err != nil {
		return err
	}
	b.add(fmt.Sprintf("a replay of %d", half), float64(half)/time.Since(start).Seconds(), "/s")
	if err := b.until(&j, func() bool { return j.State == "done" }); err != nil {
		return err
	}
	b.add("until all of them were stored and closed", float64(j.Stored)/time.Since(start).Seconds(), "/s")
	b.add("of them failed", float64(j.Failed), "")
	return nil
}

// killed replays the rest, with the parking role killed twice, and counts rows.
func (b *deadBench) killed() error {
	j, err := b.create(`{"filter":{},"dry_run":false,"comment":"bench"}`)
	if err != nil {
		return err
	}
	for part := int64(1); part <= 2; part++ {
		if err := b.until(&j, func() bool { return j.Done > part*j.Matched/3 }); err != nil {
			return err
		}
		b.Roles["parking"].Kill()
		if _, err := b.Start("parking"); err != nil {
			return err
		}
	}
	if err := b.until(&j, func() bool { return j.State == "done" }); err != nil {
		return err
	}
	for name, sql := range map[string]string{
		"rows": fmt.Sprintf("ASSERT (SELECT count(*) = %d AND count(DISTINCT decision_id) = %d FROM decisions)", b.n,
			b.n),
		"open":     "ASSERT (SELECT count(*) = 0 FROM dead_letters WHERE state <> 'stored')",
		"failures": "ASSERT (SELECT sum(failed) = 0 FROM jobs)",
	} {
		if err := b.Postgres.Exec("postgres", "DO $$ BEGIN "+sql+"; END $$"); err != nil {
			return fmt.Errorf("%s are not as they should be after two kills: %w (%s)", name, err, j.Message)
		}
	}
	b.add("rows after two kills, each once", float64(b.n), "")
	return nil
}

// trails follows decisions that are stored, that never came, and that never came while more waits than is looked at.
func (b *deadBench) trails() error {
	trail := func(id string) string { return "/api/v1/decisions/" + url.PathEscape(id) + "/trail" }
	if err := b.latency(
		"a trail of what is stored", 200, func(i int) string { return trail(deadID(i * 37 % b.n)) },
	); err != nil {
		return err
	}
	if err := b.latency(
		"a trail of what never came", 100, func(i int) string { return trail(fmt.Sprintf("never-%d", i)) },
	); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	const hot = "hot"
	partition, err := b.log.PartitionOf(ctx, b.topics.Decisions, hot)
	if err != nil {
		return err
	}
	now := time.Now().UTC()
	for first := 0; first < 500_000; first += 2000 { // nobody consumes them: the saver is not running
		var records []domain.Record
		for i := first; i < first+2000; i++ {
			records = append(
				records,
				domain.Record{
					Topic: b.topics.Decisions, Key: hot, Value: b.event(hot, i, now),
					Headers: domain.Headers{Tenant: "default", ReceivedAt: now},
				},
			)
		}
		if err := b.log.Publish(ctx, records); err != nil {
			return err
		}
	}
	var neighbours []string
	for i := 0; len(neighbours) < 10; i++ {
		id := fmt.Sprintf("neighbour-%d", i)
		p, err := b.log.PartitionOf(ctx, b.topics.Decisions, id)
		if err != nil {
			return err
		}
		if p == partition {
			neighbours = append(neighbours, id)
		}
	}
	return b.latency(
		"a trail of what never came, behind 500,000 that wait", 10, func(i int) string { return trail(neighbours[i]) },
	)
}
