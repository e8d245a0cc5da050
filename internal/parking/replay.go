package parking

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"golang.org/x/time/rate"

	"github.com/docket-project/docket/internal/domain"
)

const (
	// canary is how many dead letters a replay sends first, and canaryWait how long it waits to see what becomes of them.
	canary     = 100
	canaryWait = 30 * time.Second
	// onTheWay is how many may be replayed and not seen again before the replay waits for them, and settleWait how long it waits
	// for the last ones.
	onTheWay   = 50_000
	settleWait = time.Minute
	// comeHome is how long most replayed dead letters take to become rows.
	comeHome = time.Second
	// publishTimeout is shorter than the lease. outboxBytes are published at once, or jobStep records.
	publishTimeout = 10 * time.Second
	outboxBytes    = 8 << 20
)

// replay sends dead letters on their way again, and watches what becomes of them.
func (w *work) replay() error {
	chunk, limiter := int64(jobStep), (*rate.Limiter)(nil)
	if w.job.Rate > 0 {
		chunk = int64(min(max(w.job.Rate/4, 1), jobStep))
		limiter = rate.NewLimiter(rate.Limit(w.job.Rate), int(chunk))
		limiter.AllowN(w.now(), int(chunk)) // it begins empty
	}
	r := w.reader(chunk)
	defer r.end()
	defer func() { _, _ = w.flush(0, 0) }() // however the turn ends, what was sent is written down if it can be
	for tested := false; ; {
		b, goOn, err := r.next()
		if err != nil || !goOn {
			return err
		}
		if len(b.letters) == 0 {
			if goOn, err := w.flush(0, 0); err != nil || !goOn {
				return err
			}
			return w.settle()
		}
		if limiter != nil {
			delay := limiter.ReserveN(w.now(), len(b.letters)).DelayFrom(w.now())
			if goOn, err := w.wait(delay, "", nil); err != nil || !goOn {
				return err
			}
		}
		step, goOn, err := w.send(b)
		if err != nil || !goOn {
			return err
		}
		w.sent, w.sentAt = append(w.sent, step), append(w.sentAt, w.now())
		age, most := comeHome, onTheWay/jobStep
		if limiter != nil || !tested {
			age, most = 0, 0
		}
		if goOn, err := w.flush(age, most); err != nil || !goOn {
			return err
		}
		test := !tested && r.sent >= canary
		tested = tested || test
		if stopped, err := w.watch(test); err != nil || stopped {
			return err
		}
	}
}

// flush writes down what was sent, but for the last few steps that are younger than age: most of their dead letters are stored
// within that time, and then change once instead of twice. A job that is killed meanwhile sends them again, which stores nothing
// twice.
func (w *work) flush(age time.Duration, most int) (goOn bool, err error) {
	for goOn = true; len(w.sent) > most || len(w.sent) > 0 && w.now().Sub(w.sentAt[0]) >= age; {
		step := w.sent[0]
		w.sent, w.sentAt = w.sent[1:], w.sentAt[1:]
		on, err := w.advance(step)
		if err != nil {
			// Nothing behind it either: the job would be past what is not written down. It is sent again from there.
			w.sent, w.sentAt = nil, nil
			return false, err
		}
		if goOn = goOn && on; !goOn {
			age, most = 0, 0 // the rest as well: it was sent
		}
	}
	return goOn, nil
}

// watch stops a replay of which too much fails, lets the first ones come home before the others go, and keeps it from running
// away from what it has sent.
func (w *work) watch(test bool) (stopped bool, err error) {
	home := func() bool { return w.job.OnTheWay() == 0 || w.job.TooManyFail() }
	if test {
		if goOn, err := w.wait(canaryWait, fmt.Sprintf("the first %d were sent; waiting to see what becomes of them", canary), home); err != nil || !goOn {
			return true, err
		}
	}
	for w.job.OnTheWay() > onTheWay && !w.job.TooManyFail() {
		near := func() bool { return w.job.OnTheWay() <= onTheWay/2 || w.job.TooManyFail() }
		if goOn, err := w.wait(settleWait, fmt.Sprintf("%d are on their way; waiting for them before more are sent", w.job.OnTheWay()), near); err != nil || !goOn {
			return true, err
		}
	}
	if !w.job.TooManyFail() {
		return false, nil
	}
	if goOn, err := w.flush(0, 0); err != nil || !goOn {
		return true, err
	}
	if !w.job.TooManyFail() { // of all that was sent
		return false, nil
	}
	w.end(domain.JobStopped, fmt.Sprintf("%d of %d replayed dead letters failed again, more than %.0f %%. Look why with docket dlq groups, and mend it; then "+
		"docket dlq cancel %s, and replay anew (docket dlq resume goes on with the rest only)", w.job.Failed, w.job.Done, 100*w.job.StopRatio, w.job.ID))
	return true, nil
}

// settle waits for the last ones, and ends the job.
func (w *work) settle() error {
	home := func() bool { return w.job.OnTheWay() == 0 }
	if goOn, err := w.wait(settleWait, fmt.Sprintf("everything was sent; waiting for the last %d", w.job.OnTheWay()), home); err != nil || !goOn {
		return err
	}
	message := fmt.Sprintf("%d replayed: %d are stored, %d failed again", w.job.Done, w.job.Stored, w.job.Failed)
	if n := w.job.Reparsed; n > 0 {
		message += fmt.Sprintf(", %d were put-aside bytes that could be read now", n)
	}
	if n := w.job.OnTheWay(); n > 0 {
		message += fmt.Sprintf(", %d are still on their way (docket status tells what waits)", n)
	}
	if n := w.job.Skipped; n > 0 {
		message += fmt.Sprintf(", %d were left alone because their bytes are not in the log any more", n)
	}
	w.end(domain.JobDone, message)
	return nil
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
