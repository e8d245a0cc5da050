package policy

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash"
	"net/url"
	"slices"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/docket-project/docket/internal/domain"
)

// What a mask does, the one that hides most last: where several masks meet, it counts.
type act int

const (
	replaces act = iota + 1
	hashes
	removes
)

// node is a step of the masks' pointers.
type node struct {
	act      act // 0 where no mask ends
	text     []byte
	children map[string]*node
	any      *node // of a *
}

// tree is what masks look for, from the event on.
type tree struct{ root node }

func (t *tree) add(steps []string, a act, text string) {
	n := &t.root
	for _, step := range steps {
		next := n.any
		if step != "*" {
			next = n.children[step]
		}
		if next == nil {
			next = &node{}
			if step == "*" {
				n.any = next
			} else {
				if n.children == nil {
					n.children = map[string]*node{}
				}
				n.children[step] = next
			}
		}
		n = next
	}
	if a > n.act {
		n.act, n.text = a, nil
		if a == replaces {
			n.text, _ = jsontext.AppendQuote(nil, text) // a name's text, so it is valid
		}
	}
}

// A mask may hit so often, or make so much of so little, that an event would not fit the log: whoever writes the input
// decides how often. Then what is around the values goes as a whole, in that member of the event alone, so that the
// decision itself is kept, and how it ended.
const (
	// maxHits is how many values are masked one by one, and maxTimes and maxGrowth by how many times the event's length,
	// and by how many bytes, what comes out may be longer.
	maxHits   = 500
	maxTimes  = 3
	maxGrowth = 4 << 10
)

// How much goes: what the masks name, everything from their first * on, or the whole member of the event.
const (
	fine = iota
	coarse
	whole
	levels
)

// treesOf are masks by level; nil without masks.
func treesOf(masks []Mask) *[levels]tree {
	if len(masks) == 0 {
		return nil
	}
	trees := new([levels]tree)
	for _, m := range masks {
		steps := domain.Steps(m.pointer())
		a := removes
		switch {
		case m.Replace != "":
			a = replaces
		case m.Hash != "":
			a = hashes
		}
		text := m.With
		if text == "" {
			text = DefaultText
		}
		trees[fine].add(steps, a, text)
		if star := slices.Index(steps, "*"); star >= 0 {
			steps = steps[:star]
		}
		trees[coarse].add(steps, removes, "")
		trees[whole].add(steps[:1], removes, "")
	}
	return trees
}

// strictness is how much of its share of memory an upload has used up: from 1 on, members are masked coarsely, and from
// 2 on as a whole. The result, which the policy writes and which says how a decision ended, comes last.
type strictness int

const strictest strictness = 3

func (s strictness) level(member string) int {
	if member == "result" {
		s--
	}
	return min(max(int(s), fine), whole)
}

// walk masks one event after another. It is for one goroutine.
type walk struct {
	decoder jsontext.Decoder
	source  bytes.Buffer
	trees   *[levels]tree
	key     Key
	mac     hash.Hash
	tenant  string

	raw []byte
	// out is what is kept of raw[:settled].
	out     []byte
	settled int
	longest int // that it may become
	pointer []byte
	// level is that of the member of the event in hand, name. members has the levels of those that did not come out well,
	// and hits how often masks hit in each.
	level   int
	name    string
	members map[string]int
	hits    map[string]int
	single  int     // hits of masks that are applied one by one
	nodes   []*node // those that are looked for, of each level behind those of the one around it
	lists   [2]list // of erased and masked
	told    []*node // what they tell of
}

// list is a member of the event that tells what was masked.
type list struct {
	name string
	// added are the pointers, as JSON texts parted by commas.
	added []byte
	// from and to are where the event's own value stands in out; array says that it is one that more can be added to.
	from, to  int
	is, array bool
}

func newWalk(key Key) *walk {
	w := &walk{key: key, members: map[string]int{}, hits: map[string]int{}}
	if key.Version != "" {
		w.mac = hmac.New(sha256.New, key.secret)
	}
	return w
}

var (
	duplicates = jsontext.AllowDuplicateNames(true)
	anyUTF8    = jsontext.AllowInvalidUTF8(true)

	errTooMuch = errors.New("masks hit too often")
)

// mask is what is kept of a JSON object, in w.out, which is the walk's until it is used again; level is the highest
// that it took, untouched where no mask hit. limit is the longest event that docket takes; the log has room for a little
// more. Its error is that the event is no object that can be read.
func (w *walk) mask(
	trees *[levels]tree, tenant string, raw []byte, limit int, strict strictness,
) (level int, err error) {
	w.trees, w.tenant, w.raw = trees, tenant, raw
	w.longest = min(maxTimes*len(raw), max(limit-len(raw), 0)) + len(raw) + maxGrowth
	clear(w.members)
	for {
		level, err = w.try(strict)
		if !errors.Is(err, errTooMuch) || !w.coarser(strict) {
			break
		}
	}
	w.raw, w.source = nil, bytes.Buffer{} // forget the bytes
	w.decoder.Reset(&w.source, duplicates, anyUTF8)
	if errors.Is(err, errTooMuch) { // even so: it is as little as there can be
		err = nil
	}
	return level, err
}

