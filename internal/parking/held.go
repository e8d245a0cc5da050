package parking

import (
	"bytes"
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/ports"
	"github.com/docket-project/docket/internal/sink"
)

// HeldGroup is the consumer group of held records.
const HeldGroup = "docket-held"

const (
	// heldEvery is how often samples of what waits for one thing are tried, and how often a partition is gone through at
	// most: nothing is written anew more often than that.
	heldEvery = time.Minute
	// heldRest is how long a partition rests until it is looked at again; a sample may be due before heldEvery.
	heldRest = 5 * time.Second
	// heldScan bounds one look at what has come. A handler that has less than heldBudget left looks no more.
	heldScan   = 3 * time.Second
	heldBudget = 14 * time.Second
	// Samples of one thing: so many records and, behind the first, bytes.
	sampleSize  = 20
	sampleBytes = 256 << 10
	// maxWaits bounds what is told apart. Records beyond it are tried whenever their partition is gone through.
	maxWaits = 500
)

// HeldParts are what a Held works with.
type HeldParts struct {
	// Save is the Writer's.
	Save func(context.Context, []domain.Record) []sink.Verdict
	// Kept is the Writer's: what stays is written anew, and would outlast every order otherwise. Nil keeps everything.
	Kept func(context.Context, []domain.Record) (kept []domain.Record, erased int, err error)
	Log  interface {
		ports.Publisher
		Read(
			ctx context.Context, topic string, partition int32, from int64, visit func(domain.Record) bool,
		) (next int64, err error)
	}
	Router *sink.Router
	Logger *slog.Logger
}

// Held handles the topic of held records: those that the store, in good health, did not take. It reads each once, to
// keep samples of everything that they wait for, and tries these. When one leaves the topic, the partition is gone
// through once, up to where it ended then: what waits for the same is tried, and the rest goes to the tail. It is safe
// for concurrent use.
type Held struct {
	HeldParts
	now func() time.Time

	forgot time.Time // when everything was read anew last

	mu         sync.Mutex
	waits      map[string]*wait
	partitions map[int32]*stretch
}

// wait is one thing that records wait for.
type wait struct {
	samples []domain.Record
	bytes   int
	tried   time.Time // when samples were tried last, and what the guard knew then
	known   uint64
	over    bool // a sample has left
}

// stretch is a partition from the first record that is held.
type stretch struct {
	scanned int64           // up to here samples were taken
	waits   map[string]bool // what those wait for; "" stands for what is not told apart
	through time.Time       // when it was last gone through
	until   int64           // up to here it is gone through now
}

// NewHeld makes a Held.
func NewHeld(parts HeldParts) *Held {
	return &Held{HeldParts: parts, now: time.Now, waits: map[string]*wait{}, partitions: map[int32]*stretch{}}
}

// untold is what a partition's records wait for that are not told apart.
const untold = ""

// Handle goes through a batch, or lets it rest; see ports.Handler.
func (h *Held) Handle(ctx context.Context, batch []domain.Record) ([]ports.Pause, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := h.now()
	var pauses []ports.Pause
	var due, stay []domain.Record
	for _, r := range batch {
		if find(pauses, r) != nil {
			continue
		}
		s := h.partitions[r.Partition]
		if s == nil {
			s = &stretch{waits: map[string]bool{}}
			h.partitions[r.Partition] = s
		}
		if r.Offset >= s.until {
			goes, err := h.look(ctx, r, s, now)
			if domain.ClassOf(err) == domain.Canceled {
				return nil, err
			}
			if !goes {
				pauses = append(pauses, ports.Pause{
					Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Until: now.Add(heldRest),
				})
				continue
			}
		}
		if w := h.waits[r.Headers.HeldFor]; w == nil || w.over { // or of another partition
			due = append(due, r)
		} else {
			stay = append(stay, r)
		}
	}
	return h.depart(ctx, due, stay, pauses, now)
}

