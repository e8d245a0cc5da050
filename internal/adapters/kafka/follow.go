package kafka

import (
	"context"
	"errors"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/docket-project/docket/internal/domain"
)

// newPartitions is how often a follower looks whether its topic has got more partitions.
const newPartitions = 30 * time.Second

// followWait is how long a broker may wait for a record until it says that there is none.
const followWait = 500 * time.Millisecond

// clocksApart is how far the clocks of those who write may be behind.
const clocksApart = 5 * time.Second

// Follow consumes a topic outside of any group, from its end on as far as that is known; see ports.LogReader. A
// partition that comes into being meanwhile is read from its beginning.
func (l *Log) Follow(ctx context.Context, topic string, begun func(), visit func([]domain.Record)) error {
	op := "follow " + topic
	from, err := l.endsOf(ctx, topic)
	if err != nil {
		return classify(op, err)
	}
	if len(from) == 0 {
		return domain.Errorf(domain.Misconfigured, "%s: there is no such topic", op)
	}
	// Every broker is asked at once: one that has nothing, or hangs, keeps nobody waiting for the others.
	in, err := l.newReader(topic, from, kgo.FetchMaxWait(followWait))
	if err != nil {
		return err
	}
	defer in.close()
	begun()
	for looked := time.Now(); ; {
		fetches, _ := in.poll(ctx, newPartitions)
		if ctx.Err() != nil {
			return nil
		}
		if err := fatal(fetches); err != nil {
			return classify(op, err)
		}
		var batch []domain.Record
		fetches.EachRecord(func(r *kgo.Record) {
			if !r.Attrs.IsControl() {
				batch = append(batch, decode(r))
			}
		})
		if len(batch) > 0 {
			visit(batch)
		}
		in.mine.polled.Store(0)
		if time.Since(looked) >= newPartitions {
			looked = time.Now()
			l.addPartitions(ctx, in, topic, from)
		}
	}
}

// endsOf is where each partition of a topic ends. One that has no leader tells once it has one, when others may have
// written to it already: it is read from what was written shortly before now, some of which was acknowledged before.
// The error is of a partition that has a leader and does not answer, or of all where none has one.
func (l *Log) endsOf(ctx context.Context, topic string) (map[int32]kgo.Offset, error) {
	since := time.Now().Add(-clocksApart)
	from, led := map[int32]kgo.Offset{}, false
	without := func(partition int32, err error) error {
		if !errors.Is(err, kerr.LeaderNotAvailable) && !errors.Is(err, kerr.NotLeaderForPartition) {
			return err
		}
		from[partition] = kgo.NewOffset().AfterMilli(since.UnixMilli())
		return nil
	}
	ends, err := l.admin.ListEndOffsets(ctx, topic)
	failed := err
	var shards *kadm.ShardErrors // of what could not even be asked
	if err != nil && !errors.As(err, &shards) {
		return nil, err
	}
	if shards != nil {
		for _, s := range shards.Errs {
			request, ok := s.Req.(*kmsg.ListOffsetsRequest)
			if !ok {
				return nil, err
			}
			for _, t := range request.Topics {
				for _, p := range t.Partitions {
					if err := without(p.Partition, s.Err); err != nil {
						return nil, err
					}
				}
			}
		}
	}
	for p, end := range ends[topic] {
		if end.Err == nil {
			from[p], led = kgo.NewOffset().At(end.Offset), true
			continue
		}
		if failed = end.Err; without(p, end.Err) != nil {
			return nil, end.Err
		}
	}
	if !led {
		return nil, failed
	}
	return from, nil
}

// addPartitions has a reader read those that it does not know. Where Kafka cannot be asked, the next turn does it.
func (l *Log) addPartitions(ctx context.Context, in *reader, topic string, known map[int32]kgo.Offset) {
	meta, err := l.admin.Metadata(ctx, topic)
	if err != nil {
		return
	}
	fresh := map[int32]kgo.Offset{}
	for p := range meta.Topics[topic].Partitions {
		if _, is := known[p]; !is {
			fresh[p] = kgo.NewOffset().AtStart()
			known[p] = fresh[p]
		}
	}
	if len(fresh) > 0 {
		in.client.AddConsumePartitions(map[string]map[int32]kgo.Offset{topic: fresh})
	}
}