// coarser has the member masked more coarsely where masks hit most often, of those that can be.
func (w *walk) coarser(strict strictness) bool {
	most := ""
	for name, n := range w.hits {
		if n > w.hits[most] && w.levelOf(name, strict) < whole {
			most = name
		}
	}
	if most == "" {
		return false
	}
	w.members[most] = w.levelOf(most, strict) + 1
	return true
}

func (w *walk) levelOf(member string, strict strictness) int {
	return max(strict.level(member), w.members[member])
}

// try masks the event at the levels of its members. Its error is errTooMuch at the end, if at all.
func (w *walk) try(strict strictness) (level int, err error) {
	w.out, w.settled, w.pointer, w.told, w.single = w.out[:0], 0, w.pointer[:0], w.told[:0], 0
	clear(w.hits)
	for i, name := range []string{"erased", "masked"} {
		w.lists[i] = list{name: name, added: w.lists[i].added[:0]}
	}
	w.source = *bytes.NewBuffer(w.raw)
	w.decoder.Reset(&w.source, duplicates, anyUTF8)
	if w.decoder.PeekKind() != '{' {
		return untouched, errors.New("it is no object")
	}
	if err := w.event(strict); err != nil {
		return untouched, err
	}
	level = untouched
	for name := range w.hits {
		level = max(level, w.levelOf(name, strict))
	}
	if level == untouched {
		return level, nil
	}
	w.flush(len(w.raw))
	w.tell()
	if w.single > maxHits || len(w.out) > w.longest {
		return level, errTooMuch
	}
	return level, nil
}

// runaway reports that there is no use in going on: what there is already will not fit.
func (w *walk) runaway() error {
	if w.level < whole && (w.single > 2*maxHits || len(w.out) > 2*w.longest) {
		return errTooMuch
	}
	return nil
}

// flush keeps the event up to an offset.
func (w *walk) flush(to int) {
	w.out = append(w.out, w.raw[w.settled:to]...)
	w.settled = to
}

func (w *walk) offset() int { return int(w.decoder.InputOffset()) }

// event masks the members of the event.
func (w *walk) event(strict strictness) error {
	return w.object(func(c *container, key []byte) error {
		w.nodes = w.nodes[:0]
		w.name = string(key)
		w.level = w.levelOf(w.name, strict)
		if next := w.trees[w.level].root.children[w.name]; next != nil {
			w.nodes = append(w.nodes, next)
		} else if w.name == "erased" || w.name == "masked" {
			c.open()
			err := w.note(w.name)
			c.next(false)
			return err
		}
		return w.member(c, key, 0)
	})
}

// object masks the members of an object, as member has it.
func (w *walk) object(member func(c *container, key []byte) error) error {
	if _, err := w.decoder.ReadToken(); err != nil {
		return err
	}
	c := container{w: w, behind: w.offset()}
	for w.decoder.PeekKind() != '}' {
		name, err := w.decoder.ReadValue()
		if err != nil {
			return err
		}
		key := name[1 : len(name)-1]
		if bytes.IndexByte(key, '\\') >= 0 {
			if key, err = jsontext.AppendUnquote(nil, name); err != nil {
				return err
			}
		}
		if err := member(&c, key); err != nil {
			return err
		}
	}
	_, err := w.decoder.ReadToken()
	return err
}

// among masks a member whose key may be among the children of these nodes.
func (w *walk) among(at []*node, c *container, key []byte) error {
	base := len(w.nodes)
	for _, n := range at {
		if next := n.children[string(key)]; next != nil {
			w.nodes = append(w.nodes, next)
		}
		if n.any != nil {
			w.nodes = append(w.nodes, n.any)
		}
	}
	err := w.member(c, key, base)
	w.nodes = w.nodes[:base]
	return err
}

// array is object for the elements of an array, whose keys are their indices.
func (w *walk) array(at []*node) error {
	if _, err := w.decoder.ReadToken(); err != nil {
		return err
	}
	c := container{w: w, behind: w.offset()}
	var digits [20]byte
	for i := 0; w.decoder.PeekKind() != ']'; i++ {
		if err := w.among(at, &c, strconv.AppendInt(digits[:0], int64(i), 10)); err != nil {
			return err
		}
	}
	_, err := w.decoder.ReadToken()
	return err
}

