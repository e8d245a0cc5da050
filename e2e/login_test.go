package e2e

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/storage"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"
	"github.com/zitadel/oidc/v3/example/server/exampleop"
	provider "github.com/zitadel/oidc/v3/example/server/storage"
)

// identityProvider is one of OpenID Connect with two people, for a console at an address.
func identityProvider(t *testing.T, redirect string) *httptest.Server {
	t.Helper()
	people := map[string]provider.User{}
	for _, name := range []string{"ann", "bob"} {
		people[name] = provider.User{
			ID: name, Username: name, Password: "pass of " + name, Email: name + "@example.com", EmailVerified: true,
		}
	}
	file := filepath.Join(t.TempDir(), "people.json")
	content, err := json.Marshal(people)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(file, content, 0o600))
	store, err := provider.StoreFromFile(file)
	require.NoError(t, err)
	server := httptest.NewUnstartedServer(nil)
	_, port, err := net.SplitHostPort(server.Listener.Addr().String())
	require.NoError(t, err)
	issuer := "http://localhost:" + port // another site than docket's, for a browser
	client := provider.WebClient("docket", "client secret", redirect)
	clients := map[string]*provider.Client{"docket": client}
	server.Config.Handler = exampleop.SetupServer(
		issuer, provider.NewStorageWithClients(store, clients), slog.New(slog.DiscardHandler), false,
	)
	server.Start()
	server.URL = issuer
	t.Cleanup(server.Close)
	return server
}

// TestLoginWithAnIssuer has people log in with a real provider of OpenID Connect, in a real browser.
func TestLoginWithAnIssuer(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) string {
		file := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(file, []byte(content), 0o600))
		return file
	}
	tokens := write("tokens", fmt.Sprintf("olga operator %x\n", sha256.Sum256([]byte("do"))))
	d := newDocket(
		t, filepath.Join(dir, "data"), "DOCKET_CONSOLE_TOKENS_FILE="+tokens, "DOCKET_CONSOLE_PREFIX=/docket",
		"DOCKET_CONFIG="+filepath.Join(dir, "docket.yaml"),
	)
	redirect := "http://" + d.console + "/docket/login/callback"
	idp := identityProvider(t, redirect)
	write("docket.yaml", fmt.Sprintf(`
issuers:
  - issuer: %s
    name: /email
    login:
      client_id: docket
      client_secret_file: %s
      redirect_url: %s
      scopes: [email]
      label: Example
      userinfo: true
    console:
      role_claim: /email
      roles: {ann@example.com: operator}
`, idp.URL, write("secret", "client secret\n"), redirect))
	d.serve(t)
	d.post(t, append(orders(20), "17")...)
	b := newBrowser(t, d)
	login := func(name, password string) {
		b.open("/docket/decisions?q=outcome:denied")
		b.at("/docket/login?to=/decisions?q=outcome")
		b.click("a.button")
		b.at(idp.URL + "/login/username")
		b.do(chromedp.SendKeys("#username", name, chromedp.ByQuery))
		b.do(chromedp.SendKeys("#password", password, chromedp.ByQuery))
		b.click("button")
	}
	b.accessible("/docket/login?to=/decisions")
	login("ann", "pass of ann")
	b.at("/docket/decisions?q=outcome:denied")
	b.sees("ann@example.com, operator", "guests may not delete")
	b.keys("j", enter)
	b.sees("All about this decision") // scripts ask the API with the session
	cookies := b.cookies()
	require.Contains(t, cookies, "docket_session")
	for name := range cookies {
		require.False(t, strings.HasPrefix(name, "docket_login"), "what a login leaves is taken back")
	}
	eventually(t, 30*time.Second, func() error { // uses are told every ten seconds
		b.open("/docket/credentials")
		var text string
		b.do(chromedp.Text("main", &text, chromedp.ByQuery))
		if !strings.Contains(text, "ann@example.com\tconsole\tlogin") {
			return errors.New(text)
		}
		return nil
	})

	// The issuer being away is missed by nobody who is logged in. A copy of the cookie ends with the logout.
	b.click(".who button")
	b.at("/docket/login?out=")
	b.sees("You are logged out of docket", "Log out of Example as well")
	b.click("p[role=status] a")
	b.at(idp.URL)
	b.eventually("the issuer says so", `document.body.innerText.includes("signed out")`)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+d.console+"/api/v1/decisions", nil)
	require.NoError(t, err)
	r.AddCookie(&http.Cookie{Name: "docket_session", Value: cookies["docket_session"]})
	resp, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	answer, err := io.ReadAll(resp.Body)
	require.NoError(t, resp.Body.Close())
	require.NoError(t, err)
	require.Equal(t, http.StatusUnauthorized, resp.StatusCode, string(answer))
	require.Contains(t, string(answer), "the session has ended")

	login("bob", "pass of bob")
	b.at("/docket/login/callback")
	b.sees("You are not logged in", "no value of its claim /email is a role here")
	login("ann", "pass of ann")
	b.sees("ann@example.com, operator")
	idp.Close()
	b.open("/docket/dead-letters")
	b.sees("ann@example.com, operator")
	b.click(".who button")
	b.at("/docket/login")
	b.do(chromedp.SendKeys("input[name=token]", "do", chromedp.ByQuery))
	b.keys(enter)
	b.sees("olga, operator") // a token gets in while the issuer is away
	d.terminate(t)
}

// cookies are those that the browser has, by name.
func (b *browser) cookies() map[string]string {
	b.t.Helper()
	out := map[string]string{}
	b.do(chromedp.ActionFunc(func(ctx context.Context) error {
		var all []*network.Cookie
		all, err := storage.GetCookies().Do(ctx)
		for _, c := range all {
			out[c.Name] = c.Value
		}
		return err
	}))
	return out
}
