package dictionary

import (
	"bytes"
	"cmp"
	"hash/maphash"
	"slices"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/klauspost/compress/s2"
)

// shared is how many sampled events have to have the same text for it to stand in a dictionary: what is kept for as
// long as any row, and in every backup, must be nobody's.
const shared = 20

// mostAskers is how many different principals they have to be of, where there are twice as many: what one who asks often
// always says of itself is its own.
const mostAskers = 20

// dictionaryBytes is how much text a dictionary has at most.
const dictionaryBytes = s2.MaxDictSize

// sample is an event, and a text that must not stand in a dictionary however often it comes: who asks.
type sample struct {
	event     []byte
	principal []byte
}

// train makes a dictionary of what samples share, nil where that is too little to be one. A dictionary is text that was
// seen in at least so many samples as one piece: values that are shared each, but not together, do not stand together.
func train(samples []sample) []byte {
	samples = slices.Clone(samples)
	slices.SortStableFunc(samples, func(a, b sample) int { return bytes.Compare(a.principal, b.principal) })
	pieces := runs(samples)
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

// seed is of this process: what is hashed stands in no file.
var seed = maphash.MakeSeed()

// askers numbers who asks; whoever is not known is somebody else in every event. Samples are in the order of principals.
func askers(samples []sample) (of []int, needed int) {
	of = make([]int, len(samples))
	n := 0
	for i, s := range samples {
		if i == 0 || len(s.principal) == 0 || !bytes.Equal(s.principal, samples[i-1].principal) {
			n++
		}
		of[i] = n
	}
	return of, min(mostAskers, (n+1)/2)
}

// runs finds the longest texts of whole tokens that are shared. They are looked for as itemsets are (Agrawal and
// Srikant, 1994): only where two runs of n tokens that overlap are shared can one of n+1 tokens be.
func runs(samples []sample) []run {
	tokens := make([][]int, len(samples)) // where each token of a sample ends
	for i, s := range samples {
		tokens[i] = split(s)
	}
	// alive[i][k] says that the run which begins at token k of sample i is shared, in the length of this round.
	alive := make([][]bool, len(samples))
	longest := make([][]int, len(samples)) // in tokens
	counts := make([][]int, len(samples))  // of the longest
	for i, s := range samples {
		alive[i], longest[i], counts[i] = make([]bool, len(tokens[i])), make([]int, len(tokens[i])), make([]int, len(tokens[i]))
		for k := range tokens[i] {
			text := between(s.event, tokens[i], k, 1)
			alive[i][k] = len(s.principal) == 0 || !bytes.Contains(text, s.principal)
		}
	}
	asker, needed := askers(samples)
	for length := 1; ; length++ {
		seen := map[uint64]count{}
		each := func(visit func(i, k int, hash uint64)) {
			for i, s := range samples {
				for k := 0; k+length <= len(tokens[i]); k++ {
					if alive[i][k] {
						visit(i, k, maphash.Bytes(seed, between(s.event, tokens[i], k, length)))
					}
				}
			}
		}
		each(func(i, _ int, hash uint64) {
			c := seen[hash]
			if c.last == i+1 { // an event counts once
				return
			}
			c.events, c.last = c.events+1, i+1
			if c.asker != asker[i] {
				c.askers, c.asker = c.askers+1, asker[i]
			}
			seen[hash] = c
		})
		found := false
		next := make([][]bool, len(samples))
		for i := range next {
			next[i] = make([]bool, len(tokens[i]))
		}
		each(func(i, k int, hash uint64) {
			if c := seen[hash]; c.events >= shared && c.askers >= needed {
				longest[i][k], counts[i][k], next[i][k], found = length, c.events, true, true
			}
		})
		if !found {
			break
		}
		for i := range next {
			for k := range next[i] { // that of one token more needs both of its halves
				next[i][k] = next[i][k] && k+1 < len(next[i]) && next[i][k+1]
			}
		}
		alive = next
	}
	return collect(samples, tokens, longest, counts)
}

// count is in how many events, and of how many who ask, a text is; last and asker are those it was in last.
type count struct{ events, last, askers, asker int }

// collect lists each shared text once, without those that are only the end of another.
func collect(samples []sample, tokens, longest, counts [][]int) (out []run) {
	known := map[string]bool{}
	for i, s := range samples {
		covered := 0
		for k, n := range longest[i] {
			if n == 0 || k+n <= covered {
				continue
			}
			covered = k + n
			text := between(s.event, tokens[i], k, n)
			if len(text) > 3 && !known[string(text)] {
				known[string(text)] = true
				out = append(out, run{bytes.Clone(text), counts[i][k]})
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
// is no JSON.
func split(s sample) (ends []int) {
	d := jsontext.NewDecoder(bytes.NewReader(s.event), jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
	for {
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
				if len(ends) > 0 && len(s.event) > ends[len(ends)-1] {
					ends = append(ends, len(s.event))
				}
				return ends
			}
			at := int(d.InputOffset())
			ends = append(ends, at-len(v), at)
		}
	}
}
