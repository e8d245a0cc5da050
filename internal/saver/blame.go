package saver

import (
	"context"
	"math"
	"time"

	"github.com/docket-project/docket/internal/domain"
)

const (
	// blameReserve is what the search for guilty rows leaves of the handler's budget for publishing and committing.
	blameReserve = 10 * time.Second
	// confirmWithin is how soon after a row has failed alone a probe has to speak for the store. One probe, which is a new
	// connection, speaks for all rows that failed since the one before.
	confirmWithin = 100 * time.Millisecond
)

// search stores rows and, where they fail, splits them until the guilty ones stand alone.
type search struct {
	w   *Writer
	ctx context.Context //nolint:containedctx // it lives as long as one call of Save
	// suspects have failed alone since the last probe, the first of them at since.
	suspects []*Verdict
	since    time.Time
	alive    time.Time // when the last probe that succeeded began
	guilty   int
	failure  error // that began the search
	err      error // why it has ended early; nobody is to blame for it
}

// run stores rows, and fills verdicts, which runs beside them.
func (s *search) run(rows []domain.Decision, verdicts []Verdict) {
	s.save(rows, verdicts)
	if len(s.suspects) > 0 {
		s.confirm()
	}
	s.w.remember(float64(s.guilty) / float64(len(rows)))
}

func (s *search) save(rows []domain.Decision, verdicts []Verdict) {
	if deadline, ok := s.ctx.Deadline(); ok && s.failure != nil && s.err == nil && deadline.Sub(s.w.now()) < blameReserve {
		s.err = domain.Errorf(domain.Unavailable, "no time left to find the rows to blame: %w", s.failure)
	}
	if s.err != nil {
		sentence(verdicts, s.err)
		return
	}
	fates, err := s.w.attempt(s.ctx, rows)
	v := Verdict{Err: err, Path: rows[0].Path}
	switch {
	case err == nil:
		for i, f := range fates {
			verdicts[i].Fate = f
		}
	case !v.Blamed():
		s.err = err
		s.acquit(err)
		sentence(verdicts, err)
		return
	case len(rows) == 1:
		s.failure, verdicts[0] = err, v
		if s.suspects = append(s.suspects, &verdicts[0]); len(s.suspects) == 1 {
			s.since = s.w.now()
		}
	default:
		s.failure = err
		if s.w.now().Sub(s.alive) > confirmWithin { // a batch is split only while the store answers
			s.confirm()
		}
		s.split(rows, verdicts)
		return
	}
	if len(s.suspects) > 0 && s.w.now().Sub(s.since) > confirmWithin {
		s.confirm()
	}
}

func (s *search) split(rows []domain.Decision, verdicts []Verdict) {
	size := s.w.pieceOf(len(rows))
	for from := 0; from < len(rows); from += size {
		to := min(from+size, len(rows))
		s.save(rows[from:to], verdicts[from:to])
	}
}

// confirm probes the store: the suspects are guilty if it answers, and nobody is if it does not. A probe that comes late says
// nothing about them.
func (s *search) confirm() {
	began := s.w.now()
	if s.err = s.w.breaker.probe(s.ctx); s.err != nil {
		s.w.breaker.record(s.err)
		s.acquit(s.err)
		return
	}
	s.alive = began
	if len(s.suspects) > 0 && began.Sub(s.since) > probeTimeout {
		s.acquit(domain.Errorf(domain.Unavailable, "the store was too slow to tell whether it or a row is to blame: %w", s.failure))
	}
	s.guilty += len(s.suspects)
	s.suspects = nil
}

// acquit gives the suspects the reason why nobody is to blame.
func (s *search) acquit(err error) {
	for _, v := range s.suspects {
		*v = Verdict{Err: err}
	}
	s.suspects = nil
}

// sentence gives all of them the same error.
func sentence(verdicts []Verdict, err error) {
	for i := range verdicts {
		verdicts[i].Err = err
	}
}

// remember keeps how many of the rows were guilty lately, as a share.
func (w *Writer) remember(share float64) {
	w.guilty.Store(math.Float64bits((math.Float64frombits(w.guilty.Load()) + share) / 2))
}

// pieceOf says how large the parts of so many rows should be: halves while guilty rows are rare, and so small that most are
// good or bad throughout where they are not.
func (w *Writer) pieceOf(rows int) int {
	size := float64((rows + 1) / 2)
	if share := math.Float64frombits(w.guilty.Load()); share > 0 {
		size = min(size, 0.7/share)
	}
	return max(int(size), 1)
}
