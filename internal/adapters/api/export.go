package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/docket-project/docket/internal/domain"
)

// Exported is a decision as a line of an export.
type Exported struct {
	Decision
	Event json.RawMessage `json:"event,omitempty"`
	// Damaged says that the store has other bytes than were saved: the event is left out.
	Damaged bool `json:"damaged,omitempty"`
}

// ExportEnd is the last line of an export. Without it, the export was cut.
type ExportEnd struct {
	// Complete says that everything that fits was exported, whole.
	Complete bool `json:"complete"`
	// Decisions is how many lines stand in front of it, and Damaged how many of them have no event because of damage.
	Decisions int `json:"decisions"`
	Damaged   int `json:"damaged,omitempty"`
	// Since and Until are the times that were looked for; null is no bound.
	Since Instant `json:"since"`
	Until Instant `json:"until"`
	// Why tells a person what is missing, and NextCursor goes on behind the last line.
	Why        Text `json:"why"`
	NextCursor Text `json:"next_cursor"`
}

// String says it in a sentence.
func (e ExportEnd) String() string {
	if e.Complete {
		return fmt.Sprintf("complete: %d decisions", e.Decisions)
	}
	return fmt.Sprintf("incomplete, %d decisions: %s", e.Decisions, e.Why)
}

// ExportForm is how an export is spelled. It writes to a buffer, which cannot fail.
type ExportForm interface {
	Begin(*bytes.Buffer)
	// Decision writes one. The event is exactly what was sent, but for white space between its tokens; nil leaves it out.
	Decision(b *bytes.Buffer, d Decision, event []byte, damaged bool)
	End(*bytes.Buffer, ExportEnd)
}

// NDJSON has an object a line: decisions, and then an ExportEnd.
type NDJSON struct{}

// Begin writes nothing.
func (NDJSON) Begin(*bytes.Buffer) {}

// Decision writes an Exported.
func (NDJSON) Decision(b *bytes.Buffer, d Decision, event []byte, damaged bool) {
	line := Marshal(Exported{Decision: d, Damaged: damaged})
	if event != nil {
		line = With(line, "event", oneLine(event))
	}
	b.Write(line)
	b.WriteByte('\n')
}

// End writes it.
func (NDJSON) End(b *bytes.Buffer, e ExportEnd) {
	b.Write(Marshal(e))
	b.WriteByte('\n')
}

// oneLine takes the line breaks out of JSON, which has them between its tokens only.
func oneLine(spelled []byte) []byte {
	if !bytes.ContainsAny(spelled, "\n\r") {
		return spelled
	}
	return bytes.ReplaceAll(bytes.ReplaceAll(spelled, []byte("\n"), []byte(" ")), []byte("\r"), []byte(" "))
}

// CSV is RFC 4180 with a heading. A cell that a spreadsheet would compute has an apostrophe in front, as has one that
// begins with an apostrophe, so that no two texts become one. The last row says in its first cell what became of the
// export, behind a "#".
type CSV struct {
	// Events adds a column with the event.
	Events bool
}

// csvColumns are those of a decision, as its JSON names them.
var csvColumns = []struct {
	name string
	of   func(*Decision) string
}{
	{"decision_id", func(d *Decision) string { return d.DecisionID }},
	{"time", func(d *Decision) string { return stampOf(d.Time) }},
	{"timestamp", func(d *Decision) string { return stampOf(d.Timestamp) }},
	{"received_at", func(d *Decision) string { return stampOf(d.ReceivedAt) }},
	{"saved_at", func(d *Decision) string { return stampOf(d.SavedAt) }},
	{"tenant", func(d *Decision) string { return d.Tenant }},
	{"path", func(d *Decision) string { return string(d.Path) }},
	{"outcome", func(d *Decision) string { return string(d.Outcome) }},
	{"reason", func(d *Decision) string { return string(d.Reason) }},
	{"principal", func(d *Decision) string { return string(d.Principal) }},
	{"action", func(d *Decision) string { return string(d.Action) }},
	{"resource", func(d *Decision) string { return string(d.Resource) }},
	{"opa", func(d *Decision) string { return string(d.OPA) }},
	{"app", func(d *Decision) string { return string(d.App) }},
	{"bundles", func(d *Decision) string { return string(Marshal(d.Bundles)) }},
	{"trace_id", func(d *Decision) string { return string(d.TraceID) }},
	{"batch_decision_id", func(d *Decision) string { return string(d.BatchID) }},
	{"requested_by", func(d *Decision) string { return string(d.RequestedBy) }},
	{"error", func(d *Decision) string { return string(d.Error) }},
	{"masked", func(d *Decision) string { return strings.Join(d.Masked, ", ") }},
}

