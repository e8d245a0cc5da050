package cli

import (
	"io"
	"sync"
	"unicode/utf16"
	"unicode/utf8"

	"golang.org/x/text/runes"
	"golang.org/x/text/transform"
)

// harmless is a writer behind which nothing moves the cursor, colours the screen or turns the text around, whoever
// wrote it: decisions, dead letters and the answers of a server that is not docket.
type harmless struct {
	mu sync.Mutex
	w  *transform.Writer
}

// Screen writes to w what is harmless to a terminal, and U+FFFD for the rest. New lines, tabs and the runes of also
// stay.
func Screen(w io.Writer, also ...rune) io.Writer {
	stays := map[rune]bool{'\n': true, '\t': true}
	for _, r := range also {
		stays[r] = true
	}
	return &harmless{w: transform.NewWriter(w, runes.Map(func(r rune) rune {
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
