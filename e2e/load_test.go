package e2e

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// load uploads at a constant rate, as hundreds of OPAs together do: an upload is due at its time whether or not the
// ones before it were answered, and is repeated with the same bytes until it is acknowledged.
type load struct {
	target string
	ledger *ledger
	client *http.Client
	stop   context.CancelFunc
	ended  <-chan struct{} // the test has
	done   sync.WaitGroup
	make   func(n int) []string // the decisions of the n-th upload, as JSON

	mu      sync.Mutex
	samples []sample
	slowest time.Duration // answer of all, from the sending on
	sent    atomic.Int64  // decisions
	refused atomic.Int64  // answers that were none of 2xx, and requests without one
}

// sample is the first try of an upload.
type sample struct {
	due  time.Time
	took time.Duration // from then until the answer, whichever it was
}

// newClient makes connections for a load; its first uploads open them.
func newClient(t *testing.T) *http.Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	// While a broker hangs, hundreds of uploads wait at the same time. Each keeps its connection for the next.
	transport.MaxIdleConns, transport.MaxIdleConnsPerHost = 0, 1024
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 10 * time.Second}
}

// startLoad sends so many uploads a second, of one to five decisions each, until finish. What it sends stands in the
// ledger.
func startLoad(
	t *testing.T, client *http.Client, target string, l *ledger, rate int, events func(n int) []string,
) *load {
	ctx, cancel := context.WithCancel(t.Context())
	g := &load{target: target, ledger: l, client: client, stop: cancel, make: events, ended: t.Context().Done()}
	g.done.Go(func() { g.run(ctx, rate) })
	t.Cleanup(g.finish)
	return g
}

// finish ends the load once everything is acknowledged.
func (l *load) finish() {
	l.stop()
	l.done.Wait()
}

func (l *load) run(ctx context.Context, rate int) {
	began := time.Now()
	for n := 0; ; n++ {
		due := began.Add(time.Duration(n) * time.Second / time.Duration(rate))
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Until(due)):
		}
		l.done.Go(func() { l.upload(n, due) })
	}
}

// upload repeats one upload until it is acknowledged, for five minutes at most.
func (l *load) upload(n int, due time.Time) {
	events := l.make(n)
	ids := make([]string, len(events))
	for i, e := range events {
		ids[i] = idOf(e)
		l.ledger.sends(ids[i], sha256.Sum256([]byte(e)))
	}
	l.sent.Add(int64(len(events)))
	body := zipped("[" + strings.Join(events, ",") + "]")
	for try, pause := 0, 100*time.Millisecond; time.Since(due) < 5*time.Minute; try++ {
		sent := time.Now()
		err := post(l.client, l.target, body)
		l.mu.Lock()
		l.slowest = max(l.slowest, time.Since(sent))
		if try == 0 {
			l.samples = append(l.samples, sample{due, time.Since(due)})
		}
		l.mu.Unlock()
		if err == nil {
			l.ledger.acks(ids...)
			return
		}
		l.refused.Add(1)
		select {
		case <-time.After(pause): // as OPA's min_delay_seconds and max_delay_seconds
		case <-l.ended:
			return
		}
		pause = min(2*pause, time.Second)
	}
}

// zippers are kept, because each has more than a megabyte: collecting those took half of the load's CPU, and with it up
// to a second of every answer's time once all processes were busy.
var zippers = sync.Pool{New: func() any {
	z, err := gzip.NewWriterLevel(nil, gzip.BestSpeed)
	if err != nil {
		panic(err) // the level is a constant
	}
	return z
}}

func zipped(text string) []byte {
	var b bytes.Buffer
	z := zippers.Get().(*gzip.Writer)
	defer zippers.Put(z)
	z.Reset(&b)
	_, _ = z.Write([]byte(text)) // to memory
	_ = z.Close()
	return b.Bytes()
}

// p95 of the uploads that were due in a span.
func (l *load) p95(from, to time.Time) time.Duration { return l.percentile(95, from, to) }

func (l *load) percentile(p int, from, to time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	var took []time.Duration
	for _, s := range l.samples {
		if !s.due.Before(from) && s.due.Before(to) {
			took = append(took, s.took)
		}
	}
	if len(took) == 0 {
		return 0
	}
	slices.Sort(took)
	return took[len(took)*p/100]
}

// idMark stands in front of a decision's id, which is its first field here.
const idMark = `{"decision_id":"`

func idOf(event string) string {
	id, _, _ := strings.Cut(strings.TrimPrefix(event, idMark), `"`)
	return id
}

// decisions makes uploads of one to five decisions. Of every thousand, some are mallory's, which a drill may let the
// database refuse.
func decisions(prefix string, rejected int) func(n int) []string {
	return func(n int) []string {
		var out []string
		for i := range n%5 + 1 {
			user := fmt.Sprintf("user-%d", n%1000)
			if (n*7919+i*104729)%1000 < rejected {
				user = "mallory"
			}
			out = append(
				out,
				fmt.Sprintf(
					idMark+`%s-%d-%d","labels":{"id":"opa-%d"},"path":"http/authz/allow","input":{"user":%q,"method":"GET","pad":%q},"result":%t,"timestamp":%q}`,
					prefix, n, i, n%200, user, padding[n%100:], n%2 == 0, time.Now().UTC().Format(time.RFC3339Nano),
				),
			)
		}
		return out
	}
}

var padding = strings.Repeat("0123456789abcdef", 25)
