package porttest

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/domain"
)

func scopeCredentials(t *testing.T, h *StoreHarness) {
	at := h.Now.UTC().Truncate(time.Microsecond)
	line := func(tenant string) domain.Credential {
		return domain.Credential{
			Listener: "console", How: domain.ByToken, Name: "ann", ID: "12345678", Tenant: tenant, Listed: at,
		}
	}
	require.NoError(t, h.Control.RecordCredentials(
		t.Context(), []domain.Credential{line(own), line(foreign), line("")},
	))
	for want, scope := range map[string]domain.Scope{
		"[acme]": ownScope, "[acme initech]": domain.Tenants(own, foreign), "[]": domain.Tenants(),
		"[ acme initech]": domain.AllTenants(),
	} {
		list, err := h.Control.Credentials(t.Context(), scope)
		require.NoError(t, err)
		tenants := []string{}
		for _, c := range list {
			tenants = append(tenants, c.Tenant)
		}
		require.Equal(t, want, fmt.Sprint(tenants), "one for all tenants is seen by who has all")
	}
}

func storeCredentials(t *testing.T, h *StoreHarness) {
	at := func(d time.Duration) time.Time { return h.Now.Add(d).UTC().Truncate(time.Microsecond) }
	record := func(c ...domain.Credential) {
		t.Helper()
		require.NoError(t, h.Control.RecordCredentials(t.Context(), c))
	}
	edge := domain.Credential{
		Listener: "upload", How: domain.ByToken, Name: "edge", ID: "12345678", Tenant: "acme", Expires: at(time.Hour),
		Listed: at(0),
	}
	used := edge
	used.Listed, used.First, used.Last, used.Uses, used.Address = time.Time{}, at(-time.Minute), at(0), 3, "192.0.2.1"
	record(edge)
	record(edge, domain.Credential{
		Listener: "console", How: domain.ByCertificate, Name: "ann", ID: "CN=x", Role: domain.Operator, First: at(-time.Hour),
		Last: at(-time.Hour), Uses: 1, Address: "192.0.2.7",
	})
	record(used)
	older := used
	older.First, older.Last, older.Uses, older.Address = at(-2*time.Hour), at(-time.Minute), 1, "192.0.2.2"
	record(older)
	other := edge
	other.ID, other.Expires = "87654321", time.Time{}
	record(other)
	got, err := h.Control.Credentials(t.Context(), domain.AllTenants())
	require.NoError(t, err)
	edge.First, edge.Last, edge.Uses, edge.Address = at(-2*time.Hour), at(0), 4, "192.0.2.1"
	require.Equal(t, []domain.Credential{edge, {
		Listener: "console", How: domain.ByCertificate, Name: "ann", ID: "CN=x", Role: domain.Operator, First: at(-time.Hour),
		Last: at(-time.Hour), Uses: 1, Address: "192.0.2.7",
	}, other}, got, "the last used first, and two tokens of one name are two")

	gone := other
	gone.ID, gone.Listed = "00000000", at(-domain.CredentialsKept-time.Hour)
	record(gone)
	record(edge)
	got, err = h.Control.Credentials(t.Context(), domain.Tenants("acme"))
	require.NoError(t, err)
	require.Len(t, got, 2, "what was neither used nor listed for long is forgotten")
}

func storeEndedSessions(t *testing.T, h *StoreHarness) {
	at := func(d time.Duration) time.Time { return h.Now.Add(d).UTC().Truncate(time.Microsecond) }
	end := func(ended ...domain.EndedSession) {
		t.Helper()
		require.NoError(t, h.Control.EndSessions(t.Context(), ended))
	}
	list := func() []domain.EndedSession {
		t.Helper()
		ended, err := h.Control.EndedSessions(t.Context())
		require.NoError(t, err)
		return ended
	}
	require.Empty(t, list())
	one := domain.EndedSession{ID: "b", Until: at(time.Hour)}
	other := domain.EndedSession{ID: "a", Until: at(2 * time.Hour)}
	end(one)
	end(other, one, domain.EndedSession{ID: "over", Until: at(-time.Hour)})
	require.Equal(t, []domain.EndedSession{other, one}, list())
	end()
	require.Equal(t, []domain.EndedSession{other, one}, list(), "what is over is forgotten, and nothing else")
}
