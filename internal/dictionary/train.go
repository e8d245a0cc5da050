package dictionary

import (
	"bytes"
	"cmp"
	"context"
	"hash/maphash"
	"slices"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/klauspost/compress/s2"
)

// shared is how many sampled events have to have the same text for it to stand in a dictionary: what is kept for as
// long as any row, and in every backup, must be nobody's. They have to be of as many who ask. Where so many are not
// known, half of all events have to have it or, where it is names without a value, one of everyTwentieth.
const (
	shared         = 20
	everyTwentieth = 20
)

// dictionaryBytes is how much text a dictionary has at most.
const dictionaryBytes = s2.MaxDictSize

// What training looks at, at most: values and what stands between them, of each event and of all, and those of one run.
const (
	maxTokens    = 500
	maxAllTokens = 500_000
	maxRun       = 100
)

// sample is an event, and a text that must not stand in a dictionary however often it comes: who asks.
type sample struct {
	event     []byte
	principal []byte
}

// train makes a dictionary of what samples share, nil where that is too little to be one, or ctx ends. A dictionary is
// text that was seen in at least so many samples as one piece: values that are shared each, but not together, do not
// stand together.
func train(ctx context.Context, samples []sample) []byte {
	samples = slices.Clone(samples)
	slices.SortStableFunc(samples, func(a, b sample) int { return bytes.Compare(a.principal, b.principal) })
	pieces := runs(ctx, samples)
	// What saves the most comes first, so that it is there when the room ends; what is part of another is there already.
	slices.SortFunc(pieces, func(a, b run) int {
		return cmp.Or(cmp.Compare(b.worth(), a.worth()), bytes.Compare(a.text, b.text))
	})
	var chosen [][]byte
	size := 0
	for _, p := range pieces {
		if size+len(p.text) > dictionaryBytes {
			continue
		}
		if slices.ContainsFunc(chosen, func(c []byte) bool { return bytes.Contains(c, p.text) }) {
			continue
		}
		chosen = append(chosen, p.text)
		size += len(p.text)
	}
	// The best last: s2 spells what is near in fewer bytes.
	slices.Reverse(chosen)
	text := bytes.Join(chosen, nil)
	d := s2.MakeDict(text, opening(samples))
	if d == nil {
		return nil
	}
	return d.Bytes()
}

// opening is what most events begin with.
func opening(samples []sample) []byte {
	if len(samples) == 0 {
		return nil
	}
	e := samples[0].event
	return e[:min(len(e), 64)]
}

// run is a text that several events have.
type run struct {
	text   []byte
	events int
}

// worth is what a run saves, in bytes of all samples.
func (r run) worth() int { return r.events * (len(r.text) - 3) }

// askers numbers who asks. Those who are not known may be one. Samples are in the order of principals.
func askers(samples []sample) []int {
	of, n := make([]int, len(samples)), 0
	for i, s := range samples {
		if i == 0 || !bytes.Equal(s.principal, samples[i-1].principal) {
			n++
		}
		of[i] = n
	}
	return of
}

// enough says whether a text that so many of the samples have is nobody's.
func (c count) enough(samples int, value bool) bool {
	few := samples / 2
	if !value {
		few = samples / everyTwentieth
	}
	return c.events >= shared && (c.askers >= shared || c.events >= few)
}

// tokens are those of a sample: where each ends, and a hash of each.
type tokens struct {
	ends   []int
	hashes []uint64
	// run is the hash of the run that begins at a token, in the length of this round; alive says that it may be shared.
	run   []uint64
	alive []bool
	// value says that it has a value, and not only names.
	value []bool
	// longest is the longest shared run that begins there, in tokens, and events how many have it.
	longest, events []int
}

// seed is of this process: what is hashed stands in no file.
var seed = maphash.MakeSeed()

func tokensOf(s sample) *tokens {
	ends := split(s.event)
	n := len(ends)
	t := &tokens{
		ends: ends, hashes: make([]uint64, n), run: make([]uint64, n), alive: make([]bool, n), value: make([]bool, n),
		longest: make([]int, n), events: make([]int, n),
	}
	for k := range ends {
		text := between(s.event, ends, k, 1)
		t.hashes[k] = maphash.Bytes(seed, text)
		t.run[k], t.alive[k], t.value[k] = t.hashes[k], !tells(text, s.principal), isValue(text)
	}
	return t
}

