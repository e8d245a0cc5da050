package app

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"
	"gopkg.in/yaml.v3"

	"github.com/docket-project/docket/internal/adapters/api"
	"github.com/docket-project/docket/internal/adapters/auth"
	"github.com/docket-project/docket/internal/adapters/opa"
	"github.com/docket-project/docket/internal/testserver"
)

var update = flag.Bool("update", false, "write docs/access.md anew")

// shown is what a client shows: a token, a certificate, or nothing.
type shown struct {
	name   string
	token  string
	cookie string // a session's
	own    *testserver.Pair
}

// accessible is a docket that knows callers by everything that there is.
type accessible struct {
	*running
	authority *testserver.Pair
	signer    testserver.Signer
	clients   map[*testserver.Pair]*http.Client
	// provider is whom people log in with, and nonce and claims what it vouches for.
	provider *testserver.Issuer
	nonce    string
	claims   jwt.MapClaims
}

const accessIssuer = "https://issuer.example"

// accessTokens are the lines of both files, by the token.
var accessTokens = map[string][2]string{
	"t-acme": {"upload", "edge acme %s"}, "t-initech": {"upload", "other initech %s"},
	"t-eu": {"upload", "eu acme %s partitions=eu"}, "t-opa": {"upload", "one acme %s opas=edge-*"},
	"t-over":   {"upload", "over acme %s expires=2026-01-01T00:00:00Z"},
	"c-viewer": {"console", "vera viewer %s"}, "c-operator": {"console", "olga operator %s"},
	"c-admin": {"console", "ada admin %s"}, "c-over": {"console", "over admin %s expires=2026-01-01T00:00:00Z"},
	"c-acme-viewer": {"console", "va viewer %s tenants=acme"}, "c-acme": {"console", "oa operator %s tenants=acme"},
	"c-initech": {"console", "oi admin %s tenants=initech"}, "c-nobody": {"console", "on operator %s tenants=nobody"},
}

func startAccessible(t *testing.T, edit ...func(*Config)) *accessible {
	dir := t.TempDir()
	write := func(name string, content []byte) string {
		file := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(file, content, 0o600))
		return file
	}
	a := &accessible{
		authority: testserver.NewAuthority(nil), signer: testserver.NewSigner("k", jwt.SigningMethodES256),
		clients: map[*testserver.Pair]*http.Client{},
	}
	a.provider = testserver.NewIssuer(a.signer)
	t.Cleanup(a.provider.Close)
	a.provider.Exchange = func(url.Values, string, string) (int, any) {
		claims := a.provider.ClaimsFor("p", "console")
		maps.Copy(claims, a.claims)
		claims["nonce"] = a.nonce
		return http.StatusOK, map[string]string{
			"access_token": "a", "token_type": "Bearer", "id_token": a.signer.Sign(claims),
		}
	}
	server := a.authority.Server("127.0.0.1")
	files := map[string]string{}
	for token, line := range accessTokens {
		files[line[0]] += fmt.Sprintf(line[1]+"\n", fmt.Sprintf("%x", sha256.Sum256([]byte(token))))
	}
	section := fmt.Sprintf(`
issuers:
  - issuer: %s
    jwks_url: file://%s
    audiences: [docket]
    upload: {tenant_claim: /team}
    console: {role_claim: /role, roles: {viewer: viewer, operator: operator}, tenants_claim: /team}
  - issuer: %s
    ca_file: %s
    login: {client_id: console, redirect_url: "https://docket.example/login/callback"}
    console: {role_claim: /role, roles: {viewer: viewer, operator: operator}, tenants_claim: /team}
client_certificates:
  - san: spiffe://example.org/*
    upload: {tenant: acme}
    console: {role: operator, tenants: [acme]}
`, accessIssuer, write("keys", testserver.KeySet(a.signer)), a.provider.URL, write("provider", a.provider.CA()))
	a.running = startApp(t, func(c *Config) {
		require.NoError(t, yaml.Unmarshal([]byte(section), &c.Sections))
		c.UploadTokensFile = write("upload-tokens", []byte(files[auth.UploadListener]))
		c.ConsoleTokensFile = write("console-tokens", []byte(files[auth.ConsoleListener]))
		c.TLSCertFile, c.TLSKeyFile = write("cert", server.CertPEM()), write("key", server.KeyPEM())
		c.TLSClientCAFile = write("ca", a.authority.CertPEM())
		c.LoadAccess = opa.Load
		for _, e := range edit {
			e(c)
		}
	})
	return a
}

