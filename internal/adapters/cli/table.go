package cli

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/mattn/go-runewidth"

	"github.com/docket-project/docket/internal/adapters/api"
)

// column is how a column behaves where there is not enough room. The least important ones, those with the highest rank,
// give way first: to least, unless that is 0, and then altogether.
type column struct{ rank, least int }

// columns are those that behave in a way of their own, by their heading.
var columns = map[string]column{
	"OUTCOME": {0, 0}, "STATE": {0, 0}, "JOB": {0, 0}, "ID": {0, 0}, "FINGERPRINT": {0, 0}, "STAGE": {0, 0},
	"DECISION ID": {1, 0}, "OPA": {1, 12}, "KIND": {1, 0}, "OPEN": {1, 0}, "ROWS": {1, 0}, "DECISIONS": {1, 0},
	"CHANGE": {1, 0}, "ACTION": {3, 8}, "CAUSE": {2, 0}, "REASON": {2, 16}, "ERROR": {3, 16}, "TIME": {2, 0},
	"DIED": {3, 0}, "NEWEST ERROR": {3, 16}, "AT": {1, 0}, "LAST": {2, 0}, "LAST SEEN": {3, 0}, "CALLER": {3, 8},
	"COMMENT": {3, 12},
	"COUNT":   {0, 0}, "SHARE": {7, 0}, "BAR": {9, 0},
	"PRINCIPAL": {3, 12}, "PATH": {4, 16}, "CAME OF IT": {4, 12}, "WHAT": {1, 0}, "RESOURCE": {6, 12}, "CODE": {5, 0},
	"CREATED": {5, 0}, "CLASS": {6, 0}, "FILTER": {7, 12}, "TENANT": {8, 0}, "FIRST SEEN": {9, 0}, "SAMPLE": {9, 12},
	"VERSION": {7, 0}, "REVISION": {6, 10}, "ACCEPTED": {4, 10}, "TARGET": {2, 12}, "COLUMN": {1, 0},
}

const gap = 2

// table prints columns: as wide as they are or, on a screen, as wide as that is.
type table struct {
	w       io.Writer
	look    look
	headed  bool
	names   []string
	rows    [][]string
	dropped []string
}

func newTable(w io.Writer, names ...string) *table {
	t := &table{w: w, look: lookOf(w), names: names, headed: len(names) > 0}
	return t
}

func (t *table) row(cells ...string) {
	for i, c := range cells {
		cells[i] = cmp.Or(printable(c), "-")
	}
	t.rows = append(t.rows, cells)
}

// pair prints what has a value, by its name.
func (t *table) pair(name, value string) {
	if value != "" {
		t.row(name, value)
	}
}

// when spells a time for the screen.
func (t *table) when(at api.Instant) string { return t.look.when(at) }

// heading is a column's name without the indentation of the first.
func heading(name string) string { return strings.TrimSpace(name) }

func (t *table) flush() error {
	lines, visible := t.rows, []int{}
	if t.headed {
		lines = append([][]string{t.names}, t.rows...)
		for i := range t.names {
			visible = append(visible, i)
		}
	} else if len(lines) > 0 {
		for i := range lines[0] {
			visible = append(visible, i)
		}
	}
	if t.headed && len(t.look.columns) > 0 {
		chosen, err := t.chosen()
		if err != nil {
			return err
		}
		visible = chosen
	}
	if t.headed {
		t.shortenIDs(lines)
	}
	widths := make([]int, len(t.names))
	for _, cells := range lines {
		for len(widths) < len(cells) {
			widths = append(widths, 0)
		}
		for i, c := range cells {
			widths[i] = max(widths[i], runewidth.StringWidth(c))
		}
	}
	if t.headed && t.look.width > 0 && !t.look.wide && len(t.look.columns) == 0 {
		visible = t.fit(visible, widths)
	}
	for n, cells := range lines {
		if err := t.line(cells, visible, widths, n == 0 && t.headed); err != nil {
			return err
		}
	}
	if len(t.dropped) > 0 {
		_, err := fmt.Fprintf(t.w, "(no room for %s: --wide, --columns)\n", strings.Join(t.dropped, ", "))
		return err
	}
	return nil
}

