package kafka

import (
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/ports"
)

// Backlog asks the brokers for every partition of the topics; see ports.Log.
func (l *Log) Backlog(ctx context.Context, group string, topics ...string) ([]ports.Backlog, error) {
	starts, ends, committed, err := l.offsets(ctx, group, topics)
	if err != nil {
		return nil, err
	}
	var out []ports.Backlog
	for _, topic := range topics {
		from := len(out)
		for p, start := range starts[topic] {
			b := ports.Backlog{Topic: topic, Partition: p, Start: start.Offset, Committed: start.Offset, End: start.Offset}
			if end, ok := ends.Lookup(topic, p); ok {
				b.End = max(end.Offset, start.Offset)
			}
			if at, ok := committed.Lookup(topic, p); ok && at.At >= 0 {
				b.Committed = at.At
			}
			out = append(out, b)
		}
		slices.SortFunc(out[from:], func(a, b ports.Backlog) int { return int(a.Partition - b.Partition) })
	}
	return out, l.age(ctx, topics, out)
}

// offsets asks for a group's offsets, and for the first and last ones of topics. A group that is not there has none.
// The ends are asked for last, so that a record which moves from one topic to the other meanwhile is met in one of
// them.
func (l *Log) offsets(
	ctx context.Context, group string, topics []string,
) (starts, ends kadm.ListedOffsets, committed kadm.OffsetResponses, err error) {
	if group != "" {
		committed, err = l.admin.FetchOffsets(ctx, group)
	}
	if err != nil && !errors.Is(err, kerr.GroupIDNotFound) {
		return nil, nil, nil, classify("ask Kafka for the offsets of "+group, err)
	}
	if starts, err = l.admin.ListStartOffsets(ctx, topics...); err == nil {
		err = starts.Error()
	}
	if err != nil {
		return nil, nil, nil, classify("ask Kafka for the first offsets", err)
	}
	if ends, err = l.admin.ListEndOffsets(ctx, topics...); err == nil {
		err = ends.Error()
	}
	return starts, ends, committed, classify("ask Kafka for the last offsets", err)
}

// age fills in when the oldest record that waits in each partition was written.
func (l *Log) age(ctx context.Context, topics []string, backlog []ports.Backlog) error {
	if !slices.ContainsFunc(backlog, func(b ports.Backlog) bool { return b.Waiting() > 0 }) {
		return nil
	}
	meta, err := l.admin.Metadata(ctx, topics...)
	if err != nil {
		return classify("ask Kafka for its topics", err)
	}
	for i := range backlog {
		b := &backlog[i]
		details := meta.Topics[b.Topic]
		if b.Waiting() <= 0 || details.Partitions[b.Partition].Leader < 0 {
			continue
		}
		if b.Oldest, err = l.writtenAt(ctx, details, b.Partition, max(b.Committed, b.Start)); err != nil {
			return err
		}
	}
	return nil
}

// writtenAt is the time of the batch that holds an offset, read from the batch's header alone; zero where there is
// none.
func (l *Log) writtenAt(ctx context.Context, topic kadm.TopicDetail, partition int32, offset int64) (time.Time, error) {
	batches, err := l.fetchOne(ctx, topic, partition, offset)
	return batchTime(batches), err
}

// fetchOne fetches the batch that holds an offset, or the next one; nothing where there is none.
func (l *Log) fetchOne(ctx context.Context, topic kadm.TopicDetail, partition int32, offset int64) ([]byte, error) {
	req := kmsg.NewPtrFetchRequest()
	req.MinBytes, req.MaxBytes = 0, 1
	t := kmsg.NewFetchRequestTopic()
	t.Topic, t.TopicID = topic.Topic, topic.ID
	p := kmsg.NewFetchRequestTopicPartition()
	p.Partition, p.FetchOffset, p.PartitionMaxBytes = partition, offset, 1 // a batch is never cut
	t.Partitions = append(t.Partitions, p)
	req.Topics = append(req.Topics, t)
	resp, err := req.RequestWith(ctx, l.client.Broker(int(topic.Partitions[partition].Leader)))
	if err != nil {
		return nil, classify("look at "+topic.Topic, err)
	}
	if len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 {
		return nil, domain.Errorf(
			domain.Unavailable, "look at %s: the broker answers for another partition", topic.Topic,
		)
	}
	answer := resp.Topics[0].Partitions[0]
	if err := kerr.ErrorForCode(answer.ErrorCode); err != nil {
		return nil, classify("look at "+topic.Topic, err)
	}
	return answer.RecordBatches, nil
}

// batchTime reads when a record batch was written (https://kafka.apache.org/documentation/#recordbatch): eight bytes of
// base offset, four each of length, epoch, then magic, checksum, attributes, last offset delta, and the first and the
// largest timestamp. The largest is the broker's where the attributes say so.
func batchTime(batch []byte) time.Time {
	const magic, attributes, first, largest = 16, 21, 27, 35
	if len(batch) < largest+8 || batch[magic] != 2 {
		return time.Time{}
	}
	at := first
	if batch[attributes+1]&0b1000 != 0 {
		at = largest
	}
	return time.UnixMilli(int64(binary.BigEndian.Uint64(batch[at:]))).UTC()
}