// client shows a certificate, or none.
func (a *accessible) clientOf(t *testing.T, own *testserver.Pair) *http.Client {
	if c := a.clients[own]; c != nil {
		return c
	}
	pool := x509.NewCertPool()
	pool.AddCert(a.authority.Cert)
	via := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}
	if own != nil {
		via.TLSClientConfig.Certificates = []tls.Certificate{{Certificate: [][]byte{own.Cert.Raw}, PrivateKey: own.Key}}
	}
	t.Cleanup(via.CloseIdleConnections)
	c := &http.Client{Transport: via, CheckRedirect: a.client.CheckRedirect}
	a.clients[own] = c
	return c
}

// ask makes a request, and returns the answer's status and body.
func (a *accessible) ask(t *testing.T, s shown, addr, method, path, body string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, "https://"+addr+path, strings.NewReader(body))
	require.NoError(t, err)
	if s.token != "" {
		r.Header.Set("Authorization", "Bearer "+s.token)
	}
	if s.cookie != "" {
		r.AddCookie(&http.Cookie{Name: auth.SessionCookie, Value: s.cookie})
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	resp, err := a.clientOf(t, s.own).Do(r)
	require.NoError(t, err)
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, string(answer)
}

func (a *accessible) jwt(claims jwt.MapClaims) string {
	for key, value := range map[string]any{
		"iss": accessIssuer, "aud": "docket", "sub": "j", "exp": time.Now().Add(time.Hour).Unix(),
	} {
		if claims[key] == nil {
			claims[key] = value
		}
	}
	return a.signer.Sign(claims)
}

// loggedIn is a session of somebody whom the provider says that of.
func (a *accessible) loggedIn(t *testing.T, claims jwt.MapClaims) string {
	t.Helper()
	get := func(path string, cookies ...*http.Cookie) *http.Response {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+a.ConsoleAddr()+path, nil)
		require.NoError(t, err)
		for _, c := range cookies {
			r.AddCookie(c)
		}
		resp, err := a.clientOf(t, nil).Do(r)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, http.StatusSeeOther, resp.StatusCode)
		return resp
	}
	resp := get("/login/with?issuer=" + url.QueryEscape(a.provider.URL))
	there, err := resp.Location()
	require.NoError(t, err)
	a.nonce, a.claims = there.Query().Get("nonce"), claims
	back := url.Values{"code": {"x"}, "state": {there.Query().Get("state")}}
	for _, c := range get(auth.Callback+"?"+back.Encode(), resp.Cookies()...).Cookies() {
		if c.Name == auth.SessionCookie {
			return c.Value
		}
	}
	require.Fail(t, "no session")
	return ""
}

// tokenSession is a session of somebody who has pasted a token.
func (a *accessible) tokenSession(t *testing.T, token string) string {
	t.Helper()
	resp, err := a.clientOf(t, nil).PostForm("https://"+a.ConsoleAddr()+"/login", url.Values{"token": {token}})
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Len(t, resp.Cookies(), 1)
	return resp.Cookies()[0].Value
}

// erasures is what only admins may ask for.
const erasures = "/api/v1/decisions/erasures"

// asking is one request of the matrix: an operation of the API, a page, or an upload.
type asking struct {
	listener, method, path, body string
	// changes says that it is for operators, and of what that it is about something of acme's.
	changes, of bool
}

// cell is how the matrix tells an answer.
func cell(status int) string {
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound:
		return fmt.Sprint(status)
	case http.StatusSeeOther:
		return "login"
	}
	return "yes"
}

