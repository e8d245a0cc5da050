package kafka

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/docket-project/docket/internal/domain"
)

// leaderless answers for partitions from first on as a broker does that does not lead them.
func leaderless(request *kmsg.ListOffsetsRequest, first int32) *kmsg.ListOffsetsResponse {
	response := request.ResponseKind().(*kmsg.ListOffsetsResponse)
	for _, topic := range request.Topics {
		answer := kmsg.NewListOffsetsResponseTopic()
		answer.Topic = topic.Topic
		for _, p := range topic.Partitions {
			partition := kmsg.NewListOffsetsResponseTopicPartition()
			if partition.Partition = p.Partition; p.Partition >= first {
				partition.ErrorCode = kerr.LeaderNotAvailable.Code
			} else {
				partition.Offset, partition.LeaderEpoch = 0, 0
			}
			answer.Partitions = append(answer.Partitions, partition)
		}
		response.Topics = append(response.Topics, answer)
	}
	return response
}

// TestFollowWithoutALeader follows the partitions that answer, and the others once they have a leader again.
func TestFollowWithoutALeader(t *testing.T) {
	r := newRig(t, 2, nil)
	var first atomic.Int32 // partition without a leader
	r.fake.ControlKey(int16(kmsg.ListOffsets), func(request kmsg.Request) (kmsg.Response, error, bool) {
		r.fake.KeepControl()
		if first.Load() > 1 {
			return nil, nil, false
		}
		return leaderless(request.(*kmsg.ListOffsetsRequest), first.Load()), nil, true
	})
	err := r.Follow(t.Context(), r.topics.Decisions, func() { t.Error("nothing is followed") }, nil)
	require.Equal(t, domain.Unavailable, domain.ClassOf(err), "%v", err)

	first.Store(1)
	ctx, stop := context.WithCancel(t.Context())
	begun, ended := make(chan struct{}), make(chan error, 1)
	var came [2]atomic.Int64 // of each partition
	go func() {
		ended <- r.Follow(ctx, r.topics.Decisions, func() { close(begun) }, func(batch []domain.Record) {
			for _, record := range batch {
				came[record.Partition].Add(1)
			}
		})
	}()
	<-begun
	next := 0
	writeUntil := func(partition int32) {
		require.Eventually(t, func() bool {
			next += 10
			return r.publish(t, patience, r.records(r.topics.Decisions, next-10, next)...) == nil && came[partition].Load() > 0
		}, patience, 20*time.Millisecond)
	}
	writeUntil(0)
	require.Zero(t, came[1].Load(), "it has no end yet")
	first.Store(2)
	writeUntil(1)
	require.Eventually(t, func() bool {
		return came[0].Load()+came[1].Load() == int64(next)
	}, patience, 10*time.Millisecond, "what was written before it told its end, too")
	stop()
	require.NoError(t, <-ended)
}
