package kafka

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/docket-project/docket/internal/domain"
)

// origin is where a member begins in a partition.
type origin struct {
	topicPartition
	topicID string
	// at is the offset to go on with, or -1 to leave it to the client: the committed one or, without any, the first.
	at int64
	// mark is what the store has, and committed where the group stands, or -1.
	mark, committed int64
	history         string
}

// judge compares what the store knows of a group's partitions with what the group has committed, and says where to
// begin. It reports what is lost, and a store that was restored.
func (m *member) judge(ctx context.Context, partitions map[string][]int32) ([]origin, error) {
	ctx, cancel := context.WithTimeout(ctx, markTimeout)
	defer cancel()
	l := m.log
	topics := slices.Sorted(maps.Keys(partitions))
	meta, err := l.admin.Metadata(ctx, topics...)
	if err != nil {
		return nil, classify("ask Kafka for its topics", err)
	}
	starts, ends, committed, err := l.offsets(ctx, m.sub.Group, topics)
	if err != nil {
		return nil, err
	}
	m.carry(committed)
	marks, history, err := l.opts.Marks.LogMarks(ctx, m.sub.Group)
	if err != nil {
		return nil, err
	}
	var out []origin
	for _, topic := range topics {
		id := meta.Topics[topic].ID.String()
		for _, p := range partitions[topic] {
			o := origin{topicPartition: topicPartition{topic, p}, topicID: id, at: -1, mark: -1, history: history}
			f := found{start: -1, committed: -1}
			for _, mark := range marks {
				switch {
				case mark.Topic != topic || mark.Partition != p:
				case mark.TopicID == id:
					o.mark = mark.Offset
				default:
					f.anew = true
				}
			}
			f.anew = f.anew && o.mark < 0
			f.mark = o.mark
			// What was committed tells the history of before, or what this member has known until now does.
			another := func(before string) bool { return before != "" && history != "" && before != history }
			f.replaced = another(l.marks.history(m.sub.Group, o.topicPartition))
			if start, ok := starts.Lookup(topic, p); ok {
				f.start = start.Offset
			}
			if end, ok := ends.Lookup(topic, p); ok {
				f.end = end.Offset
			}
			if at, ok := committed.Lookup(topic, p); ok && at.At >= 0 {
				f.committed = at.At
				if mark, of, in, ok := markOf(at.Metadata); ok && of == id {
					f.written = mark
					f.replaced = f.replaced || another(in)
				} else if ok { // what was committed is of the topic of before
					f.anew, f.committed = true, -1
				}
			}
			o.at, o.committed = m.begin(o.topicPartition, f), f.committed
			out = append(out, o)
		}
	}
	return out, nil
}

// carry keeps what stands beside the committed offsets, so that it is still there when the partitions are judged.
func (m *member) carry(committed kadm.OffsetResponses) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for p, f := range m.feeds {
		if f.judged {
			continue
		}
		at, _ := committed.Lookup(p.topic, p.partition)
		f.carried, f.known = at.Metadata, true
	}
}

// found is what is known of a partition when a member begins with it; -1 is unknown.
type found struct {
	start, end int64
	committed  int64
	written    int64 // the mark that the store had when that was committed
	mark       int64 // the one that it has
	anew       bool  // the store has marks of a topic of the same name only
	replaced   bool  // the store's history is another one than it was then
}

// begin says where to go on, or -1 for what was committed, and reports what is not as it should be.
func (m *member) begin(p topicPartition, f found) int64 {
	log := m.log.opts.Log.With("group", m.sub.Group, "topic", p.topic, "partition", p.partition)
	lost := func(from int64) {
		if from < f.start && m.log.first(fmt.Sprint(m.sub.Group, p, from, f.start)) {
			m.log.opts.Lost(lossOf(m.sub.Group, p.topic, p.partition, from, f.start-1))
			log.Error(
				"records are gone that were never consumed: they fell off the log. docket goes on behind them",
				"first", from, "last", f.start-1, "records", f.start-from,
			)
		}
	}
	switch {
	case f.start < 0:
		return -1 // the brokers do not say
	case f.anew && (f.committed < 0 || f.committed > f.end):
		if m.log.first(fmt.Sprint(m.sub.Group, p, "anew")) {
			m.log.opts.Lost(unknownLoss(m.sub.Group, p.topic, p.partition))
			log.Error(
				"the topic is not the one of before: somebody deleted it and it was made anew. What had not been consumed of " +
					"it is lost, and nobody can tell how much. docket begins with the first record of the new one",
			)
		}
		return f.start
	case f.committed >= 0 && max(f.mark, 0) < f.written:
		at := max(f.mark, f.start)
		if m.log.first(fmt.Sprint(m.sub.Group, p, f.mark, f.written)) {
			log.Error(
				"the store is older than what this group had saved to it: it was restored from a backup, or another server that "+
					"lacks the last commits has taken over. docket reads the log again from there; saving again stores nothing twice",
				"store_has", max(f.mark, 0), "store_had", f.written, "from", at,
			)
		}
		lost(max(f.mark, 0))
		return at
	case f.replaced:
		at := max(f.mark, f.start)
		if f.committed >= 0 {
			at = min(at, f.committed)
		}
		if at < f.committed && m.log.first(fmt.Sprint(m.sub.Group, p, "replaced", f.mark, f.committed)) {
			log.Warn(
				"another server has taken over the store, or it was restored: docket reads the log again from the last mark, in "+
					"case what was saved behind it is missing; saving again stores nothing twice",
				"committed", f.committed, "from", at,
			)
		}
		if f.mark >= 0 && f.mark < min(f.start, f.committed) && m.log.first(fmt.Sprint(m.sub.Group, p, f.mark, f.start)) {
			m.log.opts.Lost(lossOf(m.sub.Group, p.topic, p.partition, f.mark, min(f.start, f.committed)-1))
			log.Error(
				"records behind the store's last mark are gone from the log: they are lost where the server that has taken over "+
					"lacks them", "first", f.mark, "last", min(f.start, f.committed)-1,
			)
		}
		return at
	case f.committed >= 0:
		return -1
	case f.mark >= 0:
		log.Warn(
			"the group has no committed offset, as after a week without members: docket goes on where its store says",
			"from", max(f.mark, f.start),
		)
		lost(f.mark)
		return max(f.mark, f.start)
	default:
		lost(0) // a first start, unless something is gone already
		return -1
	}
}

