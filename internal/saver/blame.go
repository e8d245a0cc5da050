package saver

import (
	"context"
	"math"
	"time"

	"github.com/docket-project/docket/internal/domain"
)

const (
	// blameReserve is what the search for guilty rows leaves of the handler's budget for publishing and committing.
	blameReserve = 8 * time.Second
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
	err      error // why the search has ended early; nobody is to blame for it
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
	if s.err != nil {
		sentence(verdicts, s.err)
		return
	}
	fates, err := s.w.attempt(s.ctx, rows)
	if err == nil {
		for i, f := range fates {
			verdicts[i].Fate = f
		}
		return
	}
	now := s.w.now()
	deadline, ok := s.ctx.Deadline()
	switch v := (Verdict{Err: err, Path: rows[0].Path}); {
	case !v.Blamed():
		s.err = err
	case len(rows) == 1:
		verdicts[0] = v
		if s.suspects = append(s.suspects, &verdicts[0]); len(s.suspects) == 1 {
			s.since = now
		}
		if now.Sub(s.since) > confirmWithin {
			s.confirm()
		}
		return
	case ok && deadline.Sub(now) < blameReserve:
		s.err = domain.Errorf(domain.Unavailable, "no time left to find the rows to blame: %w", err)
	case now.Sub(s.alive) > confirmWithin: // a batch is split only while the store answers
		s.confirm()
	}
	size := s.w.pieceOf(len(rows))
	for from := 0; from < len(rows); from += size {
		to := min(from+size, len(rows))
		s.save(rows[from:to], verdicts[from:to])
	}
}

// confirm probes the store: the suspects are guilty if it answers, and nobody is if it does not.
func (s *search) confirm() {
	began := s.w.now()
	if s.err = s.w.breaker.probe(s.ctx); s.err == nil {
		s.alive, s.guilty = began, s.guilty+len(s.suspects)
	}
	for _, v := range s.suspects {
		if s.err != nil {
			*v = Verdict{Err: s.err}
		}
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
	size := (rows + 1) / 2
	if share := math.Float64frombits(w.guilty.Load()); share > 0 {
		size = min(size, int(0.7/share))
	}
	return max(size, 1)
}
