package auth

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/domain"
)

// nobody is a request that shows nothing.
func nobody() *http.Request { return httptest.NewRequest(http.MethodPost, "/login", nil) }

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
	s, err := NewSessions(&Credentials{Tokens: tokens}, nil, key, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	return s, file
}

func TestSession(t *testing.T) {
	s, _ := newSessions(t, "")
	_, err := s.Begin(nobody(), "x.y.z", Site{"/", true})
	require.ErrorIs(t, err, ErrUnknown, "a session is that of a token of the file")
	c, err := s.Begin(nobody(), "secret", Site{"/docket/", true})
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
}

// TestLogout ends every copy of a session, and no other one.
func TestLogout(t *testing.T) {
	key := filepath.Join(t.TempDir(), "key")
	require.NoError(t, os.WriteFile(key, make([]byte, 32), 0o600))
	one, _ := newSessions(t, key)
	other, _ := newSessions(t, key)
	store := &endedStore{}
	one.Ended.store, other.Ended.store = store, store
	c, err := one.Begin(nobody(), "secret", plainSite)
	require.NoError(t, err)
	second, err := one.Begin(nobody(), "secret", plainSite)
	require.NoError(t, err)
	r := httptest.NewRequest(http.MethodPost, "/logout", nil)
	r.AddCookie(c)
	store.err = errors.New("away")
	gone, issuer := one.End(r, plainSite)
	require.Negative(t, gone.MaxAge)
	require.Empty(t, gone.Value+issuer)
	_, err = visit(one, c)
	require.ErrorIs(t, err, ErrSessionEnded, "whatever the store does")
	require.Nil(t, one.Renew(r, plainSite))
	_, err = visit(other, c)
	require.NoError(t, err, "it has not heard of it")
	require.Error(t, one.Ended.look(t.Context()))

	store.err = nil
	require.NoError(t, one.Ended.look(t.Context()))
	require.NoError(t, other.Ended.look(t.Context()))
	_, err = visit(other, c)
	require.ErrorIs(t, err, ErrSessionEnded)
	for _, s := range []*Sessions{one, other} {
		_, err = visit(s, second)
		require.NoError(t, err)
	}
	require.Len(t, store.ended, 1)
	require.WithinDuration(t, time.Now().Add(SessionFor+clocksDiffer), store.ended[0].Until, 2*time.Second)

	restarted, _ := newSessions(t, key)
	restarted.Ended.Open(t.Context(), store)
	_, err = visit(restarted, c)
	require.ErrorIs(t, err, ErrSessionEnded, "before anybody could ask")
}

// TestLogoutOfAnIdleCopy ends the copies that somebody else has kept alive; so does another login.
func TestLogoutOfAnIdleCopy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newSessions(t, "")
		for _, leave := range []func(r *http.Request){
			func(r *http.Request) { s.End(r, plainSite) },
			func(r *http.Request) {
				_, err := s.Begin(r, "other", plainSite)
				require.NoError(t, err)
			},
		} {
			owners, err := s.Begin(nobody(), "secret", plainSite)
			require.NoError(t, err)
			time.Sleep(IdleFor - time.Minute)
			r := nobody()
			r.AddCookie(owners)
			copied := s.Renew(r, plainSite)
			require.NotNil(t, copied)
			time.Sleep(time.Hour)
			_, err = visit(s, owners)
			require.ErrorIs(t, err, ErrSessionEnded)
			_, err = visit(s, copied)
			require.NoError(t, err)
			leave(r)
			_, err = visit(s, copied)
			require.ErrorIs(t, err, ErrSessionEnded)
		}
	})
}

// TestEndedSessionsAtTheEnd tells the store what it has not heard of before the process ends.
func TestEndedSessionsAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newSessions(t, "")
		store := &endedStore{err: errors.New("away")}
		s.Ended.Open(t.Context(), store)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			s.Ended.Run(ctx)
		}()
		time.Sleep(time.Second)
		s.Ended.end(ctx, domain.EndedSession{ID: "a", Until: time.Now().Add(time.Hour)})
		require.Empty(t, store.ended)
		synctest.Wait()
		store.err = nil
		cancel()
		<-done
		require.Len(t, store.ended, 1)
	})
}

