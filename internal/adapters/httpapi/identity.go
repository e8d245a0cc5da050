package httpapi

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/docket-project/docket/internal/domain"
)

// Roles of console tokens.
const (
	// RoleViewer may read everything on the console listener.
	RoleViewer = "viewer"
	// RoleOperator may also change things there.
	RoleOperator = "operator"
)

// Roles lists the roles.
var Roles = []string{RoleViewer, RoleOperator}

// principal is who a token belongs to. Grant is a tenant or a role.
type principal struct{ Name, Grant string }

// Tokens are the bearer tokens of one listener, from a file that is read again when it changes: a line each with name,
// tenant or role, and the hex SHA-256 of the token, parted by white space or commas; # begins a comment.
type Tokens struct {
	path   string
	grants []string // the grants that are allowed, or nil for any
	logger *slog.Logger

	mu      sync.Mutex
	byHash  map[[sha256.Size]byte]principal
	changed time.Time
	size    int64
	checked time.Time
}

// reloadEvery bounds how long a token that was taken out of the file still works.
const reloadEvery = time.Second

// LoadTokens reads a file of tokens. grants, unless nil, are the only ones a line may have.
func LoadTokens(path string, grants []string, logger *slog.Logger) (*Tokens, error) {
	t := &Tokens{path: path, grants: grants, logger: logger}
	if err := t.load(); err != nil {
		return nil, domain.Errorf(domain.Misconfigured, "read tokens: %w", err)
	}
	return t, nil
}

func (t *Tokens) load() error {
	info, err := os.Stat(t.path)
	if err != nil {
		return err
	}
	f, err := os.Open(t.path)
	if err != nil {
		return err
	}
	defer f.Close()
	byHash := map[[sha256.Size]byte]principal{}
	lines := bufio.NewScanner(f)
	for n := 1; lines.Scan(); n++ {
		text, _, _ := strings.Cut(lines.Text(), "#")
		fields := strings.FieldsFunc(text, func(r rune) bool { return r == ' ' || r == '\t' || r == ',' || r == '\r' })
		if len(fields) == 0 {
			continue
		}
		if len(fields) != 3 {
			return fmt.Errorf("%s line %d: want three fields (name, tenant or role, hex SHA-256 of the token), found %d", t.path, n, len(fields))
		}
		if t.grants != nil && !slices.Contains(t.grants, fields[1]) {
			return fmt.Errorf("%s line %d: %q is no role: they are %s", t.path, n, fields[1], strings.Join(t.grants, ", "))
		}
		var hash [sha256.Size]byte
		if b, err := hex.DecodeString(fields[2]); err != nil || copy(hash[:], b) != sha256.Size || len(b) != sha256.Size {
			return fmt.Errorf("%s line %d: the third field is not a hex SHA-256 (make one with: printf %%s \"$TOKEN\" | sha256sum)", t.path, n)
		}
		if other, taken := byHash[hash]; taken {
			return fmt.Errorf("%s line %d: %s has the same token as %s", t.path, n, fields[0], other.Name)
		}
		byHash[hash] = principal{Name: fields[0], Grant: fields[1]}
	}
	if err := lines.Err(); err != nil {
		return err
	}
	if len(byHash) == 0 {
		return fmt.Errorf("%s has no token in it", t.path)
	}
	t.byHash, t.changed, t.size = byHash, info.ModTime(), info.Size()
	return nil
}

// find returns whose token this is. Comparing hashes of secrets needs no constant time.
func (t *Tokens) find(token string) (principal, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if now := time.Now(); now.Sub(t.checked) >= reloadEvery {
		t.checked = now
		if info, err := os.Stat(t.path); err == nil && (!info.ModTime().Equal(t.changed) || info.Size() != t.size) {
			// A file in the middle of being written: the old tokens stay until it is whole.
			if err := t.load(); err != nil {
				t.logger.Warn("the tokens were not read again; the old ones stay in force", "error", err)
			}
		}
	}
	p, ok := t.byHash[sha256.Sum256([]byte(token))]
	return p, ok
}

// authenticate returns who is asking. Without tokens everyone is anonymous, with all rights: docket then listens on
// loopback only, or was told that somebody else guards the door.
func (t *Tokens) authenticate(r *http.Request) (principal, error) {
	if t == nil {
		return principal{Name: "anonymous"}, nil
	}
	scheme, token, _ := strings.Cut(r.Header.Get(echo.HeaderAuthorization), " ")
	if !strings.EqualFold(scheme, "Bearer") || token == "" {
		return principal{}, problem(http.StatusUnauthorized, "this listener wants a bearer token: send Authorization: Bearer <token>")
	}
	p, ok := t.find(strings.TrimSpace(token))
	if !ok {
		return principal{}, problem(http.StatusUnauthorized, "the bearer token is not known here")
	}
	return p, nil
}

// operator is authenticate for what changes something.
func (t *Tokens) operator(r *http.Request) (principal, error) {
	p, err := t.authenticate(r)
	if err == nil && t != nil && p.Grant != RoleOperator {
		return principal{}, problem(http.StatusForbidden, p.Name+" may look and not change anything: that needs a token with the role operator")
	}
	return p, err
}
