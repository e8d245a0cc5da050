package sink

import (
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/docket-project/docket/internal/domain"
)

const (
	// trialEvery is how often rows are tried of a day or a tenant that the store did not take, and trialSize how many of
	// them. A trial may cost the store's lock timeout.
	trialEvery = time.Minute
	trialSize  = 20
	// troubleFor is how long a trouble is remembered of which no rows come any more that could show that it is over.
	troubleFor = trialEvery + 20*time.Second
)

// Trouble is a day or a tenant whose rows the store, in good health, does not take.
type Trouble struct {
	// Key is what its rows are held for: see domain.HeldForDay.
	Key string
	// Err is what the store answered last, and Since when it began.
	Err   error
	Since time.Time

	next time.Time // when rows of it are tried again
	last time.Time // when some were refused
}

// troubles remembers them for a process, so that they do not cost every batch its time. It is safe for concurrent use.
type troubles struct {
	logger *slog.Logger
	now    func() time.Time

	mu    sync.Mutex
	byKey map[string]*Trouble
}

// List tells of all of them, sorted by key.
func (t *troubles) List() []Trouble {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.forget()
	out := make([]Trouble, 0, len(t.byKey))
	for _, one := range t.byKey {
		out = append(out, *one)
	}
	slices.SortFunc(out, func(a, b Trouble) int { return strings.Compare(a.Key, b.Key) })
	return out
}

// begin notes that the store did not take rows of a key.
func (t *troubles) begin(key string, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	one := t.byKey[key]
	if one == nil {
		one = &Trouble{Key: key, Since: now}
		t.byKey[key] = one
		t.logger.Error(
			"the store takes no rows of one day or tenant; docket holds these in the topic of held records, stores the others, "+
				"and tries again every minute. The error says what to fix", "held_for", key, "error", err,
		)
	}
	one.Err, one.next, one.last = err, now.Add(trialEvery), now
}

// forget drops those of which no rows have come for so long. The caller holds t.mu.
func (t *troubles) forget() {
	now := t.now()
	maps.DeleteFunc(t.byKey, func(_ string, one *Trouble) bool { return now.Sub(one.last) > troubleFor })
}

// end notes that it takes them again.
func (t *troubles) end(key string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if one := t.byKey[key]; one != nil {
		delete(t.byKey, key)
		t.logger.Info("the store takes these rows again", "held_for", key, "after", t.now().Sub(one.Since).Round(time.Second))
	}
}

// trial is some rows of a key in trouble.
type trial struct {
	key string
	piece
}

// part takes the rows out that the store would not take: they are held. A few of a key that is due are to be tried.
func (t *troubles) part(p piece) (free piece, trials []trial) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.forget(); len(t.byKey) == 0 {
		return p, nil
	}
	now := t.now()
	due := map[string]*trial{}
	for i := range p.rows {
		one := t.of(&p.rows[i])
		if one == nil {
			free.add(p, i)
			continue
		}
		if due[one.Key] == nil && !now.Before(one.next) {
			due[one.Key] = &trial{key: one.Key}
			one.next = now.Add(trialEvery)
		}
		if d := due[one.Key]; d != nil && len(d.rows) < trialSize {
			d.add(p, i)
			continue
		}
		p.hold(i, one.Err, one.Key)
	}
	for _, key := range slices.Sorted(maps.Keys(due)) {
		trials = append(trials, *due[key])
	}
	return free, trials
}

// of is the trouble that a row has; nil for none.
func (t *troubles) of(d *domain.Decision) *Trouble {
	if one := t.byKey[domain.HeldForDay(d)]; one != nil {
		return one
	}
	return t.byKey[domain.HeldForTenant(d.Tenant)]
}
