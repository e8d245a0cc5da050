package auth

import (
	"bytes"
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
		caller, err := ask(&Credentials{Tokens: tokens}, "Bearer secret")
		require.NoError(t, err)
		require.Equal(
			t, domain.Caller{
				Name: "ann", Tenants: domain.AllTenants(), Role: domain.Viewer, How: domain.ByToken, Credential: hash[:8],
			}, caller,
		)
		_, err = ask(&Credentials{Tokens: tokens}, "Bearer other")
		require.ErrorIs(t, err, ErrUnknown)
	}
	for bad, want := range map[string]string{
		"":                          "no token",
		"# only a comment":          "no token",
		"ann viewer":                "line 1: want three fields",
		"ann viewer " + hashOf(""):  "the SHA-256 of nothing",
		"\nann viewer " + hash[:10]: "line 2: the third field",
		"a viewer " + hash + "\nb operator " + hash: "line 2: b has the same token as a",
		"ann king " + hash:                          "the second field is no role: they are viewer, operator and admin",
		"ann viewer " + hash + " and more":          "line 1: field 4 is no term",
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
	caller, err := ask(&Credentials{Tokens: tokens}, "Bearer secret")
	require.NoError(t, err)
	require.Equal(t, domain.Caller{
		Name: "edge", Tenants: domain.Tenants("operator"), How: domain.ByToken, Credential: hashOf("secret")[:8],
	}, caller)
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
		caller, err := ask(&Credentials{Tokens: tokens}, header)
		require.ErrorIs(t, err, want, header)
		if want != nil {
			require.Equal(t, domain.Caller{}, caller, header)
		}
	}
}