// first says that something was not reported yet.
func (l *Log) first(key string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	known := l.lost[key]
	l.lost[key] = true
	return !known
}

// adjust says where a member begins with partitions that are new to it. Where the store does not answer, it begins
// where it had committed, and is judged later.
func (m *member) adjust(
	ctx context.Context, offsets map[string]map[int32]kgo.Offset,
) (map[string]map[int32]kgo.Offset, error) {
	if m.log.opts.Marks == nil {
		return offsets, nil
	}
	partitions := map[string][]int32{}
	for topic, of := range offsets {
		partitions[topic] = slices.Collect(maps.Keys(of))
	}
	origins, err := m.judge(ctx, partitions)
	if err != nil {
		m.log.opts.Log.Debug("where to begin is judged later", "group", m.sub.Group, "error", err)
		m.doubt()
		return offsets, nil
	}
	for _, o := range origins {
		if o.at >= 0 {
			offsets[o.topic][o.partition] = kgo.NewOffset().At(o.at)
		}
	}
	m.accept(origins, false)
	return offsets, nil
}

// doubt has a member judged again, as soon as the store answers.
func (m *member) doubt() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, f := range m.feeds {
		f.judged = false
	}
	m.doubts, m.judgeAt = true, time.Time{}
}

// accept takes in what was judged. Of partitions that are consumed already, those that have to go back do.
func (m *member) accept(origins []origin, running bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	back := map[string]map[int32]kgo.EpochOffset{}
	for _, o := range origins {
		f := m.feeds[o.topicPartition]
		if f == nil {
			continue
		}
		f.judged, f.topicID, f.carried, f.known = true, o.topicID, "", true
		mark := domain.Mark{
			Group: m.sub.Group, Topic: o.topic, TopicID: o.topicID, Partition: o.partition, Offset: max(o.mark, 0),
		}
		m.log.marks.known(m, mark, o.history)
		if o.at < 0 && o.committed > mark.Offset { // it was not written any more when that was committed
			mark.Offset = o.committed
			m.log.marks.note(mark)
		}
		if !running || o.at < 0 || o.at >= max(f.committed, f.done.Offset, o.committed) {
			continue
		}
		if back[o.topic] == nil {
			back[o.topic] = map[int32]kgo.EpochOffset{}
		}
		back[o.topic][o.partition] = kgo.EpochOffset{Epoch: -1, Offset: o.at}
		f.waiting, f.taken, f.until, f.done, f.committed = nil, 0, time.Time{}, kgo.EpochOffset{}, 0
	}
	if len(back) > 0 {
		m.client.SetOffsets(back)
	}
}

// judgeDoubts judges partitions that could not be judged, or whose store is not what it was. The loop calls it behind a
// poll, while no batch is in hand and nobody rebalances.
func (m *member) judgeDoubts(ctx context.Context) {
	m.mu.Lock()
	due := m.doubts && !time.Now().Before(m.judgeAt)
	partitions := map[string][]int32{}
	for p, f := range m.feeds {
		if !f.judged {
			partitions[p.topic] = append(partitions[p.topic], p.partition)
		}
	}
	m.mu.Unlock()
	if !due {
		return
	}
	origins, err := m.judge(ctx, partitions)
	if err == nil {
		m.accept(origins, true)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.doubts, m.judgeAt = false, time.Now().Add(markIdle) // a store that is away is not asked all the time
	for _, f := range m.feeds {
		m.doubts = m.doubts || !f.judged
	}
}

// withMarks has a commit carry the marks that the store has.
func (m *member) withMarks(ctx context.Context) context.Context {
	if m.log.opts.Marks == nil {
		return ctx
	}
	return kgo.PreCommitFnContext(ctx, func(req *kmsg.OffsetCommitRequest) error {
		for i := range req.Topics {
			t := &req.Topics[i]
			for j := range t.Partitions {
				if text := m.metadata(topicPartition{t.Topic, t.Partitions[j].Partition}); text != "" {
					t.Partitions[j].Metadata = &text
				}
			}
		}
		return nil
	})
}

// metadata is what a commit carries: the mark that the store has or, where that is not known, what stood there before.
func (m *member) metadata(p topicPartition) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if f := m.feeds[p]; f != nil && !f.judged && f.carried != "" {
		return f.carried
	}
	return m.log.marks.metadata(m.sub.Group, p)
}

// markCommitted notes how far the judged partitions are committed.
func (m *member) markCommitted() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, f := range m.feeds {
		if f.judged && f.committed > 0 {
			m.log.marks.note(domain.Mark{
				Group: m.sub.Group, Topic: f.topic, TopicID: f.topicID, Partition: f.partition, Offset: f.committed,
			})
		}
	}
}
