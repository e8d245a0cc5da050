package sink

import (
	"context"
	"math"
	"time"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/ports"
)

const (
	// isolationReserve is what the isolation of rejected rows leaves of the handler's budget for publishing and
	// committing.
	isolationReserve = 10 * time.Second
	// confirmWithin is how soon after a row has failed alone a probe has to speak for the store. One probe
	// speaks for all rows that failed since the one before.
	confirmWithin = 100 * time.Millisecond
)

// isolation stores rows and, where they fail, splits them until the rejected ones stand alone, or until it knows which
// day or tenant the store does not take.
type isolation struct {
	w   *Writer
	ctx context.Context //nolint:containedctx // it lives as long as one call of Save
	// candidates have failed alone since the last probe, the first of them at since.
	candidates []*Verdict
	since      time.Time
	alive      time.Time // when the last probe that succeeded began
	rejected   int
	failure    error // that began the isolation
	err        error // why it has ended early; no row is rejected for it
	// refusal is what the store, in good health, answered last to rows that it did not take.
	refusal *refusal
	// sifted are the days and tenants of which the store took some rows and not others.
	sifted map[string]bool
}

// run stores rows, and fills in their verdicts. Those of another day than today are a transaction of their own, behind
// the fresh ones: somebody may have locked that day. Those of a day or a tenant in trouble come last.
func (s *isolation) run(all piece) {
	free, trials := s.w.troubles.part(all)
	today := domain.DayOf(s.w.now())
	for _, p := range free.apart(func(d *domain.Decision) bool {
		return d.Timestamp.IsZero() || domain.DayOf(d.Timestamp) == today
	}) {
		s.save(p)
	}
	for _, t := range trials {
		s.try(t)
	}
	if len(s.candidates) > 0 {
		s.confirm()
	}
	s.w.remember(float64(s.rejected) / float64(all.len()))
}

// save stores a piece, as far as the store takes it.
func (s *isolation) save(p piece) {
	if refusal := s.store(p); refusal != nil {
		s.narrow(p, refusal)
	}
}

// store makes one attempt, and finds out which rows are rejected. It returns why a store that is well does not take the
// piece, and the verdicts are the caller's then.
func (s *isolation) store(p piece) *refusal {
	late := false
	if deadline, ok := s.ctx.Deadline(); ok && s.failure != nil && s.err == nil {
		late = deadline.Sub(s.w.now()) < isolationReserve
	}
	if late && s.refusal != nil { // the store is well, and whose fault it is will show
		p.holdEach(s.refusal.err)
		return nil
	}
	if late {
		s.err = domain.Errorf(domain.Unavailable, "no time left to find the rows that the store rejects: %w", s.failure)
	}
	if s.err != nil {
		p.fail(s.err)
		return nil
	}
	began := s.w.now()
	statuses, err := s.w.attempt(s.ctx, p.rows)
	v := Verdict{Err: err, Tenant: p.rows[0].Tenant, Path: p.rows[0].Path}
	switch {
	case err == nil:
		s.take(p, statuses)
	case !v.Rejected() && s.isRefusal(err):
		s.failure = err
		s.refusal = &refusal{err: err, slow: s.w.now().Sub(began) > slowRefusal}
		return s.refusal
	case !v.Rejected():
		s.stop(p, err)
		return nil
	case p.len() == 1:
		s.suspect(v, p.verdicts[0])
	default:
		s.failure = err
		if s.w.now().Sub(s.alive) > confirmWithin { // a batch is split only while the store answers
			s.confirm()
		}
		s.split(p)
		return nil
	}
	if len(s.candidates) > 0 && s.w.now().Sub(s.since) > confirmWithin {
		s.confirm()
	}
	return nil
}

// stop ends the isolation: the trouble is the store's, and nobody is rejected for it.
func (s *isolation) stop(p piece, err error) {
	s.err = err
	s.clear(err)
	p.fail(err)
}

// errSkipped is why a row is rejected that the store twice neither wrote nor refused.
var errSkipped error = &domain.Error{
	Class: domain.Unknown, Code: "ROW_SKIPPED",
	Text: "the database skipped the row without an error: look for a trigger that returns NULL or changes the key, a " +
		"rule, or another unique index on the tables of decisions",
}

// take notes what became of rows that the store took. Those that it skipped are tried alone once more.
func (s *isolation) take(p piece, statuses []domain.SaveStatus) {
	for i, status := range statuses {
		v := p.verdicts[i]
		again := v.Status == domain.Skipped
		if status == domain.Conflicting && p.rows[i].Redacted {
			status = domain.Duplicate // a masked row says nothing about what was sent before
		}
		v.Status = status
		switch {
		case status != domain.Skipped:
		case again:
			s.suspect(Verdict{Err: errSkipped, Tenant: p.rows[i].Tenant, Path: p.rows[i].Path}, v)
		default:
			s.failure = errSkipped
			s.save(p.slice(i, i+1))
		}
	}
}

// suspect makes a row that stood alone a candidate for being rejected.
func (s *isolation) suspect(v Verdict, of *Verdict) {
	s.failure, *of = v.Err, v
	if s.candidates = append(s.candidates, of); len(s.candidates) == 1 {
		s.since = s.w.now()
	}
}

func (s *isolation) split(p piece) {
	size := s.w.partOf(p.len())
	for from := 0; from < p.len(); from += size {
		s.save(p.slice(from, min(from+size, p.len())))
	}
}

// confirm probes the store: the candidates are rejected if it answers, and none is if it does not. A probe that comes
// late says nothing about them.
func (s *isolation) confirm() {
	began := s.w.now()
	if s.err = s.w.breaker.probe(s.ctx); s.err != nil {
		s.w.breaker.record(s.err)
		s.clear(s.err)
		return
	}
	s.alive = began
	if len(s.candidates) > 0 && began.Sub(s.since) > ports.ProbeTimeout {
		s.clear(domain.Errorf(domain.Unavailable,
			"the store was too slow to tell whether it is in trouble or rejects a row: %w", s.failure))
	}
	s.rejected += len(s.candidates)
	s.candidates = nil
}

// clear gives the candidates the error for which none of them is rejected.
func (s *isolation) clear(err error) {
	for _, v := range s.candidates {
		*v = Verdict{Err: err}
	}
	s.candidates = nil
}

// remember keeps how many of the rows were rejected lately, as a share.
func (w *Writer) remember(share float64) {
	w.rejected.Store(math.Float64bits((math.Float64frombits(w.rejected.Load()) + share) / 2))
}

// partOf says how large the parts of so many rows should be: halves while rejected rows are rare, and so small that
// most parts are good or bad throughout where they are not.
func (w *Writer) partOf(rows int) int {
	size := float64((rows + 1) / 2)
	if share := math.Float64frombits(w.rejected.Load()); share > 0 {
		size = min(size, 0.7/share)
	}
	return max(int(size), 1)
}
