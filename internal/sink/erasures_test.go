package sink

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/docket-project/docket/internal/domain"
)

// orders is a store of erasures that says, or fails, what it is told.
type orders struct {
	all   []domain.Erasure
	err   error
	asked int
}

func (o *orders) ErasureKey(context.Context) ([]byte, error) { return []byte("key"), o.err }

func (o *orders) Erasures(context.Context) ([]domain.Erasure, error) {
	o.asked++
	return o.all, o.err
}

// about orders that nothing about somebody is kept.
func about(tenants domain.Scope, at time.Time, principal string) domain.Erasure {
	return domain.Erasure{
		Job: "e-1", Subjects: []domain.Subject{domain.SubjectOf([]byte("key"), principal)}, Tenants: tenants, At: at,
	}
}

// TestErasedRecords are not stored, whoever brings them, and nothing else is left out.
func TestErasedRecords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		event := func(id, principal string, decided time.Duration) []byte {
			return fmt.Appendf(
				nil, `{"decision_id":%q,"input":{"user":%q},"timestamp":%q}`, id, principal,
				now.Add(decided).Format(time.RFC3339Nano),
			)
		}
		record := func(tenant string, received time.Duration, value []byte) domain.Record {
			return domain.Record{Value: value, Headers: domain.Headers{Tenant: tenant, ReceivedAt: now.Add(received)}}
		}
		records := []domain.Record{ // decided before, with a clock that is ahead, uploaded late; after, of others, of nobody
			record("acme", -time.Hour, event("id-1", "alice", -2*time.Hour)),
			record("acme", -time.Hour, event("id-2", "alice", time.Hour)),
			record("acme", time.Hour, event("id-3", "alice", -time.Hour)),
			record("acme", time.Hour, event("id-4", "alice", time.Hour)),
			record("other", -time.Hour, event("id-5", "alice", -2*time.Hour)),
			record("acme", -time.Hour, event("id-6", "bob", -2*time.Hour)),
			record("acme", -time.Hour, []byte(`{"decision_id":"id-7"}`)),
		}
		p := &picky{bad: func(int) bool { return false }}
		o := &orders{all: []domain.Erasure{about(domain.Tenants("acme"), now, "alice")}}
		projector, err := domain.NewProjector(nil)
		require.NoError(t, err)
		w := NewWriter(
			p, NewBreaker(p, nil, slog.New(slog.DiscardHandler)), Concurrency{Ceiling: 1}, projector, NewErasures(o),
			noop.NewTracerProvider().Tracer(""), nil,
		)
		var statuses []domain.SaveStatus
		for _, v := range w.Save(t.Context(), records) {
			require.NoError(t, v.Err)
			statuses = append(statuses, v.Status)
		}
		require.Equal(t, []domain.SaveStatus{
			domain.Erased, domain.Erased, domain.Erased, domain.Saved, domain.Saved, domain.Saved, domain.Saved,
		}, statuses)
		p.attempts = 0
		require.Equal(t, domain.Erased, w.Save(t.Context(), records[:1])[0].Status)
		require.Zero(t, p.attempts, "the store is not asked about nothing")
		kept, erased, err := w.Kept(t.Context(), records)
		require.NoError(t, err)
		require.Equal(t, records[3:], kept)
		require.Equal(t, 3, erased)
		r := &Router{Topics: domain.TopicsWithPrefix("docket.")}
		require.Equal(t, Route{Action: Done, Status: domain.Erased}, r.Route(records[0], Verdict{Status: domain.Erased}, now))
	})
}

// TestErasuresAreKnown to be young enough, or nothing is saved.
func TestErasuresAreKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &orders{}
		e := NewErasures(o)
		in, err := e.InForce(t.Context())
		require.NoError(t, err)
		require.True(t, in.None())
		o.all = []domain.Erasure{about(domain.AllTenants(), time.Now(), "alice")}
		time.Sleep(erasuresEvery - time.Millisecond)
		_, err = e.InForce(t.Context())
		require.NoError(t, err)
		require.Equal(t, 1, o.asked, "it is asked now and then")
		time.Sleep(time.Millisecond)
		in, err = e.InForce(t.Context())
		require.NoError(t, err)
		require.False(t, in.None())

		o.err = &domain.Error{Class: domain.Misconfigured, Code: "42501", Text: "no grant", Answered: true}
		time.Sleep(erasuresEvery)
		in, err = e.InForce(t.Context())
		require.NoError(t, err, "what is known is young enough")
		require.False(t, in.None())
		time.Sleep(erasuresAge - erasuresEvery + time.Millisecond)
		_, err = e.InForce(t.Context())
		require.Equal(t, domain.Misconfigured, domain.ClassOf(err))
		require.False(t, domain.Answered(err), "no row is held for it")
		asked := o.asked
		_, err = e.InForce(t.Context())
		require.Error(t, err)
		require.Equal(t, asked, o.asked, "batches wait for it together")
		o.err = errors.New("odd")
		time.Sleep(erasuresAgain)
		_, err = e.InForce(t.Context())
		require.Equal(t, domain.Unavailable, domain.ClassOf(err), "it is no row's fault")
		o.err = nil
		time.Sleep(erasuresAgain)
		in, err = e.InForce(t.Context())
		require.NoError(t, err)
		require.False(t, in.None())
	})
	var none *Erasures // of a test
	in, err := none.InForce(t.Context())
	require.NoError(t, err)
	require.True(t, in.None())
	require.False(t, in.Cover(&domain.Decision{Principal: "alice"}))
}

// TestErasuresAndTheBreaker: what never reached the store says nothing about it.
func TestErasuresAndTheBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &picky{bad: func(int) bool { return false }}
		o := &orders{err: domain.Errorf(domain.Unavailable, "away")}
		projector, err := domain.NewProjector(nil)
		require.NoError(t, err)
		b := NewBreaker(p, nil, slog.New(slog.DiscardHandler))
		w := NewWriter(
			p, b, Concurrency{Ceiling: 1}, projector, NewErasures(o), noop.NewTracerProvider().Tracer(""), nil,
		)
		v := w.Save(t.Context(), someRecords(1))[0]
		require.Equal(t, domain.Unavailable, domain.ClassOf(v.Err))
		require.False(t, v.Rejected())
		require.Empty(t, v.HeldFor)
		require.Zero(t, p.attempts, "nothing is saved while it is not known what may not be")
		o.err = nil
		time.Sleep(time.Minute)
		require.NoError(t, b.probe(t.Context()))
		require.Equal(t, domain.Saved, w.Save(t.Context(), someRecords(1))[0].Status)
	})
}

// BenchmarkSift is what an order in force costs of each row that is saved.
func BenchmarkSift(b *testing.B) {
	projector, err := domain.NewProjector(nil)
	require.NoError(b, err)
	rows := make([]domain.Decision, 1000)
	for i := range rows {
		rows[i] = projector.Project(domain.Record{
			Value: fmt.Appendf(nil, `{"decision_id":"id-%d","input":{"user":"user-%d"}}`, i, i),
		})
	}
	in := domain.NewErasures([]byte("key"), []domain.Erasure{about(domain.AllTenants(), time.Now(), "alice")})
	for b.Loop() {
		if got := sift(in, rows); len(got.rows) != len(rows) {
			b.Fatal("somebody else's rows are left out")
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/row")
}
