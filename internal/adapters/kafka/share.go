package kafka

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// shareByProcess is a cooperative assignor that shares a group's partitions among processes as evenly as they go, among
// the members of each likewise, and moves no more of them than that takes. Kafka's own know members only, and each
// batch that a role has in hand at once is one: of eight savers with four members each, one held a third of twelve
// partitions and others none.
//
// It speaks the protocol of the cooperative sticky assignor, so that members with and without it can be in one group,
// and whoever leads the group decides. (Members of releases before it, all called "docket", count as one process until
// they are gone.)
type shareByProcess struct{ kgo.GroupBalancer }

func newShareByProcess() kgo.GroupBalancer { return shareByProcess{kgo.CooperativeStickyBalancer()} }

// MemberBalancer implements kgo.GroupBalancer.
func (s shareByProcess) MemberBalancer(
	members []kmsg.JoinGroupResponseMember,
) (kgo.GroupMemberBalancer, map[string]struct{}, error) {
	b, err := kgo.NewConsumerBalancer(s, members)
	return b, b.MemberTopics(), err
}

// Balance implements kgo.ConsumerBalancerBalance. Members that want other topics than the rest, as during an update,
// cannot stand in for each other; then the sticky assignor has to do.
func (s shareByProcess) Balance(b *kgo.ConsumerBalancer, partitions map[string]int32) kgo.IntoSyncAssignment {
	holders, alike := holdersOf(b, partitions)
	if !alike || len(holders) == 0 {
		return s.GroupBalancer.(kgo.ConsumerBalancerBalance).Balance(b, partitions)
	}
	var free []topicPartition
	for _, topic := range slices.Sorted(maps.Keys(partitions)) {
		for p := range partitions[topic] {
			free = append(free, topicPartition{topic, p})
		}
	}
	each, more := len(free)/len(holders), len(free)%len(holders)
	rank(holders, each)
	plan := b.NewPlan()
	for i, h := range holders {
		h.quota = each
		if i < more {
			h.quota++
		}
		h.has = h.has[:min(len(h.has), h.quota)]
		for _, p := range h.has {
			plan.AddPartition(h.member, p.topic, p.partition)
		}
		free = slices.DeleteFunc(free, func(p topicPartition) bool { return slices.Contains(h.has, p) })
	}
	for _, h := range holders {
		for _, p := range free[:h.quota-len(h.has)] {
			plan.AddPartition(h.member, p.topic, p.partition)
		}
		free = free[h.quota-len(h.has):]
	}
	plan.AdjustCooperative(b) // what another member holds is assigned one round later, when it has let go
	return plan
}

// holder is a member of a group and what it has.
type holder struct {
	member  *kmsg.JoinGroupResponseMember
	process string
	has     []topicPartition
	quota   int
}

// holdersOf are a group's members, and whether all of them want the same topics.
func holdersOf(b *kgo.ConsumerBalancer, partitions map[string]int32) (holders []*holder, alike bool) {
	type claim struct {
		by         *holder
		generation int32
	}
	var topics []string
	claims := map[topicPartition]claim{}
	alike = true
	b.EachMember(func(m *kmsg.JoinGroupResponseMember, meta *kmsg.ConsumerMemberMetadata) {
		h := &holder{member: m, process: processOf(m.MemberID)}
		alike = alike && (holders == nil || slices.Equal(meta.Topics, topics))
		holders, topics = append(holders, h), meta.Topics
		for _, t := range meta.OwnedPartitions {
			for _, p := range t.Partitions {
				// A member that missed a rebalance claims what another has since (KIP-792).
				if c, ok := claims[topicPartition{t.Topic, p}]; p < partitions[t.Topic] && (!ok || meta.Generation > c.generation) {
					claims[topicPartition{t.Topic, p}] = claim{h, meta.Generation}
				}
			}
		}
	})
	for p, c := range claims {
		c.by.has = append(c.by.has, p)
	}
	for _, h := range holders {
		slices.SortFunc(h.has, func(a, b topicPartition) int {
			return cmp.Or(cmp.Compare(a.topic, b.topic), cmp.Compare(a.partition, b.partition))
		})
	}
	return holders, alike
}

// rank brings members into the order in which they may have more than each partitions: one of each process before a
// second of any. Those that have more go first, so that what is shared evenly stays where it is.
func rank(holders []*holder, each int) {
	have := map[string]int{} // members of a process that have more
	for _, h := range holders {
		if len(h.has) > each {
			have[h.process]++
		}
	}
	slices.SortFunc(holders, func(a, b *holder) int {
		return cmp.Or(cmp.Compare(len(b.has), len(a.has)), cmp.Compare(a.member.MemberID, b.member.MemberID))
	})
	before := map[*holder]int{} // members of its process that come before it
	seen := map[string]int{}
	for _, h := range holders {
		before[h] = seen[h.process]
		seen[h.process]++
	}
	slices.SortFunc(holders, func(a, b *holder) int {
		return cmp.Or(
			cmp.Compare(before[a], before[b]), cmp.Compare(have[b.process], have[a.process]),
			cmp.Compare(a.process, b.process),
		)
	})
}

// processOf is the client id in a member's id, which brokers make of it and a UUID.
func processOf(memberID string) string {
	const uuid = len("-xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx")
	return memberID[:max(len(memberID)-uuid, 0)]
}

// newProcessID is what all members of this process have in common, and no other process has. Kafka's tools show it
// beside the partitions that a member has.
func newProcessID() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return fmt.Sprintf("docket-%s-%08x", host, rand.Uint32())
}
