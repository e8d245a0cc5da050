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

// isolation stores rows and, where they fail, splits them until the rejected ones stand alone.
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
}

// run stores rows, and fills verdicts, which runs beside them.
func (s *isolation) run(rows []domain.Decision, verdicts []Verdict) {
	s.save(rows, verdicts)
	if len(s.candidates) > 0 {
		s.confirm()
	}
	s.w.remember(float64(s.rejected) / float64(len(rows)))
}

func (s *isolation) save(rows []domain.Decision, verdicts []Verdict) {
	if deadline, ok := s.ctx.Deadline(); ok && s.failure != nil && s.err == nil &&
		deadline.Sub(s.w.now()) < isolationReserve {
		s.err = domain.Errorf(domain.Unavailable, "no time left to find the rows that the store rejects: %w", s.failure)
	}
	if s.err != nil {
		failAll(verdicts, s.err)
		return
	}
	statuses, err := s.w.attempt(s.ctx, rows)
	v := Verdict{Err: err, Tenant: rows[0].Tenant, Path: rows[0].Path}
	switch {
	case err == nil:
		s.take(rows, statuses, verdicts)
	case !v.Rejected():
		s.err = err
		s.clear(err)
		failAll(verdicts, err)
		return
	case len(rows) == 1:
		s.suspect(v, &verdicts[0])
	default:
		s.failure = err
		if s.w.now().Sub(s.alive) > confirmWithin { // a batch is split only while the store answers
			s.confirm()
		}
		s.split(rows, verdicts)
		return
	}
	if len(s.candidates) > 0 && s.w.now().Sub(s.since) > confirmWithin {
		s.confirm()
	}
}

// errSkipped is why a row is rejected that the store twice neither wrote nor refused.
var errSkipped error = &domain.Error{
	Class: domain.Unknown, Code: "ROW_SKIPPED",
	Text: "the database skipped the row without an error: look for a trigger that returns NULL or changes the key, a " +
		"rule, or another unique index on the tables of decisions",
}

// take notes what became of rows that the store took. Those that it skipped are tried alone once more.
func (s *isolation) take(rows []domain.Decision, statuses []domain.SaveStatus, verdicts []Verdict) {
	for i, status := range statuses {
		again := verdicts[i].Status == domain.Skipped
		verdicts[i].Status = status
		switch {
		case status != domain.Skipped:
		case again:
			s.suspect(Verdict{Err: errSkipped, Tenant: rows[i].Tenant, Path: rows[i].Path}, &verdicts[i])
		default:
			s.failure = errSkipped
			s.save(rows[i:i+1], verdicts[i:i+1])
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

func (s *isolation) split(rows []domain.Decision, verdicts []Verdict) {
	size := s.w.pieceOf(len(rows))
	for from := 0; from < len(rows); from += size {
		to := min(from+size, len(rows))
		s.save(rows[from:to], verdicts[from:to])
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

// failAll gives all of them the same error.
func failAll(verdicts []Verdict, err error) {
	for i := range verdicts {
		verdicts[i] = Verdict{Err: err}
	}
}

// remember keeps how many of the rows were rejected lately, as a share.
func (w *Writer) remember(share float64) {
	w.rejected.Store(math.Float64bits((math.Float64frombits(w.rejected.Load()) + share) / 2))
}

// pieceOf says how large the parts of so many rows should be: halves while rejected rows are rare, and so small that
// most parts are good or bad throughout where they are not.
func (w *Writer) pieceOf(rows int) int {
	size := float64((rows + 1) / 2)
	if share := math.Float64frombits(w.rejected.Load()); share > 0 {
		size = min(size, 0.7/share)
	}
	return max(int(size), 1)
}