// isValue tells a value from what stands between two. true, false and null are everybody's.
func isValue(text []byte) bool {
	return len(text) > 0 && (text[0] == '"' || text[0] == '-' || text[0] >= '0' && text[0] <= '9')
}

// tells reports that a text tells who asks, as it is or behind escapes.
func tells(text, principal []byte) bool {
	if len(principal) == 0 {
		return false
	}
	if bytes.Contains(text, principal) {
		return true
	}
	if !isValue(text) || bytes.IndexByte(text, '\\') < 0 {
		return false
	}
	plain, _ := jsontext.AppendUnquote(nil, text)
	return bytes.Contains(plain, principal)
}

// runs finds the longest texts of whole tokens that are shared. They are looked for as itemsets are (Agrawal and
// Srikant, 1994): only where two runs of n tokens that overlap are shared can one of n+1 tokens be. The hash of a run
// is made of that of the run without its last token, so that a round costs as much as there are tokens.
func runs(ctx context.Context, samples []sample) []run {
	all := make([]*tokens, 0, len(samples))
	for n, i := 0, 0; i < len(samples) && n < maxAllTokens; i++ {
		t := tokensOf(samples[i])
		all = append(all, t)
		n += len(t.ends)
	}
	samples = samples[:len(all)]
	asker := askers(samples)
	for length := 1; length <= maxRun && ctx.Err() == nil; length++ {
		seen := map[uint64]count{}
		for i, t := range all {
			for k, alive := range t.alive {
				c := seen[t.run[k]]
				if !alive || c.last == i+1 { // an event counts once
					continue
				}
				c.events, c.last = c.events+1, i+1
				if c.asker != asker[i] {
					c.askers, c.asker = c.askers+1, asker[i]
				}
				seen[t.run[k]] = c
			}
		}
		found := false
		for i, t := range all {
			for k, alive := range t.alive {
				if !alive {
					continue
				}
				c := seen[t.run[k]]
				if t.alive[k] = c.enough(len(samples), t.value[k]); t.alive[k] {
					t.longest[k], t.events[k], found = length, c.events, true
				}
			}
			for k := range t.alive { // that of one token more needs both of its halves
				if t.alive[k] = t.alive[k] && k+length < len(t.ends) && t.alive[k+1]; t.alive[k] {
					t.run[k] = t.run[k]*prime + t.hashes[k+length]
					t.value[k] = t.value[k] || isValue(between(samples[i].event, t.ends, k+length, 1))
				}
			}
		}
		if !found {
			break
		}
	}
	return collect(samples, all)
}

// prime is FNV's of 64 bits.
const prime = 1099511628211

// count is in how many events, and of how many who ask, a text is; last and asker are those it was in last.
type count struct{ events, last, askers, asker int }

// collect lists each shared text once, without those that are only the end of another.
func collect(samples []sample, all []*tokens) (out []run) {
	known := map[string]bool{}
	for i, t := range all {
		covered := 0
		for k, n := range t.longest {
			if n == 0 || k+n <= covered {
				continue
			}
			covered = k + n
			text := between(samples[i].event, t.ends, k, n)
			if len(text) > 3 && len(text) <= dictionaryBytes && !known[string(text)] {
				known[string(text)] = true
				out = append(out, run{bytes.Clone(text), t.events[k]})
			}
		}
	}
	return out
}

// between is the text of n tokens from the k-th on.
func between(event []byte, ends []int, k, n int) []byte {
	start := 0
	if k > 0 {
		start = ends[k-1]
	}
	return event[start:ends[k+n-1]]
}

// split says where the tokens of an event end: the values, and what stands between two values. It stops where the event
// is no JSON, and at maxTokens.
func split(event []byte) (ends []int) {
	d := jsontext.NewDecoder(bytes.NewReader(event), jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
	for len(ends) < maxTokens {
		inside, n := d.StackIndex(d.StackDepth())
		switch kind := d.PeekKind(); {
		case kind == '{' || kind == '}' || kind == '[' || kind == ']',
			kind == '"' && inside == '{' && n%2 == 0: // a name is part of what stands in front of its value
			if _, err := d.ReadToken(); err != nil {
				return ends
			}
		default:
			v, err := d.ReadValue()
			if err != nil {
				if len(ends) > 0 && len(event) > ends[len(ends)-1] {
					ends = append(ends, len(event))
				}
				return ends
			}
			at := int(d.InputOffset())
			ends = append(ends, at-len(v), at)
		}
	}
	return ends
}
