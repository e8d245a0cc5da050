package deadletter

import (
	"context"
	"crypto/sha256"
	"time"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/job"
)

const (
	// readAhead is how many dead letters a replay without a rate reads at once.
	readAhead = 5000
	// readTimeout bounds one look into the log, which reads over at most readGap records between two dead letters and
	// spans at most readSpan.
	readTimeout = 20 * time.Second
	readGap     = 2000
	readSpan    = 50_000
)

// fetched are dead letters with their bytes; those that have fallen off the log have none.
type fetched struct {
	letters []domain.DeadLetter
	records map[domain.Position]domain.Record
	err     error
}

// reader hands out what a replay deals with next, chunk by chunk. It reads several at once, because the log hands out
// more than is asked for, and while others are sent.
type reader struct {
	work    *work
	ctx     context.Context //nolint:containedctx // it ends with the turn
	stop    context.CancelFunc
	chunk   int64
	ahead   domain.Job // as it will be once everything that was asked for is dealt with
	asked   int64      // for in this turn
	sent    int64      // of it, handed out
	buffer  fetched
	pending chan fetched
}

func (w *work) reader(chunk int64) *reader {
	r := &reader{work: w, chunk: chunk, ahead: w.Job}
	r.ctx, r.stop = context.WithCancel(w.Context)
	r.ask()
	return r
}

// ask begins to read what comes behind what was asked for: at first no more than the canary.
func (r *reader) ask() {
	n, ahead := r.chunk, r.ahead
	switch {
	case r.asked < canary:
		n = min(n, canary-r.asked)
	case n == jobStep:
		n = readAhead
	}
	pending := make(chan fetched, 1)
	r.pending = pending
	go func() {
		var f fetched
		if f.letters, f.err = r.work.letters(r.ctx, ahead, n); f.err == nil {
			f.records, f.err = r.work.records(r.ctx, f.letters)
		}
		pending <- f
	}()
}

// end stops what is being read, and waits for it.
func (r *reader) end() {
	r.stop()
	if r.pending != nil {
		<-r.pending
	}
}

// next returns a chunk, or nothing at the end. While it waits, the job's owner says that it lives.
func (r *reader) next() (out fetched, goOn bool, err error) {
	for alive := time.NewTicker(job.Heartbeat); len(r.buffer.letters) == 0; {
		select {
		case r.buffer = <-r.pending:
			alive.Stop()
			r.pending = nil
		case <-alive.C:
			if goOn, err := r.work.Alive(); err != nil || !goOn {
				alive.Stop()
				return out, false, err
			}
			continue
		}
		n := len(r.buffer.letters)
		if n == 0 || r.buffer.err != nil {
			return out, true, r.buffer.err
		}
		r.ahead.After, r.ahead.Done, r.asked = r.buffer.letters[n-1].Position, r.ahead.Done+int64(n), r.asked+int64(n)
		r.ask()
	}
	out = r.buffer
	out.letters = out.letters[:min(int64(len(out.letters)), r.chunk)]
	r.buffer.letters = r.buffer.letters[len(out.letters):]
	r.sent += int64(len(out.letters))
	return out, true, nil
}

// read visits records of a partition from a position on, until visit has enough or time is over. It returns where to go
// on: records may be so large that a look does not get far.
func (w *work) read(ctx context.Context, from domain.Position, visit func(domain.Record) bool) (int64, error) {
	limit, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	next, err := w.Log.Read(limit, from.Topic, from.Partition, from.Offset, visit)
	if err != nil && next > from.Offset && limit.Err() != nil && ctx.Err() == nil {
		return next, nil
	}
	return next, err
}

// records reads the bytes of dead letters, which are in the log's order. Those that have fallen off it, or whose
// position has other bytes by now, are missing.
func (w *work) records(ctx context.Context, letters []domain.DeadLetter) (map[domain.Position]domain.Record, error) {
	found := make(map[domain.Position]domain.Record, len(letters))
	for i := 0; i < len(letters); {
		last := i
		for last+1 < len(letters) && letters[last+1].Topic == letters[i].Topic &&
			letters[last+1].Partition == letters[i].Partition &&
			letters[last+1].Offset-letters[last].Offset <= readGap && letters[last+1].Offset-letters[i].Offset <= readSpan {
			last++
		}
		next := i
		visit := func(r domain.Record) bool {
			for next <= last && letters[next].Offset < r.Offset {
				next++ // it is gone
			}
			if next <= last && letters[next].Offset == r.Offset {
				if r = r.Unpacked(); sha256.Sum256(r.Value) == letters[next].SHA256 {
					found[r.Position()] = r
				}
				next++
			}
			return next <= last
		}
		for from := letters[i].Position; next <= last && from.Offset <= letters[last].Offset; {
			at, err := w.read(ctx, from, visit)
			if err != nil {
				return nil, err
			}
			if at <= from.Offset {
				break
			}
			from.Offset = at
		}
		i = last + 1
	}
	return found, nil
}
