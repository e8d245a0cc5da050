package sqlite

import (
	"context"

	"github.com/docket-project/docket/internal/domain"
)

// PartitionOf is 0: a topic has one partition. See ports.LogReader.
func (l *Log) PartitionOf(_ context.Context, topic, _ string) (int32, error) {
	if l.topics[topic] == nil {
		return 0, domain.Errorf(domain.Misconfigured, "the embedded log has no topic %s", topic)
	}
	return 0, nil
}

// Read visits records in steps, so that the write-ahead file can shrink in between; see ports.LogReader.
func (l *Log) Read(ctx context.Context, topic string, partition int32, from int64, visit func(domain.Record) bool) (int64, error) {
	t := l.topics[topic]
	if t == nil || partition != 0 {
		return from, domain.Errorf(domain.Misconfigured, "the embedded log has no partition %d of topic %s", partition, topic)
	}
	l.mu.Lock()
	next, end := max(from, t.first), t.next
	l.mu.Unlock()
	for stopped := false; next < end && !stopped; {
		if err := ctx.Err(); err != nil {
			return next, classify("read "+topic, err)
		}
		reached, err := l.scan(ctx, t, next, int(min(verifyStep, end-next)), func(r domain.Record) bool {
			stopped = !visit(r)
			return !stopped
		})
		if err != nil {
			return reached, err
		}
		if reached == next { // trimmed meanwhile
			l.mu.Lock()
			reached = max(next, t.first)
			l.mu.Unlock()
			if reached == next {
				return next, l.loss(t, next, 1, "is missing")
			}
		}
		next = reached
	}
	return min(next, end), nil
}
