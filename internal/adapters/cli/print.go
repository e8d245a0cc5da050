package cli

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"
	"time"
	"unicode"

	"github.com/docket-project/docket/internal/adapters/api"
)

func stamp(t api.Instant) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

// printable keeps what somebody else wrote from moving the cursor, colouring the screen or breaking a table.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if harmful(r) {
			return '\uFFFD'
		}
		return r
	}, s)
}

// harmful are control characters (C0 and C1), and those that format: bidi marks, tags, line separators.
func harmful(r rune) bool {
	return unicode.IsControl(r) || unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp)
}

// PrintableLines is printable but for new lines.
func PrintableLines(s string) string {
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		lines[i] = printable(l)
	}
	return strings.Join(lines, "\n")
}

func short(s string, limit int) string {
	if r := []rune(s); len(r) > limit {
		return string(r[:limit-1]) + "…"
	}
	return s
}

// printJSON prints a value over several lines, or as one line of NDJSON.
func printJSON(w io.Writer, v any, form string) error {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	if form == "json" {
		e.SetIndent("", "  ")
	}
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return err
	}
	_, err := w.Write(escaped(b.Bytes()))
	return err
}