// TestAccess asks for everything that the listeners serve, with every kind of credential, and writes docs/access.md.
func TestAccess(t *testing.T) {
	a := startAccessible(t)
	admin := shown{token: "c-admin"}
	at := time.Now().UTC().Format(time.RFC3339Nano)
	event := func(id, of string) string {
		return fmt.Sprintf(`{"decision_id":%q,"timestamp":%q,"path":"a/b","input":{"of":%q},"labels":{"id":"edge-1"}}`, id, at, of)
	}
	for token, of := range map[string]string{"t-acme": "acme", "t-initech": "initech"} {
		body := "[" + event("shared", of) + "," + event("only-"+of, of) + `,"dead ` + of + `"]`
		code, answer := a.ask(t, shown{token: token}, a.UploadAddr(), http.MethodPost, "/logs", body)
		require.Equal(t, http.StatusOK, code, answer)
	}
	a.drained(t)
	ids := func(path string) (ids []string) {
		var page struct {
			Items []struct{ ID string }
		}
		require.Eventually(t, func() bool {
			code, answer := a.ask(t, shown{token: "c-acme"}, a.ConsoleAddr(), http.MethodGet, path, "")
			require.Equal(t, http.StatusOK, code, answer)
			require.NoError(t, json.Unmarshal([]byte(answer), &page))
			return len(page.Items) > 0
		}, testPatience, testTick)
		for _, item := range page.Items {
			ids = append(ids, item.ID)
		}
		return ids
	}
	dead := ids("/api/v1/dead-letters")
	require.Len(t, dead, 1)
	code, answer := a.ask(
		t, shown{token: "c-acme"}, a.ConsoleAddr(), http.MethodPost, "/api/v1/dead-letters/discards", `{"comment":"x"}`,
	)
	require.Equal(t, http.StatusAccepted, code, answer)
	jobs := ids("/api/v1/jobs")

	var rows []asking
	for _, r := range operations(t) {
		r.path = strings.NewReplacer(
			"{decision_id}/last-allowed", "only-acme/last-allowed", "{decision_id}/trail", "only-acme/trail", "{decision_id}",
			"only-acme", "{dead_letter_id}", dead[0], "{field}", "outcome", "{fingerprint}", "none",
		).Replace(r.path)
		if strings.Contains(r.path, "{job_id}/") {
			r.path, r.of = strings.Replace(r.path, "{job_id}", "none", 1), false
		}
		r.path = strings.Replace(r.path, "{job_id}", jobs[0], 1)
		require.NotContains(t, r.path, "{")
		if r.path == erasures { // what is wrong with a request is told before who may make it
			r.body = `{"filter": {"principal": "somebody"}}`
		}
		rows = append(rows, r)
	}
	code, home := a.ask(t, admin, a.ConsoleAddr(), http.MethodGet, "/", "")
	require.Equal(t, http.StatusOK, code)
	nav, _, _ := strings.Cut(home, "</nav>")
	for _, link := range regexp.MustCompile(`href="(/[a-z-]*)"`).FindAllStringSubmatch(nav, -1) {
		page := asking{listener: auth.ConsoleListener, method: http.MethodGet, path: link[1]}
		page.changes = page.path == "/credentials"
		if page.path == "/contrast" { // without a query it leads to one
			page.path += "?q=outcome:denied"
		}
		if !slices.Contains(rows, page) {
			rows = append(rows, page)
		}
	}
	require.GreaterOrEqual(t, len(rows), 44)
	for _, path := range []string{"/logs", "/logs/eu", "/status"} {
		body := event("upload", "acme")
		if path != "/status" {
			body = "[" + body + "]"
		}
		rows = append(rows, asking{listener: auth.UploadListener, method: http.MethodPost, path: path, body: body})
	}
	named := a.authority.Client("spiffe://example.org/sa/opa")
	columns := []shown{
		{name: "nothing"}, {name: "an unknown token", token: "x"}, {name: "a token that is over", token: "c-over"},
		{name: "a token of the other file", token: "t-acme"},
		{name: "a certificate without a grant", own: a.authority.Client("nobody.example")},
		{name: "a JWT without a role", token: a.jwt(jwt.MapClaims{"team": "acme"})},
		{name: "a session that has ended", cookie: "x"},
		{name: "viewer", token: "c-viewer"}, {name: "viewer of acme", token: "c-acme-viewer"},
		{name: "viewer of acme by JWT", token: a.jwt(jwt.MapClaims{"team": "acme", "role": "viewer"})},
		{name: "operator", token: "c-operator"}, {name: "operator of acme", token: "c-acme"},
		{name: "operator of acme by JWT", token: a.jwt(jwt.MapClaims{"team": "acme", "role": "operator"})},
		{name: "operator of acme by certificate", own: named},
		{name: "operator of acme by session", cookie: a.tokenSession(t, "c-acme")},
		{name: "viewer of acme by login", cookie: a.loggedIn(t, jwt.MapClaims{"team": "acme", "role": "viewer"})},
		{name: "operator of acme by login", cookie: a.loggedIn(t, jwt.MapClaims{"team": "acme", "role": "operator"})},
		{name: "admin", token: "c-admin"}, {name: "admin of initech", token: "c-initech"},
		{name: "operator of nobody", token: "c-nobody"},
	}
	var doc strings.Builder
	doc.WriteString(accessIntroduction)
	looking := func(t *testing.T, r asking, s shown, status int, answer string) {
		t.Helper()
		stranger := strings.Contains(s.name, "of initech") || strings.Contains(s.name, "of nobody")
		page := !strings.HasPrefix(r.path, "/api/")
		switch {
		case page && slices.Index(columns, s) < 7:
			require.Equal(t, http.StatusSeeOther, status)
		case slices.Index(columns, s) < 4 || s.cookie == "x":
			require.Equal(t, http.StatusUnauthorized, status)
		case strings.Contains(s.name, "without"):
			require.Equal(t, http.StatusForbidden, status)
		case r.changes && strings.HasPrefix(s.name, "viewer"), r.path == erasures && !strings.HasPrefix(s.name, "admin"):
			require.Equal(t, http.StatusForbidden, status)
		case r.of && stranger:
			require.Equal(t, http.StatusNotFound, status)
		default:
			require.NotContains(t, []int{http.StatusUnauthorized, http.StatusForbidden, http.StatusSeeOther}, status)
		}
		answer = strings.ReplaceAll(answer, "only-acme", "") // it is asked for by name, and not found by it
		if strings.Contains(s.name, "of acme") || strings.Contains(s.name, "of nobody") {
			require.False(t, strings.Contains(answer, "initech"), "another tenant's")
		}
		if stranger {
			require.False(t, strings.Contains(answer, "acme"), "another tenant's")
		}
	}
	a.matrix(t, &doc, auth.ConsoleListener, rows, columns, looking)
	columns = []shown{
		{name: "nothing"}, {name: "an unknown token", token: "x"}, {name: "a token that is over", token: "t-over"},
		{name: "a token of the other file", token: "c-admin"},
		{name: "a certificate without a grant", own: a.authority.Client("nobody.example")},
		{name: "a JWT without a tenant", token: a.jwt(jwt.MapClaims{})},
		{name: "a token", token: "t-acme"}, {name: "partitions=eu", token: "t-eu"}, {name: "opas=edge-*", token: "t-opa"},
		{name: "a JWT", token: a.jwt(jwt.MapClaims{"team": "acme"})}, {name: "a certificate", own: named},
	}
	a.matrix(t, &doc, auth.UploadListener, rows, columns, func(t *testing.T, r asking, s shown, status int, _ string) {
		switch {
		case slices.Index(columns, s) < 4:
			require.Equal(t, http.StatusUnauthorized, status)
		case strings.Contains(s.name, "without"), s.token == "t-eu" && r.path == "/logs":
			require.Equal(t, http.StatusForbidden, status)
		default:
			require.Equal(t, http.StatusOK, status)
		}
	})
	const file = "../../docs/access.md"
	if *update {
		require.NoError(t, os.WriteFile(file, []byte(doc.String()), 0o644))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, string(want), doc.String(), "run with -update")
}

