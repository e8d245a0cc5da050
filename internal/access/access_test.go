package access

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/ingest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	vera = domain.Caller{Name: "vera", Role: domain.Viewer, Tenants: domain.Tenants("acme"), How: domain.ByToken}
	olga = domain.Caller{Name: "olga", Role: domain.Operator, Tenants: domain.AllTenants(), How: domain.ByLogin}
)

// log keeps what is published, and may be away.
type log struct {
	mu      sync.Mutex
	records []domain.Record
	away    error
	hangs   bool
}

func (l *log) Publish(ctx context.Context, records []domain.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.hangs { // as Kafka's client does for as long as it may
		<-ctx.Done()
		return ctx.Err()
	}
	if l.away == nil {
		l.records = append(l.records, records...)
	}
	return l.away
}

func (l *log) set(away error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.away = away
}

func (l *log) events(t *testing.T) (out []map[string]any) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.records {
		var e map[string]any
		require.NoError(t, json.Unmarshal(r.Value, &e))
		require.Equal(t, domain.SystemTenant, r.Headers.Owner())
		require.Equal(t, "docket.decisions", r.Topic)
		require.False(t, r.Foreign())
		require.Equal(t, e["decision_id"], r.Key)
		out = append(out, e)
	}
	return out
}

func newJournal(l *log, reg prometheus.Registerer) *Journal {
	limits := domain.Limits{Inflated: 64 << 20, Events: 50_000, Depth: 64, Event: 4 << 20}
	j := NewJournal(
		l, ingest.Assembler{Topics: domain.TopicsWithPrefix("docket."), Limits: limits}, reg,
		slog.New(slog.DiscardHandler),
	)
	j.Process = "console-1"
	return j
}

// running has a journal run until the returned function is called.
func running(t *testing.T, j *Journal) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		j.Run(ctx)
	}()
	return func() {
		cancel()
		<-done
	}
}

// TestGate asks a policy, remembers what it said of reading, and notes it.
func TestGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, reg := &log{}, prometheus.NewRegistry()
		j := newJournal(l, reg)
		stop := running(t, j)
		asked := 0
		g := NewGate(func(ctx context.Context, input []byte) ([]string, error) {
			asked++
			return ByRole(ctx, input)
		}, j, reg)
		for range 3 {
			require.NoError(t, g.Allow(t.Context(), vera, SearchDecisions, nil))
			err := g.Allow(t.Context(), vera, ReadCredentials, nil)
			var denied *Denied
			require.ErrorAs(t, err, &denied)
			require.ErrorContains(t, err, `vera may not do this (credentials.read): it needs the role operator`)
		}
		require.Equal(t, 2, asked, "what is remembered is not asked again")
		narrower := vera
		narrower.Tenants = domain.Tenants("initech")
		require.NoError(t, g.Allow(t.Context(), narrower, SearchDecisions, nil))
		require.Equal(t, 3, asked, "another scope is another question")
		about := map[string]any{"dry_run": false, "filter": map[string][]string{"tenant": {"acme"}}}
		for range 2 {
			require.NoError(t, g.Allow(t.Context(), olga, Discard, about))
		}
		require.Equal(t, 5, asked, "what changes something is asked each time")
		time.Sleep(rememberedFor)
		require.NoError(t, g.Allow(t.Context(), vera, SearchDecisions, nil))
		require.Equal(t, 6, asked, "and reading once a minute")
		stop()

		events := l.events(t)
		require.Len(t, events, 6)
		require.Equal(t, map[string]any{
			"user": map[string]any{
				"name": "vera", "role": "viewer", "how": "token", "all_tenants": false, "tenants": []any{"acme"},
			},
			"action": "credentials.read",
		}, events[1]["input"])
		require.Equal(t, map[string]any{
			"allow": false, "reasons": []any{`it needs the role operator, and the caller has "viewer"`},
		}, events[1]["result"])
		require.Equal(t, map[string]any{"id": "console-1", "app": "docket", "version": ""}, events[1]["labels"])
		require.Equal(t, map[string]any{"dry_run": false, "filter": map[string]any{"tenant": []any{"acme"}}},
			events[3]["input"].(map[string]any)["resource"]) //nolint:forcetypeassert // it fails the test
		p, err := domain.NewProjector(nil)
		require.NoError(t, err)
		row := p.Project(l.records[1])
		require.Equal(t, domain.OutcomeDenied, row.Outcome)
		require.Equal(t, "docket/access", row.Path)
		require.Equal(t, "vera", row.Principal)
		require.Equal(t, "credentials.read", row.Action)
		require.EqualValues(t, 5, testutil.ToFloat64(g.decided.WithLabelValues("allowed")))
		require.EqualValues(t, 1, testutil.ToFloat64(g.decided.WithLabelValues("denied")))
	})
}

