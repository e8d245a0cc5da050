package kafka

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/ports"
)

const (
	// markEvery is how often marks are written: a store that was restored has at least everything up to that. Where
	// nothing moves on, the store is asked every markIdle whether it still has them.
	markEvery = time.Second
	markIdle  = 5 * time.Second
	// markTimeout bounds a question to the store; a member that cannot be judged begins all the same.
	markTimeout = 2 * time.Second
	// lastMarksWithin bounds the last writing before partitions are given up.
	lastMarksWithin = time.Second
)

// markKey is whose mark it is.
type markKey struct {
	group string
	topicPartition
}

// keptMark is what a store of that history is known to have; offset 0 is no mark.
type keptMark struct {
	domain.Mark
	history string
	by      *member // who consumes the partition
}

// marker writes how far this process's members have come to the store, once a second and in one transaction. It comes
// behind what it speaks of, so that a store that has a mark has everything in front of it as well.
type marker struct {
	store ports.LogMarks // nil keeps none

	mu      sync.Mutex
	pending map[markKey]domain.Mark
	kept    map[markKey]keptMark
	members map[*member]bool // to be told that the store is not what it was
}

func newMarker(store ports.LogMarks) *marker {
	return &marker{
		store: store, pending: map[markKey]domain.Mark{}, kept: map[markKey]keptMark{}, members: map[*member]bool{},
	}
}

// note takes in how far a group has committed.
func (k *marker) note(m domain.Mark) {
	if k.store == nil || m.TopicID == "" {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	key := markKey{m.Group, topicPartition{m.Topic, m.Partition}}
	if kept, ok := k.kept[key]; ok && kept.Mark == m {
		return
	}
	k.pending[key] = m
}

// known sets what the store was found to have, for a member that begins there.
func (k *marker) known(by *member, m domain.Mark, history string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	key := markKey{m.Group, topicPartition{m.Topic, m.Partition}}
	delete(k.pending, key)
	k.kept[key] = keptMark{m, history, by}
}

// forget drops it with the partition, unless another member of this process has that by now.
func (k *marker) forget(by *member, p topicPartition) {
	k.mu.Lock()
	defer k.mu.Unlock()
	key := markKey{by.sub.Group, p}
	if kept, ok := k.kept[key]; ok && kept.by == by {
		delete(k.kept, key)
		delete(k.pending, key)
	}
}

// history is the store's when its mark was found.
func (k *marker) history(group string, p topicPartition) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.kept[markKey{group, p}].history
}

// join and leave say whom to tell.
func (k *marker) join(m *member) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.members[m] = true
}

func (k *marker) leave(m *member) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.members, m)
}

// metadata is what stands beside a committed offset: the mark that the store had by then, and its history.
func (k *marker) metadata(group string, p topicPartition) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	m, ok := k.kept[markKey{group, p}]
	switch {
	case !ok:
		return ""
	case m.history == "":
		return fmt.Sprintf("docket-mark %d of %s", m.Offset, m.TopicID)
	default:
		return fmt.Sprintf("docket-mark %d of %s in %s", m.Offset, m.TopicID, m.history)
	}
}

// markOf reads what metadata wrote.
func markOf(metadata string) (offset int64, topicID, history string, ok bool) {
	n, _ := fmt.Sscanf(metadata, "docket-mark %d of %s in %s", &offset, &topicID, &history) // the history may be empty
	return offset, topicID, history, n >= 2
}

// KeepMarks writes marks to the store until ctx is done. While the store is away they wait.
func (l *Log) KeepMarks(ctx context.Context) {
	if l.marks.store == nil {
		return
	}
	tick := time.NewTicker(markEvery)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		err := l.marks.flush(ctx, n%int(markIdle/markEvery) == 0)
		if err != nil && ctx.Err() == nil && domain.ClassOf(err) != domain.Unavailable {
			l.opts.Log.Warn("how far the log was consumed could not be written to the store; docket tries again", "error", err)
		}
	}
}

// lastMarks writes what is pending before a partition goes to somebody else, or nobody. Nobody waits long for it.
func (l *Log) lastMarks(ctx context.Context) {
	if l.marks.store == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, lastMarksWithin)
	defer cancel()
	if err := l.marks.flush(ctx, false); err != nil {
		l.opts.Log.Debug("the last marks were not written; the next member writes them", "error", err)
	}
}

// flush writes what is pending and, of all, asks whether the store still has the others. A store that is behind what it
// had is not written to: the members are judged anew.
func (k *marker) flush(ctx context.Context, all bool) error {
	k.mu.Lock()
	steps := make([]domain.MarkStep, 0, len(k.pending))
	for key, m := range k.kept {
		if _, moves := k.pending[key]; all && !moves && m.Offset > 0 {
			steps = append(steps, domain.MarkStep{Mark: m.Mark, Before: m.Offset, History: m.history})
		}
	}
	for key, m := range k.pending {
		step := domain.MarkStep{Mark: m}
		if kept := k.kept[key]; kept.TopicID == m.TopicID {
			step.Before, step.History = kept.Offset, kept.history
		}
		steps = append(steps, step)
	}
	k.mu.Unlock()
	if len(steps) == 0 {
		return nil
	}
	slices.SortFunc(steps, func(a, b domain.MarkStep) int {
		return strings.Compare(fmt.Sprint(a.Group, a.Topic, a.Partition), fmt.Sprint(b.Group, b.Topic, b.Partition))
	})
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	advanced, err := k.store.AdvanceLogMarks(ctx, steps)
	if err != nil {
		return err
	}
	if !advanced {
		k.mu.Lock()
		clear(k.pending)
		members := slices.Collect(maps.Keys(k.members))
		k.mu.Unlock()
		for _, m := range members { // each has its own lock, and takes this one within
			m.doubt()
		}
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, step := range steps {
		key := markKey{step.Group, topicPartition{step.Topic, step.Partition}}
		pending, ours := k.pending[key]
		if !ours { // an idle one, or it was given away meanwhile
			continue
		}
		k.kept[key] = keptMark{step.Mark, step.History, k.kept[key].by}
		if pending == step.Mark {
			delete(k.pending, key)
		}
	}
	return nil
}