// TestOwnDecisions has the policy decide about callers, and finds what it decided in the tenant docket-system.
func TestOwnDecisions(t *testing.T) {
	own := filepath.Join(t.TempDir(), "narrow.rego")
	require.NoError(t, os.WriteFile(own, []byte(`package docket.narrow

deny contains "discards need a ticket" if {
	input.action == "dead_letters.discard"
	not contains(input.resource.comment, "TICKET-")
}

deny contains "the audit is for admins" if {
	input.action == "audit.read"
	input.user.role != "admin"
}
`), 0o600))
	a := startAccessible(t, func(c *Config) { c.AccessPolicy = own })
	person := shown{cookie: a.loggedIn(t, jwt.MapClaims{"team": "acme", "role": "operator"})}
	admin := shown{token: "c-admin"}
	ask := func(s shown, method, path, body string, status int, says string) {
		t.Helper()
		code, answer := a.ask(t, s, a.ConsoleAddr(), method, path, body)
		require.Equal(t, status, code, answer)
		require.Contains(t, answer, says)
	}
	const discards = "/api/v1/dead-letters/discards"
	for range 3 { // which is one decision a minute
		ask(person, http.MethodGet, "/api/v1/audit", "", http.StatusForbidden, "the audit is for admins")
		ask(person, http.MethodGet, "/audit", "", http.StatusForbidden, "the audit is for admins")
	}
	ask(admin, http.MethodGet, "/api/v1/audit", "", http.StatusOK, "items")
	discard := func(comment string) string {
		return fmt.Sprintf(`{"filter":{"cause":["rejected"]},"dry_run":false,"comment":%q}`, comment)
	}
	ask(person, http.MethodPost, discards, discard("x"), http.StatusForbidden, "discards need a ticket")
	ask(person, http.MethodPost, discards, discard("TICKET-7"), http.StatusAccepted, "")
	const needs = "it needs the role operator"
	ask(shown{token: "c-viewer"}, http.MethodGet, "/api/v1/credentials", "", http.StatusForbidden, needs)

	var found struct {
		Items []struct{ Tenant, Path, Outcome, Principal, Action, Reason string }
	}
	require.Eventually(t, func() bool {
		const own = "/api/v1/decisions?tenant=docket-system&limit=100"
		code, answer := a.ask(t, admin, a.ConsoleAddr(), http.MethodGet, own, "")
		require.Equal(t, http.StatusOK, code)
		require.NoError(t, json.Unmarshal([]byte(answer), &found))
		return len(found.Items) >= 6
	}, testPatience, testTick)
	var told []string
	for _, i := range found.Items {
		require.Equal(t, "docket-system docket/access", i.Tenant+" "+i.Path)
		told = append(told, i.Principal+" "+i.Action+" "+i.Outcome)
	}
	slices.Sort(told)
	require.Equal(t, []string{
		"ada audit.read allowed", "ada decisions.search allowed", "p audit.read denied", "p dead_letters.discard allowed",
		"p dead_letters.discard denied", "vera credentials.read denied",
	}, told)
	_, answer := a.ask(t, person, a.ConsoleAddr(), http.MethodGet, "/api/v1/decisions?since=1h", "")
	require.NotContains(t, answer, "docket-system", "who has some tenants sees those")
}

