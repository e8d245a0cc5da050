package deadletter

import (
	"time"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/sink"
)

const (
	// A dry run tries at most so many dead letters, in blocks spread evenly over what it chose, and for at most so long:
	// it leaves dead rows behind in the store's tables.
	dryRunSample = 10_000
	dryRunBlock  = 100
	dryRunTime   = time.Minute
	// hopeless is how many failures of one kind are found one by one; others like them cost a transaction each and say no
	// more.
	hopeless = 500
)

// dryRun tells what a job would do.
func (w *work) dryRun() error {
	report := &domain.DryRunReport{Statuses: map[domain.SaveStatus]int{}, Failures: []domain.DryRunFailure{}}
	var err error
	if report.Histogram, err = w.Letters.TallyLettersOfJob(w.Context, w.Job); err != nil {
		return err
	}
	report.Of = min(w.Job.Matched, w.Job.Left())
	if w.Job.Kind == domain.Replay {
		if goOn, err := w.tryOut(report); err != nil || !goOn {
			return err
		}
	}
	message := concludeDryRun(w.Job.Kind, report)
	w.Finish(domain.JobStep{State: domain.JobDone, Message: message, Report: report})
	return nil
}

// tryOut saves a sample in transactions that are rolled back.
func (w *work) tryOut(report *domain.DryRunReport) (goOn bool, err error) {
	stride := max((report.Of+dryRunSample-1)/dryRunSample, 1) // one block in so many is tried
	start := w.Now()
	at := w.Job.After
	defer func() { w.Job.After = at }()
	seen, failed := int64(0), 0
	for block := int64(0); seen < report.Of; block++ {
		letters, err := w.letters(w.Context, w.Job, min(dryRunBlock, report.Of-seen))
		if err != nil {
			return false, err
		}
		if len(letters) == 0 {
			break
		}
		seen += int64(len(letters))
		w.Job.After = letters[len(letters)-1].Position
		if block%stride != 0 {
			continue
		}
		n, err := w.tryBlock(letters, report)
		if err != nil {
			return false, err
		}
		failed += n
		if w.Now().Sub(start) > dryRunTime || failed >= hopeless {
			break
		}
		keep := w.Job.After
		progress := domain.Say(DryRunProgress, domain.Args{"seen": seen, "of": report.Of, "tried": int64(report.Tried)})
		if goOn, err := w.Advance(domain.JobStep{Message: progress}); err != nil || !goOn {
			return false, err
		}
		w.Job.After = keep
	}
	return true, nil
}

// tryBlock tries dead letters and counts those that would fail.
func (w *work) tryBlock(letters []domain.DeadLetter, report *domain.DryRunReport) (failed int, err error) {
	records, err := w.records(w.Context, letters)
	if err != nil {
		return 0, err
	}
	var rows []domain.Record
	var of []domain.DeadLetter
	for _, l := range letters {
		r, ok := records[l.Position]
		switch {
		case !ok:
			report.Gone++
		case l.Decision:
			rows, of = append(rows, r), append(of, l)
		default:
			again, err := w.reparse(l, r)
			if err != nil {
				return 0, err
			}
			report.Bodies++
			report.Events += again.Receipt.Accepted
			if len(again.Receipt.Reasons) > 0 {
				report.Broken++
				report.Fail(domain.RejectionOf(domain.Errorf(domain.Invalid, "%s", again.Cause), l.Tenant, l.Path), l.ID)
			}
		}
	}
	report.Tried += len(letters)
	if len(rows) == 0 {
		return 0, nil
	}
	for i, v := range w.DryRun(w.Context, rows) {
		switch {
		case v.Err == nil:
			report.Statuses[v.Status]++
			if v.Status == domain.Conflicting || v.Status == domain.TooOld {
				report.Fail(domain.RejectionOf(sink.NotKept(v.Status), of[i].Tenant, of[i].Path), of[i].ID)
			}
		case v.Rejected():
			failed++
			report.Statuses[domain.DryRunFailed]++
			report.Fail(v.Rejection(), of[i].ID)
		default:
			return failed, v.Err
		}
	}
	return failed, nil
}

// concludeDryRun fills in the verdict, and says what it means.
func concludeDryRun(kind domain.JobKind, r *domain.DryRunReport) domain.Message {
	if kind == domain.Discard {
		return domain.Say(WouldDiscard, domain.Args{"of": r.Of})
	}
	fails := r.Broken + r.Statuses[domain.DryRunFailed] + r.Statuses[domain.Conflicting] + r.Statuses[domain.TooOld]
	tried := r.Tried - r.Gone
	args := domain.Args{"tried": int64(tried)}
	switch {
	case r.Of == 0:
		r.Verdict = "nothing"
		return domain.Say(domain.NothingMatches, nil)
	case tried == 0:
		r.Verdict = "gone"
		return domain.Say(BytesGone, nil)
	case fails == 0:
		r.Verdict = "safe"
		return domain.Say(Safe, args)
	case fails == tried:
		r.Verdict = "all_fail"
		return domain.Say(AllFail, args)
	default:
		r.Verdict = "some_fail"
		args["failed"] = int64(fails)
		return domain.Say(SomeFail, args)
	}
}
