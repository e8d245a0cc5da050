package auth

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/domain"
)

// visit authenticates a request with a cookie.
func visit(s *Sessions, c *http.Cookie) (domain.Caller, error) {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.AddCookie(c)
	return s.Authenticate(r)
}

func newSessions(t *testing.T, key string) (*Sessions, string) {
	t.Helper()
	tokens, file, err := load(t, "ann viewer "+hashOf("secret")+"\nbob operator "+hashOf("other"), ConsoleUser)
	require.NoError(t, err)
	s, err := NewSessions(&Credentials{Tokens: tokens}, key)
	require.NoError(t, err)
	return s, file
}

func TestSession(t *testing.T) {
	s, _ := newSessions(t, "")
	_, err := s.Begin("x.y.z", "/", true)
	require.ErrorIs(t, err, ErrUnknown, "a session is that of a token of the file")
	c, err := s.Begin("secret", "/docket/", true)
	require.NoError(t, err)
	require.NotContains(t, c.Value, "secret")
	require.Equal(t, "docket_session", c.Name)
	require.Equal(t, "/docket/", c.Path)
	require.True(t, c.HttpOnly && c.Secure && c.SameSite == http.SameSiteLaxMode)
	require.Equal(t, int(SessionFor.Seconds()), c.MaxAge)
	caller, err := visit(s, c)
	require.NoError(t, err)
	require.Equal(t, "ann", caller.Name)

	_, err = ask(s, "")
	require.ErrorIs(t, err, ErrNoCredentials)
	caller, err = ask(s, "Bearer other")
	require.NoError(t, err)
	require.Equal(t, "bob", caller.Name)

	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.AddCookie(c)
	r.Header.Set("Authorization", "Bearer wrong")
	_, err = s.Authenticate(r)
	require.ErrorIs(t, err, ErrUnknown, "what is shown is what counts")

	for name, value := range map[string]string{
		"none": "", "the token itself": "secret", "cut": c.Value[:len(c.Value)-2], "changed": "A" + c.Value[1:],
	} {
		_, err := visit(s, &http.Cookie{Name: SessionCookie, Value: value})
		require.ErrorIs(t, err, ErrSessionEnded, name)
	}
	ended := s.End("/", false)
	require.Negative(t, ended.MaxAge)
	require.Empty(t, ended.Value)
}

func TestSessionEnds(t *testing.T) {
	t.Run("with its token", func(t *testing.T) {
		s, file := newSessions(t, "")
		c, err := s.Begin("secret", "/", false)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(file, []byte("bob operator "+hashOf("other")), 0o600))
		s.credentials.Tokens.checked = time.Time{} // a second later
		_, err = visit(s, c)
		require.ErrorIs(t, err, ErrSessionEnded)
	})
	t.Run("after its time", func(t *testing.T) {
		s, _ := newSessions(t, "")
		s.seal.MaxAge(-1)
		c, err := s.Begin("secret", "/", false)
		require.NoError(t, err)
		_, err = visit(s, c)
		require.ErrorIs(t, err, ErrSessionEnded)
	})
	t.Run("with the process, unless it has a key", func(t *testing.T) {
		one, _ := newSessions(t, "")
		other, _ := newSessions(t, "")
		c, err := one.Begin("secret", "/", false)
		require.NoError(t, err)
		_, err = visit(other, c)
		require.ErrorIs(t, err, ErrSessionEnded)
	})
	t.Run("not with the process, where that has a key", func(t *testing.T) {
		key := filepath.Join(t.TempDir(), "key")
		require.NoError(t, os.WriteFile(key, make([]byte, 32), 0o600))
		one, _ := newSessions(t, key)
		other, _ := newSessions(t, key)
		c, err := one.Begin("secret", "/", false)
		require.NoError(t, err)
		caller, err := visit(other, c)
		require.NoError(t, err)
		require.Equal(t, "ann", caller.Name)
	})
}

func TestKeysOfSessionsThatAreNone(t *testing.T) {
	tokens, _, err := load(t, "ann viewer "+hashOf("secret"), ConsoleUser)
	require.NoError(t, err)
	short := filepath.Join(t.TempDir(), "key")
	require.NoError(t, os.WriteFile(short, make([]byte, 31), 0o600))
	for file, want := range map[string]string{short: "31 bytes", "/nowhere": "no such file"} {
		_, err := NewSessions(&Credentials{Tokens: tokens}, file)
		require.ErrorContains(t, err, want)
		require.Equal(t, domain.Misconfigured, domain.ClassOf(err))
	}
}
