package sink

import (
	"slices"

	"github.com/docket-project/docket/internal/domain"
)

// piece is a part of a batch: rows, and where the verdict of each goes.
type piece struct {
	rows     []domain.Decision
	verdicts []*Verdict
}

// pieceOf is a whole batch.
func pieceOf(rows []domain.Decision, verdicts []Verdict) piece {
	p := piece{rows, make([]*Verdict, len(verdicts))}
	for i := range verdicts {
		p.verdicts[i] = &verdicts[i]
	}
	return p
}

func (p piece) len() int { return len(p.rows) }

func (p piece) slice(from, to int) piece { return piece{p.rows[from:to], p.verdicts[from:to]} }

// add takes in a row of another piece.
func (p *piece) add(from piece, i int) {
	p.rows, p.verdicts = append(p.rows, from.rows[i]), append(p.verdicts, from.verdicts[i])
}

// by splits a piece by a property of its rows, the largest part first: that is what most wait for.
func (p piece) by(property func(*domain.Decision) string) []piece {
	at := map[string]int{}
	var out []piece
	for i := range p.rows {
		key := property(&p.rows[i])
		n, ok := at[key]
		if !ok {
			n = len(out)
			at[key] = n
			out = append(out, piece{})
		}
		out[n].add(p, i)
	}
	slices.SortStableFunc(out, func(a, b piece) int { return b.len() - a.len() })
	return out
}

// apart splits a piece into the rows that are so and those that are not; an empty part is left out.
func (p piece) apart(is func(*domain.Decision) bool) (parts []piece) {
	n := 0
	for i := range p.rows {
		if is(&p.rows[i]) {
			n++
		}
	}
	switch n {
	case 0, p.len():
		if p.len() > 0 {
			parts = append(parts, p)
		}
		return parts
	}
	parts = make([]piece, 2)
	for i := range p.rows {
		if is(&p.rows[i]) {
			parts[0].add(p, i)
		} else {
			parts[1].add(p, i)
		}
	}
	return parts
}

// fail gives all of them the same error.
func (p piece) fail(err error) {
	for _, v := range p.verdicts {
		*v = Verdict{Err: err}
	}
}

// hold says what a row waits for.
func (p piece) hold(i int, err error, key string) {
	*p.verdicts[i] = Verdict{Err: err, HeldFor: key, Tenant: p.rows[i].Tenant, Path: p.rows[i].Path}
}

// holdAll holds all of them for one thing.
func (p piece) holdAll(err error, key string) {
	for i := range p.rows {
		p.hold(i, err, key)
	}
}

// holdEach holds each of them for the way in which it fails.
func (p piece) holdEach(err error) {
	for i, d := range p.rows {
		p.hold(i, err, domain.HeldForFingerprint(domain.RejectionOf(err, d.Tenant, d.Path).Fingerprint))
	}
}

// stored reports that a row of them is in the store. One that is too old, or may not be kept, was never sent there.
func (p piece) stored() bool {
	return slices.ContainsFunc(p.verdicts, func(v *Verdict) bool {
		return v.Err == nil && v.Status != domain.TooOld && v.Status != domain.Erased
	})
}