// depart tries what is due, and publishes what leaves and, at the tail, what stays.
func (h *Held) depart(
	ctx context.Context, due, stay []domain.Record, pauses []ports.Pause, now time.Time,
) ([]ports.Pause, error) {
	out := h.Router.Departures()
	for i, v := range h.save(ctx, due) {
		route := h.Router.Route(due[i], v, now)
		switch at := find(pauses, due[i]); {
		case route.Action == sink.Stop:
			return nil, v.Err
		case at != nil && due[i].Offset >= at.Offset: // behind one that waits for the store
		case route.Action == sink.Wait && at != nil: // in front of where the partition is gone through to
			at.Offset, at.Until = due[i].Offset, now.Add(heldRest)
		case route.Action == sink.Wait:
			pauses = append(pauses, ports.Pause{
				Topic: due[i].Topic, Partition: due[i].Partition, Offset: due[i].Offset, Until: now.Add(heldRest),
			})
		default:
			if w := h.waits[route.Next.Headers.HeldFor]; w != nil && route.Status == domain.Held {
				w.over = false // again
			}
			out.Add(route)
		}
	}
	if h.Kept != nil && len(stay) > 0 {
		kept, erased, err := h.Kept(ctx, stay)
		if err != nil {
			return nil, err
		}
		stay = kept
		out.Statuses[domain.Erased] += erased
	}
	for _, r := range stay {
		if at := find(pauses, r); at == nil || r.Offset < at.Offset {
			out.Next = append(out.Next, domain.Record{Topic: r.Topic, Key: r.Key, Value: r.Value, Headers: r.Headers})
		}
	}
	return pauses, out.Publish(ctx, h.Log)
}

func (h *Held) save(ctx context.Context, records []domain.Record) []sink.Verdict {
	if len(records) == 0 {
		return nil
	}
	verdicts := h.Save(ctx, records)
	h.Router.Guard.Judge(ctx, records, verdicts)
	return verdicts
}

// look takes samples of what has come to a partition, tries those that are due, and says whether the partition is to be
// gone through, from this record on.
func (h *Held) look(ctx context.Context, from domain.Record, s *stretch, now time.Time) (goes bool, err error) {
	if deadline, ok := ctx.Deadline(); ok && deadline.Sub(h.now()) < heldBudget {
		return false, nil
	}
	if err := h.scan(ctx, from, s); err != nil {
		h.Logger.Debug("held records were not looked at; docket tries again", "partition", from.Partition, "error", err)
		return false, err
	}
	if err := h.try(ctx, s, now); err != nil {
		return false, err
	}
	if now.Sub(s.through) < heldEvery || s.scanned <= from.Offset {
		return false, nil
	}
	for key := range s.waits {
		if w := h.waits[key]; w == nil || w.over {
			goes = true
			delete(h.waits, key) // what is held for it again is sampled anew
		}
	}
	if !goes {
		return false, nil
	}
	s.through, s.until, s.waits = now, s.scanned, map[string]bool{}
	h.Logger.Info(
		"held records are tried again", "partition", from.Partition, "from", from.Offset, "records", s.until-from.Offset,
	)
	return true, nil
}

// forgetEvery is how often everything is read anew where too much is told apart: partitions may have gone to others.
const forgetEvery = time.Hour

// scan reads on where it left off.
func (h *Held) scan(ctx context.Context, from domain.Record, s *stretch) error {
	if now := h.now(); len(h.waits) >= maxWaits && now.Sub(h.forgot) > forgetEvery {
		h.forgot = now
		clear(h.waits)
		for _, s := range h.partitions {
			s.scanned, s.waits = 0, map[string]bool{}
		}
	}
	limit, cancel := context.WithTimeout(ctx, heldScan)
	defer cancel()
	next, err := h.Log.Read(limit, from.Topic, from.Partition, max(s.scanned, from.Offset), func(r domain.Record) bool {
		key := r.Headers.HeldFor
		w := h.waits[key]
		if w == nil && len(h.waits) < maxWaits && key != untold {
			w = &wait{}
			h.waits[key] = w
		}
		if w == nil {
			s.waits[untold] = true
			return true
		}
		s.waits[key] = true
		if len(w.samples) == 0 || len(w.samples) < sampleSize && w.bytes+len(r.Value) <= sampleBytes {
			r.Value = bytes.Clone(r.Value) // the log's keeps everything that came with it in memory
			w.samples, w.bytes = append(w.samples, r), w.bytes+len(r.Value)
		}
		return true
	})
	s.scanned = max(s.scanned, next)
	if limit.Err() != nil && ctx.Err() == nil {
		return nil // the rest is read the next time
	}
	return err
}

// try tries the samples that are due of what a partition's records wait for.
func (h *Held) try(ctx context.Context, s *stretch, now time.Time) error {
	known := h.Router.Guard.Known()
	var samples []domain.Record
	for key := range s.waits {
		w := h.waits[key]
		if w == nil || now.Sub(w.tried) < heldEvery && w.known == known {
			continue
		}
		w.tried, w.known, w.over = now, known, false
		samples = append(samples, w.samples...)
	}
	for i, v := range h.save(ctx, samples) {
		w := h.waits[samples[i].Headers.HeldFor]
		switch route := h.Router.Route(samples[i], v, now); {
		case route.Action == sink.Stop:
			return v.Err
		case route.Action == sink.Wait:
			w.tried = time.Time{} // the store was not asked about it
		case route.Status != domain.Held:
			w.over = true
		}
	}
	return nil
}
