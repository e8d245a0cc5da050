package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/docket-project/docket/internal/domain"
)

// isAnew reports that a fetch failed because the topic is gone, or another one of the same name. A broker that has not
// heard of a topic yet says the same.
func (m *member) isAnew(ctx context.Context, e kgo.FetchError) bool {
	if !errors.Is(e.Err, kerr.UnknownTopicID) && !errors.Is(e.Err, kerr.UnknownTopicOrPartition) &&
		!errors.Is(e.Err, kerr.InconsistentTopicID) {
		return false
	}
	ask, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	meta, err := m.log.admin.Metadata(ask, e.Topic)
	if err != nil {
		return false // whatever it is, the client tries again
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	f := m.feeds[topicPartition{e.Topic, e.Partition}]
	details := meta.Topics[e.Topic]
	return errors.Is(details.Err, kerr.UnknownTopicOrPartition) ||
		details.Err == nil && f != nil && f.topicID != details.ID.String()
}

// failed deals with what could not be fetched. Whatever may pass, the client tries again by itself.
func (m *member) failed(ctx context.Context, e kgo.FetchError) {
	log := m.log.opts.Log.With("group", m.sub.Group, "topic", e.Topic, "partition", e.Partition)
	var loss *kgo.ErrDataLoss
	switch {
	case errors.Is(e.Err, kerr.OffsetOutOfRange):
		m.stop(e)
		m.reportLoss(context.WithoutCancel(ctx), e)
	case errors.As(e.Err, &loss):
		m.log.opts.Lost(lossOf(m.sub.Group, e.Topic, e.Partition, loss.ResetTo, loss.ConsumedTo-1))
		log.Error(
			"Kafka has lost records that it had acknowledged: the partition was cut back. Those consumed before are stored; "+
				"look for an unclean leader election",
			"consumed_to", loss.ConsumedTo, "cut_to", loss.ResetTo,
		)
	case domain.ClassOf(classify("", e.Err)) == domain.Unavailable:
		log.Debug("a fetch failed; the client tries again", "error", e.Err)
	case errors.As(e.Err, new(*kgo.ErrGroupSession)) || e.Partition < 0: // of the group, or of a whole topic
		log.Error("the group cannot consume; the client tries again", "error", e.Err)
		sleep(ctx, time.Second)
	default:
		m.stop(e)
		m.log.opts.Stopped(e.Topic, e.Partition, e.Err)
		log.Error(
			"a partition cannot be read and is left alone; docket consumes the others. Fix the cause, then start docket again",
			"error", e.Err,
		)
	}
}

// stop leaves a partition alone: its error would repeat thousands of times a second.
func (m *member) stop(e kgo.FetchError) {
	m.client.PauseFetchPartitions(map[string][]int32{e.Topic: {e.Partition}})
	m.mu.Lock()
	defer m.mu.Unlock()
	if f := m.feeds[topicPartition{e.Topic, e.Partition}]; f != nil {
		f.stopped, f.paused = true, false
	}
}

// reportLoss says once which records of a partition are gone before the group has consumed them.
func (m *member) reportLoss(ctx context.Context, e kgo.FetchError) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	l, group := m.log, m.sub.Group
	losses, err := l.Losses(ctx, group, e.Topic)
	at := slices.IndexFunc(losses, func(loss Loss) bool { return loss.Partition == e.Partition })
	if at < 0 { // nothing was committed there, or the brokers do not say
		l.opts.Lost(unknownLoss(group, e.Topic, e.Partition))
		l.opts.Log.Error(
			"a partition's records are gone before they were consumed, and how many cannot be found out. The partition is left "+
				"alone and the others go on; started again, the group begins with the oldest record there is",
			"group", group, "topic", e.Topic, "partition", e.Partition, "error", err,
		)
		return
	}
	loss := losses[at]
	key := fmt.Sprint(group, loss.Topic, loss.Partition, loss.ResumeAt)
	if !l.first(key) {
		return
	}
	l.opts.Lost(loss.Loss)
	l.opts.Log.Error(
		"records are gone that were never consumed: they fell off the log. The partition is left alone and the others go "+
			"on. If they cannot be brought back, stop this group and run: docket log accept-loss --yes",
		"group", group, "topic", e.Topic, "partition", e.Partition, "first", loss.First, "last", loss.Last, "records",
		loss.Records(),
	)
}
