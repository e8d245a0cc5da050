package kafka

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/docket-project/docket/internal/domain"
)

const (
	// A reader asks for much at once: nobody shares it, and a replay or a search goes on behind what it has.
	readBytes          = 8 << 20
	readPartitionBytes = 4 << 20
	// maxReads is how many reads go on at once; others wait. Each may have a whole batch in memory, whatever the budget.
	maxReads = 8
	// readRecords are looked at before more is polled.
	readRecords = 500
	// gapWait is how long records are waited for that should be there, before it is asked whether there are any.
	gapWait = 2 * time.Second
)

// PartitionOf asks for the topic's partitions and hashes the key as the producer does; see ports.LogReader.
func (l *Log) PartitionOf(ctx context.Context, topic, key string) (int32, error) {
	meta, err := l.admin.Metadata(ctx, topic)
	if err == nil {
		err = meta.Topics[topic].Err
	}
	if err != nil {
		return 0, classify("ask Kafka for "+topic, err)
	}
	p := kgo.StickyKeyPartitioner(nil).ForTopic(topic)
	return int32(p.Partition(&kgo.Record{Key: []byte(key)}, len(meta.Topics[topic].Partitions))), nil
}

// Read consumes one partition outside of any group; see ports.LogReader. Where the front is trimmed while it begins, it
// begins anew.
func (l *Log) Read(
	ctx context.Context, topic string, partition int32, from int64, visit func(domain.Record) bool,
) (int64, error) {
	next, err := l.read(ctx, topic, partition, from, visit)
	for range 3 {
		if domain.CodeOf(err) != kerr.OffsetOutOfRange.Message {
			break
		}
		next, err = l.read(ctx, topic, partition, next, visit)
	}
	return next, err
}

func (l *Log) read(
	ctx context.Context, topic string, partition int32, from int64, visit func(domain.Record) bool,
) (int64, error) {
	op := fmt.Sprintf("read partition %d of %s", partition, topic)
	if err := ctx.Err(); err != nil {
		return from, classify(op, err)
	}
	if err := l.reading.Acquire(ctx, 1); err != nil {
		return from, classify(op+": others read as well", err)
	}
	defer l.reading.Release(1)
	starts, ends, _, err := l.offsets(ctx, "", []string{topic})
	if err != nil {
		return from, err
	}
	start, ok := starts.Lookup(topic, partition)
	end, _ := ends.Lookup(topic, partition)
	if !ok {
		return from, domain.Errorf(domain.Misconfigured, "%s: there is no such partition", op)
	}
	next := max(from, start.Offset)
	if next >= end.Offset {
		return end.Offset, nil
	}
	in, err := l.newReader(topic, map[int32]kgo.Offset{partition: kgo.NewOffset().At(next)}, kgo.MaxConcurrentFetches(1))
	if err != nil {
		return next, err
	}
	defer in.close()
	for next < end.Offset {
		fetches, idle := in.poll(ctx, gapWait)
		if err := ctx.Err(); err != nil {
			return next, classify(op, err)
		}
		if idle {
			if gap, err := l.isGap(ctx, topic, partition, next); err != nil || gap {
				return end.Offset, err
			}
			continue
		}
		if err := fatal(fetches); err != nil {
			return next, classify(op, err)
		}
		for it := fetches.RecordIter(); !it.Done(); {
			r := it.Next()
			if r.Offset < next || r.Offset >= end.Offset {
				continue
			}
			next = r.Offset + 1
			if r.Attrs.IsControl() { // the end of somebody's transaction
				continue
			}
			if !visit(decode(r)) {
				return next, nil
			}
		}
		in.mine.polled.Store(0)
	}
	return next, nil
}

// reader is a client that reads partitions of a topic outside of any group.
type reader struct {
	log    *Log
	client *kgo.Client
	mine   *holding
	abort  context.CancelFunc
}

func (l *Log) newReader(topic string, from map[int32]kgo.Offset, more ...kgo.Opt) (*reader, error) {
	life, abort := context.WithCancel(context.Background())
	r := &reader{log: l, mine: l.reads.join(""), abort: abort}
	client, err := kgo.NewClient(append(append(
		l.base(),
		kgo.WithContext(life),
		kgo.WithDecompressor(r.mine),
		kgo.WithHooks(r.mine),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: from}),
		kgo.ConsumeResetOffset(kgo.NoResetOffset()),
		kgo.FetchMaxBytes(readBytes),
		kgo.FetchMaxPartitionBytes(readPartitionBytes),
		kgo.FetchMinBytes(1),
		kgo.KeepControlRecords(),
	), more...)...)
	if err != nil {
		abort()
		l.reads.leave(r.mine)
		return nil, &domain.Error{Class: domain.Misconfigured, Op: "set up the Kafka client", Text: err.Error(), Err: err}
	}
	r.client = client
	r.mine.client.Store(client)
	return r, nil
}

func (r *reader) close() {
	r.abort()
	r.client.Close()
	r.log.reads.leave(r.mine)
}

// poll waits for records, for so long. idle says that there were none.
func (r *reader) poll(ctx context.Context, wait time.Duration) (fetches kgo.Fetches, idle bool) {
	poll, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	r.client.UpdateFetchMaxBytes(r.mine.ratio.fetch(readBytes), r.mine.ratio.fetch(readPartitionBytes))
	fetches = r.client.PollRecords(poll, readRecords)
	return fetches, poll.Err() != nil && fetches.NumRecords() == 0
}

// fatal is an error of a fetch after which a reader does not go on; after any other the client goes on trying.
func fatal(fetches kgo.Fetches) error {
	for _, e := range fetches.Errors() {
		if errors.Is(e.Err, context.DeadlineExceeded) || errors.Is(e.Err, errNoRoom) {
			continue // the next fetch has the room of what was visited by then
		}
		if errors.Is(e.Err, kerr.OffsetOutOfRange) || domain.ClassOf(classify("", e.Err)) != domain.Unavailable {
			return e.Err
		}
	}
	return nil
}

// isGap reports that a partition has no record from an offset on, although its end is further: mirroring and compaction
// leave such gaps.
func (l *Log) isGap(ctx context.Context, topic string, partition int32, from int64) (bool, error) {
	meta, err := l.admin.Metadata(ctx, topic)
	if err != nil {
		return false, classify("ask Kafka for "+topic, err)
	}
	batches, err := l.fetchOne(ctx, meta.Topics[topic], partition, from)
	return err == nil && len(batches) == 0, err
}
