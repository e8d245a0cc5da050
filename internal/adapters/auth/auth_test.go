package auth

import (
	"crypto/sha256"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/docket-project/docket/internal/domain"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func hashOf(token string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(token))) }

func load(t *testing.T, text string, grant Grant) (*Tokens, string, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "tokens")
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	tokens, err := LoadTokens(file, grant, slog.New(slog.DiscardHandler))
	return tokens, file, err
}

// ask authenticates a request with an Authorization header, unless that is empty.
func ask(a Authenticator, authorization string) (domain.Caller, error) {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	if authorization != "" {
		r.Header.Set("Authorization", authorization)
	}
	return a.Authenticate(r)
}

func TestTokensFile(t *testing.T) {
	hash := hashOf("secret")
	for _, good := range []string{
		"ann viewer " + hash, "ann,viewer," + hash, "ann,\tviewer , " + strings.ToUpper(hash) +
			"\r\n", "# comment\n\nann viewer " + hash + " # hers\n",
	} {
		tokens, _, err := load(t, good, ConsoleUser)
		require.NoError(t, err, good)
		caller, err := ask(tokens, "Bearer secret")
		require.NoError(t, err)
		require.Equal(
			t, domain.Caller{Name: "ann", Tenants: domain.AllTenants(), Role: domain.Viewer, How: domain.ByToken}, caller,
		)
		_, err = ask(tokens, "Bearer other")
		require.ErrorIs(t, err, ErrUnknown)
	}
	for bad, want := range map[string]string{
		"":                          "no token",
		"# only a comment":          "no token",
		"ann viewer":                "line 1: want three fields",
		"\nann viewer " + hash[:10]: "line 2: the third field",
		"a viewer " + hash + "\nb operator " + hash: "line 2: b has the same token as a",
		"ann king " + hash:                          "\"king\" is no role: they are viewer and operator",
		"ann viewer " + hash + " and more":          "line 1: want three fields",
	} {
		_, _, err := load(t, bad, ConsoleUser)
		require.ErrorContains(t, err, want)
		require.Equal(t, domain.Misconfigured, domain.ClassOf(err))
		require.NotContains(t, err.Error(), hash, "no secrets in messages")
	}
	_, err := LoadTokens(filepath.Join(t.TempDir(), "none"), Uploader, slog.New(slog.DiscardHandler))
	require.Equal(t, domain.Misconfigured, domain.ClassOf(err))
}

// TestGrants keeps the two files apart: a tenant's token is no role, and a role is no tenant.
func TestGrants(t *testing.T) {
	tokens, _, err := load(t, "edge operator "+hashOf("secret"), Uploader)
	require.NoError(t, err)
	caller, err := ask(tokens, "Bearer secret")
	require.NoError(t, err)
	require.Equal(t, domain.Caller{Name: "edge", Tenants: domain.Tenants("operator"), How: domain.ByToken}, caller)
	require.Equal(t, "operator", caller.Tenant())
	require.False(t, caller.Role.Includes(domain.Viewer), "an uploader reads nothing")
}

func TestCredentials(t *testing.T) {
	tokens, _, err := load(t, "ann viewer "+hashOf("secret"), ConsoleUser)
	require.NoError(t, err)
	for header, want := range map[string]error{
		"": ErrNoCredentials, "Bearer": ErrNoCredentials, "Basic secret": ErrNoCredentials, "secret": ErrNoCredentials,
		"Bearer ": ErrNoCredentials, "Bearer x": ErrUnknown, "bearer secret": nil, "Bearer  secret ": nil,
	} {
		caller, err := ask(tokens, header)
		require.ErrorIs(t, err, want, header)
		if want != nil {
			require.Equal(t, domain.Caller{}, caller, header)
		}
	}
}

// TestTokensAreReadAgain has a token that is replaced, and a file that is broken meanwhile.
func TestTokensAreReadAgain(t *testing.T) {
	tokens, file, err := load(t, "ann viewer "+hashOf("secret"), ConsoleUser)
	require.NoError(t, err)
	synctest.Test(t, func(t *testing.T) {
		write := func(text string) {
			require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
			time.Sleep(reloadEvery)
		}
		works := func(token string) bool { _, err := ask(tokens, "Bearer "+token); return err == nil }
		require.True(t, works("secret"))
		write("half a line")
		require.True(t, works("secret"), "the old tokens stay until the file is whole")
		write("ann viewer " + hashOf("another secret"))
		require.False(t, works("secret"))
		require.True(t, works("another secret"))
	})
}

func TestAnonymous(t *testing.T) {
	uploader, err := ask(AnonymousUploader(), "")
	require.NoError(t, err)
	require.Equal(t, domain.DefaultTenant, uploader.Tenant())
	require.Empty(t, uploader.Role)
	operator, err := ask(AnonymousOperator(), "Bearer whatever")
	require.NoError(t, err)
	require.True(t, operator.Role.Includes(domain.Operator))
	require.True(t, operator.Tenants.All())
}
