package replaypolicy_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/docket-project/docket/internal/adapters/api"
	"github.com/docket-project/docket/internal/adapters/rego"
	"github.com/docket-project/docket/internal/adapters/replaypolicy"
	"github.com/docket-project/docket/internal/adapters/sqlite"
	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/search"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "replay-policy" { // the process that decides
		if rego.Process(context.Background(), os.Stdin, os.Stdout) != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

func program(t *testing.T) replaypolicy.Program {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	return replaypolicy.Program{Path: self}
}

const policy = "package orders\n\ndefault allow := false\n\nallow if input.role == \"admin\"\n"

// service has decisions of a real store: every second one is an admin's, and all were allowed.
func service(t *testing.T, decisions int, stopping <-chan struct{}) *replaypolicy.Service {
	t.Helper()
	dir, err := sqlite.OpenDir(t.TempDir())
	require.NoError(t, err)
	store, err := sqlite.OpenStore(t.Context(), dir, sqlite.StoreOptions{
		Window: domain.Window{Retention: 24 * time.Hour, Ahead: time.Hour}, Log: slog.New(slog.DiscardHandler),
		Migrate: true, Fatal: func(err error) { t.Errorf("fatal: %v", err) },
	})
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, store.Close())
		require.NoError(t, dir.Close())
	})
	projector, err := domain.NewProjector(nil)
	require.NoError(t, err)
	var rows []domain.Decision
	now := time.Now().UTC()
	for i := range decisions {
		event, err := json.Marshal(map[string]any{
			"decision_id": fmt.Sprint("d", i), "path": "orders/allow", "result": true,
			"timestamp": now.Add(-time.Duration(i) * time.Millisecond).Format(time.RFC3339Nano),
			"input":     map[string]any{"role": []string{"admin", "guest"}[i%2]},
		})
		require.NoError(t, err)
		rows = append(rows, projector.Project(domain.Record{
			Value: event, Headers: domain.Headers{Tenant: []string{"acme", "acme", "other"}[i%3], ReceivedAt: now},
		}))
	}
	_, err = store.SaveBatch(t.Context(), rows)
	require.NoError(t, err)
	return replaypolicy.NewService(program(t), search.WithEvents(store), stopping)
}

func asked(t *testing.T, query string) replaypolicy.Asked {
	t.Helper()
	a, err := replaypolicy.ParseAsked(query, time.Now())
	require.NoError(t, err)
	return a
}

func TestService(t *testing.T) {
	s := service(t, 2500, nil)
	for _, c := range []struct {
		name, query   string
		scope         domain.Scope
		same, flipped int
		complete      bool
		why           string
		policy        []byte
	}{
		{name: "all", query: "limit=20000", scope: domain.AllTenants(), same: 1250, flipped: 1250, complete: true},
		{name: "the newest", query: "", scope: domain.AllTenants(), same: 500, flipped: 500,
			why: "only the newest 1000 were asked for; there are more"},
		{name: "exactly all of them", query: "limit=2500", scope: domain.AllTenants(), same: 1250, flipped: 1250,
			complete: true},
		{name: "a search", query: "q=input.role:guest&limit=2000", scope: domain.AllTenants(), flipped: 1250, complete: true},
		{name: "one tenant", query: "limit=2000", scope: domain.Tenants("other"), same: 417, flipped: 416, complete: true},
		{name: "nothing", query: "q=path:none", scope: domain.AllTenants(), complete: true},
		{name: "a bundle", query: "limit=10", scope: domain.AllTenants(), same: 5, flipped: 5,
			why: "only the newest 10 were asked for; there are more", policy: tarball(t, "orders/policy.rego", policy)},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.policy == nil {
				c.policy = []byte(policy)
			}
			got, err := s.Replay(t.Context(), c.scope, asked(t, c.query), c.policy)
			require.NoError(t, err)
			require.Equal(t, c.same, got.Same)
			require.Equal(t, c.flipped, got.Flipped)
			require.Equal(t, c.complete, got.Complete)
			require.Equal(t, c.why, string(got.Why))
			require.Zero(t, got.Failed)
			if c.flipped > 0 {
				require.Len(t, got.Groups, 1)
				g := got.Groups[0]
				require.Equal(t, c.flipped, g.Count)
				require.Len(t, g.Samples, 3)
				require.True(t, strings.HasSuffix(g.Rules[0], "policy.rego:3 (default)"), g.Rules)
				require.NotContains(t, g.Rules[0], "tmp")
			}
		})
	}
}

