package ingest

import (
	"bytes"
	"cmp"
	"context"
	"io"
	"sync"

	"github.com/klauspost/compress/gzip"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/policy"
)

// Assembler turns a body's bytes into records. It is the one way from bytes to records: of uploads, and of quarantined
// bodies that are replayed. It is safe for concurrent use.
type Assembler struct {
	Topics domain.Topics
	Limits domain.Limits
	// Content is what policies say of events; nil without any.
	Content *policy.Content
}

// Body is what records are made of.
type Body struct {
	// Wire is the body as received. The records keep it where it is quarantined: nobody may write to it again.
	Wire []byte
	// Gzipped says to inflate it.
	Gzipped bool
	// Headers are what all of its records carry.
	Headers domain.Headers
	// Topic is where accepted events go.
	Topic string
	// Charge asks for so many more bytes of memory, beyond those of Wire; its error ends the assembly. nil allows any
	// amount.
	Charge func(bytes int) error
	// Large is asked before work on a body goes on that inflates to LargeBody or more; done ends the work. nil is asked
	// nothing.
	Large func(context.Context) (done func(), err error)
}

// LargeBody is how many bytes a body takes that is worked on for longer than others can wait for without noticing, some
// milliseconds.
const LargeBody = 1 << 20

// recordOverhead is about what a record weighs beside its event, in bytes: itself, its domain.Event and its id. Many
// tiny events cost more than their bytes.
const recordOverhead = 640

// Receipt is the answer to an upload whose every byte is durable.
type Receipt struct {
	Accepted    int
	Quarantined int
	Reasons     map[domain.Cause]int
	// Dropped are events that a policy does not keep, and what could be quarantined only with what masks are to take out.
	// The latter has its reason.
	Dropped int
}

// Assembly is what a body comes to.
type Assembly struct {
	// Accepted are the records of events, Elements those of quarantined elements, and Whole those of the body as it came,
	// one for each cause. They share one array, in this order.
	Accepted, Elements, Whole []domain.Record
	// Senders are the OPAs that the accepted events name; see domain.Batch.
	Senders []domain.Sender
	Receipt Receipt
	// Cause is that of the last element or body that was quarantined, or would have been, and Broken says that it was, or
	// would have been, the body.
	Cause  domain.Cause
	Broken bool
	// Bytes is the body's length, inflated, and Policies what policies did.
	Bytes    int
	Policies policy.Tally
}

// Records are all of them.
func (a *Assembly) Records() []domain.Record {
	return a.Accepted[:len(a.Accepted)+len(a.Elements)+len(a.Whole)]
}

// Assemble splits a body. What cannot be accepted is quarantined; errors are those of Body.Charge, and ctx's.
func (a Assembler) Assemble(ctx context.Context, b Body) (Assembly, error) {
	done := b.inTurn(ctx)
	defer done()
	hint := sizeHint(b.Wire, b.Gzipped, a.Limits.Inflated)
	if err := b.charge(hint); err != nil {
		return Assembly{}, err
	}
	body, done := Open(b.Wire, b.Gzipped)
	defer done()
	batch, err := domain.ParseBatch(ctx, &charged{body, b.charge, hint}, hint, a.Limits)
	if err != nil {
		return Assembly{}, err
	}
	if err := b.charge((len(batch.Events) + len(batch.Quarantined)) * recordOverhead); err != nil {
		return Assembly{}, err
	}
	return a.records(ctx, b, batch)
}

