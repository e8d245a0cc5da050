package cli

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"golang.org/x/text/runes"
	"golang.org/x/text/transform"

	"github.com/docket-project/docket/internal/adapters/api"
)

// harmless is a writer behind which nothing moves the cursor, colours the screen or turns the text around, whoever
// wrote it: decisions, dead letters and the answers of a server that is not docket.
type harmless struct {
	mu   sync.Mutex
	w    *transform.Writer
	out  io.Writer
	look look
}

// look is how a screen is: its width in columns, 0 for what is no screen; whether it has colours; and what the person
// in front of it wants to see.
type look struct {
	width        int
	colour, wide bool
	// local says that times are told as people in front of the screen tell them, now being its clock.
	local   bool
	now     func() time.Time
	columns []string
}

// Terminal is what is known of a terminal: nothing, where output goes elsewhere.
type Terminal struct {
	Width  int
	Colour bool
}

// lookOf is how a writer's screen is.
func lookOf(w io.Writer) look {
	if s, ok := w.(*harmless); ok {
		return s.look
	}
	return look{}
}

// Onto gives a writer of Screen the terminal that is behind it, and what the person asked for.
func (f Form) Onto(w io.Writer, t Terminal) {
	if s, ok := w.(*harmless); ok {
		s.look = look{
			width: t.Width, colour: t.Colour, wide: f.Wide, local: t.Width > 0 && !f.UTC, now: time.Now, columns: f.Columns,
		}
	}
}

// when spells a time: how long ago, or the time of this place, for who is in front of a screen, and otherwise RFC 3339.
func (l look) when(at api.Instant) string {
	if !l.local || at.IsZero() {
		return stamp(at)
	}
	now := l.now()
	switch ago := now.Sub(at.Time); {
	case ago < 0:
	case ago < time.Minute:
		return fmt.Sprintf("%ds ago", int(ago.Seconds()))
	case ago < time.Hour:
		return fmt.Sprintf("%dm ago", int(ago.Minutes()))
	case ago < 12*time.Hour:
		return at.In(now.Location()).Format("15:04:05")
	}
	return at.In(now.Location()).Format("2006-01-02 15:04")
}

// moment spells a time whole and, in front of a screen, how long ago it was.
func (l look) moment(at api.Instant) string {
	if !l.local || at.IsZero() {
		return stamp(at)
	}
	now := l.now()
	text := at.In(now.Location()).Format("2006-01-02 15:04:05.000 MST")
	if relative := l.when(at); strings.HasSuffix(relative, "ago") {
		text += " (" + relative + ")"
	}
	return text
}

// The colours of words that want to be seen, as of any terminal since the VT100.
const (
	red, green, yellow, magenta = "\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[35m"
	plain                       = "\x1b[0m"
)

var colours = map[string]string{
	"denied": red, "error": magenta, "down": red, "degraded": yellow, "ok": green, "failed": red, "stopped": red,
	"silent": yellow,
}

// paint colours a verdict in a column of verdicts. The text was made printable before.
func paint(heading, text string) string {
	if heading != "OUTCOME" && heading != "STATE" && heading != "" {
		return text
	}
	if colour := colours[strings.ToLower(strings.TrimSpace(text))]; colour != "" {
		return colour + text + plain
	}
	return text
}

// verdictLine prints a verdict, in its colour, and what stands behind it.
func verdictLine(w io.Writer, verdict, rest string) error {
	verdict = printable(verdict)
	if lookOf(w).colour {
		verdict = paint("", verdict)
	}
	return direct(w, verdict+printable(rest)+"\n")
}

// direct writes what was made printable, with colours of our own.
func direct(w io.Writer, text string) error {
	if s, ok := w.(*harmless); ok {
		s.mu.Lock()
		defer s.mu.Unlock()
		_, err := io.WriteString(s.out, text)
		return err
	}
	_, err := io.WriteString(w, text)
	return err
}

// Screen writes to w what is harmless to a terminal, and U+FFFD for the rest. New lines, tabs and the runes of also
// stay.
func Screen(w io.Writer, also ...rune) io.Writer {
	stays := map[rune]bool{'\n': true, '\t': true}
	for _, r := range also {
		stays[r] = true
	}
	return &harmless{out: w, w: transform.NewWriter(w, runes.Map(func(r rune) rune {
		if !stays[r] && harmful(r) {
			return utf8.RuneError
		}
		return r
	}))}
}

// Write implements io.Writer.
func (s *harmless) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.w.Write(b)
}

// escaped spells what would harm a terminal as JSON's own escapes, so that the JSON says the same.
func escaped(spelled []byte) []byte {
	out := make([]byte, 0, len(spelled))
	for len(spelled) > 0 {
		r, n := utf8.DecodeRune(spelled)
		switch {
		case r == '\n' || !harmful(r) && (r != utf8.RuneError || n > 1):
			out = append(out, spelled[:n]...)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			out = appendEscape(appendEscape(out, high), low)
		default: // bytes that are no UTF-8 as well
			out = appendEscape(out, r)
		}
		spelled = spelled[n:]
	}
	return out
}

func appendEscape(out []byte, r rune) []byte {
	const digits = "0123456789abcdef"
	return append(out, '\\', 'u', digits[r>>12&15], digits[r>>8&15], digits[r>>4&15], digits[r&15])
}
