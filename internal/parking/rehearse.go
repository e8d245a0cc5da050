package parking

import (
	"fmt"
	"time"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/saver"
)

const (
	// A dry run tries at most so many dead letters, in blocks spread evenly over what it chose, and for at most so long: it leaves
	// dead rows behind in the store's tables.
	rehearsalSample = 10_000
	rehearsalBlock  = 100
	rehearsalTime   = time.Minute
	// hopeless is how many failures of one kind are found one by one; others like them cost a transaction each and say no more.
	hopeless = 500
)

// rehearse tells what a job would do.
func (w *work) rehearse() error {
	report := &domain.Rehearsal{Fates: map[string]int{}, Failures: []domain.RehearsalFault{}}
	var err error
	if report.Histogram, err = w.Store.Tallies(w.ctx, w.job); err != nil {
		return err
	}
	report.Of = min(w.job.Matched, w.job.Left())
	if w.job.Kind == domain.Replay {
		if goOn, err := w.tryOut(report); err != nil || !goOn {
			return err
		}
	}
	verdict, message := verdictOf(w.job.Kind, report)
	report.Verdict = verdict
	w.finish(domain.JobStep{State: domain.JobDone, Message: message, Report: report})
	return nil
}

// tryOut rehearses a sample.
func (w *work) tryOut(report *domain.Rehearsal) (goOn bool, err error) {
	stride := (report.Of + rehearsalSample - 1) / rehearsalSample // of the blocks, every how manieth is tried
	start := w.now()
	at := w.job.After
	defer func() { w.job.After = at }()
	seen, failed := int64(0), 0
	for block := int64(0); seen < report.Of; block++ {
		letters, err := w.letters(w.ctx, w.job, min(rehearsalBlock, report.Of-seen))
		if err != nil {
			return false, err
		}
		if len(letters) == 0 {
			break
		}
		seen += int64(len(letters))
		w.job.After = letters[len(letters)-1].Place
		if block%max(stride, 1) != 0 {
			continue
		}
		n, err := w.tryBlock(letters, report)
		if err != nil {
			return false, err
		}
		failed += n
		if w.now().Sub(start) > rehearsalTime || failed >= hopeless {
			break
		}
		keep := w.job.After
		if goOn, err := w.advance(domain.JobStep{Message: fmt.Sprintf("%d of %d looked at, %d tried", seen, report.Of, report.Tried)}); err != nil || !goOn {
			return false, err
		}
		w.job.After = keep
	}
	return true, nil
}

// tryBlock rehearses dead letters and counts those that would fail.
func (w *work) tryBlock(letters []domain.DeadLetter, report *domain.Rehearsal) (failed int, err error) {
	records, err := w.records(w.ctx, letters)
	if err != nil {
		return 0, err
	}
	var rows []domain.Record
	var of []domain.DeadLetter
	for _, l := range letters {
		r, ok := records[l.Place]
		switch {
		case !ok:
			report.Gone++
		case l.Decision:
			rows, of = append(rows, r), append(of, l)
		default:
			batch, err := w.parse(l, r)
			if err != nil {
				return 0, err
			}
			report.Bodies++
			report.Events += len(batch.Events)
			if len(batch.Quarantined) > 0 {
				report.Broken++
				report.Fail(domain.BlameOf(domain.Errorf(domain.Invalid, "%s", batch.Quarantined[len(batch.Quarantined)-1].Reason), l.Path), l.ID)
			}
		}
	}
	report.Tried += len(letters)
	if len(rows) == 0 {
		return 0, nil
	}
	for i, v := range w.Rehearse(w.ctx, rows) {
		switch {
		case v.Err == nil:
			report.Fates[string(v.Fate)]++
			if v.Fate == domain.Conflicting || v.Fate == domain.TooOld {
				report.Fail(domain.BlameOf(domain.Errorf(domain.Invalid, "%s", saver.WhyRejected(v.Fate)), of[i].Path), of[i].ID)
			}
		case v.Blamed():
			failed++
			report.Fates["failed"]++
			report.Fail(domain.BlameOf(v.Err, v.Path), of[i].ID)
		default:
			return failed, v.Err
		}
	}
	return failed, nil
}

// verdictOf says in a word and in a sentence whether it is safe.
func verdictOf(kind domain.JobKind, r *domain.Rehearsal) (verdict, message string) {
	if kind == domain.Discard {
		return "", fmt.Sprintf("%d dead letters would be discarded", r.Of)
	}
	fails := r.Broken + r.Fates["failed"] + r.Fates[string(domain.Conflicting)] + r.Fates[string(domain.TooOld)]
	switch tried := r.Tried - r.Gone; {
	case r.Of == 0:
		return "nothing", "nothing matches"
	case tried == 0:
		return "gone", "none of them is in the log any more"
	case fails == 0:
		return "safe", fmt.Sprintf("safe to replay: of %d that were tried, all would be stored now", tried)
	case fails == tried:
		return "all_fail", fmt.Sprintf("do not replay yet: of %d that were tried, every one would fail again", tried)
	default:
		return "some_fail", fmt.Sprintf("do not replay all of them yet: of %d that were tried, %d would fail again. Mend that first, or choose the others", tried, fails)
	}
}
