package deadletter

import (
	"context"
	"time"

	"golang.org/x/time/rate"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/ingest"
	"github.com/docket-project/docket/internal/job"
)

const (
	// canary is how many dead letters a replay sends first, and canaryWait how long it waits to see what becomes of them.
	canary     = 100
	canaryWait = 30 * time.Second
	// onTheWay is how many may be replayed and not seen again before the replay waits for them, and settleWait how long it
	// waits for the last ones.
	onTheWay   = 50_000
	settleWait = time.Minute
	// comeHome is how long most replayed dead letters take to become rows.
	comeHome = time.Second
	// publishTimeout is shorter than the lease. outboxBytes are published at once, or jobStep records.
	publishTimeout = 10 * time.Second
	outboxBytes    = 8 << 20
)

// sentStep is what was sent and is not written down yet.
type sentStep struct {
	domain.LetterStep
	at time.Time
}

// replay sends dead letters on their way again, and watches what becomes of them.
func (w *work) replay() error {
	chunk, limiter := int64(jobStep), (*rate.Limiter)(nil)
	if w.Job.Rate > 0 {
		chunk = int64(min(max(w.Job.Rate/4, 1), jobStep))
		limiter = rate.NewLimiter(rate.Limit(w.Job.Rate), int(chunk))
		limiter.AllowN(w.Now(), int(chunk)) // it begins empty
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
			delay := limiter.ReserveN(w.Now(), len(b.letters)).DelayFrom(w.Now())
			if goOn, err := w.Rest(delay); err != nil || !goOn {
				return err
			}
		}
		step, goOn, err := w.send(b)
		if err != nil || !goOn {
			return err
		}
		w.sent = append(w.sent, sentStep{step, w.Now()})
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

// flush writes down what was sent, but for the last few steps that are younger than age: most of their dead letters are
// stored within that time, and then change once instead of twice. A job that is killed meanwhile sends them again,
// which stores nothing twice.
func (w *work) flush(age time.Duration, most int) (goOn bool, err error) {
	for goOn = true; len(w.sent) > most || len(w.sent) > 0 && w.Now().Sub(w.sent[0].at) >= age; {
		step := w.sent[0].LetterStep
		w.sent = w.sent[1:]
		on, err := w.move(step)
		if err != nil {
			// Nothing behind it either: the job would be past what is not written down. It is sent again from there.
			w.sent = nil
			return false, err
		}
		if goOn = goOn && on; !goOn {
			age, most = 0, 0 // the rest as well: it was sent
		}
	}
	return goOn, nil
}

// await waits until enough says so, closing what is stored meanwhile.
func (w *work) await(d time.Duration, message domain.Message, enough func() bool) (goOn bool, err error) {
	return w.Watch(d, message, func() { _, w.closing = w.Index.closeReplayed(w.Context, w.closing) }, enough)
}

// watch stops a replay of which too much fails, waits for the first ones before the others are sent, and keeps the
// replay from running away from what it has sent.
func (w *work) watch(test bool) (stopped bool, err error) {
	home := func() bool { return w.Job.OnTheWay() == 0 || w.Job.TooManyFail() }
	if test {
		message := domain.Say(ReplayCanary, domain.Args{"sent": int64(canary)})
		if goOn, err := w.await(canaryWait, message, home); err != nil || !goOn {
			return true, err
		}
	}
	for w.Job.OnTheWay() > onTheWay && !w.Job.TooManyFail() {
		near := func() bool { return w.Job.OnTheWay() <= onTheWay/2 || w.Job.TooManyFail() }
		message := domain.Say(ReplayCrowded, domain.Args{"on_the_way": w.Job.OnTheWay()})
		if goOn, err := w.await(settleWait, message, near); err != nil || !goOn {
			return true, err
		}
	}
	if !w.Job.TooManyFail() {
		return false, nil
	}
	if goOn, err := w.flush(0, 0); err != nil || !goOn {
		return true, err
	}
	if !w.Job.TooManyFail() { // of all that was sent
		return false, nil
	}
	// The others that were sent come back or are stored as well; the job ends with the numbers of all of them.
	if goOn, err := w.awaitAll(ReplayCrowded); err != nil || !goOn {
		return true, err
	}
	w.End(domain.JobStopped, domain.Say(ReplayStopped, domain.Args{
		"failed": w.Job.Failed, "done": w.Job.Done, "stop_ratio": w.Job.StopRatio,
	}))
	return true, nil
}

// awaitAll waits for what is on the way, and says meanwhile what the code does.
func (w *work) awaitAll(code string) (goOn bool, err error) {
	message := domain.Say(code, domain.Args{"on_the_way": w.Job.OnTheWay()})
	return w.await(settleWait, message, func() bool { return w.Job.OnTheWay() == 0 })
}

// settle waits for the last ones, and ends the job.
func (w *work) settle() error {
	if goOn, err := w.awaitAll(ReplaySent); err != nil || !goOn {
		return err
	}
	w.End(domain.JobDone, domain.Say(ReplayDone, domain.Args{
		"done": w.Job.Done, "stored": w.Job.Stored, "failed": w.Job.Failed, "reparsed": w.Job.Reparsed,
		"on_the_way": w.Job.OnTheWay(), "skipped": w.Job.Skipped,
	}))
	return nil
}

// send publishes dead letters to the parking topic, where they come behind fresh decisions and wait for a store that is
// away. A row has one attempt: one that is rejected again comes straight back.
func (w *work) send(b fetched) (step domain.LetterStep, goOn bool, err error) {
	step.To, step.After = domain.DeadReplayed, b.letters[len(b.letters)-1].Position
	out := outbox{work: w, alive: w.Now()}
	for _, l := range b.letters {
		r, ok := b.records[l.Position]
		switch {
		case !ok:
			step.Skipped++
			continue
		case l.Decision:
			step.Moved = append(step.Moved, l)
			goOn, err = out.add(w.resend(r))
		default:
			again, parseErr := w.reparse(l, r)
			if parseErr != nil {
				return step, false, parseErr
			}
			if readable(l, again) {
				step.Moved = append(step.Moved, l)
				step.Reparsed++
			} else {
				step.Failed = append(step.Failed, l.Position)
			}
			if goOn, err = out.add(again.Accepted...); err == nil && goOn && l.Whole {
				goOn, err = out.add(again.Elements...)
			}
		}
		if err != nil || !goOn {
			return step, false, err
		}
	}
	return step, true, out.publish()
}

// readable reports that nothing else is left of bytes that were parsed anew: what is quarantined again of a whole
// upload becomes a dead letter of its own. What a policy leaves out was read.
func readable(l domain.DeadLetter, again ingest.Assembly) bool {
	if l.Whole {
		return !again.Broken
	}
	return len(again.Receipt.Reasons) == 0
}

// outbox publishes what a step sends in portions: a quarantined upload may be as large as what the log takes at once.
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
		if o.work.Now().Sub(o.alive) < job.Heartbeat {
			continue
		}
		o.alive = o.work.Now()
		if goOn, err := o.work.Alive(); err != nil || !goOn {
			return false, err
		}
	}
	return true, nil
}

