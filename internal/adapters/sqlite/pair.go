package sqlite

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/docket-project/docket/internal/domain"
)

// markEvery is how often the store is told how far the log was consumed.
const markEvery = time.Second

// identify reads which log this is; a new one gets a name.
func (l *Log) identify(ctx context.Context) error {
	err := l.write.QueryRowContext(ctx, `SELECT id FROM identity`).Scan(&l.identity)
	if errors.Is(err, sql.ErrNoRows) {
		l.identity = rand.Text()
		_, err = l.write.ExecContext(ctx, `INSERT INTO identity (id) VALUES (?)`, l.identity)
	}
	return classify("read which log this is", err)
}

// pair compares the log with the store that it fills. A store that is older is saved to again, as far as the log still
// has it; what neither has is reported. Without an answer from the store nothing is compared.
func (l *Log) pair(ctx context.Context) {
	if l.opts.Marks == nil {
		return
	}
	groups := map[string]bool{}
	for g := range l.commits {
		groups[g.group] = true
	}
	for _, group := range l.opts.Renamed { // a log that is new has no commits
		groups[group] = true
	}
	for _, group := range slices.Sorted(maps.Keys(groups)) {
		marks, _, err := l.opts.Marks.LogMarks(ctx, group)
		if err != nil {
			l.opts.Log.Warn("the log was not compared with the store, which does not answer", "error", err)
			l.kept = maps.Clone(l.stored) // so that an older one is noticed by the first mark that is written
			return
		}
		for _, t := range l.opts.Topics {
			if said := l.pairTopic(groupTopic{group, t.Name}, marks); !said {
				continue
			}
			mark := domain.Mark{Group: group, Topic: t.Name, TopicID: l.identity, Offset: l.kept[groupTopic{group, t.Name}]}
			if err := l.opts.Marks.SetLogMarks(ctx, []domain.Mark{mark}); err != nil {
				l.opts.Log.Warn("how far the log was consumed could not be written to the store; docket tries again", "error", err)
			}
		}
	}
}

// pairTopic compares how far a group had come in a topic with what the store knows of it. said is that both differ.
func (l *Log) pairTopic(g groupTopic, marks []domain.Mark) (said bool) {
	t := l.topics[g.topic]
	committed, consumes := l.commits[g]
	mark, known, another := int64(0), false, false
	for _, m := range marks {
		switch {
		case m.Topic != g.topic:
		case m.TopicID == l.identity:
			mark, known = m.Offset, true
		default:
			another = true
		}
	}
	log := l.opts.Log.With(
		"group", g.group, "topic", g.topic, "store_has", mark, "consumed", committed, "log_begins", t.first,
		"log_ends", t.next,
	)
	switch said = true; {
	case mark > t.next:
		l.opts.Lost(lossOf(g.group, t.Name, t.next, mark-1))
		log.Error(
			"the log is older than the store: it was put back from a copy. Records that were acknowledged since and not " +
				"stored are lost; look for the newer log.db",
		)
		mark = t.next
	case consumes && mark < l.stored[g]:
		log.Error(
			"the store is older than the log, or another one: it was put back from a copy, or is new. docket saves again what " +
				"the log still has; the rest is in neither. If a newer store.db exists, stop docket and put it back",
		)
		l.commits[g] = max(mark, t.first)
		if gone := min(t.first, committed); gone > mark {
			l.opts.Lost(lossOf(g.group, t.Name, mark, gone-1))
		}
	case another && !known:
		l.opts.Lost(lossOf(g.group, t.Name, 0, -1))
		log.Error(
			"the store was filled from another log: log.db is not the one of before. What that one had acknowledged and not " +
				"stored is lost; look for it",
		)
	default:
		said = false
	}
	l.kept[g] = mark
	return said
}

// lossOf is a loss that is found now.
func lossOf(group, topic string, first, last int64) domain.Loss {
	return domain.Loss{At: time.Now(), Group: group, Topic: topic, First: first, Last: last}
}

// KeepMarks tells the store how far the log was consumed, until ctx is done.
func (l *Log) KeepMarks(ctx context.Context) {
	if l.opts.Marks == nil {
		return
	}
	tick := time.NewTicker(markEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := l.writeMarks(ctx); err != nil && ctx.Err() == nil && domain.ClassOf(err) != domain.Unavailable {
			l.opts.Log.Warn("how far the log was consumed could not be written to the store; docket tries again", "error", err)
		}
	}
}

// writeMarks writes those that have changed. They come behind the rows that they speak of.
func (l *Log) writeMarks(ctx context.Context) error {
	l.mu.Lock()
	var steps []domain.MarkStep
	for g, offset := range l.commits {
		if kept := l.kept[g]; offset > kept {
			steps = append(steps, domain.MarkStep{Before: kept, Mark: domain.Mark{
				Group: g.group, Topic: g.topic, TopicID: l.identity, Offset: offset,
			}})
		}
	}
	l.mu.Unlock()
	if len(steps) == 0 {
		return nil
	}
	advanced, err := l.opts.Marks.AdvanceLogMarks(ctx, steps)
	if err != nil {
		return err
	}
	if !advanced {
		return domain.Errorf(
			domain.Misconfigured, "the store is older than it was: it was exchanged while docket ran. Start docket again",
		)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range steps {
		l.kept[groupTopic{s.Group, s.Topic}] = s.Offset
	}
	return nil
}
