package parking

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"io"
	"slices"
	"time"

	"github.com/docket-project/docket/internal/domain"
)

const (
	// readTimeout bounds one look into the log, which reads over at most readGap records between two dead letters and spans at most
	// readSpan.
	readTimeout = 20 * time.Second
	readGap     = 2000
	readSpan    = 50_000
	// publishTimeout is shorter than the lease. outboxBytes are published at once, or jobStep records.
	publishTimeout = 10 * time.Second
	outboxBytes    = 8 << 20
)

// read visits records of a partition from a place on.
func (w *work) read(ctx context.Context, from domain.Place, visit func(domain.Record) bool) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	return w.Log.Read(ctx, from.Topic, from.Partition, from.Offset, visit)
}

// records reads the bytes of dead letters, which are in the log's order. Those that have fallen off it, or whose place holds other
// bytes by now, are missing.
func (w *work) records(ctx context.Context, letters []domain.DeadLetter) (map[domain.Place]domain.Record, error) {
	found := make(map[domain.Place]domain.Record, len(letters))
	for i := 0; i < len(letters); {
		last := i
		for last+1 < len(letters) && letters[last+1].Topic == letters[i].Topic && letters[last+1].Partition == letters[i].Partition &&
			letters[last+1].Offset-letters[last].Offset <= readGap && letters[last+1].Offset-letters[i].Offset <= readSpan {
			last++
		}
		next := i
		if _, err := w.read(ctx, letters[i].Place, func(r domain.Record) bool {
			for next <= last && letters[next].Offset < r.Offset {
				next++ // it is gone
			}
			if next <= last && letters[next].Offset == r.Offset {
				if sha256.Sum256(r.Value) == letters[next].SHA256 {
					r.Value = bytes.Clone(r.Value) // the log's keeps everything that came with it in memory
					found[r.Place()] = r
				}
				next++
			}
			return next <= last
		}); err != nil {
			return nil, err
		}
		i = last + 1
	}
	return found, nil
}

// send publishes dead letters to the parking topic, where they yield to fresh decisions and wait for a store that is away. A row
// has one attempt: one that is refused again comes straight back.
func (w *work) send(b fetched) (step domain.JobStep, goOn bool, err error) {
	step = domain.JobStep{To: domain.DeadReplayed, After: b.letters[len(b.letters)-1].Place}
	out := outbox{work: w, alive: w.now()}
	for _, l := range b.letters {
		r, ok := b.records[l.Place]
		switch {
		case !ok:
			step.Skipped++
			continue
		case l.Decision:
			step.Moved = append(step.Moved, l)
			goOn, err = out.add(w.again(r))
		default:
			again, readable, parseErr := w.reparse(l, r)
			if parseErr != nil {
				return step, false, parseErr
			}
			if readable {
				step.Moved = append(step.Moved, l)
				step.Reparsed++
			} else {
				step.Failed = append(step.Failed, l.Place)
			}
			goOn, err = out.add(again...)
		}
		if err != nil || !goOn {
			return step, false, err
		}
	}
	return step, true, out.publish()
}

// outbox publishes what a step sends in portions: a put-aside upload may hold as much as the log takes at once.
type outbox struct {
	work    *work
	records []domain.Record
	bytes   int
	alive   time.Time
}

// add takes records, and publishes when there are enough.
func (o *outbox) add(records ...domain.Record) (goOn bool, err error) {
	for _, r := range records {
		o.records, o.bytes = append(o.records, r), o.bytes+len(r.Value)
		if len(o.records) < jobStep && o.bytes < outboxBytes {
			continue
		}
		if err := o.publish(); err != nil {
			return false, err
		}
		if o.work.now().Sub(o.alive) < heartbeat {
			continue
		}
		o.alive = o.work.now()
		if goOn, err := o.work.advance(domain.JobStep{Message: o.work.job.Message}); err != nil || !goOn {
			return false, err
		}
	}
	return true, nil
}

func (o *outbox) publish() error {
	if len(o.records) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(o.work.ctx, publishTimeout)
	defer cancel()
	err := o.work.Log.Publish(ctx, o.records)
	o.records, o.bytes = nil, 0
	return err
}

// again addresses a dead decision to the parking topic. Its history stays, so that it is not counted as a new failure of the
// store's, and so that its attempts are used up; why it was put aside does not, because the next failure may be another.
func (w *work) again(r domain.Record) domain.Record {
	h := r.Headers
	h.Replay, h.ReplayCount, h.NotBefore, h.Reason = w.job.ID, h.ReplayCount+1, time.Time{}, ""
	return domain.Record{Topic: w.Topics.Parking, Key: r.Key, Value: r.Value, Headers: h}
}

// gzipMagic begins a member (RFC 1952 section 2.3.1). What was sent with the wrong Content-Encoding is read by its bytes.
var gzipMagic = []byte{0x1f, 0x8b}

// reparse parses put-aside bytes anew, within the limits of today. Events become decisions; what is put aside again of a whole
// upload becomes a dead letter of its own. readable says that nothing else is left of the bytes.
func (w *work) reparse(l domain.DeadLetter, r domain.Record) (out []domain.Record, readable bool, err error) {
	batch, err := w.parse(l, r)
	if err != nil {
		return nil, false, err
	}
	h := domain.Headers{
		Tenant: r.Headers.Tenant, OPAPartition: r.Headers.OPAPartition, ReceivedAt: r.Headers.ReceivedAt, Upload: r.Headers.Upload, TraceParent: r.Headers.TraceParent,
		Origin: cmp.Or(r.Headers.Origin, r.Origin()), Replay: w.job.ID, ReplayCount: r.Headers.ReplayCount + 1,
	}
	for _, e := range batch.Events {
		out = append(out, domain.Record{Topic: w.Topics.Parking, Key: e.ID, Value: e.Raw, Headers: h})
	}
	if !l.Whole {
		return out, len(batch.Events) == 1, nil
	}
	for _, q := range batch.Quarantined {
		if q.Raw != nil {
			aside := domain.Headers{Tenant: h.Tenant, OPAPartition: h.OPAPartition, ReceivedAt: h.ReceivedAt, Upload: h.Upload, Origin: h.Origin, Reason: q.Reason, ErrorClass: domain.Invalid}
			out = append(out, domain.Record{Topic: w.Topics.DLQ, Key: domain.HashID(q.Raw), Value: q.Raw, Headers: aside})
		}
	}
	return out, !slices.ContainsFunc(batch.Quarantined, func(q domain.Quarantined) bool { return q.Raw == nil }), nil
}

// parse splits put-aside bytes as an upload.
func (w *work) parse(l domain.DeadLetter, r domain.Record) (domain.Batch, error) {
	var body io.Reader = bytes.NewReader(r.Value)
	switch {
	case !l.Whole:
		body = io.MultiReader(bytes.NewReader([]byte("[")), body, bytes.NewReader([]byte("]")))
	case bytes.HasPrefix(r.Value, gzipMagic):
		body = w.Inflate(r.Value)
	}
	return domain.ParseBatch(body, len(r.Value), w.Limits)
}
