package parking_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/docket-project/docket/internal/adapters/sqlite"
	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/parking"
	"github.com/docket-project/docket/internal/ports"
	"github.com/docket-project/docket/internal/saver"
	"github.com/docket-project/docket/internal/sink"
)

// absent is a real store that is away for a while: it then takes as long as a pool to say so.
type absent struct {
	*sqlite.Store
	away   atomic.Bool
	probes atomic.Int64
	tries  atomic.Int64
}

var errAway = domain.Errorf(domain.Unavailable, "no connection within 3 s")

func (a *absent) SaveBatch(ctx context.Context, rows []domain.Decision) ([]domain.SaveStatus, error) {
	if a.away.Load() {
		a.tries.Add(1)
		time.Sleep(3 * time.Second)
		return nil, errAway
	}
	return a.Store.SaveBatch(ctx, rows)
}

func (a *absent) Probe(ctx context.Context) error {
	if a.away.Load() {
		a.probes.Add(1)
		return errAway
	}
	return a.Store.Probe(ctx)
}

// TestSixHourOutage takes every decision of six hours with the store away, and of the hour behind: breaker, probes,
// store wait, backoff. Only the clock is not real.
func TestSixHourOutage(t *testing.T) {
	path := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		topics := domain.TopicsWithPrefix("docket.")
		logger := slog.New(slog.DiscardHandler)
		fatal := func(err error) { t.Errorf("fatal: %v", err) }
		dir, err := sqlite.OpenDir(path)
		require.NoError(t, err)
		log, err := sqlite.OpenLog(t.Context(), dir, sqlite.LogOptions{
			Topics: []sqlite.Topic{
				{Name: topics.Decisions},
				{Name: topics.Parking},
				{Name: topics.ParkingDLQ},
				{Name: topics.DLQ},
			},
			Fatal:   fatal,
			Lost:    func(l domain.Loss) { t.Errorf("lost: %+v", l) },
			Log:     logger,
			Migrate: true,
		})
		require.NoError(t, err)
		real, err := sqlite.OpenStore(t.Context(), dir, sqlite.StoreOptions{
			Window: domain.Window{Retention: 24 * time.Hour, Ahead: time.Hour}, Log: logger, Migrate: true, Fatal: fatal,
		})
		require.NoError(t, err)
		store := &absent{Store: real}
		projector, err := domain.NewProjector(nil)
		require.NoError(t, err)

		breaker := sink.NewBreaker(store, nil, logger)
		writer := sink.NewWriter(
			store, breaker, sink.Concurrency{Ceiling: 2, Adaptive: true}, projector, nil,
			noop.NewTracerProvider().Tracer(""), nil,
		)
		router := &sink.Router{
			Topics: topics, Retry: sink.Retry{MaxAttempts: 10, BackoffMin: time.Second, BackoffMax: time.Minute},
			Guard: sink.NewGuard(store, breaker, nil, logger), Metrics: sink.NewMetrics(nil),
		}
		save := saver.New(writer, router, log, logger)
		park := parking.New(parking.Parts{
			Save: writer.Save, Busy: writer.Busy, Log: log, Router: router, Logger: logger,
			Concurrency: sink.Concurrency{Ceiling: 1, Adaptive: true},
		}, nil)
		ctx, cancel := context.WithCancel(t.Context())
		var roles sync.WaitGroup
		roles.Go(func() { breaker.Watch(ctx) })
		consume := func(group, topic string, handle ports.Handler) {
			roles.Go(func() {
				sub := ports.Subscription{
					Group: group, Topics: []string{topic}, MaxRecords: 100, MaxBytes: 4 << 20, MaxWait: 100 * time.Millisecond,
				}
				if err := log.Consume(ctx, sub, handle); err != nil {
					t.Errorf("%s: %v", group, err)
				}
			})
		}
		consume(saver.Group, topics.Decisions, save.Handle)
		consume(parking.Group, topics.Parking, park.Handle)

		sent, uploaded := 0, map[string][sha256.Size]byte{}
		upload := func(every, during time.Duration) {
			for end := time.Now().Add(during); time.Now().Before(end); time.Sleep(every) {
				id := fmt.Sprintf("id-%d", sent)
				event := fmt.Appendf(nil, `{"decision_id":%q,"timestamp":%q}`, id, time.Now().UTC().Format(time.RFC3339Nano))
				uploaded[id] = sha256.Sum256(event)
				require.NoError(t, log.Publish(t.Context(), []domain.Record{{
					Topic: topics.Decisions, Key: id, Headers: domain.Headers{Tenant: "t", ReceivedAt: time.Now()}, Value: event,
				}}), "an outage of the store refuses nothing")
				sent++
			}
		}
		upload(time.Second, time.Minute)
		store.away.Store(true)
		upload(20*time.Second, outage)
		waiting := func(group, topic string) ports.Backlog {
			b, err := log.Backlog(t.Context(), group, topic)
			require.NoError(t, err)
			return b[0]
		}
		parked := waiting(parking.Group, topics.Parking)
		require.Greater(t, parked.Waiting(), int64(outage/(25*time.Second)), "the outage is in the parking lot")
		require.Equal(t, parked.End, parked.Waiting(), "and nothing of it was written twice")
		state, _ := breaker.State()
		require.NotEqual(t, "closed", state)
		asked := store.probes.Load() + store.tries.Load()
		require.Greater(t, asked, int64(outage/(5*time.Second)), "the store is asked all the time")
		require.Less(t, asked, int64(outage/(500*time.Millisecond)), "and not more often than twice a second")

		store.away.Store(false)
		back := time.Now()
		for waiting(parking.Group, topics.Parking).Waiting() > 0 {
			require.Less(t, time.Since(back), 15*time.Second, "it drains by itself")
			time.Sleep(100 * time.Millisecond)
		}
		upload(time.Second, time.Minute)
		time.Sleep(time.Second)
		for _, topic := range []string{topics.DLQ, topics.ParkingDLQ} {
			require.Zero(t, waiting("", topic).End, "%s", topic)
		}
		cancel()
		roles.Wait()
		page, err := store.Search(t.Context(), domain.AllTenants(), domain.Query{
			Filter: domain.Filter{Since: time.Now().Add(-24 * time.Hour), Until: time.Now().Add(time.Hour)}, Limit: 10_000,
		})
		require.NoError(t, err)
		require.Len(t, page.Items, sent, "everything is stored, once")
		for _, item := range page.Items {
			require.Equal(t, uploaded[item.ID], item.SHA256, "%s", item.ID)
		}
		t.Logf("%d decisions, %d of them parked; the store was asked %d times in %s", sent, parked.End, asked, outage)
		require.NoError(t, log.Close())
		require.NoError(t, real.Close())
		require.NoError(t, dir.Close())
	})
}
