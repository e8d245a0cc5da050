package policy

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"math"
	"net/url"
	"slices"
	"strings"
	"sync"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/docket-project/docket/internal/domain"
)

// Content is what the policies say of events. It is safe for concurrent use.
type Content struct {
	policies []compiled
	masks    bool
	outcome  func(event []byte) domain.Outcome
	limit    int
	secret   []byte // of digests: the key's, or one that this process has made up
	walks    sync.Pool
	rules    memory[*rules]
	events   *prometheus.CounterVec
}

// NewContent compiles policies, which Validate has passed. outcome tells how an event ended, and limit is the longest
// event that the log takes, in bytes. It is nil where no policy says anything of events. reg may be nil in tests.
func NewContent(
	policies []Policy, key Key, outcome func(event []byte) domain.Outcome, limit int, reg prometheus.Registerer,
) *Content {
	c := &Content{masks: Masking(policies), outcome: outcome, limit: limit}
	for _, p := range policies {
		if len(p.Masks)+len(p.Samples) > 0 {
			c.policies = append(c.policies, compile(p))
		}
	}
	if len(c.policies) == 0 {
		return nil
	}
	if c.secret = key.secret; c.secret == nil {
		c.secret = make([]byte, minKey)
		_, _ = rand.Read(c.secret) // it never fails
	}
	c.walks.New = func() any { return newWalk(key) }
	c.events = promauto.With(reg).NewCounterVec(prometheus.CounterOpts{
		Name: "docket_policy_events_total",
		Help: "Events of acknowledged uploads that a policy changed (masked; coarsened, where its masks hit too often), " +
			"left out (dropped by keep: 0, sampled_out), or could not mask and so did not keep (unmaskable).",
	}, []string{"policy", "action"})
	for _, p := range c.policies {
		for _, action := range actions {
			c.events.WithLabelValues(p.Name, string(action))
		}
	}
	return c
}

// Action is what a policy did with an event. It is a metric label.
type Action string

// The actions. Coarsened is Masked, but more is left out than the masks name; see treesOf. Unmaskable are bytes that
// could be quarantined only with all that is in them.
const (
	Masked     Action = "masked"
	Coarsened  Action = "coarsened"
	Dropped    Action = "dropped"
	SampledOut Action = "sampled_out"
	Unmaskable Action = "unmaskable"
)

var actions = []Action{Masked, Coarsened, Dropped, SampledOut, Unmaskable}

// Tally counts what policies did. It is added to the metrics once what it is about is durable.
type Tally map[Done]int

// Done is what a policy did.
type Done struct {
	Policy string
	Action Action
}

// Count adds a tally to the metrics.
func (c *Content) Count(t Tally) {
	for done, n := range t {
		c.events.WithLabelValues(done.Policy, string(done.Action)).Add(float64(n))
	}
}

// Upload begins what is made of an upload of a tenant, of so many bytes inflated; nil where its policies say nothing,
// also where c is. again says that what is in it was masked before.
func (c *Content) Upload(tenant string, length int, again bool) *Upload {
	if c == nil {
		return nil
	}
	r := c.rulesOf(tenant)
	if r == nil {
		return nil
	}
	return &Upload{rules: r, may: mayGrow(length), step: mayGrow(length) / 3, again: again, Tally: Tally{}}
}

// smallGrowth is by how many bytes any upload may grow by its masks, however small it is.
const smallGrowth = 32 << 20

// mayGrow is by how many bytes an upload may grow by its masks before they are applied more coarsely.
func mayGrow(length int) int { return max(length*3/4, smallGrowth) }

// Largest is the most that masks make of an upload of so many bytes and events: what they may, a part of that again
// until they do not make it longer, and what tells of what was removed.
func Largest(bytes, events int) int {
	const listed = 64 // of an event
	return bytes + mayGrow(bytes) + mayGrow(bytes)/3 + events*listed
}

