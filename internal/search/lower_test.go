package search

import (
	"bytes"
	"testing"
	"unicode"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// TestAppendLower compares with the standard library, at every length around a word's.
func TestAppendLower(t *testing.T) {
	every := make([]byte, 128)
	for i := range every {
		every[i] = byte(i)
	}
	for n := range every {
		lower, ascii := appendLower([]byte("x"), every[n:])
		require.True(t, ascii)
		require.Equal(t, append([]byte("x"), bytes.ToLower(every[n:])...), lower)
	}
	rapid.Check(t, func(t *rapid.T) {
		text := []byte(rapid.StringN(0, 40, 40).Draw(t, "text"))
		lower, ascii := appendLower(nil, text)
		require.Equal(t, bytes.IndexFunc(text, func(r rune) bool { return r > unicode.MaxASCII }) < 0, ascii)
		if ascii {
			require.Equal(t, string(bytes.ToLower(text)), string(lower))
		}
	})
}
