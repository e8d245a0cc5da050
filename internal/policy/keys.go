package policy

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// Key is what masks hash with.
type Key struct {
	// Version stands in every hash, so that two of them can be told apart.
	Version string
	secret  []byte
}

// minKey is the shortest key, in bytes: what the hash has (RFC 2104 section 3).
const minKey = 32

// ReadKey reads the key of the last line of a file: its version and at least 32 bytes in hexadecimal. The lines before
// are keys of before, which are not used any more. # begins a comment.
func ReadKey(content []byte) (k Key, err error) {
	line := map[string]int{}
	n := 0
	for read := range strings.Lines(string(content)) {
		n++
		text, _, _ := strings.Cut(read, "#")
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		if k, err = keyOf(text); err != nil { // which does not show the line: it may be a key
			return Key{}, fmt.Errorf("line %d: %w", n, err)
		}
		if before := line[k.Version]; before > 0 {
			return Key{}, fmt.Errorf(
				"line %d: there is a key with the version %s in line %d already: give it another, so that their hashes can be "+
					"told apart", n, k.Version, before,
			)
		}
		line[k.Version] = n
	}
	if k.Version == "" {
		return k, fmt.Errorf("there is no key: %w", errKeyLine)
	}
	return k, nil
}

var errKeyLine = errors.New(
	`want "VERSION HEX", such as: echo "v1 $(openssl rand -hex 32)"; HEX is at least 32 bytes`,
)

func keyOf(text string) (Key, error) {
	version, digits, _ := strings.Cut(text, " ")
	secret, err := hex.DecodeString(strings.TrimSpace(digits))
	if err != nil || len(secret) < minKey || !nameOf.MatchString(version) {
		return Key{}, errKeyLine
	}
	return Key{Version: version, secret: secret}, nil
}
