package console

import (
	"bytes"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/adapters/replaypolicy"
	"github.com/docket-project/docket/internal/domain"
)

// form is one with a file, as a browser sends it.
func form(t *testing.T, fields map[string]string, file string) (body, kind string) {
	t.Helper()
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	for name, value := range fields {
		require.NoError(t, w.WriteField(name, value))
	}
	f, err := w.CreateFormFile("file", "orders.rego")
	require.NoError(t, err)
	_, err = f.Write([]byte(file))
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return b.String(), w.FormDataContentType()
}

func TestReplayPage(t *testing.T) {
	b := newBench(t)
	now := time.Now()
	b.save("acme", event("d-1", now, func(e map[string]any) { e["input"].(map[string]any)["roles"] = []string{"admin"} }),
		event("d-2", now.Add(-time.Second)))
	const policy = `package orders

allow := {"allow": admin, "reason": reason}

default admin := false

admin if "admin" in input.roles

reason := "not the owner" if not admin
reason := "<script>" if admin
`
	h := b.pages(acme)
	post := func(h http.Handler, fields map[string]string, file string) *httptest.ResponseRecorder {
		body, kind := form(t, fields, file)
		return do(h, http.MethodPost, "/replay-policy", body, "Content-Type", kind)
	}
	w := get(h, "/replay-policy?q=principal:alice&since=2h&limit=10")
	shows(t, w, http.StatusOK, "Decide again, by another policy",
		"docket replay-policy --policy ./policy --since '2h' --limit '10' -- 'principal:alice'")
	require.Contains(t, w.Body.String(), `value="principal:alice"`)

	w = post(h, map[string]string{"q": "principal:alice", "policy": policy, "since": "", "until": "", "limit": ""}, "")
	shows(t, w, http.StatusOK, "2 decisions: 1 the same, 1 with another outcome.", "denied → allowed",
		"policy.rego:3", "<script>")
	require.NotContains(t, w.Body.String(), "<script>", "as text only")
	require.Contains(t, w.Body.String(), "/decisions/d-1?tenant=acme")
	require.Contains(t, w.Body.String(), "admin if &#34;admin&#34; in input.roles", "the text is kept")

	w = post(h, map[string]string{"q": "id:d-2", "policy": "what stands here does not count"}, policy)
	shows(t, w, http.StatusOK, "It comes out the same.", "Conditions that did not hold",
		`"admin" in input.roles policy.rego:7, for data.orders.admin`)
	w = post(h, map[string]string{"q": "id:nosuch", "policy": policy}, "")
	shows(t, w, http.StatusOK, "No decision fits the search.")

	for _, c := range []struct {
		name   string
		fields map[string]string
		status int
		says   string
	}{
		{"no policy", map[string]string{"q": ""}, http.StatusBadRequest, "Give a policy: as text, or as a file."},
		{"a bad query", map[string]string{"q": "principal:(", "policy": policy}, http.StatusBadRequest, "Expected:"},
		{"a bad limit", map[string]string{"limit": "many", "policy": policy}, http.StatusBadRequest, "limit: "},
		{"a bad policy", map[string]string{"policy": "package a\n\nx if nosuch(1)"}, http.StatusOK,
			"The policy: policy.rego:3: undefined function nosuch"},
	} {
		t.Run(c.name, func(t *testing.T) { shows(t, post(h, c.fields, ""), c.status, c.says) })
	}
	shows(t, post(h, map[string]string{"policy": strings.Repeat("#", replaypolicy.MaxPolicy+maxForm)}, ""),
		http.StatusRequestEntityTooLarge, "8 MiB")
	shows(t, do(h, http.MethodPost, "/replay-policy", "policy=x"), http.StatusUnsupportedMediaType, "multipart")
	shows(t, get(h, "/replay-policy?limit=20001"), http.StatusBadRequest, "20000")
	w = get(h, "/replay-policy?outcome=denied")
	require.Equal(t, http.StatusSeeOther, w.Code)
	require.Equal(t, "/replay-policy?q=outcome%3Adenied", w.Header().Get("Location"))

	// Who may not do it is not offered it.
	one := domain.Caller{Name: "vera", Tenants: domain.AllTenants(), Role: domain.Viewer}
	w = get(b.pages(one), "/replay-policy")
	shows(t, w, http.StatusOK, "Here this takes the role operator", "docket replay-policy --policy ./policy")
	require.NotContains(t, w.Body.String(), "<textarea")
	shows(t, post(b.pages(one), map[string]string{"policy": policy}, ""), http.StatusForbidden)
	unable := func(p *Parts) { p.Replay = replaypolicy.NewService(replaypolicy.Program{}, nil, nil) }
	w = get(b.pages(acme, unable), "/replay-policy")
	shows(t, w, http.StatusOK, "This program cannot decide by a policy")
	shows(t, get(h, "/decisions/d-2"), http.StatusOK, "only deciding again , by the policy, can tell")
	require.Contains(t, get(h, "/decisions/d-2").Body.String(), `/replay-policy?q=id%3Ad-2+tenant%3Aacme`)
}
