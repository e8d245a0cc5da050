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
type tree struct {
	root node
	// bounded says that it may mask maxHits values of an event, and make of it what the log takes at most. times and
	// growth are by how many times the event's length, and by how many bytes, what comes out may be longer.
	bounded       bool
	times, growth int
}

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

// A finer mask may hit so often, or make so much of so little, that an event would not fit the log: whoever writes the
// input decides how often. Then what is around the values goes as a whole, so that the decision itself is kept.
const (
	maxHits   = 500
	maxTimes  = 3
	maxGrowth = 4 << 10
)

// treesOf are masks as they are meant, with everything removed from their first * on, and with the members of the event
// that they lead to removed. nil without masks.
func treesOf(masks []Mask) []*tree {
	if len(masks) == 0 {
		return nil
	}
	trees := []*tree{
		fine: {bounded: true, times: maxTimes, growth: maxGrowth}, coarse: {bounded: true, growth: maxGrowth},
		whole: {times: maxTimes, growth: maxGrowth},
	}
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

// walk masks one event after another. It is for one goroutine.
type walk struct {
	decoder jsontext.Decoder
	source  bytes.Buffer
	tree    *tree
	key     Key
	mac     hash.Hash
	tenant  string

	raw []byte
	// out is what is kept of raw[:settled].
	out     []byte
	settled int
	hits    int
	longest int // that it may become
	pointer []byte
	nodes   []*node // those that are looked for, of each level behind those of the one around it
	lists   [2]list // of erased and masked
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
	w := &walk{key: key}
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

// mask is what is kept of a JSON object, in w.out, which is the walk's until it is used again; hit says that it is not
// all of it. limit is the longest event that the log takes. Its error is errTooMuch, or that the event is no object
// that can be read.
func (w *walk) mask(t *tree, tenant string, raw []byte, limit int) (hit bool, err error) {
	w.tree, w.tenant, w.raw, w.out, w.settled, w.hits = t, tenant, raw, w.out[:0], 0, 0
	w.longest = len(raw) + t.times*len(raw) + t.growth
	if t.bounded {
		w.longest = min(w.longest, max(limit, len(raw)))
	}
	w.pointer = w.pointer[:0]
	for i, name := range []string{"erased", "masked"} {
		w.lists[i] = list{name: name, added: w.lists[i].added[:0]}
	}
	w.source = *bytes.NewBuffer(raw)
	w.decoder.Reset(&w.source, duplicates, anyUTF8)
	defer func() { // forget the bytes
		w.raw, w.source = nil, bytes.Buffer{}
		w.decoder.Reset(&w.source, duplicates, anyUTF8)
	}()
	if w.decoder.PeekKind() != '{' {
		return false, errors.New("it is no object")
	}
	w.nodes = append(w.nodes[:0], &t.root)
	if err := w.object(w.nodes[:1]); err != nil {
		return false, err
	}
	if w.hits == 0 {
		return false, nil
	}
	w.flush(len(raw))
	w.tell()
	return true, w.fits()
}

// fits reports errTooMuch.
func (w *walk) fits() error {
	if w.tree.bounded && w.hits > maxHits || len(w.out)+len(w.lists[0].added)+len(w.lists[1].added) > w.longest {
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

// object masks the members of an object that are among these nodes' children.
func (w *walk) object(at []*node) error {
	top := len(w.pointer) == 0
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
		base := len(w.nodes)
		for _, n := range at {
			if next := n.children[string(key)]; next != nil {
				w.nodes = append(w.nodes, next)
			}
			if n.any != nil {
				w.nodes = append(w.nodes, n.any)
			}
		}
		if top && base == len(w.nodes) && (string(key) == "erased" || string(key) == "masked") {
			c.open()
			err = w.note(string(key))
			c.next(false)
		} else {
			err = w.member(&c, key, base)
		}
		w.nodes = w.nodes[:base]
		if err != nil {
			return err
		}
	}
	_, err := w.decoder.ReadToken()
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
		key := strconv.AppendInt(digits[:0], int64(i), 10)
		base := len(w.nodes)
		for _, n := range at {
			if next := n.children[string(key)]; next != nil {
				w.nodes = append(w.nodes, next)
			}
			if n.any != nil {
				w.nodes = append(w.nodes, n.any)
			}
		}
		err := w.member(&c, key, base)
		w.nodes = w.nodes[:base]
		if err != nil {
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
			err = w.object(at)
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
	w.hits++
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
	if len(told.added) > 0 {
		told.added = append(told.added, ',')
	}
	told.added, _ = jsontext.AppendQuote(told.added, w.pointer) // percent-encoded: it is valid
	return w.fits()
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
