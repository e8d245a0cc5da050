package kafka

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/ports"
)

// group plays a consumer group: its members join with what they hold, and the balancer decides.
type group struct {
	balancer   kgo.GroupBalancer
	partitions map[string]int32
	topics     map[string][]string // by member; else all
	holds      map[string]map[string][]int32
	generation int32
}

func newGroup(partitions map[string]int32) *group {
	return &group{
		balancer:   newShareByProcess(),
		partitions: partitions,
		topics:     map[string][]string{},
		holds:      map[string]map[string][]int32{},
	}
}

func memberID(process, n int) string {
	return fmt.Sprintf("docket-host-%08x-%08x-0000-4000-8000-000000000000", process*7919, n*104729)
}

func (g *group) come(process, members int) {
	for n := range members {
		g.holds[memberID(process, n)] = nil
	}
}

func (g *group) leave(process, members int) {
	for n := range members {
		delete(g.holds, memberID(process, n))
	}
}

// settle balances until nobody has to let anything go, and returns how many partitions changed hands.
func (g *group) settle(t *testing.T) (moved int) {
	t.Helper()
	for round := 0; ; round++ {
		require.Less(t, round, 4, "the group does not settle")
		g.generation++
		var members []kmsg.JoinGroupResponseMember
		for _, id := range slices.Sorted(maps.Keys(g.holds)) {
			m := kmsg.NewJoinGroupResponseMember()
			topics := g.topics[id]
			if topics == nil {
				topics = slices.Sorted(maps.Keys(g.partitions))
			}
			m.MemberID, m.ProtocolMetadata = id, g.balancer.JoinGroupMetadata(topics, g.holds[id], g.generation-1)
			members = append(members, m)
		}
		b, topics, err := g.balancer.MemberBalancer(members)
		require.NoError(t, err)
		require.Len(t, topics, len(g.partitions))
		plan, err := b.(kgo.GroupMemberBalancerOrError).BalanceOrError(g.partitions)
		require.NoError(t, err)
		answered, again := map[string]bool{}, false
		before := maps.Clone(g.holds)
		for _, a := range plan.IntoSyncAssignment() {
			gets, err := g.balancer.ParseSyncAssignment(a.MemberAssignment)
			require.NoError(t, err)
			answered[a.MemberID] = true
			for topic, numbers := range gets {
				for _, p := range numbers {
					if !slices.Contains(before[a.MemberID][topic], p) {
						moved++
					}
					for other, has := range before {
						require.False(
							t, other != a.MemberID && slices.Contains(has[topic], p), "%s gets a partition that %s holds", a.MemberID,
							other,
						)
					}
				}
			}
			for topic, numbers := range before[a.MemberID] {
				for _, p := range numbers {
					again = again || !slices.Contains(gets[topic], p)
				}
			}
			g.holds[a.MemberID] = gets
		}
		require.Len(t, answered, len(members), "every member is told what it has")
		if !again {
			break
		}
	}
	held := map[string]int{}
	for _, has := range g.holds {
		for topic, numbers := range has {
			held[topic] += len(numbers)
		}
	}
	for topic, n := range g.partitions {
		require.Equal(t, int(n), held[topic], "%s: every partition has one member", topic)
	}
	return moved
}

func (g *group) shares() (shares []int) {
	by := map[string]int{}
	for id := range g.holds {
		by[processOf(id)] += g.held(id)
	}
	return slices.Sorted(maps.Values(by))
}

func (g *group) counts() map[string]int {
	counts := map[string]int{}
	for id := range g.holds {
		counts[id] = g.held(id)
	}
	return counts
}

func (g *group) share(process, members int) (n int) {
	for i := range members {
		n += g.held(memberID(process, i))
	}
	return n
}

func (g *group) held(id string) (n int) {
	for _, numbers := range g.holds[id] {
		n += len(numbers)
	}
	return n
}

func TestShares(t *testing.T) {
	one := map[string]int32{"d": 12}
	for name, c := range map[string]struct {
		processes, members int
		partitions         map[string]int32
		least, most        int
	}{
		"one process":                           {1, 4, one, 12, 12},
		"as many members as partitions":         {3, 4, one, 4, 4},
		"more members, all the same":            {4, 4, one, 3, 3},
		"more members, not to be divided":       {8, 4, one, 1, 2},
		"a process for every partition":         {12, 4, one, 1, 1},
		"more processes than partitions":        {15, 4, one, 0, 1},
		"one member each":                       {8, 1, one, 1, 2},
		"two processes":                         {2, 4, one, 6, 6},
		"five processes of two":                 {5, 2, one, 2, 3},
		"two topics":                            {4, 8, map[string]int32{"a": 6, "b": 6}, 3, 3},
		"a topic that has no partitions so far": {4, 8, map[string]int32{"d": 0}, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			together := newGroup(c.partitions)
			for p := range c.processes {
				together.come(p, c.members)
			}
			together.settle(t)
			s := together.shares()
			require.Equal(t, []int{c.least, c.most}, []int{s[0], s[len(s)-1]}, "all at once: %v", s)

			g := newGroup(c.partitions)
			for p := range c.processes {
				g.come(p, c.members)
				g.settle(t)
			}
			s = g.shares()
			require.Equal(t, []int{c.least, c.most}, []int{s[0], s[len(s)-1]}, "one after the other: %v", s)
			require.Zero(t, g.settle(t), "what is settled stays")
			for p := range c.processes - 1 {
				held := g.share(p, c.members)
				g.leave(p, c.members)
				require.Equal(t, held, g.settle(t), "only what a process held moves when it leaves")
				s = g.shares()
				require.LessOrEqual(t, s[len(s)-1]-s[0], 1, "%v", s)
			}
		})
	}
}