func tarball(t *testing.T, name, text string) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	require.NoError(t, w.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: int64(len(text))}))
	_, err := w.Write([]byte(text))
	require.NoError(t, err)
	require.NoError(t, errors.Join(w.Close(), z.Close()))
	return b.Bytes()
}

// excess is a policy that is ended, and why.
type excess struct{ name, policy, fault string }

// TestPoliciesThatTakeTooMuch end the process, and nothing else.
func TestPoliciesThatTakeTooMuch(t *testing.T) {
	s := service(t, 4, nil)
	for _, c := range append(excesses, []excess{
		{"no policy", "package a\n\nallow if nosuch(1)", "undefined function nosuch"},
	}...) {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, err := s.Replay(t.Context(), domain.AllTenants(), asked(t, ""), []byte(c.policy))
			var fault *replaypolicy.FaultError
			require.ErrorAs(t, err, &fault)
			require.Contains(t, fault.Text, c.fault)
		})
	}
	t.Run("it is slow", func(t *testing.T) {
		t.Parallel()
		got, err := s.Replay(t.Context(), domain.AllTenants(), asked(t, "limit=1"), []byte(slow))
		require.NoError(t, err)
		require.Equal(t, 1, got.Failed)
		require.Equal(t, "the policy took longer than 5s", string(got.Groups[0].Error))
	})
	t.Run("it is slow too often", func(t *testing.T) {
		t.Parallel()
		got, err := service(t, 40, nil).Replay(t.Context(), domain.AllTenants(), asked(t, ""), []byte(slow))
		require.NoError(t, err)
		require.GreaterOrEqual(t, got.Failed, 1)
		require.False(t, got.Complete)
		require.Contains(t, string(got.Why), "it took longer than 5s for each of")
	})
	t.Run("it reads files", func(t *testing.T) {
		t.Parallel()
		file := filepath.Join(t.TempDir(), "secret.json")
		require.NoError(t, os.WriteFile(file, []byte(`{"properties":{"role":{"const":"s3cr3t"}}}`), 0o600))
		got, err := s.Replay(t.Context(), domain.AllTenants(), asked(t, "limit=1"), fmt.Appendf(nil, `package orders
allow := json.match_schema(input, {"$ref": "file://%s"})
time_in_paris := time.clock([input.at, "Europe/Paris"])`, file))
		require.NoError(t, err)
		require.NotContains(t, string(got.First.Result), "s3cr3t")
		require.Equal(t, "undefined", string(got.First.Now), "%s", got.First.Result)
		require.Contains(t, got.First.Missing, "json.match_schema")
	})
	t.Run("it asks for the time somewhere", func(t *testing.T) {
		t.Parallel()
		got, err := s.Replay(t.Context(), domain.AllTenants(), asked(t, "limit=1"), []byte(`package orders
allow := time.clock([0, "Europe/Paris"])`))
		require.NoError(t, err)
		require.Equal(t, `[1,0,0]`, string(got.First.Result))
	})
}

const slow = `package orders
allow if { some i, j in numbers.range(1, 100000); some k in numbers.range(1, 100000); i + j + k < 0 }`