// chosen are the columns that --columns names, in its order.
func (t *table) chosen() (out []int, err error) {
	for _, want := range t.look.columns {
		i := slices.IndexFunc(t.names, func(n string) bool {
			return strings.EqualFold(strings.ReplaceAll(heading(n), " ", "_"), strings.ReplaceAll(want, " ", "_"))
		})
		if i < 0 {
			known := make([]string, len(t.names))
			for i, n := range t.names {
				known[i] = strings.ToLower(strings.ReplaceAll(heading(n), " ", "_"))
			}
			return nil, fail(ExitUsage, "--columns %s: there are %s", want, strings.Join(known, ", "))
		}
		out = append(out, i)
	}
	return out, nil
}

// fit makes columns narrower, and drops some, until a line has room on the screen.
func (t *table) fit(visible, widths []int) []int {
	excess := func() int {
		sum := gap * (len(visible) - 1)
		for _, i := range visible {
			sum += widths[i]
		}
		return sum - t.look.width
	}
	of := func(i int) column {
		if c, known := columns[heading(t.names[i])]; known {
			return c
		}
		return column{rank: 5, least: 12} // such as a field of an event
	}
	order := slices.Clone(visible) // the least important first, the rightmost of these first
	slices.Reverse(order)
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(of(b).rank, of(a).rank) })
	for _, i := range order {
		if least := of(i).least; least > 0 && excess() > 0 {
			widths[i] = max(min(widths[i], least), widths[i]-excess())
		}
	}
	for _, i := range order {
		if excess() <= 0 || len(visible) <= 2 {
			break
		}
		t.dropped = append(t.dropped, heading(t.names[i]))
		visible = slices.DeleteFunc(visible, func(v int) bool { return v == i })
	}
	// What was dropped may have left more room than was needed.
	for _, i := range visible {
		if room := -excess(); room > 0 {
			widths[i] = min(t.natural(i), widths[i]+room)
		}
	}
	return visible
}

// natural is how wide a column would like to be.
func (t *table) natural(i int) int {
	width := runewidth.StringWidth(t.names[i])
	for _, cells := range t.rows {
		if i < len(cells) {
			width = max(width, runewidth.StringWidth(cells[i]))
		}
	}
	return width
}

// line prints one line, with its verdict in its colour.
func (t *table) line(cells []string, visible, widths []int, head bool) error {
	var b strings.Builder
	visible = slices.DeleteFunc(slices.Clone(visible), func(i int) bool { return i >= len(cells) })
	for n, i := range visible {
		text := cells[i]
		if t.headed {
			text = runewidth.Truncate(text, widths[i], "…")
		}
		pad := widths[i] - runewidth.StringWidth(text) + gap
		if n == len(visible)-1 {
			pad = 0
		}
		if t.headed && !head && t.look.colour {
			text = paint(heading(t.names[i]), text)
		}
		b.WriteString(text)
		b.WriteString(strings.Repeat(" ", pad))
	}
	b.WriteByte('\n')
	return direct(t.w, b.String())
}

// leastID is how much of a decision's id is shown at least.
const leastID = 8

// shortenIDs cuts the ids of decisions on a screen to what tells them apart there; docket show takes that.
func (t *table) shortenIDs(lines [][]string) {
	at := slices.Index(t.names, "DECISION ID")
	if at < 0 || t.look.width == 0 || t.look.wide {
		return
	}
	var most int
	ids := map[string]bool{}
	for _, cells := range lines[1:] {
		ids[cells[at]] = true
	}
	for length := leastID; ; length++ {
		prefixes, cut := map[string]bool{}, false
		for id := range ids {
			prefixes[prefixOf(id, length)] = true
			cut = cut || prefixOf(id, length) != id
		}
		if most = length; len(prefixes) == len(ids) || !cut {
			break
		}
	}
	for _, cells := range lines[1:] {
		cells[at] = prefixOf(cells[at], most)
	}
}

// prefixOf is the beginning of an id; the name of a hash does not count.
func prefixOf(id string, length int) string {
	const hash = "sha256:"
	if strings.HasPrefix(id, hash) {
		length += len(hash)
	}
	if r := []rune(id); len(r) > length {
		return string(r[:length])
	}
	return id
}