// TestGateOfStrangers notes nothing of a listener that asks nobody who they are.
func TestGateOfStrangers(t *testing.T) {
	l := &log{}
	j := newJournal(l, nil)
	g := NewGate(ByRole, j, nil)
	nobody := olga
	nobody.How = domain.ByNothing
	require.NoError(t, g.Allow(t.Context(), nobody, Discard, map[string]any{}))
	require.Empty(t, j.waiting)
	require.Error(t, g.Allow(t.Context(), domain.Caller{}, SearchDecisions, nil), "nobody has no role")
}

// TestGateFails closed, remembers no failure, and notes it.
func TestGateFails(t *testing.T) {
	l := &log{}
	j := newJournal(l, nil)
	away := domain.Errorf(domain.Unavailable, "it takes too long")
	fails := true
	g := NewGate(func(context.Context, []byte) ([]string, error) {
		if fails {
			return nil, away
		}
		return nil, nil
	}, j, nil)
	require.ErrorIs(t, g.Allow(t.Context(), olga, SearchDecisions, nil), away)
	fails = false
	require.NoError(t, g.Allow(t.Context(), olga, SearchDecisions, nil))
	require.Len(t, j.waiting, 2)
	j.finish(t.Context(), nil)
	events := l.events(t)
	require.Equal(t, map[string]any{"message": "it takes too long"}, events[0]["error"])
	require.NotContains(t, events[0], "result")
}

// TestWordyPolicy has its words cut.
func TestWordyPolicy(t *testing.T) {
	g := NewGate(func(context.Context, []byte) (reasons []string, _ error) {
		for range 50 {
			reasons = append(reasons, strings.Repeat("é", 5000))
		}
		return reasons, nil
	}, nil, nil)
	err := g.Allow(t.Context(), olga, SearchDecisions, nil)
	require.Error(t, err)
	require.Less(t, len(err.Error()), 5000)
}

// TestJournalWaits for a log that is away, and loses what is too much for it.
func TestJournalWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &log{}
		l.set(errors.New("away"))
		j := newJournal(l, nil)
		stop := running(t, j)
		event := j.event([]byte(`{}`), nil, nil, time.Now(), 0)
		add := func() { j.add([]byte(strings.Replace(string(event), `"decision_id":"`, `"decision_id":"`+newID(), 1))) }
		add()
		time.Sleep(time.Minute) // it has that one in its hands
		for range queued + 7 {
			add()
		}
		require.EqualValues(t, 7, testutil.ToFloat64(j.lost))
		l.set(nil)
		time.Sleep(time.Minute)
		require.Len(t, l.events(t), queued+1)
		l.set(errors.New("away for ever"))
		add()
		time.Sleep(time.Minute)
		began := time.Now()
		stop()
		require.LessOrEqual(t, time.Since(began), 2*lastWords)
		require.EqualValues(t, 8, testutil.ToFloat64(j.lost))
	})
}

// TestJournalEnds in time while the log hangs, and says so before.
func TestJournalEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &log{hangs: true}
		j := newJournal(l, nil)
		var said strings.Builder
		j.logger = slog.New(slog.NewTextHandler(&said, nil))
		stop := running(t, j)
		j.add([]byte(`{}`))
		time.Sleep(time.Minute)
		j.add([]byte(`{}`))
		began := time.Now()
		stop()
		require.LessOrEqual(t, time.Since(began), lastWords)
		require.EqualValues(t, 2, testutil.ToFloat64(j.lost))
		require.Contains(t, said.String(), "decisions about callers wait")
		require.Contains(t, said.String(), "lost=2")
	})
}

// TestJournalOfALogThatNeverTakesIt goes on with what comes next.
func TestJournalOfALogThatNeverTakesIt(t *testing.T) {
	l := &log{away: domain.Errorf(domain.Invalid, "it is too large")}
	j := newJournal(l, nil)
	require.True(t, j.write(t.Context(), [][]byte{[]byte(`{}`)}))
	require.EqualValues(t, 1, testutil.ToFloat64(j.lost))
}

// TestActions are all granted to somebody, and each kind of job and move has one.
func TestActions(t *testing.T) {
	for _, k := range []domain.JobKind{domain.Replay, domain.Discard, domain.Reindex, domain.Reproject} {
		require.Contains(t, Needs, OfJob(k))
	}
	for _, m := range domain.JobMoves {
		require.Contains(t, Needs, OfMove(m))
	}
	require.NotContains(t, Needs, OfJob("other"))
}