const accessIntroduction = `# Who gets what

<!-- Generated by asking a running docket: go test ./internal/app -run Access -update -->

Every operation of the API, every page and every way to upload, with every kind of credential
([security.md](security.md)). *yes* is any answer that is not a refusal; 404 is that there is nothing, for that caller;
*login* leads to the login page. Decisions, dead letters and jobs that are asked for by id are those of the tenant acme.
`

// matrix asks for every row with every column, and checks and notes what comes of it.
func (a *accessible) matrix(
	t *testing.T, doc *strings.Builder, listener string, rows []asking, columns []shown,
	check func(*testing.T, asking, shown, int, string),
) {
	addr := map[string]string{auth.ConsoleListener: a.ConsoleAddr(), auth.UploadListener: a.UploadAddr()}[listener]
	fmt.Fprintf(doc, "\n## The %s listener\n\n|", listener)
	for _, s := range columns {
		fmt.Fprintf(doc, " | %s", s.name)
	}
	doc.WriteString(" |\n|---|" + strings.Repeat("---|", len(columns)) + "\n")
	digits := regexp.MustCompile(`[a-z]-\d{8}-\d{6}-[0-9a-f]{6}|docket\.[a-z.]*dlq:0:\d+`)
	for _, r := range rows {
		if r.listener != listener {
			continue
		}
		fmt.Fprintf(doc, "| `%s %s`", r.method, digits.ReplaceAllString(r.path, "ID"))
		for _, s := range columns {
			t.Run(strings.Join([]string{r.method, r.path, s.name}, " "), func(t *testing.T) {
				status, answer := a.ask(t, s, addr, r.method, r.path, r.body)
				check(t, r, s, status, answer)
				fmt.Fprintf(doc, " | %s", cell(status))
			})
		}
		doc.WriteString(" |\n")
	}
}

// operations are those of the API's description, with a body that says nothing where one is needed: whoever may ask is
// told so.
func operations(t *testing.T) (rows []asking) {
	var spec struct {
		Paths map[string]map[string]yaml.Node `yaml:"paths"`
	}
	require.NoError(t, yaml.Unmarshal(api.OpenAPI, &spec))
	for path, methods := range spec.Paths {
		for method := range methods {
			r := asking{
				listener: auth.ConsoleListener, method: strings.ToUpper(method), path: path, of: strings.Contains(path, "_id}"),
			}
			r.changes = r.method != http.MethodGet || path == "/api/v1/credentials"
			switch {
			case strings.HasSuffix(path, "/tail"): // its answer has no end
				r.method = http.MethodHead
			case strings.HasSuffix(path, "/compare"):
				r.path, r.of = path+"?a=only-acme&b=shared", true
			case strings.HasSuffix(path, "/trail"): // it tells where a decision was looked for
				r.of = false
			}
			if r.method == http.MethodPost && !strings.Contains(path, "{job_id}") {
				r.body = `{"nonsense":1}`
			}
			rows = append(rows, r)
		}
	}
	slices.SortFunc(rows, func(a, b asking) int { return strings.Compare(a.path+a.method, b.path+b.method) })
	require.NotEmpty(t, rows)
	return rows
}
