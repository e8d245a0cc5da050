package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/schollz/progressbar/v3"

	"github.com/docket-project/docket/internal/adapters/api"
	"github.com/docket-project/docket/internal/domain"
)

// askAgain is how often a job is asked how far it is.
const askAgain = 500 * time.Millisecond

// tellAgain is how often the same is told with other figures.
const tellAgain = time.Minute

// watch asks for a job until it rests, with a bar on a terminal. Whoever interrupts it leaves the job as it is.
func (s Console) watch(ctx context.Context, out Out, j api.Job) (answer []byte, err error) {
	bar := newBar(out, j)
	told, toldAt := "", time.Time{}
	for {
		if answer, err = s.get(ctx, jobPath(j.ID), nil); err == nil {
			j, err = read[api.Job](answer)
		}
		if err != nil {
			if code := ExitCode(err); ctx.Err() != nil || code == ExitUnavailable || code == ExitMisconfigured {
				fmt.Fprintf(out.Stderr, "\nThe job goes on without being watched: docket jobs show %s\n", printable(j.ID))
			}
			return nil, err
		}
		if bar != nil {
			bar.show(j)
		} else if j.Message != "" && !j.Rests() && (toldAt.IsZero() || j.Code != told || time.Since(toldAt) >= tellAgain) {
			fmt.Fprintf(out.Stderr, "%s: %s\n", printable(j.ID), printable(j.Message))
			told, toldAt = j.Code, time.Now()
		}
		if j.Rests() {
			if bar != nil {
				_ = bar.Finish() // it only draws
			}
			return answer, nil
		}
		select {
		case <-ctx.Done():
			fmt.Fprintf(out.Stderr, "\nThe job goes on without being watched: docket jobs show %s\n", printable(j.ID))
			return nil, fail(ExitFailed, "interrupted")
		case <-time.After(askAgain):
		}
	}
}

// bar shows how far a job is. A dry run moves nothing, and spins.
type bar struct {
	*progressbar.ProgressBar
	spins bool
}

func newBar(out Out, j api.Job) *bar {
	if !out.Terminal || j.Rests() {
		return nil
	}
	total, what := most(j), "letters"
	if j.DryRun || j.Kind.OfDecisions() {
		total, what = -1, "times"
	}
	return &bar{
		progressbar.NewOptions64(
			total,
			progressbar.OptionSetWriter(out.Stderr),
			progressbar.OptionShowCount(),
			progressbar.OptionShowIts(),
			progressbar.OptionSetItsString(what),
			progressbar.OptionClearOnFinish(),
			progressbar.OptionSetDescription(string(j.Kind)),
			progressbar.OptionSetPredictTime(true),
		),
		total < 0,
	}
}

// most is how many dead letters the job deals with at the most.
func most(j api.Job) int64 {
	if j.Max != nil {
		return max(min(j.Matched, *j.Max), 1)
	}
	return max(j.Matched, 1)
}

func (b *bar) show(j api.Job) {
	text := string(j.Kind)
	if j.Message != "" {
		text += ": " + printable(j.Message)
	}
	b.Describe(text)
	if b.spins {
		_ = b.Add(1) // it only draws
		return
	}
	b.ChangeMax64(most(j))
	_ = b.Set64(min(j.Done+j.Skipped, most(j))) // as above
}

// concludeJob prints a job, and fails where it did not do what was wanted.
func concludeJob(out Out, answer []byte, output string) error {
	j, err := read[api.Job](answer)
	if err != nil {
		return err
	}
	if output != "table" {
		err = printJSON(out.Stdout, json.RawMessage(answer), output)
	} else {
		err = printJob(out.Stdout, j)
	}
	switch {
	case err != nil:
		return err
	case j.State == domain.JobPaused:
		return fail(ExitFailed, "job %s is paused: docket jobs resume %s", j.ID, j.ID)
	case j.State == domain.JobStopped:
		return fail(
			ExitFailed,
			"job %s has stopped itself: docket dlq groups shows why dead letters fail again; docket jobs cancel %s ends it",
			j.ID, j.ID,
		)
	case j.State != domain.JobDone && j.Rests():
		return fail(ExitFailed, "job %s is not done: it is %s", j.ID, j.State)
	case j.DryRun && j.State == domain.JobDone && unsafe(j):
		return fail(ExitFailed, "the dry run says no")
	case j.State == domain.JobDone && j.Failed > 0:
		return fail(ExitFailed, "%d of %d dead letters failed again: docket dlq groups shows why", j.Failed, j.Done)
	}
	return nil
}

// unsafe reports a dry run that found that some would fail again, or cannot be found any more.
func unsafe(j api.Job) bool {
	return j.Kind == domain.Replay && j.Report != nil && j.Report.Verdict != "safe" && j.Report.Verdict != "nothing"
}
