package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/docket-project/docket/internal/domain"
)

// Loss is a range of records that a group had not consumed when it fell off the log, or that the log says it never had.
type Loss struct {
	domain.Loss
	// ResumeAt is where the group would go on.
	ResumeAt int64
}

// lossOf is a loss that is found now.
func lossOf(group, topic string, partition int32, first, last int64) domain.Loss {
	return domain.Loss{
		At: time.Now(), Group: group, Topic: topic, Partition: partition, First: first, Last: last,
	}
}

// unknownLoss is one of which nobody can tell how much it is.
func unknownLoss(group, topic string, partition int32) domain.Loss {
	return lossOf(group, topic, partition, 0, -1)
}

// Losses compares a group's committed offsets with what the topics still hold.
func (l *Log) Losses(ctx context.Context, group string, topics ...string) ([]Loss, error) {
	starts, ends, committed, err := l.offsets(ctx, group, topics)
	if err != nil {
		return nil, err
	}
	var out []Loss
	for _, topic := range topics {
		for p, start := range starts[topic] {
			at, ok := committed.Lookup(topic, p)
			if !ok || at.At < 0 {
				continue
			}
			end, _ := ends.Lookup(topic, p)
			switch {
			case at.At < start.Offset:
				out = append(out, Loss{lossOf(group, topic, p, at.At, start.Offset-1), start.Offset})
			case at.At > end.Offset: // consumed, and then cut off or made anew: everything there now is to be consumed
				out = append(out, Loss{lossOf(group, topic, p, end.Offset, at.At-1), start.Offset})
			}
		}
	}
	slices.SortFunc(out, func(a, b Loss) int { return int(a.Partition - b.Partition) })
	return out, nil
}

// AcceptLoss lets the group go on behind its losses. The group must have no members. Who did it and what was given up
// stands beside the offset, in its metadata, until the group commits the next one; the caller keeps it for good.
func (l *Log) AcceptLoss(ctx context.Context, losses []Loss, note string) error {
	byGroup := map[string]kadm.Offsets{}
	for _, loss := range losses {
		offsets := byGroup[loss.Group]
		offsets.Add(kadm.Offset{
			Topic: loss.Topic, Partition: loss.Partition, At: loss.ResumeAt, LeaderEpoch: -1,
			Metadata: fmt.Sprintf("offsets %d to %d given up: %s", loss.First, loss.Last, note),
		})
		byGroup[loss.Group] = offsets
	}
	return l.moveOffsets(ctx, byGroup)
}

// moveOffsets commits offsets for groups. None may have members: their next commits would overwrite it.
func (l *Log) moveOffsets(ctx context.Context, byGroup map[string]kadm.Offsets) error {
	for group := range byGroup {
		described, err := l.admin.DescribeGroups(ctx, group)
		if err != nil {
			return classify("ask Kafka for the members of "+group, err)
		}
		if n := len(described[group].Members); n > 0 {
			return domain.Errorf(
				domain.Misconfigured, "group %s has %d members that would not notice: stop them first, and start them afterwards",
				group, n,
			)
		}
	}
	for group, offsets := range byGroup {
		answers, err := l.admin.CommitOffsets(ctx, group, offsets)
		if err == nil {
			err = answers.Error()
		}
		if err != nil {
			return classify("move the offsets of "+group, err)
		}
	}
	return nil
}

// Move is a group's way back in one partition.
type Move struct {
	Group, Topic, TopicID string
	Partition             int32
	From, To              int64
}

// Rewindable says how far back a group would have to go to read everything again that a topic took since a time.
func (l *Log) Rewindable(ctx context.Context, group, topic string, since time.Time) ([]Move, error) {
	meta, err := l.admin.Metadata(ctx, topic)
	if err == nil {
		err = meta.Topics[topic].Err
	}
	if err != nil {
		return nil, classify("ask Kafka for "+topic, err)
	}
	_, _, committed, err := l.offsets(ctx, group, []string{topic})
	if err != nil {
		return nil, err
	}
	then, err := l.admin.ListOffsetsAfterMilli(ctx, since.UnixMilli(), topic)
	if err == nil {
		err = then.Error()
	}
	if err != nil {
		return nil, classify("ask Kafka for the offsets of a time", err)
	}
	var moves []Move
	for p := range meta.Topics[topic].Partitions {
		at, ok := committed.Lookup(topic, p)
		to, known := then.Lookup(topic, p)
		if ok && known && to.Offset < at.At {
			moves = append(moves, Move{group, topic, meta.Topics[topic].ID.String(), p, at.At, to.Offset})
		}
	}
	slices.SortFunc(moves, func(a, b Move) int { return int(a.Partition - b.Partition) })
	return moves, nil
}

// Rewind moves groups back. They must have no members.
func (l *Log) Rewind(ctx context.Context, moves []Move, note string) error {
	byGroup := map[string]kadm.Offsets{}
	for _, m := range moves {
		offsets := byGroup[m.Group]
		offsets.Add(kadm.Offset{Topic: m.Topic, Partition: m.Partition, At: m.To, LeaderEpoch: -1, Metadata: note})
		byGroup[m.Group] = offsets
	}
	return l.moveOffsets(ctx, byGroup)
}

// CopyCommits has a group that was renamed go on where the one of the old name stands, on partitions where it has
// committed nothing itself. The old one keeps its offsets: processes of an older version may still use them.
func (l *Log) CopyCommits(ctx context.Context, from, to string, topics ...string) error {
	for {
		err := l.copyCommits(ctx, from, to, topics)
		if domain.ClassOf(err) != domain.Unavailable || err == nil {
			return err
		}
		if sleep(ctx, 250*time.Millisecond); ctx.Err() != nil { // a new cluster's coordinators take a moment
			return err
		}
	}
}

func (l *Log) copyCommits(ctx context.Context, from, to string, topics []string) error {
	var of [2]kadm.OffsetResponses
	for i, group := range []string{from, to} {
		offsets, err := l.admin.FetchOffsets(ctx, group)
		if err != nil && !errors.Is(err, kerr.GroupIDNotFound) {
			return classify("ask Kafka for the offsets of "+group, err)
		}
		of[i] = offsets
	}
	var offsets kadm.Offsets
	of[0].Each(func(o kadm.OffsetResponse) {
		own, ok := of[1].Lookup(o.Topic, o.Partition)
		if slices.Contains(topics, o.Topic) && o.At >= 0 && (!ok || own.At < 0) {
			offsets.Add(o.Offset)
		}
	})
	if len(offsets) == 0 {
		return nil
	}
	answers, err := l.admin.CommitOffsets(ctx, to, offsets)
	if err == nil {
		err = answers.Error()
	}
	return classify("copy the offsets of "+from+" to "+to, err)
}