// Digest is what an upload is known by: the SHA-256 of its bytes, with a key where masks are to keep something of it
// from those who see the digest and can guess the rest. c may be nil.
func (c *Content) Digest(tenant string, wire []byte) []byte {
	if c != nil {
		if r := c.rulesOf(tenant); r != nil && r.any.trees != nil {
			mac := hmac.New(sha256.New, c.secret)
			_, _ = mac.Write(wire)
			return mac.Sum(nil)
		}
	}
	sum := sha256.Sum256(wire)
	return sum[:]
}

// Masks reports whether any policy masks anything.
func (c *Content) Masks() bool { return c != nil && c.masks }

func (c *Content) rulesOf(tenant string) *rules {
	return c.rules.get(tenant, func() *rules {
		r := &rules{content: c, tenant: tenant}
		for _, p := range c.policies {
			if p.tenants.match(tenant) {
				r.policies = append(r.policies, p)
				r.byPath = r.byPath || len(p.Paths) > 0
			}
		}
		if len(r.policies) == 0 {
			return nil
		}
		counts := make([]byte, len(r.policies))
		for i := range counts {
			counts[i] = masksCount | samplesCount
		}
		r.any = r.planOf(counts)
		return r
	})
}

// rules are those of one tenant.
type rules struct {
	content  *Content
	tenant   string
	policies []compiled
	any      *plan         // of all policies, whatever their paths
	byPath   bool          // some have paths
	plans    memory[*plan] // by which policies count
}

// plan is what is done with the events of one path.
type plan struct {
	trees   *[levels]tree // nil without masks
	masks   []string      // names of the policies that have some
	samples []sample
}

type sample struct {
	policy   string
	outcomes []domain.Outcome
	keep     float64
}

// What counts of a policy for an event.
const (
	masksCount = 1 << iota
	samplesCount
)

// planOf joins what counts of each policy.
func (r *rules) planOf(counts []byte) *plan {
	p := &plan{}
	var masks []Mask
	for i, from := range r.policies {
		if len(from.Masks) > 0 && counts[i]&masksCount != 0 {
			masks = append(masks, from.Masks...)
			p.masks = append(p.masks, from.Name)
		}
		if counts[i]&samplesCount == 0 {
			continue
		}
		for _, s := range from.Samples {
			p.samples = append(p.samples, sample{from.Name, s.Outcomes, *s.Keep})
		}
	}
	p.trees = treesOf(masks)
	return p
}

// of is the plan for the value of an event's path. OPA decides by the path as it was meant and logs it as it was asked
// for, %73hop//pay and all: masks go by either. An event whose path is no text is one of any path, for masks; nothing
// is left out for it.
func (r *rules) of(path []byte) *plan {
	if !r.byPath {
		return r.any
	}
	text, isText := domain.TextOf(jsontext.Value(path))
	text = strings.TrimLeft(text, "/") // as the column has it
	meant := meantPath(text)
	var room [64]byte
	counts := room[:0]
	for _, p := range r.policies {
		count := byte(0)
		if asked := p.paths.match(text); asked && (isText || len(p.paths) == 0) {
			count = masksCount | samplesCount
		} else if !isText || p.paths.match(meant) {
			count = masksCount
		}
		counts = append(counts, count)
	}
	return r.plans.get(string(counts), func() *plan { return r.planOf(counts) })
}

// meantPath is a policy path as OPA reads it from a URL: percent-decoded, without empty segments.
func meantPath(path string) string {
	if !strings.Contains(path, "%") && !strings.Contains(path, "//") && !strings.HasSuffix(path, "/") {
		return path
	}
	var segments []string
	for segment := range strings.SplitSeq(path, "/") {
		if plain, err := url.PathUnescape(segment); err == nil {
			segment = plain
		}
		if segment != "" {
			segments = append(segments, segment)
		}
	}
	return strings.Join(segments, "/")
}

// Kept is what is kept of an event.
type Kept struct {
	// Raw is the event, with less in it where Masked: then it is a copy.
	Raw    []byte
	Masked bool
}

