package cli

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/adapters/api"
)

// erasedJob is a dry run of an erasure.
const erasedJob = `{"id":"e-1","kind":"erase","dry_run":true,"state":"done","code":"would_erase","args":{},` +
	`"tenants":["acme"],"message":"5 decisions and 1 dead letter about the subject 1a2b3c4d5e6f7081 would be erased.",` +
	`"filter":{},"max_replays":3,"stop_ratio":0.1,"caller":"ada","created_at":"2026-11-28T10:00:00Z","report":{"rows":5,` +
	`"letters":1,"expiries":[{"topic":"docket.decisions","at":"2026-12-05T10:00:00Z"},{"topic":"docket.dlq","at":null}]}}`

func TestErase(t *testing.T) {
	var wanted api.JobRequest
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer := erasedJob
		if r.Method == http.MethodPost {
			wanted = api.JobRequest{}
			if err := json.NewDecoder(r.Body).Decode(&wanted); err != nil {
				t.Errorf("the request: %v", err)
			}
			w.WriteHeader(http.StatusAccepted)
		}
		if wanted.DryRun == nil || !*wanted.DryRun {
			answer = strings.Replace(answer, `"dry_run":true`, `"dry_run":false,"done":6,"comment":"request 4711"`, 1)
			answer = strings.Replace(strings.Replace(answer, " would be erased", " erased", 1), `["acme"]`, "null", 1)
		}
		_, _ = io.WriteString(w, answer)
	}))
	defer s.Close()
	about := Erase{
		Console: Console{Server: s.URL}, Form: Form{Output: "table"}, Principal: []string{"!star*", "bob"},
		Tenant: []string{"acme"},
	}
	run(t, "erase-dry", ExitDone, &about)
	require.Equal(t, map[string]api.Texts{"principal": {"!!star**", "bob"}, "tenant": {"acme"}}, wanted.Filter,
		"a name is meant as it is")
	require.True(t, *wanted.DryRun)
	about.Tenant, about.Consent = nil, Consent{Yes: true, Comment: "request 4711"}
	run(t, "erase", ExitDone, &about)
	require.False(t, *wanted.DryRun)
	require.NotContains(t, wanted.Filter, "tenant")
	about.Comment = ""
	_, err := screen(func(o Out) error { return about.Run(t.Context(), o) })
	require.Equal(t, ExitUsage, ExitCode(err), "it needs a comment")
}