// TestSharesSettle lets processes of all sizes come and go: each time the group settles, with every partition in one
// hand.
func TestSharesSettle(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		g := newGroup(map[string]int32{"a": 1 + random.Int32N(24), "b": random.Int32N(8)})
		sizes := map[int]int{}
		for range 20 {
			switch p := random.IntN(8); {
			case sizes[p] == 0:
				sizes[p] = 1 + random.IntN(6)
				g.come(p, sizes[p])
			case len(g.holds) > sizes[p]:
				g.leave(p, sizes[p])
				delete(sizes, p)
			}
			g.settle(t)
			require.Zero(t, g.settle(t), "what is settled stays")
			held := slices.Sorted(maps.Values(g.counts()))
			require.LessOrEqual(t, held[len(held)-1]-held[0], 1, "members: %v", held)
		}
	}
}

// TestStaleClaims has a member that missed the rebalance in which another was given what it claims.
func TestStaleClaims(t *testing.T) {
	g := newGroup(map[string]int32{"d": 2})
	stale, now := memberID(0, 0), memberID(1, 0)
	b, _, err := g.balancer.MemberBalancer([]kmsg.JoinGroupResponseMember{
		{MemberID: stale, ProtocolMetadata: g.balancer.JoinGroupMetadata([]string{"d"}, map[string][]int32{"d": {0, 1}}, 3)},
		{MemberID: now, ProtocolMetadata: g.balancer.JoinGroupMetadata([]string{"d"}, map[string][]int32{"d": {0}}, 4)},
	})
	require.NoError(t, err)
	plan, err := b.(kgo.GroupMemberBalancerOrError).BalanceOrError(g.partitions)
	require.NoError(t, err)
	require.Equal(
		t, map[string]map[string][]int32{stale: {"d": {1}}, now: {"d": {0}}}, plan.(*kgo.BalancePlan).AsMemberIDMap(),
	)
}

// TestSharesOfOthers has members that want other topics than the rest, as during an update: nobody is left out.
func TestSharesOfOthers(t *testing.T) {
	g := newGroup(map[string]int32{"a": 2, "b": 2})
	for p := range 4 {
		g.come(p, 4)
	}
	g.topics[memberID(3, 3)] = []string{"b"}
	for id := range g.holds {
		if g.topics[id] == nil {
			g.topics[id] = []string{"a"}
		}
	}
	g.settle(t)
	require.Len(t, g.holds[memberID(3, 3)]["b"], 2)
}

func TestProcessesShareEvenly(t *testing.T) { shareEvenly(t, newFake(t).ListenAddrs()) }

// shareEvenly has four processes of four members each on twelve partitions, and then one less.
func shareEvenly(t *testing.T, brokers []string) {
	topics := newTopics(t, brokers, 12)
	group := topics.Decisions // of its own: members that could not leave stay in a group for 10 s
	var logs []*Log
	var stops []func()
	for range 4 {
		l, err := Open(options(brokers, topics, &lostRecords{}))
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 4)
		for range cap(done) {
			go func() {
				done <- l.Consume(ctx, ports.Subscription{Group: group, Topics: []string{topics.Decisions}, MaxRecords: 20,
					MaxBytes: 1 << 20, MaxWait: 10 * time.Millisecond},
					func(context.Context, []domain.Record) ([]ports.Pause, error) { return nil, nil })
			}()
		}
		logs = append(logs, l)
		stops = append(stops, func() {
			cancel()
			for range cap(done) {
				require.NoError(t, <-done)
			}
			require.NoError(t, l.Close())
		})
	}
	shares := func() map[string]int {
		by := map[string]int{}
		groups, err := logs[3].admin.DescribeGroups(t.Context(), group)
		if err != nil {
			return nil // the group's coordinator is still being made
		}
		for _, m := range groups[group].Members {
			a, _ := m.Assigned.AsConsumer()
			for _, topic := range a.Topics {
				by[m.ClientID] += len(topic.Partitions)
			}
		}
		return by
	}
	require.Eventually(t, func() bool {
		return maps.Equal(
			shares(),
			map[string]int{logs[0].process: 3, logs[1].process: 3, logs[2].process: 3, logs[3].process: 3},
		)
	}, patience, 20*time.Millisecond)
	stops[0]()
	require.Eventually(t, func() bool {
		return maps.Equal(shares(), map[string]int{logs[1].process: 4, logs[2].process: 4, logs[3].process: 4})
	}, patience, 20*time.Millisecond)
	for _, stop := range stops[1:] {
		stop()
	}
}