// TestTokensAreReadAgain has tokens that are revoked in every way there is.
func TestTokensAreReadAgain(t *testing.T) {
	good := "ann viewer " + hashOf("secret") + "\nbob viewer " + hashOf("bob's") + "\n"
	remove := func(t *testing.T, file string) { require.NoError(t, os.Remove(file)) }
	write := func(text string) func(*testing.T, string) {
		return func(t *testing.T, file string) { require.NoError(t, os.WriteFile(file, []byte(text), 0o600)) }
	}
	for _, c := range []struct {
		name     string
		change   func(*testing.T, string)
		ann, bob bool
		says     string
	}{
		{"taken out", write("bob viewer " + hashOf("bob's")), false, true, ""},
		{"replaced", write("ann viewer " + hashOf("new") + "\nbob viewer " + hashOf("bob's")), false, true, ""},
		{"commented out", write("# ann viewer " + hashOf("secret") + "\nbob viewer " + hashOf("bob's")), false, true, ""},
		{"taken out, beside a line that is half", write("bob viewer " + hashOf("bob's") + "\ncarl"), false, true, "line 2"},
		{"no role", write("ann king " + hashOf("secret") + "\nbob viewer " + hashOf("bob's")), false, true, "line 1"},
		{"given to two", write(good + "carl operator " + hashOf("secret")), false, true, "carl has the same token as ann"},
		{"a line that stands twice", write(good + "ann viewer " + hashOf("secret")), true, true, "the same token as ann"},
		{"the file is empty", write(""), false, false, "no token"},
		{"the file is rubbish", write("\x00\x01"), false, false, "line 1"},
		{"a line without end", write(strings.Repeat("x", 100_000)), false, false, "too long"},
		{"the file is gone", remove, false, false, "no such file"},
		{"the file is a directory", func(t *testing.T, file string) {
			remove(t, file)
			require.NoError(t, os.Mkdir(file, 0o700))
		}, false, false, "directory"},
	} {
		t.Run(c.name, func(t *testing.T) {
			tokens, file, err := load(t, good, ConsoleUser)
			require.NoError(t, err)
			var said bytes.Buffer
			tokens.logger = slog.New(slog.NewTextHandler(&said, nil))
			synctest.Test(t, func(t *testing.T) {
				works := func(token string) bool {
					_, err := ask(&Credentials{Tokens: tokens}, "Bearer "+token)
					return err == nil
				}
				require.True(t, works("secret"))
				c.change(t, file)
				for range 3 {
					time.Sleep(reloadEvery)
					require.Equal(t, c.ann, works("secret"))
					require.Equal(t, c.bob, works("bob's"))
				}
				require.Equal(t, min(len(c.says), 1), strings.Count(said.String(), "level=ERROR"), "said once: %s", said.String())
				require.Contains(t, said.String(), c.says)
				why, all := (&Credentials{Tokens: tokens}).Trouble()
				require.Equal(t, c.says != "", why != nil)
				require.Equal(t, !c.ann && !c.bob, all, "everybody is refused")
				require.NotContains(t, said.String(), hashOf("secret"), "no secrets in messages")
				require.NoError(t, os.RemoveAll(file))
				write(good+"\n")(t, file)
				time.Sleep(reloadEvery)
				require.True(t, works("secret"), "and it is repaired without a restart")
			})
		})
	}
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

// TestTerms has what may stand behind a token, in both files.
func TestTerms(t *testing.T) {
	at := time.Date(2027, 1, 31, 0, 0, 0, 0, time.UTC)
	uploader := domain.Caller{
		Name: "edge", Tenants: domain.Tenants("acme"), How: domain.ByToken, Credential: hashOf("secret")[:8],
	}
	user := uploader
	user.Tenants, user.Role = domain.AllTenants(), domain.Operator
	with := func(c domain.Caller, change func(*domain.Caller)) domain.Caller { change(&c); return c }
	for terms, want := range map[string]domain.Caller{
		"":                   uploader,
		"partitions=eu,us":   with(uploader, func(c *domain.Caller) { c.Partitions = []string{"eu", "us"} }),
		"partitions=eu, us,": with(uploader, func(c *domain.Caller) { c.Partitions = []string{"eu", "us"} }),
		"opas=edge-*\texpires=2027-01-31T01:00:00+01:00": with(uploader, func(c *domain.Caller) {
			c.OPAs, c.Expires = []string{"edge-*"}, at
		}),
		"tenants=acme": uploader,
	} {
		tokens, _, err := load(t, "edge acme "+hashOf("secret")+" "+terms+" # a comment", Uploader)
		require.NoError(t, err, terms)
		caller, err := ask(&Credentials{Tokens: tokens}, "Bearer secret")
		require.NoError(t, err, terms)
		caller.Expires = caller.Expires.UTC()
		require.Equal(t, want, caller, terms)
	}
	for terms, want := range map[string]domain.Caller{
		"tenants=b,a": with(user, func(c *domain.Caller) { c.Tenants = domain.Tenants("a", "b") }),
		"expires=2027-01-31T00:00:00Z,tenants=a": with(user, func(c *domain.Caller) {
			c.Tenants, c.Expires = domain.Tenants("a"), at
		}),
	} {
		tokens, _, err := load(t, "edge,operator,"+hashOf("secret")+","+terms, ConsoleUser)
		require.NoError(t, err, terms)
		caller, err := ask(&Credentials{Tokens: tokens}, "Bearer secret")
		require.NoError(t, err, terms)
		require.Equal(t, want, caller, terms)
	}
	for terms, want := range map[string]string{
		"expires=tomorrow":                    "is one time as in RFC 3339",
		"expires=2027-01-31":                  "is one time as in RFC 3339",
		"expires=2027-01-31T00:00:00Z,x":      "is one time as in RFC 3339",
		"partition=eu":                        "field 4 is no term: behind the first three are terms such as expires=…",
		"opas=":                               "opas= is empty",
		"opas=a expires:2027-01-31T00:00:00Z": "field 5 is no term",
		"opas=a expires 2027":                 "field 5 is no term",
		"partitions=eu-*":                     "they are names and no patterns",
		"opas=a opas=b":                       "opas stands twice",
		"tenants=acme,other":                  "an upload is one tenant's",
		"tenants=other":                       "an upload is one tenant's",
		"=x":                                  "field 4 is no term",
		"opas=a\x00":                          "is no name",
		"PARTITIONS=eu":                       "field 4 is no term",
		"a " + hashOf("x") + " partitions=eu": "field 4 is no term",
	} {
		_, _, err := load(t, "edge acme "+hashOf("secret")+" "+terms, Uploader)
		require.ErrorContains(t, err, want, terms)
		require.Equal(t, domain.Misconfigured, domain.ClassOf(err))
	}
	_, _, err := load(t, "edge docket-system "+hashOf("secret"), Uploader)
	require.ErrorContains(t, err, "docket-system has docket's own decisions")
	for terms, want := range map[string]string{
		"opas=x": "opas= bounds uploads", "partitions=x": "partitions= bounds uploads",
		"tenants=*":      "leave tenants out for all",
		"tenants=a\x00b": "is no name",
	} {
		_, _, err := load(t, "edge viewer "+hashOf("secret")+" "+terms, ConsoleUser)
		require.ErrorContains(t, err, want, terms)
	}
}

// TestExpiry has a token whose successor is in the file already, and the session of one.
func TestExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		at := time.Now().Add(time.Hour)
		until := at.Format(time.RFC3339)
		text := fmt.Sprintf("ann viewer %s expires=%s\nann viewer %s\n", hashOf("old"), until, hashOf("new"))
		tokens, _, err := load(t, text, ConsoleUser)
		require.NoError(t, err)
		sessions, err := NewSessions(&Credentials{Tokens: tokens}, nil, "", slog.New(slog.DiscardHandler))
		require.NoError(t, err)
		cookie, err := sessions.Begin(nobody(), "old", plainSite)
		require.NoError(t, err)
		for _, token := range []string{"old", "new"} {
			_, err := ask(&Credentials{Tokens: tokens}, "Bearer "+token)
			require.NoError(t, err)
		}
		time.Sleep(time.Hour - time.Nanosecond)
		_, err = ask(&Credentials{Tokens: tokens}, "Bearer old")
		require.NoError(t, err)
		_, err = visit(sessions, cookie)
		require.NoError(t, err)
		time.Sleep(time.Nanosecond)
		_, err = ask(&Credentials{Tokens: tokens}, "Bearer old")
		require.ErrorIs(t, err, ErrExpired)
		require.ErrorContains(t, err, at.Format(time.RFC3339))
		_, err = visit(sessions, cookie)
		require.ErrorIs(t, err, ErrSessionEnded)
		caller, err := ask(&Credentials{Tokens: tokens}, "Bearer new")
		require.NoError(t, err)
		require.Equal(t, "ann", caller.Name)
	})
}