// TestGivenUp has nobody wait for the answer any more, or docket stop, while a decision is made.
func TestGivenUp(t *testing.T) {
	stopping := make(chan struct{})
	s := service(t, 40, stopping)
	running := func(do func()) {
		require.Eventually(t, func() bool {
			if runtime.GOOS == "linux" && !hasChildren(t) {
				return false
			}
			do()
			return true
		}, 10*time.Second, 10*time.Millisecond)
	}
	replay := func(ctx context.Context) chan error {
		done := make(chan error, 1)
		go func() {
			got, err := s.Replay(ctx, domain.AllTenants(), asked(t, ""), []byte(slow))
			if err == nil {
				err = fmt.Errorf("%+v", got)
			}
			done <- err
		}()
		return done
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := replay(ctx)
	running(cancel)
	require.ErrorIs(t, <-done, context.Canceled)

	done = replay(t.Context())
	running(func() { close(stopping) })
	err := <-done
	require.Equal(t, domain.Unavailable, domain.ClassOf(err), "%v", err)
}

// hasChildren reports that this process has started another one.
func hasChildren(t *testing.T) bool {
	files, err := filepath.Glob("/proc/self/task/*/children")
	require.NoError(t, err)
	for _, file := range files {
		if children, err := os.ReadFile(file); err == nil && len(children) > 0 {
			return true
		}
	}
	return false
}

// TestWhoFeedsTheProcess sees its own failures told.
func TestWhoFeedsTheProcess(t *testing.T) {
	order := replaypolicy.Order{Text: []byte(policy)}
	failure := errors.New("the store is away")
	err := program(t).Decide(t.Context(), order, func(context.Context, io.Writer) error { return failure },
		func(*api.Replayed) error { return nil })
	require.ErrorIs(t, err, failure)
	line := []byte(`{"outcome":"allowed","time":"2026-11-27T12:00:00Z","received_at":"2026-11-27T12:00:00Z","event":{"path":"orders/allow"}}` + "\n")
	err = program(t).Decide(t.Context(), order, func(_ context.Context, to io.Writer) error {
		for range 10_000 {
			if err := replaypolicy.Feed(to, line); err != nil {
				return err
			}
		}
		return nil
	}, func(*api.Replayed) error { return failure })
	require.ErrorIs(t, err, failure, "who visits answers")
	err = replaypolicy.Program{Path: "/bin/false"}.Decide(t.Context(), order,
		func(_ context.Context, to io.Writer) error { return replaypolicy.Feed(to, line) },
		func(*api.Replayed) error { return nil })
	require.ErrorContains(t, err, "ended early")
	err = replaypolicy.Program{}.Decide(t.Context(), order, nil, nil)
	require.ErrorIs(t, err, replaypolicy.ErrNoDecider)
}

func TestParseAsked(t *testing.T) {
	for query, want := range map[string]string{
		"limit=0": "limit", "limit=20001": "limit", "limit=x": "limit", "limit=1&limit=2": "limit",
		"cursor=abc": "cursor", "q=(": "q", "nosuch=1": "nosuch", "%zz": "the query string",
	} {
		_, err := replaypolicy.ParseAsked(query, time.Now())
		require.Error(t, err, query)
		require.Contains(t, fmt.Sprint(query, err), want)
	}
	a := asked(t, "q=outcome:denied&limit=20000")
	require.Equal(t, 20_000, a.Most)
	require.Equal(t, domain.MaxPage, a.Limit)
}

// damaged is a store whose second event is another one than was saved.
type damaged struct{ search.Reader }

func (d damaged) Search(ctx context.Context, scope domain.Scope, q domain.Query) (domain.Page, error) {
	page, err := d.Reader.Search(ctx, scope, q)
	page.Items = []domain.Decision{{}, {}}
	for i := range page.Items {
		event := fmt.Appendf(nil, `{"path":"orders/allow","decision_id":"d%d"}`, i)
		page.Items[i] = domain.Decision{ID: fmt.Sprint("d", i), Event: event, SHA256: sha256.Sum256(event)}
	}
	page.Items[1].SHA256[0] ^= 1
	return page, err
}

type nothing struct{}

func (nothing) Search(context.Context, domain.Scope, domain.Query) (domain.Page, error) {
	return domain.Page{}, nil
}

func TestDamagedEventsAreTold(t *testing.T) {
	s := replaypolicy.NewService(program(t), damaged{nothing{}}, nil)
	got, err := s.Replay(t.Context(), domain.AllTenants(), asked(t, ""), []byte(policy))
	require.NoError(t, err)
	require.Equal(t, 1, got.Decisions)
	require.False(t, got.Complete)
	require.Contains(t, string(got.Why), "1 events are damaged")
}