// member masks a value, whose nodes are those from base on.
func (w *walk) member(c *container, key []byte, base int) error {
	at := w.nodes[base:]
	if len(at) == 0 {
		err := w.decoder.SkipValue()
		c.next(false)
		return err
	}
	long := len(w.pointer)
	w.pointer = append(append(w.pointer, '/'), url.PathEscape(string(key))...)
	defer func() { w.pointer = w.pointer[:long] }()
	does := at[0]
	for _, n := range at[1:] {
		if n.act > does.act {
			does = n
		}
	}
	kind := w.decoder.PeekKind()
	if does.act == 0 {
		var err error
		switch kind {
		case '{':
			c.open()
			err = w.object(func(c *container, key []byte) error { return w.among(at, c, key) })
		case '[':
			c.open()
			err = w.array(at)
		default:
			err = w.decoder.SkipValue()
		}
		c.next(false)
		return err
	}
	value, err := w.decoder.ReadValue()
	if err != nil {
		return err
	}
	w.hits[w.name]++
	again := false
	if w.level == fine {
		w.single++
	} else { // its nodes have one pointer each
		again = slices.Contains(w.told, does)
	}
	told := &w.lists[1]
	if does.act == removes {
		told = &w.lists[0]
		c.next(true)
	} else {
		c.open()
		w.flush(w.offset() - len(value))
		if does.act == replaces {
			w.out = append(w.out, does.text...)
		} else {
			w.hash(value)
		}
		w.settled = w.offset()
		c.next(false)
	}
	if again {
		return w.runaway()
	}
	if w.level > fine {
		w.told = append(w.told, does)
	}
	if len(told.added) > 0 {
		told.added = append(told.added, ',')
	}
	told.added, _ = jsontext.AppendQuote(told.added, w.pointer) // percent-encoded: it is valid
	return w.runaway()
}

// hash puts a keyed hash of a value there. It is of the tenant as well, so that nobody can tell whether two tenants
// have the same one.
func (w *walk) hash(value jsontext.Value) {
	text := []byte(value)
	if value.Kind() == '"' { // the same text, however it is spelled
		if plain, err := jsontext.AppendUnquote(nil, value); err == nil {
			text = plain
		}
	}
	w.mac.Reset()
	_, _ = w.mac.Write([]byte(w.tenant))
	_, _ = w.mac.Write([]byte{0, byte(value.Kind())})
	_, _ = w.mac.Write(text)
	var sum [sha256.Size]byte
	w.out = append(append(append(w.out, `"hmac-sha256:`...), w.key.Version...), ':')
	w.out = hex.AppendEncode(w.out, w.mac.Sum(sum[:0])[:hashBytes])
	w.out = append(w.out, '"')
}

// hashBytes is how much of a hash is kept: as much as no two values will share.
const hashBytes = 16

// note remembers where the event itself tells of masks: the last such member counts.
func (w *walk) note(name string) error {
	value, err := w.decoder.ReadValue()
	if err != nil {
		return err
	}
	w.flush(w.offset() - len(value))
	l := &w.lists[0]
	if name == w.lists[1].name {
		l = &w.lists[1]
	}
	l.is, l.array, l.from = true, value.Kind() == '[', len(w.out)
	w.flush(w.offset())
	l.to = len(w.out)
	return nil
}

// tell writes the pointers into the event, as OPA does: into its own lists, or into new ones at its end.
func (w *walk) tell() {
	lists := []*list{&w.lists[0], &w.lists[1]}
	slices.SortStableFunc(lists, func(a, b *list) int { return b.from - a.from }) // from the end on, so that offsets stay
	for _, l := range lists {
		if len(l.added) == 0 {
			continue
		}
		var text []byte
		switch {
		case l.array:
			own := bytes.TrimRight(w.out[l.from:l.to-1], " \t\r\n")
			if l.from, l.to = l.from+len(own), l.to-1; len(own) > 1 {
				text = append(text, ',')
			}
			text = append(text, l.added...)
		case l.is: // not as OPA has it
			text = append(append(append(text, '['), l.added...), ']')
		default:
			end := bytes.LastIndexByte(w.out, '}')
			own := bytes.TrimRight(w.out[:end], " \t\r\n")
			if l.from, l.to = end, end; own[len(own)-1] != '{' {
				text = append(text, ',')
			}
			text = append(append(append(text, '"'), l.name...), `":[`...)
			text = append(append(text, l.added...), ']')
		}
		w.out = slices.Replace(w.out, l.from, l.to, text...)
	}
}

// container is an object or array whose members are kept or left out, with the commas between them.
type container struct {
	w *walk
	// behind is where the member before ends, or the container begins.
	behind int
	// kept says that a member before was kept, and cut that those before were left out and nothing was kept yet.
	kept, cut bool
}

// start is where the member in hand begins.
func (c *container) start() int {
	rest := c.w.raw[c.behind:]
	return c.behind + len(rest) - len(bytes.TrimLeft(rest, ", \t\r\n"))
}

// open keeps the member in hand, or what becomes of it.
func (c *container) open() {
	if c.cut { // the comma in front of it goes with those that were left out
		c.w.settled = c.start()
	}
	c.kept, c.cut = true, false
}

// next goes on behind a member that the decoder has read, which is kept or left out.
func (c *container) next(out bool) {
	end := c.w.offset()
	switch {
	case !out && (!c.kept || c.cut):
		c.open()
	case out && c.kept:
		c.w.flush(c.behind) // the comma goes with it
		c.w.settled = end
	case out:
		if !c.cut {
			c.w.flush(c.start())
		}
		c.w.settled, c.cut = end, true
	}
	c.behind = end
}
