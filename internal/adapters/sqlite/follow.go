package sqlite

import (
	"context"
	"slices"
	"time"

	"github.com/docket-project/docket/internal/domain"
)

// maxFollowed is how many bytes of records wait for a follower at most.
const maxFollowed = 32 << 20

// follower is who gets records as they are committed: a topic may be trimmed before anybody has read it in the file.
type follower struct {
	topic string
	// batches and bytes are guarded by Log.mu. wake has room for one; more is sent there once there is more.
	batches [][]domain.Record
	bytes   int
	missed  int
	wake    chan struct{}
}

// Follow visits records as they are committed; see ports.LogReader.
func (l *Log) Follow(ctx context.Context, topic string, begun func(), visit func([]domain.Record)) error {
	f := &follower{topic: topic, wake: make(chan struct{}, 1)}
	l.mu.Lock()
	if l.topics[topic] == nil {
		l.mu.Unlock()
		return domain.Errorf(domain.Misconfigured, "the embedded log has no topic %s", topic)
	}
	l.followers = append(l.followers, f)
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.followers = slices.DeleteFunc(l.followers, func(other *follower) bool { return other == f })
	}()
	begun()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-l.finished:
			return domain.Errorf(domain.Unavailable, "the log is closed")
		case <-f.wake:
		}
		l.mu.Lock()
		batches, missed := f.batches, f.missed
		f.batches, f.bytes = nil, 0
		l.mu.Unlock()
		for _, b := range batches {
			visit(b)
		}
		if missed > 0 {
			return domain.Errorf(domain.Unavailable, "a follower of %s was too slow: it has missed %d records", topic, missed)
		}
	}
}

// tell hands records to who follows their topics. next are the offsets that the first ones got. The caller holds l.mu.
func (l *Log) tell(group []*call, next map[string]int64) {
	for _, f := range l.followers {
		var batch []domain.Record
		offset, bytes := next[f.topic], 0
		for _, c := range group {
			for _, r := range c.records {
				if r.Topic == f.topic {
					r.Offset, r.WrittenAt = offset, l.newest.UTC().Truncate(time.Microsecond)
					offset++
					bytes += len(r.Value)
					batch = append(batch, r)
				}
			}
		}
		switch {
		case len(batch) == 0:
			continue
		case f.missed > 0 || f.bytes > 0 && f.bytes+bytes > maxFollowed:
			f.missed += len(batch)
		default:
			f.batches, f.bytes = append(f.batches, batch), f.bytes+bytes
		}
		select {
		case f.wake <- struct{}{}:
		default:
		}
	}
}