// records makes one record an event, one for everything that was quarantined with bytes of its own, and one for each
// cause to quarantine the wire bytes; but for what the policies of the tenant leave out.
func (a Assembler) records(ctx context.Context, b Body, batch domain.Batch) (Assembly, error) {
	out := Assembly{
		Senders: batch.Senders, Bytes: batch.Bytes, Receipt: Receipt{Reasons: map[domain.Cause]int{}},
	}
	policies := a.Content.Upload(b.Headers.Owner(), batch.Bytes, b.Headers.Masked)
	if policies != nil {
		out.Policies = policies.Tally
	}
	records := make([]domain.Record, 0, len(batch.Events)+len(batch.Quarantined))
	for _, e := range batch.Events {
		r := domain.Record{Topic: b.Topic, Key: e.ID, Value: e.Raw, Headers: b.Headers}
		if policies != nil {
			kept, keep := policies.Event(e)
			if err := cmp.Or(ctx.Err(), b.chargeCopy(kept)); err != nil {
				return Assembly{}, err
			}
			if !keep {
				continue
			}
			if r.Value, r.Headers.Masked = kept.Raw, kept.Masked || r.Headers.Masked; kept.Masked && !e.Named {
				r.Key = domain.HashID(kept.Raw) // that of the event as it was would tell what was in it
			}
		}
		records = append(records, r)
	}
	accepted := len(records)
	var whole []domain.Record
	for _, q := range batch.Quarantined {
		out.Cause, out.Broken = q.Cause, out.Broken || q.Raw == nil
		out.Receipt.Reasons[q.Cause]++
		h := b.Headers
		h.Reason, h.ErrorClass = q.Cause, domain.Invalid
		h.Replay, h.ReplayCount = "", 0 // a dead letter of its own, which no job has replayed
		switch {
		case q.Raw != nil:
			kept, keep := policy.Kept{Raw: q.Raw}, true
			if policies != nil {
				kept, keep = policies.Quarantined(q.Raw)
			}
			if err := cmp.Or(ctx.Err(), b.chargeCopy(kept)); err != nil {
				return Assembly{}, err
			}
			if !keep {
				continue
			}
			h.Masked = h.Masked || kept.Masked
			r := domain.Record{Topic: a.Topics.DLQ, Key: domain.HashID(kept.Raw), Value: kept.Raw, Headers: h}
			records = append(records, packed(r))
		case policies != nil && !policies.Body():
			continue
		case !hasCause(whole, q.Cause):
			whole = append(whole, domain.Record{Topic: a.Topics.DLQ, Key: "sha256:" + h.Upload, Value: b.Wire, Headers: h})
		}
		out.Receipt.Quarantined++
	}
	elements := len(records)
	records = append(records, whole...)
	out.Accepted, out.Elements, out.Whole = records[:accepted], records[accepted:elements], records[elements:]
	out.Receipt.Accepted = accepted
	out.Receipt.Dropped = len(batch.Events) + len(batch.Quarantined) - accepted - out.Receipt.Quarantined
	return out, nil
}

// chargeCopy charges what masks made of an event, beside the event.
func (b Body) chargeCopy(k policy.Kept) error {
	if !k.Masked {
		return nil
	}
	return b.charge(len(k.Raw))
}

// worthPacking is the shortest value that is compressed, in bytes.
const worthPacking = 4 << 10

var packers = sync.Pool{New: func() any {
	z, err := gzip.NewWriterLevel(nil, gzip.BestSpeed)
	if err != nil {
		panic(err) // the level is a constant
	}
	return z
}}

// packed compresses a long value where that halves it: a few KiB on the wire may be many MiB of elements, which a
// dead-letter topic keeps for a month.
func packed(r domain.Record) domain.Record {
	if len(r.Value) < worthPacking {
		return r
	}
	z := packers.Get().(*gzip.Writer)
	defer packers.Put(z)
	var b bytes.Buffer
	z.Reset(&b)
	_, _ = z.Write(r.Value) // to memory
	_ = z.Close()
	if 2*b.Len() > len(r.Value) {
		return r
	}
	r.Value, r.Headers.Encoding = b.Bytes(), domain.EncodedGzip
	return r
}

func hasCause(records []domain.Record, cause domain.Cause) bool {
	for _, r := range records {
		if r.Headers.Reason == cause {
			return true
		}
	}
	return false
}

func (b Body) charge(n int) error {
	if b.Charge == nil || n <= 0 {
		return nil
	}
	return b.Charge(n)
}

// inTurn has Large asked by the charge that makes the body a large one. done ends the work.
func (b *Body) inTurn(ctx context.Context) (done func()) {
	end := func() {}
	if b.Large == nil {
		return end
	}
	charge, taken := b.charge, 0
	b.Charge = func(n int) error {
		if err := charge(n); err != nil {
			return err
		}
		taken += n
		if taken < LargeBody || taken-n >= LargeBody {
			return nil
		}
		let, err := b.Large(ctx)
		if err == nil {
			end = let
		}
		return err
	}
	return func() { end() } // as it is then
}

// charged is a reader whose bytes are charged as they arrive, but for those that are charged already.
type charged struct {
	io.Reader
	charge func(bytes int) error
	paid   int
}

func (c *charged) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	covered := min(n, c.paid)
	c.paid -= covered
	if refused := c.charge(n - covered); refused != nil {
		return 0, refused
	}
	return n, err
}
