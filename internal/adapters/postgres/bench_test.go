package postgres

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/docket-project/docket/internal/domain"
)

// BenchmarkSave is what a saver does with a batch of 1,000 fresh decisions of about 1,100 bytes, from the records to
// the commit. Rates of two builds are compared by running both in turn, each with a number of batches such as 200x.
func BenchmarkSave(b *testing.B) {
	writer := newBench(b, postgres(b), func(o *Options) { o.JSON = false }).writer
	rng := rand.New(rand.NewPCG(1, 2))
	batch := func() []domain.Record {
		now := time.Now().UTC()
		out := make([]domain.Record, 1000)
		for i := range out {
			id := fmt.Sprintf("%016x-%016x", rng.Uint64(), rng.Uint64())
			out[i] = domain.Record{
				Topic: "docket.decisions", Partition: int32(i % 12), Offset: int64(i), Key: id,
				Headers: domain.Headers{Tenant: "t", ReceivedAt: now}, Value: eventOfSize(rng, id, now),
			}
		}
		return out
	}
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		records := batch()
		b.StartTimer()
		for _, v := range writer.Save(context.Background(), records) {
			if v.Err != nil || v.Status != domain.Saved {
				b.Fatalf("%s: %v", v.Status, v.Err)
			}
		}
	}
	b.ReportMetric(float64(b.N)*1000/b.Elapsed().Seconds(), "rows/s")
}

// eventOfSize is an event of HTTP authorization with about 1,100 bytes, whose values repeat as little as real ones do.
func eventOfSize(rng *rand.Rand, id string, at time.Time) []byte {
	return fmt.Appendf(nil, `{"labels":{"app":"gateway","id":"%08x-opa-%d","version":"1.22.2"},"decision_id":%q,`+
		`"bundles":{"authz":{"revision":"%012x"}},"path":"http/authz/allow","input":{"attributes":{"request":{"http":{`+
		`"method":"GET","path":"/accounts/%d/transactions/%016x","headers":{"authorization":"Bearer %016x%016x%016x%016x",`+
		`"user-agent":"client/%d.%d","x-request-id":"%016x%016x"}}}},"principal":"user-%d@example.com","groups":["g%d","g%d",`+
		`"g%d"],"session":"%016x%016x%016x%016x"},"result":{"allow":%t,"reason":"rule %d of %d"},"requested_by":`+
		`"10.%d.%d.%d:%d","timestamp":%q,"metrics":{"timer_rego_input_parse_ns":%d,"timer_rego_query_eval_ns":%d,`+
		`"timer_server_handler_ns":%d},"req_id":%d,"trace_id":"%016x%016x"}`,
		rng.IntN(200), rng.IntN(200), id, rng.Uint64(), rng.IntN(1e6), rng.Uint64(), rng.Uint64(), rng.Uint64(),
		rng.Uint64(), rng.Uint64(), rng.IntN(9), rng.IntN(99), rng.Uint64(), rng.Uint64(), rng.IntN(5e4), rng.IntN(99),
		rng.IntN(99), rng.IntN(99), rng.Uint64(), rng.Uint64(), rng.Uint64(), rng.Uint64(), rng.IntN(10) > 0,
		rng.IntN(40), rng.IntN(40), rng.IntN(256), rng.IntN(256), rng.IntN(256), rng.IntN(65536),
		at.Format(time.RFC3339Nano), rng.IntN(1e5), rng.IntN(1e6), rng.IntN(2e6), rng.IntN(1e6), rng.Uint64(),
		rng.Uint64())
}
