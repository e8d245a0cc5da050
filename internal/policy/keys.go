package policy

import (
	"bufio"
	"bytes"
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
// are keys of before, which are not used any more.
func ReadKey(content []byte) (k Key, err error) {
	for lines, n := bufio.NewScanner(bytes.NewReader(content)), 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		if k, err = keyOf(line); err != nil { // which does not show the line: it may be a key
			return Key{}, fmt.Errorf("line %d: %w", n, err)
		}
	}
	if k.Version == "" {
		return k, fmt.Errorf("there is no key: %w", errKeyLine)
	}
	return k, nil
}

var errKeyLine = errors.New(
	`want "VERSION HEX", such as: echo "v1 $(openssl rand -hex 32)"; HEX is at least 32 bytes`,
)

func keyOf(line string) (Key, error) {
	version, digits, _ := strings.Cut(line, " ")
	secret, err := hex.DecodeString(strings.TrimSpace(digits))
	if err != nil || len(secret) < minKey || !nameOf.MatchString(version) {
		return Key{}, errKeyLine
	}
	return Key{Version: version, secret: secret}, nil
}
