package auth

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/docket-project/docket/internal/domain"
)

// Tokens are the bearer tokens of one listener, from a file that is read again when it changes: a line each with a
// name, a tenant or role, the hex SHA-256 of the token, and terms such as expires=…, parted by white space or commas;
// # begins a comment.
//
// What the file says is in force, and nothing else: a file that is gone, empty or cannot be read lets nobody in, and a
// line that cannot be read lets in nobody by it. So a token is revoked by every way of taking it out.
type Tokens struct {
	path   string
	grant  Grant
	logger *slog.Logger

	mu      sync.Mutex
	byHash  map[[sha256.Size]byte]domain.Caller
	changed time.Time // zero while the file could not be read
	size    int64
	checked time.Time
	trouble string // what was said of the file last
}

// reloadEvery bounds how long a token that was taken out of the file still works.
const reloadEvery = time.Second

// LoadTokens reads a file of tokens. Its error is Misconfigured and names every line that is wrong: somebody looks on
// when docket starts.
func LoadTokens(path string, grant Grant, logger *slog.Logger) (*Tokens, error) {
	t := &Tokens{path: path, grant: grant, logger: logger}
	if err := t.load(); err != nil {
		return nil, domain.Errorf(domain.Misconfigured, "read tokens: %w", err)
	}
	return t, nil
}

// load reads the file. Its error tells everything that is wrong; what is right is in force all the same.
func (t *Tokens) load() error {
	t.byHash, t.changed = nil, time.Time{}
	f, err := os.Open(t.path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	byHash, mistakes, err := t.read(f)
	if err != nil {
		return fmt.Errorf("%s: %w", t.path, err)
	}
	t.byHash, t.changed, t.size = byHash, info.ModTime(), info.Size()
	if len(byHash) == 0 && len(mistakes) == 0 {
		return fmt.Errorf("%s has no token in it", t.path)
	}
	return errors.Join(mistakes...)
}

// read reads lines. A token that two lines give to different callers is nobody's.
func (t *Tokens) read(r io.Reader) (byHash map[[sha256.Size]byte]domain.Caller, mistakes []error, err error) {
	byHash = map[[sha256.Size]byte]domain.Caller{}
	var twice [][sha256.Size]byte
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		text, _, _ := strings.Cut(strings.TrimPrefix(lines.Text(), "\ufeff"), "#")
		fields := words(text)
		if len(fields) == 0 {
			continue
		}
		hash, caller, err := t.line(fields)
		if other, taken := byHash[hash]; err == nil && taken {
			if !reflect.DeepEqual(other, caller) {
				twice = append(twice, hash)
			}
			err = fmt.Errorf("%s has the same token as %s", caller.Name, other.Name)
		}
		if err != nil {
			mistakes = append(mistakes, fmt.Errorf("%s line %d: %w", t.path, n, err))
			continue
		}
		byHash[hash] = caller
	}
	for _, hash := range twice {
		delete(byHash, hash)
	}
	return byHash, mistakes, lines.Err()
}

// line reads the fields of a line.
func (t *Tokens) line(fields []word) (hash [sha256.Size]byte, caller domain.Caller, err error) {
	if len(fields) < 3 {
		return hash, caller, fmt.Errorf(
			"want three fields (name, tenant or role, hex SHA-256 of the token), and terms behind them, found %d", len(fields),
		)
	}
	terms, err := readTerms(fields[3:])
	if err != nil {
		return hash, caller, err
	}
	if caller, err = t.grant(fields[0].text, fields[1].text, terms); err != nil {
		return hash, caller, err
	}
	if caller.Expires, err = terms.expiry(); err != nil {
		return hash, caller, err
	}
	b, err := hex.DecodeString(fields[2].text)
	if err != nil || len(b) != sha256.Size {
		return hash, caller, fmt.Errorf(
			"the third field is not a hex SHA-256 (make one with: printf %%s \"$TOKEN\" | sha256sum)",
		)
	}
	copy(hash[:], b)
	if hash == sha256.Sum256(nil) {
		return hash, caller, errors.New("the third field is the SHA-256 of nothing: $TOKEN was empty")
	}
	caller.How, caller.Credential = domain.ByToken, hex.EncodeToString(hash[:4])
	return hash, caller, nil
}

// find returns whose token has this hash; its error is ErrUnknown or ErrExpired. To compare hashes of secrets needs no
// constant time.
func (t *Tokens) find(hash [sha256.Size]byte) (domain.Caller, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	t.current(now)
	caller, ok := t.byHash[hash]
	if !ok {
		return domain.Caller{}, ErrUnknown
	}
	if until := caller.Expires; !until.IsZero() && !now.Before(until) {
		return domain.Caller{}, fmt.Errorf("%w at %s: ask for another one", ErrExpired, until.UTC().Format(time.RFC3339))
	}
	return caller, nil
}

// all are the callers of the file as it is now.
func (t *Tokens) all() []domain.Caller {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.current(time.Now())
	return slices.Collect(maps.Values(t.byHash))
}

// state is how many tokens are in force, and what is wrong with the file.
func (t *Tokens) state() (n int, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.current(time.Now())
	if t.trouble != "" {
		err = errors.New(t.trouble)
	}
	return len(t.byHash), err
}

// current reads the file again where it may have changed.
func (t *Tokens) current(now time.Time) {
	if now.Sub(t.checked) >= reloadEvery {
		t.checked = now
		t.refresh()
	}
}

// refresh reads the file again where it has changed, and says once what is wrong with it.
func (t *Tokens) refresh() {
	info, err := os.Stat(t.path)
	if err == nil && info.ModTime().Equal(t.changed) && info.Size() == t.size {
		return
	}
	trouble := ""
	if err := t.load(); err != nil {
		trouble = err.Error()
	}
	if trouble != t.trouble && trouble != "" {
		t.logger.Error(
			"the file of tokens is gone or not as it has to be: what cannot be read in it lets nobody in. Repair the file; it "+
				"is read again every second", "file", t.path, "tokens", len(t.byHash), "error", trouble,
		)
	}
	if trouble == "" && t.trouble != "" {
		t.logger.Info("the file of tokens is as it has to be again", "file", t.path, "tokens", len(t.byHash))
	}
	t.trouble = trouble
}