// endedStore keeps ended sessions, and may be away.
type endedStore struct {
	ended []domain.EndedSession
	err   error
}

func (s *endedStore) EndSessions(_ context.Context, ended []domain.EndedSession) error {
	if s.err == nil {
		s.ended = append(s.ended, ended...)
	}
	return s.err
}

func (s *endedStore) EndedSessions(context.Context) ([]domain.EndedSession, error) {
	return s.ended, s.err
}

// TestSessionGoesOn while somebody uses it, for as long as a session lasts.
func TestSessionGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newSessions(t, "")
		began := time.Now()
		c, err := s.Begin(nobody(), "secret", plainSite)
		require.NoError(t, err)
		first := c
		ask := func(c *http.Cookie) *http.Request {
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			r.AddCookie(c)
			return r
		}
		require.Nil(t, s.Renew(ask(c), plainSite), "it is new enough")
		renewed := 0
		for time.Since(began) < SessionFor-time.Minute {
			time.Sleep(renewEvery)
			_, err := visit(s, c)
			if time.Since(began) >= SessionFor {
				break
			}
			require.NoError(t, err, time.Since(began))
			next := s.Renew(ask(c), plainSite)
			require.NotNil(t, next)
			require.NotEqual(t, c.Value, next.Value)
			require.InDelta(t, (SessionFor - time.Since(began)).Seconds(), next.MaxAge, 1)
			c = next
			renewed++
		}
		require.Equal(t, int(SessionFor/renewEvery)-1, renewed)
		_, err = visit(s, c)
		require.ErrorIs(t, err, ErrSessionEnded, "a session is not renewed for ever")
		require.Nil(t, s.Renew(ask(c), plainSite))
		_, err = visit(s, first)
		require.ErrorIs(t, err, ErrSessionEnded)

		c, err = s.Begin(nobody(), "secret", plainSite)
		require.NoError(t, err)
		time.Sleep(IdleFor)
		_, err = visit(s, c)
		require.ErrorIs(t, err, ErrSessionEnded, "nobody has used it")
	})
}

var plainSite = Site{Path: "/"}

func TestSessionEnds(t *testing.T) {
	t.Run("with its token", func(t *testing.T) {
		s, file := newSessions(t, "")
		c, err := s.Begin(nobody(), "secret", plainSite)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(file, []byte("bob operator "+hashOf("other")), 0o600))
		s.credentials.Tokens.checked = time.Time{} // a second later
		_, err = visit(s, c)
		require.ErrorIs(t, err, ErrSessionEnded)
	})
	t.Run("after its time", func(t *testing.T) {
		s, _ := newSessions(t, "")
		s.seal.MaxAge(-1)
		c, err := s.Begin(nobody(), "secret", plainSite)
		require.NoError(t, err)
		_, err = visit(s, c)
		require.ErrorIs(t, err, ErrSessionEnded)
	})
	t.Run("with the process, unless it has a key", func(t *testing.T) {
		one, _ := newSessions(t, "")
		other, _ := newSessions(t, "")
		c, err := one.Begin(nobody(), "secret", plainSite)
		require.NoError(t, err)
		_, err = visit(other, c)
		require.ErrorIs(t, err, ErrSessionEnded)
	})
	t.Run("not with the process, where that has a key", func(t *testing.T) {
		key := filepath.Join(t.TempDir(), "key")
		require.NoError(t, os.WriteFile(key, make([]byte, 32), 0o600))
		one, _ := newSessions(t, key)
		other, _ := newSessions(t, key)
		c, err := one.Begin(nobody(), "secret", plainSite)
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
		_, err := NewSessions(&Credentials{Tokens: tokens}, nil, file, slog.New(slog.DiscardHandler))
		require.ErrorContains(t, err, want)
		require.Equal(t, domain.Misconfigured, domain.ClassOf(err))
	}
}
