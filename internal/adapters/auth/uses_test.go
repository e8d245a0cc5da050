package auth

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/domain"
)

// shelf keeps what it is told of credentials, or refuses.
type shelf struct {
	away atomic.Bool
	got  map[string]*domain.Credential
}

func (s *shelf) RecordCredentials(_ context.Context, credentials []domain.Credential) error {
	if s.away.Load() {
		return errors.New("away")
	}
	for _, c := range credentials {
		key := fmt.Sprintf("%s %s %s %s", c.Listener, c.Name, c.ID, c.Tenant)
		if known := s.got[key]; known != nil {
			known.Merge(c)
			continue
		}
		s.got[key] = &c
	}
	return nil
}

// TestUses has two tokens of one name, of which one is used, and a store that is away for a while.
func TestUses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now().UTC()
		old, fresh := hashOf("old"), hashOf("new")
		text := fmt.Sprintf("ann viewer %s tenants=a,b\nann viewer %s\n", old, fresh)
		tokens, file, err := load(t, text, ConsoleUser)
		require.NoError(t, err)
		var said bytes.Buffer
		logger := slog.New(slog.NewTextHandler(&said, nil))
		uses, store := NewUses(logger), &shelf{got: map[string]*domain.Credential{}}
		store.away.Store(true)
		uses.List(ConsoleListener, tokens)
		uses.List(UploadListener, nil)
		who := &Credentials{Tokens: tokens, Listener: ConsoleListener, Uses: uses}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			uses.Run(ctx, store)
		}()
		use := func(token string) {
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			r.RemoteAddr = "192.0.2.9:1234"
			r.Header.Set("Authorization", "Bearer "+token)
			_, _ = who.Authenticate(r)
		}
		time.Sleep(5 * time.Second)
		use("old")
		use("old")
		use("unknown")
		time.Sleep(30 * time.Second)
		synctest.Wait()
		require.Empty(t, store.got)
		require.Equal(t, 1, bytes.Count(said.Bytes(), []byte("the list of credentials was not updated")))
		use("old")
		store.away.Store(false)
		time.Sleep(usesEvery)
		synctest.Wait()
		require.Len(t, store.got, 3)
		for _, tenant := range []string{"a", "b"} {
			require.Equal(t, &domain.Credential{
				Listener: ConsoleListener, How: domain.ByToken, Name: "ann", ID: old[:8], Tenant: tenant, Role: domain.Viewer,
				Listed: start, First: start.Add(5 * time.Second), Last: start.Add(35 * time.Second), Uses: 3,
				Address: "192.0.2.9",
			}, store.got["console ann "+old[:8]+" "+tenant])
		}
		unused := store.got["console ann "+fresh[:8]+" "]
		require.Zero(t, unused.Uses)
		require.True(t, unused.Last.IsZero())

		require.NoError(t, os.WriteFile(file, []byte("ann viewer "+fresh+"\n"), 0o600))
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		require.Equal(t, domain.CredentialActive, unused.State(time.Now()))
		require.Equal(t, domain.CredentialRemoved, store.got["console ann "+old[:8]+" a"].State(time.Now()))
		use("new")
		cancel()
		<-done
		require.EqualValues(t, 1, unused.Uses, "what was seen last is told at the end")
		uses.saw(UploadListener, AnonymousUploader().Caller, httptest.NewRequest(http.MethodGet, "/", nil))
		require.Empty(t, uses.seen, "nobody has no credential")
	})
}

func TestStatesOfCredentials(t *testing.T) {
	now := time.Now()
	token := func(listed, expires time.Time) domain.Credential {
		return domain.Credential{How: domain.ByToken, Listed: listed, Expires: expires}
	}
	never := time.Time{}
	for name, c := range map[string]struct {
		is   domain.Credential
		want domain.CredentialState
	}{
		"a token of a file":             {token(now.Add(-2*time.Minute), never), "active"},
		"a token of no file":            {token(now.Add(-4*time.Minute), never), "removed"},
		"a token whose time is over":    {token(now, now), "expired"},
		"a JSON web token":              {domain.Credential{How: domain.ByJWT}, "active"},
		"a certificate that has a time": {domain.Credential{How: domain.ByCertificate, Expires: now.Add(1)}, "active"},
	} {
		require.Equal(t, c.want, c.is.State(now), name)
	}
}
