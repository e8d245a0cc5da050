package kafka

import (
	"cmp"
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/docket-project/docket/internal/domain"
)

// newPartitions is how often a follower looks whether its topic has got more partitions.
const newPartitions = 30 * time.Second

// followWait is how long a broker may wait for a record until it says that there is none.
const followWait = 500 * time.Millisecond

// clocksApart is how far the clocks of those who write may be behind.
const clocksApart = 5 * time.Second

// Follow consumes a topic outside of any group, from its end on; see ports.LogReader. A partition that comes into being
// meanwhile is read from its beginning.
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
// written to it already: it is read from what was written shortly before now. The error is the last one where no
// partition answers.
func (l *Log) endsOf(ctx context.Context, topic string) (map[int32]kgo.Offset, error) {
	meta, err := l.admin.Metadata(ctx, topic)
	if err != nil {
		return nil, err
	}
	from, since := map[int32]kgo.Offset{}, time.Now().Add(-clocksApart)
	ends, err := l.admin.ListEndOffsets(ctx, topic)
	answered := false
	for p := range meta.Topics[topic].Partitions {
		end, is := ends.Lookup(topic, p)
		switch {
		case is && end.Err == nil:
			from[p], answered = kgo.NewOffset().At(end.Offset), true
		case is:
			err = end.Err
			fallthrough
		default:
			from[p] = kgo.NewOffset().AfterMilli(since.UnixMilli())
		}
	}
	if !answered {
		return nil, cmp.Or(err, meta.Topics[topic].Err)
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
