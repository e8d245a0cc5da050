package policy

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/tidwall/gjson"

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
	step     string // percent-encoded, as OPA spells it
	act      act    // 0 where no mask ends
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
			next = &node{step: url.PathEscape(step)}
			if step == "*" {
				next.step, n.any = step, next
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
// 2 on as a whole.
type strictness int

const strictest strictness = 2

// highest is the level that a member may come to. The result, which the policy writes, says how a decision ended: what
// its masks do not name, or what is in front of their first *, stays.
func highest(member string) int {
	if member == "result" {
		return coarse
	}
	return whole
}

func (s strictness) level(member string) int {
	if member == "result" {
		s--
	}
	return min(max(int(s), fine), highest(member))
}

// walk masks one event after another. It is for one goroutine.
type walk struct {
	trees  *[levels]tree
	strict strictness
	key    Key
	mac    hash.Hash
	tenant string

	raw []byte
	// out is what is kept of raw[:settled].
	out     []byte
	settled int
	longest int // that it may become
	pointer []byte
	// level is that of the member of the event in hand, name. members has the levels of those that did not come out well,
	// and costs what masks did to each.
	level   int
	name    string
	members map[string]int
	costs   map[string]int
	single  int             // hits of masks that are applied one by one
	nodes   []*node         // those that are looked for, of each level behind those of the one around it
	lists   [2]list         // of erased and masked
	told    map[string]bool // the pointers in them
	again   bool            // the event was masked before: what is a hash stays one
	err     error
	tries   int // that the event took
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
	w := &walk{key: key, members: map[string]int{}, costs: map[string]int{}, told: map[string]bool{}}
	if key.Version != "" {
		w.mac = hmac.New(sha256.New, key.secret)
	}
	return w
}

var (
	errTooMuch    = errors.New("masks hit too often")
	errUnreadable = errors.New("it is no JSON object")
)

// mask is what is kept of a JSON object, in w.out, which is the walk's until it is used again; level is the highest
// that it took, untouched where no mask hit. limit is the longest event that docket takes; the log has room for a
// little more. The event is JSON, but perhaps for its UTF-8 and its depth. Its error is that it is no object.
func (w *walk) mask(
	trees *[levels]tree, tenant string, raw []byte, limit int, strict strictness, again bool,
) (level int, err error) {
	w.trees, w.tenant, w.raw, w.strict, w.again = trees, tenant, raw, strict, again
	w.longest = min(maxTimes*len(raw), max(limit-len(raw), 0)) + len(raw) + maxGrowth
	for w.tries = 1; ; w.tries++ {
		level, err = w.try()
		if !errors.Is(err, errTooMuch) || !w.coarser() {
			break
		}
	}
	w.raw, w.name = nil, "" // forget the bytes
	clear(w.members)
	clear(w.costs)
	if errors.Is(err, errTooMuch) && level != untouched { // even so: it is as little as there can be
		err = nil
	}
	return level, err
}

// coarser has those members masked more coarsely that masks made the most of, and says whether there are any that can
// be. It goes by the event alone, so that the same event always comes out the same. Those that are not far behind go
// along, so that it takes few tries.
func (w *walk) coarser() bool {
	most, cost := "", -1
	for _, name := range slices.Sorted(maps.Keys(w.costs)) {
		if n := w.costs[name]; w.levelOf(name) < highest(name) && (n > cost || n == cost && most == "result") {
			most, cost = name, n
		}
	}
	if cost < 0 {
		return false
	}
	for name, n := range w.costs {
		if level := w.levelOf(name); name == most || n > cost/4 && name != "result" && level < highest(name) {
			w.members[name] = level + 1
		}
	}
	return true
}

func (w *walk) levelOf(member string) int { return max(w.strict.level(member), w.members[member]) }

// try masks the event at the levels of its members.
func (w *walk) try() (level int, err error) {
	w.out, w.settled, w.pointer, w.nodes = w.out[:0], 0, w.pointer[:0], w.nodes[:0]
	w.single, w.err = 0, nil
	clear(w.costs)
	clear(w.told)
	for i, name := range []string{"erased", "masked"} {
		w.lists[i] = list{name: name, added: w.lists[i].added[:0]}
	}
	if len(w.raw) == 0 || w.raw[0] != '{' {
		return untouched, errUnreadable
	}
	text := unsafe.String(unsafe.SliceData(w.raw), len(w.raw)) // nobody writes to it
	w.container(gjson.Result{Type: gjson.JSON, Raw: text}, w.topMember)
	level = untouched
	for name := range w.costs {
		level = max(level, w.levelOf(name))
	}
	if level == untouched || w.err != nil {
		return level, w.err
	}
	w.flush(len(w.raw))
	w.tell()
	if w.single > maxHits || len(w.out) > w.longest {
		return level, errTooMuch
	}
	return level, nil
}

// runaway ends the try where what there is already will not fit.
func (w *walk) runaway() {
	if w.level < highest(w.name) && len(w.out) > 2*w.longest {
		w.err = errTooMuch
	}
}

// flush keeps the event up to an offset.
func (w *walk) flush(to int) {
	w.out = append(w.out, w.raw[w.settled:to]...)
	w.settled = to
}

// container visits what is in an object or an array, whose keys are its indices.
func (w *walk) container(v gjson.Result, member func(c *container, key string, value gjson.Result)) {
	c := container{w: w, behind: v.Index + 1, array: v.Raw[0] == '['}
	n := 0
	v.ForEach(func(key, value gjson.Result) bool {
		if c.start = key.Index; c.array {
			c.start, key.Str = value.Index, strconv.Itoa(n)
			n++
		}
		c.end = value.Index + len(value.Raw)
		member(&c, key.Str, value)
		c.behind = c.end
		return w.err == nil
	})
	if rest := v.Raw[c.behind-v.Index:]; w.err == nil && strings.Trim(rest, " \t\r\n") != v.Raw[len(v.Raw)-1:] {
		w.err = errUnreadable // never, of what is JSON
	}
}

// topMember masks a member of the event.
func (w *walk) topMember(c *container, key string, value gjson.Result) {
	if w.trees[fine].root.children[key] != nil { // or it is in none of them
		w.name, w.level = key, w.levelOf(key)
		w.nodes = append(w.nodes[:0], w.trees[w.level].root.children[key])
		w.member(c, key, value, w.nodes)
		return
	}
	c.keep()
	for i := range w.lists {
		if l := &w.lists[i]; l.name == key { // the last such member counts
			w.flush(value.Index)
			l.is, l.array, l.from = true, value.IsArray(), len(w.out)
			w.flush(c.end)
			l.to = len(w.out)
		}
	}
}

// among masks a member whose key may be among the children of these nodes.
func (w *walk) among(at []*node, c *container, key string, value gjson.Result) {
	base := len(w.nodes)
	for _, n := range at {
		if next := n.children[key]; next != nil {
			w.nodes = append(w.nodes, next)
		}
		if n.any != nil {
			w.nodes = append(w.nodes, n.any)
		}
	}
	if len(w.nodes) == base {
		c.keep()
		return
	}
	w.member(c, key, value, w.nodes[base:])
	w.nodes = w.nodes[:base]
}

// member masks a value that these nodes lead to.
func (w *walk) member(c *container, key string, value gjson.Result, at []*node) {
	long := len(w.pointer)
	defer func() { w.pointer = w.pointer[:long] }()
	if w.pointer = append(w.pointer, '/'); c.array {
		w.pointer = append(w.pointer, key...)
	} else { // the mask's own words: a key that somebody else has chosen may be a secret, or as long as the event
		w.pointer = append(w.pointer, at[0].step...)
	}
	does := at[0]
	for _, n := range at[1:] {
		if n.act > does.act {
			does = n
		}
	}
	cost := 1
	switch does.act {
	case removes:
		c.leaveOut()
	case replaces, hashes:
		c.keep()
		w.flush(value.Index)
		before := len(w.out)
		if does.act == replaces {
			w.out = append(w.out, does.text...)
		} else {
			w.hash(jsontext.Value(w.raw[value.Index:c.end]))
		}
		cost += max(len(w.out)-before-len(value.Raw), 0)
		w.settled = c.end
	default:
		c.keep()
		if value.IsObject() || value.IsArray() {
			w.container(value, func(c *container, key string, value gjson.Result) { w.among(at, c, key, value) })
		}
		return
	}
	if w.level == fine {
		w.single++
	}
	w.costs[w.name] += cost + w.note(does.act)
	w.runaway()
}

// note tells of what was masked, once, and returns by how many bytes.
func (w *walk) note(a act) int {
	if w.told[string(w.pointer)] {
		return 0
	}
	w.told[string(w.pointer)] = true
	to := &w.lists[1]
	if a == removes {
		to = &w.lists[0]
	}
	before := len(to.added)
	if before > 0 {
		to.added = append(to.added, ',')
	}
	to.added, _ = jsontext.AppendQuote(to.added, w.pointer) // percent-encoded: it is valid
	return len(to.added) - before
}

// hash puts a keyed hash of a value there. It is of the tenant as well, so that nobody can tell whether two tenants
// have the same one.
func (w *walk) hash(value jsontext.Value) {
	if w.again && isHash(value) {
		w.out = append(w.out, value...)
		return
	}
	text := []byte(value)
	if value.Kind() == '"' { // the same text, however it is spelled
		text, _ = jsontext.AppendUnquote(nil, value) // lone surrogates are U+FFFD
	}
	w.mac.Reset()
	_, _ = w.mac.Write([]byte(w.tenant))
	_, _ = w.mac.Write([]byte{0, byte(value.Kind())})
	_, _ = w.mac.Write(text)
	var sum [sha256.Size]byte
	w.out = append(append(append(w.out, hashPrefix...), w.key.Version...), ':')
	w.out = hex.AppendEncode(w.out, w.mac.Sum(sum[:0])[:hashBytes])
	w.out = append(w.out, '"')
}

// hashBytes is how much of a hash is kept: as much as no two values will share.
const (
	hashBytes  = 16
	hashPrefix = `"hmac-sha256:`
)

// isHash reports a value that hash has made.
func isHash(v jsontext.Value) bool {
	rest, ok := bytes.CutPrefix(v, []byte(hashPrefix))
	version, digits, _ := bytes.Cut(bytes.TrimSuffix(rest, []byte{'"'}), []byte{':'})
	sum, err := hex.DecodeString(string(digits))
	return ok && nameOf.Match(version) && err == nil && len(sum) == hashBytes
}

// tell writes the pointers into the event, as OPA does: into its own lists, or into new ones at its end.
func (w *walk) tell() {
	own := []*list{&w.lists[0], &w.lists[1]}
	slices.SortFunc(own, func(a, b *list) int { return b.from - a.from }) // from the end on, so that offsets stay
	for _, l := range own {
		switch {
		case len(l.added) == 0 || !l.is:
		case l.array:
			inner := bytes.TrimRight(w.out[l.from:l.to-1], " \t\r\n")
			text := l.added
			if len(inner) > 1 {
				text = append([]byte{','}, text...)
			}
			w.out = slices.Replace(w.out, l.from+len(inner), l.to-1, text...)
		default: // not as OPA has it
			w.out = slices.Replace(w.out, l.from, l.to, slices.Concat([]byte{'['}, l.added, []byte{']'})...)
		}
	}
	for i := range w.lists {
		l := &w.lists[i]
		if len(l.added) == 0 || l.is {
			continue
		}
		w.out = bytes.TrimRight(w.out[:len(w.out)-1], " \t\r\n") // an event ends with its brace
		if len(w.out) > 1 {
			w.out = append(w.out, ',')
		}
		w.out = append(append(append(w.out, '"'), l.name...), `":[`...)
		w.out = append(append(w.out, l.added...), ']', '}')
	}
}

// container is an object or array whose members are kept or left out, with the commas between them.
type container struct {
	w *walk
	// start and end are those of the member in hand, with its key. behind is where the one before ends, or the container
	// begins.
	start, end, behind int
	array              bool
	// kept says that a member before was kept, and cut that those before were left out and nothing was kept yet.
	kept, cut bool
}

// keep keeps the member in hand, or what becomes of it.
func (c *container) keep() {
	if c.cut { // the comma in front of it goes with those that were left out
		c.w.settled = c.start
	}
	c.kept, c.cut = true, false
}

// leaveOut leaves it out.
func (c *container) leaveOut() {
	switch {
	case c.kept:
		c.w.flush(c.behind) // the comma goes with it
	case !c.cut:
		c.w.flush(c.start)
		c.cut = true
	}
	c.w.settled = c.end
}
