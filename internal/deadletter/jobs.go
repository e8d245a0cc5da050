package deadletter

import (
	"context"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/ingest"
	"github.com/docket-project/docket/internal/job"
	"github.com/docket-project/docket/internal/ports"
	"github.com/docket-project/docket/internal/sink"
)

// jobStep and jobBytes bound what is replayed, or indexed, at once.
const (
	jobStep  = 1000
	jobBytes = 16 << 20
)

// Codes of the messages of jobs about dead letters.
const (
	// DiscardDone: dead letters are discarded. Args: done.
	DiscardDone = "discarded"
	// ReindexDone: records of the dead-letter topics are in the index. Args: done.
	ReindexDone = "reindexed"
	// ReplayDone: everything was sent. Args: done, stored, failed, reparsed, on_the_way, skipped.
	ReplayDone = "replayed"
	// ReplayCanary: the first dead letters were sent, and the job waits until they are stored or fail. Args: sent.
	ReplayCanary = "canary_sent"
	// ReplayCrowded: many are on their way, and awaited before more are sent. Args: on_the_way.
	ReplayCrowded = "waiting_for_replayed"
	// ReplaySent: everything was sent, and the last ones are awaited. Args: on_the_way.
	ReplaySent = "all_sent"
	// ReplayStopped: too many failed again. Args: done, failed, stop_ratio.
	ReplayStopped = "too_many_failed"
	// DryRunProgress: how far a dry run is. Args: seen, of, tried.
	DryRunProgress = "dry_run_progress"
	// WouldDiscard: a dry run of a discard. Args: of.
	WouldDiscard = "would_discard"
	// BytesGone: none of the dead letters is in the log any more.
	BytesGone = "bytes_gone"
	// Safe: all that were tried would be stored. Args: tried.
	Safe = "safe"
	// AllFail: all that were tried would fail again. Args: tried.
	AllFail = "all_fail"
	// SomeFail: some that were tried would fail again. Args: tried, failed.
	SomeFail = "some_fail"
	// ExpiredOpen: open dead letters have passed their topic's retention. Args: topic, dead_letters.
	ExpiredOpen = "expired_while_open"
)

// Jobs is what jobs about dead letters work with.
type Jobs struct {
	Letters ports.JobLetters
	Log     ports.Log
	Index   *Index
	Topics  domain.Topics
	// DryRun is the Save of sink.NewDryRun.
	DryRun func(context.Context, []domain.Record) []sink.Verdict
	// Assembler parses quarantined bytes anew, within ingest's limits as they are now.
	Assembler ingest.Assembler
}

// Register registers the kinds of jobs about dead letters.
func (j *Jobs) Register(r *job.Runner) {
	r.Register(domain.Replay, func(t *job.Turn) error {
		w := &work{Jobs: j, Turn: t}
		if t.Job.DryRun {
			return w.dryRun()
		}
		return w.replay()
	})
	r.Register(domain.Discard, func(t *job.Turn) error {
		w := &work{Jobs: j, Turn: t}
		if t.Job.DryRun {
			return w.dryRun()
		}
		return w.discard()
	})
	r.Register(domain.Reindex, func(t *job.Turn) error { return (&work{Jobs: j, Turn: t}).reindex() })
}

// work is one process's turn at a job about dead letters.
type work struct {
	*Jobs
	*job.Turn
	// sent are steps that are done and not written down yet.
	sent []sentStep
	// closing is where to look on for replayed dead letters that are stored.
	closing domain.Position
}

// move writes down what was done with dead letters and hears whether to go on.
func (w *work) move(step domain.LetterStep) (goOn bool, err error) {
	w.Stamp(&step.JobStep)
	j, err := w.Letters.MoveLetters(w.Context, step)
	if err != nil {
		return false, err
	}
	return w.Took(j), nil
}

// letters are what the job is to deal with next: at most n, and not more bytes than may be in memory.
func (w *work) letters(ctx context.Context, j domain.Job, n int64) ([]domain.DeadLetter, error) {
	if n = min(n, j.Left()); n <= 0 {
		return nil, nil
	}
	letters, err := w.Letters.LettersOfJob(ctx, j, int(n))
	bytes := 0
	for i, l := range letters {
		if bytes += l.Bytes; bytes > jobBytes && i > 0 {
			return letters[:i], err
		}
	}
	return letters, err
}

// discard closes dead letters for good.
func (w *work) discard() error {
	for {
		letters, err := w.letters(w.Context, w.Job, jobStep)
		if err != nil {
			return err
		}
		if len(letters) == 0 {
			w.End(domain.JobDone, domain.Say(DiscardDone, domain.Args{"done": w.Job.Done}))
			return nil
		}
		step := domain.LetterStep{To: domain.DeadDiscarded, Moved: letters}
		step.After = letters[len(letters)-1].Position
		if goOn, err := w.move(step); err != nil || !goOn {
			return err
		}
	}
}

// reindex reads the dead-letter topics into the index again.
func (w *work) reindex() error {
	partitions, err := w.Log.Backlog(w.Context, w.Topics.Group(IndexGroup), w.Topics.DLQ, w.Topics.ParkingDLQ)
	if err != nil {
		return err
	}
	total := int64(0)
	for _, b := range partitions {
		total += b.End - b.Start
	}
	if goOn, err := w.Advance(domain.JobStep{Matched: total}); err != nil || !goOn {
		return err
	}
	for _, b := range partitions {
		first := domain.Position{Topic: b.Topic, Partition: b.Partition, Offset: b.Start}
		if after := w.Job.After; after.Topic == b.Topic && after.Partition == b.Partition {
			first.Offset = max(b.Start, after.Offset+1)
		} else if after.Topic != "" && isDone(partitions, after, first) {
			continue
		}
		if goOn, err := w.reindexPartition(first, b.End); err != nil || !goOn {
			return err
		}
	}
	if err := w.Index.forget(w.Context); err != nil {
		return err
	}
	w.End(domain.JobDone, domain.Say(ReindexDone, domain.Args{"done": w.Job.Done}))
	return nil
}

// isDone reports that p's partition stands in front of the one that was worked on last.
func isDone(partitions []ports.Backlog, last, p domain.Position) bool {
	for _, b := range partitions {
		if b.Topic == last.Topic && b.Partition == last.Partition {
			return false
		}
		if b.Topic == p.Topic && b.Partition == p.Partition {
			return true
		}
	}
	return false
}

func (w *work) reindexPartition(at domain.Position, end int64) (goOn bool, err error) {
	for goOn = true; at.Offset < end && goOn; {
		var records []domain.Record
		bytes := 0
		next, err := w.read(w.Context, at, func(r domain.Record) bool {
			records = append(records, r)
			bytes += len(r.Value)
			return len(records) < jobStep && bytes < jobBytes
		})
		if err != nil {
			return false, err
		}
		if next <= at.Offset {
			return true, nil
		}
		if len(records) == 0 { // a gap
			at.Offset = next
			continue
		}
		if err := w.Index.take(w.Context, records); err != nil {
			return false, err
		}
		at.Offset = next
		step := domain.JobStep{Done: int64(len(records)), After: records[len(records)-1].Position()}
		if goOn, err = w.Advance(step); err != nil {
			return false, err
		}
	}
	return goOn, nil
}
