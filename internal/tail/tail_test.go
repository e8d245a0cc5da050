package tail

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/docket-project/docket/internal/domain"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeLog is followed by whoever asks, and fails when it is told to.
type fakeLog struct {
	mu      sync.Mutex
	follows int
	reading int
	refuses bool
	silent  bool // does not even begin
	breaks  chan error
	records chan []domain.Record
}

func newFakeLog() *fakeLog {
	return &fakeLog{breaks: make(chan error), records: make(chan []domain.Record)}
}

func (l *fakeLog) Follow(ctx context.Context, _ string, begun func(), visit func([]domain.Record)) error {
	l.mu.Lock()
	l.follows++
	l.reading++
	refuses, silent := l.refuses, l.silent
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.reading--
	}()
	if refuses {
		return errors.New("away")
	}
	if !silent {
		begun()
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-l.breaks:
			return err
		case batch := <-l.records:
			visit(batch)
		}
	}
}

func (l *fakeLog) state() (follows, reading int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.follows, l.reading
}

func project(r domain.Record) domain.Decision {
	return domain.Decision{
		Tenant: r.Headers.Owner(), ID: r.Key, Event: r.Value, Path: string(r.Value[:1]), Outcome: domain.OutcomeDenied,
	}
}

func record(tenant, key, value string) domain.Record {
	return domain.Record{Key: key, Value: []byte(value), Headers: domain.Headers{Tenant: tenant}}
}

func ids(decisions []domain.Decision) (out []string) {
	for _, d := range decisions {
		out = append(out, d.ID)
	}
	return out
}

func TestTail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newFakeLog()
		tail := New(log, "decisions", project, slog.New(slog.DiscardHandler))
		a, err := tail.Look(t.Context(), domain.Tenants("acme"), domain.Equals(domain.FieldPath, "x"), false)
		require.NoError(t, err)
		b, err := tail.Look(t.Context(), domain.AllTenants(), domain.Expr{}, true)
		require.NoError(t, err)
		log.records <- []domain.Record{record("acme", "1", "x1"), record("acme", "2", "y2"), record("", "3", "x3")}
		synctest.Wait()
		<-a.More
		got, lagged, _ := a.Take()
		require.Equal(t, []string{"1"}, ids(got), "of its tenants, and what fits")
		require.Nil(t, got[0].Event)
		require.False(t, lagged)
		<-b.More
		got, _, _ = b.Take()
		require.Equal(t, []string{"1", "2", "3"}, ids(got))
		require.Equal(t, "default", got[2].Tenant)
		require.Equal(t, "x1", string(got[0].Event))
		follows, reading := log.state()
		require.Equal(t, []int{1, 1}, []int{follows, reading}, "one reader for all")
		a.Close()
		_, reading = log.state()
		require.Equal(t, 1, reading)
		b.Close()
		_, reading = log.state()
		require.Zero(t, reading, "nobody looks any more")
		c, err := tail.Look(t.Context(), domain.AllTenants(), domain.Expr{}, false)
		require.NoError(t, err)
		follows, _ = log.state()
		require.Equal(t, 2, follows)
		c.Close()
	})
}

// One who does not take what waits misses the rest, and is told how much; others do not notice.
func TestSlowLook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newFakeLog()
		tail := New(log, "decisions", project, slog.New(slog.DiscardHandler))
		var looks []*Look
		for range 100 {
			l, err := tail.Look(t.Context(), domain.AllTenants(), domain.Expr{}, false)
			require.NoError(t, err)
			defer l.Close()
			looks = append(looks, l)
		}
		quick, seen := looks[0], 0
		const n = 5000
		for i := range n {
			log.records <- []domain.Record{record("acme", fmt.Sprint(i), "x")}
			synctest.Wait()
			got, lagged, _ := quick.Take()
			require.False(t, lagged)
			seen += len(got)
		}
		require.Equal(t, n, seen)
		for _, slow := range looks[1:] {
			got, lagged, missed := slow.Take()
			require.True(t, lagged)
			require.Positive(t, len(got))
			require.Equal(t, n, len(got)+missed)
			require.Equal(t, fmt.Sprint(len(got)-1), got[len(got)-1].ID, "the first ones, in order")
		}
		large := record("acme", "large", string(make([]byte, 2*maxWaiting)))
		log.records <- []domain.Record{record("acme", "one", "x"), large}
		synctest.Wait()
		got, lagged, _ := looks[1].Take()
		require.Equal(t, []string{"one", "large"}, ids(got), "the event is not kept, so that it has room")
		require.False(t, lagged)
	})
}

func TestLogThatBreaks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newFakeLog()
		tail := New(log, "decisions", project, slog.New(slog.DiscardHandler))
		look, err := tail.Look(t.Context(), domain.AllTenants(), domain.Expr{}, false)
		require.NoError(t, err)
		log.breaks <- errors.New("out of range")
		log.records <- []domain.Record{record("acme", "1", "x")}
		synctest.Wait()
		got, lagged, missed := look.Take()
		require.Equal(t, []string{"1"}, ids(got))
		require.True(t, lagged, "nobody knows what came in between")
		require.Zero(t, missed)
		look.Close()
	})
}

func TestLogThatIsAway(t *testing.T) {
	for name, log := range map[string]*fakeLog{"refuses": {refuses: true}, "does not answer": {silent: true}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log.breaks, log.records = make(chan error), make(chan []domain.Record)
				tail := New(log, "decisions", project, slog.New(slog.DiscardHandler))
				began := time.Now()
				_, err := tail.Look(t.Context(), domain.AllTenants(), domain.Expr{}, false)
				require.Equal(t, domain.Unavailable, domain.ClassOf(err), "%v", err)
				require.Equal(t, beginWithin, time.Since(began))
				_, reading := log.state()
				require.Zero(t, reading)
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				_, err = tail.Look(ctx, domain.AllTenants(), domain.Expr{}, false)
				require.ErrorIs(t, err, context.DeadlineExceeded)
				log.mu.Lock()
				log.refuses, log.silent = false, false
				log.mu.Unlock()
				look, err := tail.Look(t.Context(), domain.AllTenants(), domain.Expr{}, false)
				require.NoError(t, err)
				look.Close()
			})
		})
	}
}
