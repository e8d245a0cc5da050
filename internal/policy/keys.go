package policy

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"os"
	"strings"

	"github.com/docket-project/docket/internal/domain"
)

// Key is what masks hash with.
type Key struct {
	// Version stands in every hash, so that two of them can be told apart.
	Version string
	secret  []byte
}

// minKey is the shortest key, in bytes: what the hash has (RFC 2104 section 3).
const minKey = 32

// LoadKey reads the key of the last line of a file: its version and at least 32 bytes in hexadecimal. The lines before
// are keys of before, which are not used any more. "" is no file, and no key. Its error is Misconfigured.
func LoadKey(file string) (k Key, err error) {
	if file == "" {
		return k, nil
	}
	content, err := os.ReadFile(file)
	if err != nil {
		return k, domain.Errorf(domain.Misconfigured, "read the keys of masks: %w", err)
	}
	for lines, n := bufio.NewScanner(bytes.NewReader(content)), 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		if k, err = keyOf(line); err != nil { // which does not show the line: it may be a key
			return Key{}, domain.Errorf(domain.Misconfigured, "%s line %d: %w", file, n, err)
		}
	}
	if k.Version == "" {
		return k, domain.Errorf(domain.Misconfigured, "there is no key in %s: %w", file, errKeyLine)
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
