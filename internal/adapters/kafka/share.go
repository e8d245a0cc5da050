package kafka

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// shareByProcess is Kafka's cooperative sticky assignor with one rule more: where a group has more members than partitions, no
// process gets a second member's worth before every process has one. Kafka knows members only, and each batch that a role has
// in hand at once is one: of eight savers with four members each, one held a third of twelve partitions and others nothing.
//
// It speaks the same protocol as the assignor within, so that members with and without the rule can be in one group: whoever
// leads it decides.
type shareByProcess struct{ kgo.GroupBalancer }

func newShareByProcess() kgo.GroupBalancer { return shareByProcess{kgo.CooperativeStickyBalancer()} }

// MemberBalancer implements kgo.GroupBalancer.
func (s shareByProcess) MemberBalancer(members []kmsg.JoinGroupResponseMember) (kgo.GroupMemberBalancer, map[string]struct{}, error) {
	b, err := kgo.NewConsumerBalancer(s, members)
	return b, b.MemberTopics(), err
}

// Balance implements kgo.ConsumerBalancerBalance: the assignor within shares among the members that are to work, and what others
// still hold moves one round later, once they have let it go.
func (s shareByProcess) Balance(b *kgo.ConsumerBalancer, partitions map[string]int32) kgo.IntoSyncAssignment {
	within := s.GroupBalancer.(kgo.ConsumerBalancerBalance)
	working := workers(b, partitions)
	if len(working) == len(b.Members()) {
		return within.Balance(b, partitions)
	}
	among, err := kgo.NewConsumerBalancer(within, working)
	if err != nil {
		b.SetError(err)
		return nil
	}
	shared, err := among.BalanceOrError(partitions)
	if err != nil {
		b.SetError(err)
		return nil
	}
	plan, of := b.NewPlan(), shared.(*kgo.BalancePlan).AsMemberIDMap()
	for i := range working {
		for topic, numbers := range of[working[i].MemberID] {
			plan.AddPartitions(&working[i], topic, numbers)
		}
	}
	plan.AdjustCooperative(b)
	return plan
}

// workers picks as many members as there are partitions, one of each process before a second of any. Those that hold partitions
// come first, so that little moves.
func workers(b *kgo.ConsumerBalancer, partitions map[string]int32) []kmsg.JoinGroupResponseMember {
	type member struct {
		kmsg.JoinGroupResponseMember
		process                string
		holds, processHolds, n int // n counts the members of its process that go before it
	}
	var members []member
	holds := map[string]int{}
	alike := true
	_, first := b.MemberAt(0)
	b.EachMember(func(m *kmsg.JoinGroupResponseMember, meta *kmsg.ConsumerMemberMetadata) {
		c := member{JoinGroupResponseMember: *m, process: processOf(m.MemberID)}
		for _, t := range meta.OwnedPartitions {
			c.holds += len(t.Partitions)
		}
		holds[c.process] += c.holds
		alike = alike && slices.Equal(meta.Topics, first.Topics)
		members = append(members, c)
	})
	all := 0
	for _, n := range partitions {
		all += int(n)
	}
	if !alike || all == 0 || len(members) <= all { // members of other topics cannot stand in for each other
		return b.Members()
	}
	slices.SortFunc(members, func(a, b member) int {
		return cmp.Or(cmp.Compare(b.holds, a.holds), cmp.Compare(a.MemberID, b.MemberID))
	})
	seen := map[string]int{}
	for i := range members {
		m := &members[i]
		m.n, m.processHolds = seen[m.process], holds[m.process]
		seen[m.process]++
	}
	slices.SortFunc(members, func(a, b member) int {
		return cmp.Or(cmp.Compare(a.n, b.n), cmp.Compare(b.processHolds, a.processHolds), cmp.Compare(a.process, b.process))
	})
	working := make([]kmsg.JoinGroupResponseMember, all)
	for i := range working {
		working[i] = members[i].JoinGroupResponseMember
	}
	return working
}

// processOf is the client id in a member's id, which brokers make of it and a UUID.
func processOf(memberID string) string {
	const uuid = len("-xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx")
	return memberID[:max(len(memberID)-uuid, 0)]
}

// newProcessID is what all members of this process have in common, and no other process has. Kafka's tools show it beside the
// partitions that a member holds.
func newProcessID() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return fmt.Sprintf("docket-%s-%08x", host, rand.Uint32())
}
