package sink

import (
	"time"

	"github.com/docket-project/docket/internal/domain"
)

// slowRefusal tells a refusal that had to be waited for, such as a lock, from one that costs nothing.
const slowRefusal = time.Second

// refusal is what a store that is well answers to rows that it does not take: a day that somebody has locked or that
// cannot be made, a tenant that row-level security keeps out. It is no fault of the rows.
type refusal struct {
	err  error
	slow bool
}

// isRefusal reports that the store takes a probe, right behind an attempt that it answered with err. The breaker has to
// be told either way.
func (s *isolation) isRefusal(err error) bool {
	if !domain.Answered(err) {
		return false
	}
	began := s.w.now()
	failure := s.w.breaker.probe(s.ctx)
	if failure == nil {
		s.alive = began
		s.w.breaker.record(nil)
		return true
	}
	if domain.ClassOf(failure) == domain.Canceled {
		s.w.breaker.record(failure)
	} else {
		s.w.breaker.record(err)
	}
	return false
}

// narrow finds out whose rows the store does not take: it splits by day, then by tenant, then by halves. What it does
// not take is held; what it takes is stored.
func (s *isolation) narrow(p piece, r *refusal) {
	days := p.by(domain.HeldForDay)
	known := domain.HeldFor(r.err)
	for _, day := range days {
		switch key := domain.HeldForDay(&day.rows[0]); {
		case key == known:
			s.holdFor(day, r.err, key)
		case len(days) > 1:
			s.save(day)
		default:
			s.narrowDay(day, r)
		}
	}
}

// narrowDay is narrow for rows of one day.
func (s *isolation) narrowDay(p piece, r *refusal) {
	// The probe has shown that today's rows are taken as such.
	day := domain.HeldForDay(&p.rows[0])
	today := day == domain.HeldForDay(&domain.Decision{Timestamp: s.w.now()})
	if r.slow && !today {
		s.holdFor(p, r.err, day)
		return
	}
	tenants := p.by(func(d *domain.Decision) string { return d.Tenant })
	if len(tenants) == 1 {
		key := day
		if today {
			key = domain.HeldForTenant(p.rows[0].Tenant)
		}
		s.sift(p, r, key)
		return
	}
	s.narrowTenants(tenants, day, today)
}

// enough is how many tenants or rows have to be refused, and none taken, to speak for all.
const enough = 3

// narrowTenants finds out whether the store takes some tenants' rows of a day and not others', or nobody's.
func (s *isolation) narrowTenants(tenants []piece, day string, today bool) {
	type refused struct {
		piece
		*refusal
	}
	var all []refused
	taken := false
	for _, p := range tenants {
		if !taken && !today && len(all) >= enough {
			all = append(all, refused{p, all[0].refusal})
			continue
		}
		if r := s.store(p); r != nil {
			all = append(all, refused{p, r})
		} else if p.stored() {
			taken = true
		}
	}
	for _, one := range all {
		if taken || today {
			s.sift(one.piece, one.refusal, domain.HeldForTenant(one.rows[0].Tenant))
		} else {
			s.holdFor(one.piece, one.err, day)
		}
	}
}

// sift tells whether all rows of one day and tenant are refused, or single ones: those are held for the way in which
// they fail, so that nobody else's wait with them. One row says nothing about others.
func (s *isolation) sift(p piece, r *refusal, key string) {
	switch {
	case p.len() == 1:
		p.holdEach(r.err)
		return
	case r.slow:
		s.split(p)
		return
	}
	tried, left := piece{}, piece{}
	for i := range p.rows {
		if i == 0 || i == p.len()/2 || i == p.len()-1 {
			tried.add(p, i)
		} else {
			left.add(p, i)
		}
	}
	all := true
	for i := range tried.rows {
		one := tried.slice(i, i+1)
		if again := s.store(one); again != nil {
			one.holdEach(again.err)
		} else if one.stored() {
			all = false
		}
	}
	switch {
	case s.err != nil:
		left.fail(s.err)
	case all && s.sifted[key]: // others of this day and tenant are taken: these have something of their own in common
		left.holdEach(r.err)
	case all:
		s.holdFor(p, r.err, key)
	default:
		s.sifted[key] = true
		s.split(left)
	}
}

// holdFor holds rows for their day or tenant, and remembers that.
func (s *isolation) holdFor(p piece, err error, key string) {
	s.w.troubles.begin(key, err)
	p.holdAll(err, key)
}

// try tries rows of a day or tenant in trouble. It is over once one of them is stored.
func (s *isolation) try(t trial) {
	s.save(t.piece)
	if s.err == nil && t.stored() {
		s.w.troubles.end(t.key)
	}
}
