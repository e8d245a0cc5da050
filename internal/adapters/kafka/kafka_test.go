package kafka

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"go.uber.org/goleak"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/ports"
	"github.com/docket-project/docket/internal/ports/porttest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 30 * time.Second

// lostRecords counts what a log reports as lost.
type lostRecords struct{ atomic.Int64 }

func (l *lostRecords) add(loss domain.Loss) { l.Add(loss.Records()) }

func options(brokers []string, topics domain.Topics, lost *lostRecords) Options {
	return Options{
		Brokers: brokers, Topics: topics, MaxEvent: 4 << 20, MaxUpload: 8 << 20, MaxBuffered: 64 << 20, Lost: lost.add,
		Stopped: func(string, int32, error) {}, Log: slog.New(slog.DiscardHandler),
	}
}

// newTopics makes topics that no other test uses, with n partitions each.
func newTopics(t *testing.T, brokers []string, n int32) domain.Topics {
	t.Helper()
	topics := domain.TopicsWithPrefix(fmt.Sprintf("t%d.", rand.Uint32()))
	l, err := Open(options(brokers, topics, &lostRecords{}))
	require.NoError(t, err)
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for _, topic := range topics.All() {
		_, settings := l.wanted(topic, 1)
		_, err := l.admin.CreateTopic(ctx, n, 1, settings, topic)
		require.NoError(t, err)
	}
	require.Eventually(t, func() bool { return l.Ready(ctx) == nil }, patience, 20*time.Millisecond)
	return topics
}

func newFake(t *testing.T, opts ...kfake.Opt) *kfake.Cluster {
	t.Helper()
	c, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(1)}, opts...)...)
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

// harness runs the conformance suite against brokers; crash is what makes them forget whatever is not durable.
func harness(brokers []string, crash func(t *testing.T)) func(t *testing.T) porttest.LogHarness {
	return func(t *testing.T) porttest.LogHarness {
		topics := newTopics(t, brokers, 1)
		open := func(t *testing.T) ports.Log {
			l, err := Open(options(brokers, topics, &lostRecords{}))
			require.NoError(t, err)
			return l
		}
		return porttest.LogHarness{
			Topics: topics,
			Open:   open,
			Close:  func(t *testing.T, l ports.Log) { require.NoError(t, l.(*Log).Close()) },
			Crash: func(t *testing.T) ports.Log {
				crash(t)
				l := open(t)
				t.Cleanup(func() { require.NoError(t, l.(*Log).Close()) })
				return l
			},
		}
	}
}

func TestLogConformanceOnKfake(t *testing.T) {
	c := newFake(t)
	porttest.Log(t, harness(c.ListenAddrs(), func(*testing.T) {}))
}
