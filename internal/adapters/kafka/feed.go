package kafka

import (
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/ports"
)

// feed is one partition that this member consumes. Its records stay here from the fetch until they are done: a paused
// partition is not fetched, and is delivered again from memory.
type feed struct {
	topic     string
	partition int32
	waiting   []fetched
	taken     int // of waiting, in the handler's hands
	until     time.Time
	done      kgo.EpochOffset // the next record that is not done
	committed int64
	paused    bool // it is not fetched
	stopped   bool // until a person has looked
	starved   bool // it is not fetched, because there was no room for its next batch
	judged    bool // it began where the store agrees
	topicID   string
	carried   string // what stood beside its committed offset when it was not judged yet
	known     bool   // carried is known, or it was judged once: a commit wipes nothing out
}

type fetched struct {
	domain.Record
	epoch   int32 // of the partition's leader, for the commit
	control bool  // the end of somebody's transaction: it is no record, and has an offset
}

// pass moves a feed past what is no record, where nothing in front of that is left, and tells whether it did.
func (f *feed) pass() (passed bool) {
	n := 0
	for n < len(f.waiting) && f.waiting[n].control {
		f.done = kgo.EpochOffset{Epoch: f.waiting[n].epoch, Offset: f.waiting[n].Offset + 1}
		n++
	}
	f.waiting = slices.Delete(f.waiting, 0, n)
	return n > 0
}

// eligible counts the records that may be handed over now, and says when a paused partition may be looked at again. One
// that was paused behind its last record is fetched again then.
func (m *member) eligible(now time.Time) (records, bytes int, wake time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	resume := map[string][]int32{}
	for _, f := range m.feeds {
		if f.starved && m.log.memory.room(m.memory, inflateStep, 0) {
			f.starved = false
			if !f.paused && !f.stopped {
				resume[f.topic] = append(resume[f.topic], f.partition)
			}
		}
		if look := now.Add(starvedFor); f.starved && (wake.IsZero() || look.Before(wake)) {
			wake = look
		}
		switch {
		case len(f.waiting) == 0 && !f.paused:
		case now.Before(f.until):
			if wake.IsZero() || f.until.Before(wake) {
				wake = f.until
			}
		case len(f.waiting) == 0:
			f.paused = false
			if !f.starved {
				resume[f.topic] = append(resume[f.topic], f.partition)
			}
		default:
			for _, r := range f.waiting {
				if !r.control {
					records++
				}
				bytes += len(r.Value)
			}
		}
	}
	if len(resume) > 0 {
		m.client.ResumeFetchPartitions(resume)
	}
	return records, bytes, wake
}

// take picks a batch, beginning with another partition each time.
func (m *member) take(now time.Time) []domain.Record {
	m.mu.Lock()
	defer m.mu.Unlock()
	feeds := make([]*feed, 0, len(m.feeds))
	for _, f := range m.feeds {
		f.taken = 0
		if len(f.waiting) > 0 && !now.Before(f.until) {
			feeds = append(feeds, f)
		}
	}
	if len(feeds) == 0 { // a rebalance took them
		return nil
	}
	slices.SortFunc(feeds, func(a, b *feed) int {
		if a.topic != b.topic {
			return slices.Index(m.sub.Topics, a.topic) - slices.Index(m.sub.Topics, b.topic)
		}
		return int(a.partition - b.partition)
	})
	m.turn++
	var batch []domain.Record
	bytes := 0
	for i := range feeds {
		f := feeds[(i+m.turn)%len(feeds)]
		for _, r := range f.waiting {
			if len(batch) >= m.sub.MaxRecords || (len(batch) > 0 && bytes+len(r.Value) > m.sub.MaxBytes) {
				return batch
			}
			f.taken++
			if !r.control {
				batch = append(batch, r.Record)
				bytes += len(r.Value)
			}
		}
	}
	return batch
}

// settle moves every partition past what the handler has done, and pauses the rest.
func (m *member) settle(pauses []ports.Pause) {
	m.mu.Lock()
	defer m.mu.Unlock()
	pause, resume := map[string][]int32{}, map[string][]int32{}
	for _, f := range m.feeds {
		if f.taken == 0 {
			continue
		}
		n, paused := f.taken, false
		for _, h := range pauses {
			if h.Topic == f.topic && h.Partition == f.partition {
				n = slices.IndexFunc(f.waiting[:f.taken], func(r fetched) bool { return r.Offset >= h.Offset })
				paused, f.until = true, h.Until
			}
		}
		if n < 0 { // paused behind its last record
			n = f.taken
		}
		if n > 0 {
			last := f.waiting[n-1]
			f.done = kgo.EpochOffset{Epoch: last.epoch, Offset: last.Offset + 1}
			f.waiting = slices.Delete(f.waiting, 0, n)
			_ = f.pass()
		}
		f.taken = 0
		if f.stopped {
			continue
		}
		f.paused = paused
		if paused {
			pause[f.topic] = append(pause[f.topic], f.partition)
		} else if !f.starved {
			resume[f.topic] = append(resume[f.topic], f.partition)
		}
	}
	m.weigh()
	if len(pause) > 0 {
		m.client.PauseFetchPartitions(pause)
	}
	if len(resume) > 0 && len(m.client.PauseFetchPartitions(nil)) > 0 {
		m.client.ResumeFetchPartitions(resume)
	}
}

// starvedFor is how soon a partition that there was no room for is looked at again, where other members have the room.
const starvedFor = 50 * time.Millisecond

// starve leaves a partition unfetched until there is room for its next batch.
func (m *member) starve(topic string, partition int32) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if f := m.feeds[topicPartition{topic, partition}]; f != nil {
		f.starved = true
		m.client.PauseFetchPartitions(map[string][]int32{topic: {partition}})
	}
}

// keptBeside is about what a record's key and headers take in memory.
const keptBeside = 256

// weigh tells the budget what this member has in memory. What waits in a paused partition rests there: it must not keep
// the others from going on. The caller has the lock.
func (m *member) weigh() {
	var waiting, resting int64
	for _, f := range m.feeds {
		var bytes int64
		for i := range f.waiting {
			bytes += int64(len(f.waiting[i].Value) + keptBeside)
		}
		if f.paused || f.stopped {
			resting += bytes
		} else {
			waiting += bytes
		}
	}
	m.memory.waiting.Store(waiting)
	m.memory.resting.Store(resting)
}

// askFor changes how many bytes the client asks for at once, where it is another number by a quarter.
func (m *member) askFor(bytes int32) {
	if m.asks == 0 {
		m.asks = fetchBytes
	}
	if d := m.asks - bytes; 4*max(d, -d) > m.asks {
		m.asks = bytes
		m.client.UpdateFetchMaxBytes(bytes, min(bytes, fetchPartitionBytes))
	}
}
