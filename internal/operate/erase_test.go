package operate_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/access"
	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/operate"
)

var admin = domain.Caller{Name: "ada", Tenants: domain.Tenants("acme", "other"), Role: domain.Admin}

func TestErasuresAreChecked(t *testing.T) {
	s, _ := newService(t)
	alice := map[string][]string{"principal": {"alice"}}
	for _, c := range []struct {
		name string
		req  operate.JobRequest
		kind operate.Kind
		code string
	}{
		{"nobody", operate.JobRequest{}, operate.Mistaken, operate.ErasureFilter},
		{"a tenant alone", operate.JobRequest{Filter: map[string][]string{"tenant": {"acme"}}}, operate.Mistaken,
			operate.ErasureFilter},
		{"everybody", operate.JobRequest{Filter: map[string][]string{"principal": {"*"}}}, operate.Mistaken,
			operate.ErasureFilter},
		{"a prefix", operate.JobRequest{Filter: map[string][]string{"principal": {"a*"}}}, operate.Mistaken,
			operate.ErasureFilter},
		{"all but one", operate.JobRequest{Filter: map[string][]string{"principal": {"alice", "!bob"}}}, operate.Mistaken,
			operate.ErasureFilter},
		{"an empty name", operate.JobRequest{Filter: map[string][]string{"principal": {""}}}, operate.Mistaken,
			operate.FilterInvalid},
		{"more than is stored", operate.JobRequest{Filter: map[string][]string{"principal": {strings.Repeat("x", 513)}}},
			operate.Mistaken, operate.ErasureName},
		{"a time", operate.JobRequest{Filter: map[string][]string{"principal": {"alice"}, "until": {"1h"}}}, operate.Mistaken,
			operate.ErasureFilter},
		{"a foreign tenant", operate.JobRequest{Filter: map[string][]string{"principal": {"alice"}, "tenant": {"secret"}}},
			operate.NotAllowed, operate.ErasureOfOthers},
		{"not all of them", operate.JobRequest{Filter: alice, Max: set(int64(7))}, operate.Mistaken, operate.ErasureBounded},
		{"a rate", operate.JobRequest{Filter: alice, Rate: set(7.0)}, operate.Mistaken, operate.ErasureBounded},
		{"no comment", operate.JobRequest{Filter: alice, DryRun: set(false)}, operate.Mistaken, operate.CommentMissing},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.req.Kind = domain.Erase
			_, err := s.CreateJob(t.Context(), admin, c.req)
			refused(t, err, c.kind, c.code)
		})
	}
	for _, who := range []domain.Caller{operator, acme} {
		_, err := s.CreateJob(t.Context(), who, operate.JobRequest{Kind: domain.Erase, Filter: alice})
		var denied *access.Denied
		require.ErrorAs(t, err, &denied, "operators do not erase, and are told nothing of it")
	}
}

// TestErasureNamesNobody in the audit, or to the policy, whose questions are kept.
func TestErasureNamesNobody(t *testing.T) {
	_, store := newService(t)
	var asked []string
	s := operate.New(store, access.NewGate(func(_ context.Context, input []byte) ([]string, error) {
		asked = append(asked, string(input))
		return nil, nil
	}, nil, nil))
	j, err := s.CreateJob(t.Context(), admin, operate.JobRequest{
		Kind: domain.Erase, DryRun: set(false), Comment: "asked for",
		Filter: map[string][]string{"principal": {"bob", "alice", "alice"}, "tenant": {"acme"}},
	})
	require.NoError(t, err)
	require.Equal(t, domain.Tenants("acme"), j.Tenants, "as was asked for")
	require.Equal(t, []string{"alice", "bob"}, j.Principals(), "whoever works on it has to know")
	key, err := store.ErasureKey(t.Context())
	require.NoError(t, err)
	subject := domain.SubjectOf(key, "alice")
	in, err := store.Erasures(t.Context())
	require.NoError(t, err)
	require.Len(t, in, 1, "it is in force")
	require.Contains(t, in[0].Subjects, subject)
	require.Equal(t, domain.Tenants("acme"), in[0].Tenants)
	entries := audits(t, store)
	require.Contains(t, entries, subject.String())
	require.NotContains(t, entries, "alice")
	require.Len(t, asked, 1)
	require.Contains(t, asked[0], subject.String())
	require.NotContains(t, asked[0], "alice")

	dry, err := s.CreateJob(t.Context(), admin, operate.JobRequest{
		Kind: domain.Erase, Filter: map[string][]string{"principal": {domain.Literal("!carol*")}},
	})
	require.NoError(t, err)
	require.Equal(t, []string{"!carol*"}, dry.Principals(), "whoever uploads chooses names")
	in, err = store.Erasures(t.Context())
	require.NoError(t, err)
	require.Len(t, in, 1, "a dry run orders nothing")
	byRole := operate.New(store, access.NewGate(access.ByRole, nil, nil))
	for _, m := range domain.JobMoves { // only who may order it may withdraw it
		_, err = byRole.MoveJob(t.Context(), acme, j.ID, m)
		var denied *access.Denied
		require.ErrorAs(t, err, &denied)
	}
	_, err = byRole.MoveJob(t.Context(), admin, j.ID, domain.Cancel)
	require.NoError(t, err)
	in, err = store.Erasures(t.Context())
	require.NoError(t, err)
	require.Empty(t, in)
	entries = audits(t, store)
	require.NotContains(t, entries, "alice")
}

func audits(t *testing.T, store interface {
	Audits(ctx context.Context, scope domain.Scope, before time.Time, limit int) ([]domain.AuditEntry, error)
}) string {
	t.Helper()
	entries, err := store.Audits(t.Context(), domain.AllTenants(), time.Time{}, 10)
	require.NoError(t, err)
	require.NotEmpty(t, entries)
	return fmt.Sprintf("%+v", entries)
}