// Upload is what the policies of a tenant make of one upload. It is for one goroutine.
type Upload struct {
	rules *rules
	// may is by how many bytes its events may grow by their masks. Beyond that they are masked more strictly with every
	// step: memory is bounded, and an upload must not be refused for what is in it.
	may, step int
	again     bool
	Tally     Tally
}

// Event is what is kept of an event, and whether anything is.
func (u *Upload) Event(e domain.Event) (kept Kept, keep bool) {
	p := u.rules.of(e.Path)
	if s := p.sampleOf(u.rules.content, e); s != nil {
		action := SampledOut
		if s.keep == 0 {
			action = Dropped
		}
		u.Tally[Done{s.policy, action}]++
		return kept, false
	}
	return u.mask(p, e.Raw)
}

// Quarantined is what is kept of an element that docket cannot accept, and whether anything is. Whatever its path says,
// every mask of the tenant counts: the element is not one that docket understands.
func (u *Upload) Quarantined(raw []byte) (kept Kept, keep bool) { return u.mask(u.rules.any, raw) }

// Body reports whether a whole body is kept that docket could not read to its end: masks cannot be applied to it.
func (u *Upload) Body() bool {
	if u.rules.any.trees == nil {
		return true
	}
	u.count(u.rules.any, Unmaskable)
	return false
}

// mask masks an event, or drops what cannot be masked.
func (u *Upload) mask(p *plan, raw []byte) (kept Kept, keep bool) {
	strict := strictness(0)
	if u.may < 0 {
		strict++
	}
	if u.may < -u.step {
		strict = strictest
	}
	masked, level := u.rules.mask(p, raw, strict, u.again)
	switch level {
	case untouched:
		return Kept{Raw: raw}, true
	case unreadable:
		u.count(p, Unmaskable)
		return kept, false
	case fine:
		u.count(p, Masked)
	default:
		u.count(p, Coarsened)
	}
	u.may -= len(masked) - len(raw)
	return Kept{Raw: masked, Masked: true}, true
}

func (u *Upload) count(p *plan, a Action) {
	for _, name := range p.masks {
		u.Tally[Done{name, a}]++
	}
}

// How much of an event masks took: a level, or one of these.
const (
	unreadable = -2
	untouched  = -1
)

// maxPooled is the largest buffer that is kept for another event, in bytes.
const maxPooled = 1 << 20

// mask is a copy of an event without what the masks name, or without what is around it.
func (r *rules) mask(p *plan, raw []byte, strict strictness, again bool) (masked []byte, level int) {
	if p.trees == nil {
		return nil, untouched
	}
	w := r.content.walks.Get().(*walk)
	defer func() {
		if cap(w.out) <= maxPooled {
			r.content.walks.Put(w)
		}
	}()
	level, err := w.mask(p.trees, r.tenant, raw, r.content.limit, strict, again)
	switch {
	case err != nil:
		return nil, unreadable
	case level == untouched:
		return nil, untouched
	}
	return bytes.Clone(w.out), level
}

// sampleOf is the sample that an event is left out by, or nil. The first that is for the event's outcome decides.
func (p *plan) sampleOf(c *Content, e domain.Event) *sample {
	if len(p.samples) == 0 {
		return nil
	}
	outcome := c.outcome(e.Raw)
	for i := range p.samples {
		s := &p.samples[i]
		if !slices.Contains(s.outcomes, outcome) {
			continue
		}
		sum := sha256.Sum256([]byte(e.ID)) // the same for every delivery
		if float64(binary.BigEndian.Uint64(sum[:]))/math.MaxUint64 >= s.keep {
			return s
		}
		return nil
	}
	return nil
}

// memory keeps what was made for a text: tenants are few, unless somebody makes them up.
type memory[T any] struct {
	mu   sync.RWMutex
	made map[string]T
}

const maxMemory = 1000

func (m *memory[T]) get(key string, build func() T) T {
	m.mu.RLock()
	one, ok := m.made[key]
	m.mu.RUnlock()
	if ok {
		return one
	}
	one = build()
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.made) >= maxMemory || m.made == nil {
		m.made = map[string]T{}
	}
	m.made[strings.Clone(key)] = one
	return one
}
