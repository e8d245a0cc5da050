package sqlite

import (
	"context"
	"errors"
	"time"

	"github.com/docket-project/docket/internal/domain"
)

// PartitionOf is 0: a topic has one partition. See ports.LogReader.
func (l *Log) PartitionOf(_ context.Context, topic, _ string) (int32, error) {
	if l.topics[topic] == nil {
		return 0, domain.Errorf(domain.Misconfigured, "the embedded log has no topic %s", topic)
	}
	return 0, nil
}

// Read visits records in steps, so that the write-ahead file can shrink in between; see ports.LogReader. It holds
// nothing: what is trimmed while it reads is skipped.
func (l *Log) Read(
	ctx context.Context, topic string, partition int32, from int64, visit func(domain.Record) bool,
) (int64, error) {
	t := l.topics[topic]
	if t == nil || partition != 0 {
		return from, domain.Errorf(domain.Misconfigured, "the embedded log has no partition %d of topic %s", partition, topic)
	}
	first, end := l.bounds(t)
	next := max(from, first)
	gaps := 0
	for stopped := false; next < end && !stopped; {
		if err := ctx.Err(); err != nil {
			return next, classify("read "+topic, err)
		}
		reached, err := l.look(ctx, t, next, int(min(verifyStep, end-next)), func(r domain.Record) bool {
			stopped = !visit(r)
			return !stopped
		})
		var gap *gapError
		if err != nil && !errors.As(err, &gap) {
			return reached, err
		}
		if reached > next {
			next, gaps = reached, 0
			continue
		}
		// The front is trimmed in the file a moment before it is in memory.
		if gaps++; gaps > patience {
			return next, l.loss(t, next, 1, "is missing")
		}
		sleep(ctx, 10*time.Millisecond)
		first, _ = l.bounds(t)
		next = max(next, first)
	}
	return min(next, end), nil
}

// patience is how often a reader that meets a gap looks whether it was trimmed.
const patience = 100

func (l *Log) bounds(t *topic) (first, end int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return t.first, t.next
}