func stampOf(at Instant) string {
	if at.IsZero() {
		return ""
	}
	return at.UTC().Format(time.RFC3339Nano)
}

// Begin writes the heading.
func (c CSV) Begin(b *bytes.Buffer) {
	cells := make([]string, 0, len(csvColumns)+1)
	for _, column := range csvColumns {
		cells = append(cells, column.name)
	}
	if c.Events {
		cells = append(cells, "event")
	}
	writeRow(b, cells)
}

// Decision writes a row; a damaged event is an empty cell.
func (c CSV) Decision(b *bytes.Buffer, d Decision, event []byte, _ bool) {
	cells := make([]string, 0, len(csvColumns)+1)
	for _, column := range csvColumns {
		cells = append(cells, inert(column.of(&d)))
	}
	if c.Events {
		cells = append(cells, inert(string(event)))
	}
	writeRow(b, cells)
}

// End writes a row of which only the first cell is not empty, so that every row has as many.
func (c CSV) End(b *bytes.Buffer, e ExportEnd) {
	cells := make([]string, len(csvColumns), len(csvColumns)+1)
	if c.Events {
		cells = append(cells, "")
	}
	cells[0] = "# " + e.String()
	writeRow(b, cells)
}

// CSVRow writes a row of a CSV, whose cells no spreadsheet computes.
func CSVRow(b *bytes.Buffer, cells []string) {
	safe := make([]string, len(cells))
	for i, cell := range cells {
		safe[i] = inert(cell)
	}
	writeRow(b, safe)
}

// writeRow quotes what encoding/csv does, and what has a semicolon or a tab: where these separate cells, a spreadsheet
// would find a formula behind one.
func writeRow(b *bytes.Buffer, cells []string) {
	for i, cell := range cells {
		if i > 0 {
			b.WriteByte(',')
		}
		if strings.ContainsAny(cell, ",;\"\r\n\t") || strings.HasPrefix(cell, " ") {
			cell = `"` + strings.ReplaceAll(cell, `"`, `""`) + `"`
		}
		b.WriteString(cell)
	}
	b.WriteByte('\n')
}

// formula is what a spreadsheet may compute a cell for that begins with it, full-width and small signs as well (OWASP,
// CSV Injection); "#" tells the last row.
const formula = "=+-@|%#＝＋－＠﹦﹢﹣﹫−"

// inert keeps a spreadsheet from computing a cell. What does not show in front of a sign does not count.
func inert(cell string) string {
	if strings.HasPrefix(cell, "'") || cell != "" && strings.ContainsRune("\t\r\n", rune(cell[0])) {
		return "'" + cell
	}
	for _, first := range cell {
		if unicode.IsSpace(first) || unicode.In(first, unicode.Cc, unicode.Cf) || first == utf8.RuneError {
			continue
		}
		if strings.ContainsRune(formula, first) {
			return "'" + cell
		}
		break
	}
	return cell
}

// ExportOf spells a decision of the store, whose event may be nil.
func ExportOf(form ExportForm, b *bytes.Buffer, d domain.Decision, damaged bool) {
	event := d.Event
	if damaged {
		event = nil
	}
	form.Decision(b, DecisionOf(d), event, damaged)
}

// Lagged tells who looks at a tail that decisions were left out: Missed, or null where nobody knows how many.
type Lagged struct {
	Missed *int `json:"missed"`
}

// LaggedOf is that of so many; 0 is nobody knows how many.
func LaggedOf(missed int) Lagged {
	if missed == 0 {
		return Lagged{}
	}
	return Lagged{&missed}
}