func (o *outbox) publish() error {
	if len(o.records) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(o.work.Context, publishTimeout)
	defer cancel()
	err := o.work.Log.Publish(ctx, o.records)
	o.records, o.bytes = nil, 0
	return err
}

// resend addresses a dead decision to the parking topic. Its history stays, so that it is not counted as a new failure
// of the store's, and so that its attempts are used up. Its docket-reason does not, because the next failure may be
// another.
func (w *work) resend(r domain.Record) domain.Record {
	h := r.Moved()
	h.Replay, h.ReplayCount, h.NotBefore, h.Reason = w.Job.ID, h.ReplayCount+1, time.Time{}, ""
	return domain.Record{Topic: w.Topics.Parking, Key: r.Key, Value: r.Value, Headers: h}
}

// reparse parses quarantined bytes anew, within the limits of today. What was sent with the wrong Content-Encoding is
// read by its first bytes.
func (w *work) reparse(l domain.DeadLetter, r domain.Record) (ingest.Assembly, error) {
	moved := r.Moved()
	body := ingest.Body{
		Wire: r.Value, Gzipped: l.Whole && ingest.LooksGzipped(r.Value), Topic: w.Topics.Parking,
		Headers: domain.Headers{
			Tenant: r.Headers.Tenant, OPAPartition: r.Headers.OPAPartition, ReceivedAt: r.Headers.ReceivedAt,
			Upload: r.Headers.Upload, TraceParent: r.Headers.TraceParent, Origin: moved.Origin, LoggedAt: moved.LoggedAt,
			Uploader: r.Headers.Uploader, RemoteAddress: r.Headers.RemoteAddress, Masked: r.Headers.Masked,
			Replay: w.Job.ID, ReplayCount: r.Headers.ReplayCount + 1,
		},
	}
	if !l.Whole { // an element, which is an array of one
		body.Wire = append(append([]byte{'['}, r.Value...), ']')
	}
	return w.Assembler.Assemble(w.Context, body)
}
