package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"strings"

	"github.com/docket-project/docket/internal/adapters/api"
	"github.com/docket-project/docket/internal/domain"
)

// Jobs is `docket jobs`.
type Jobs struct {
	List   JobsList   `cmd:"" default:"withargs" help:"List the newest 100 jobs: replays, discards, reindexings, reprojections and erasures."`
	Show   JobsShow   `cmd:"" help:"Show a job, and wait until it ends."`
	Pause  JobsPause  `cmd:"" help:"Pause a job."`
	Resume JobsResume `cmd:"" help:"Resume a job that was paused, or that has stopped itself."`
	Cancel JobsCancel `cmd:"" help:"Cancel a job. What it has done stays done."`
}

// JobsList is `docket jobs list`.
type JobsList struct {
	Console
	Form
}

// Run lists jobs.
func (l *JobsList) Run(ctx context.Context, out Out) error {
	answer, err := l.get(ctx, jobsPath, nil)
	if err != nil {
		return err
	}
	list, err := read[api.Items[json.RawMessage]](answer)
	if err != nil {
		return err
	}
	if l.Output != "table" {
		return printItems(out.Stdout, list.Items, l.Output)
	}
	if len(list.Items) == 0 {
		fmt.Fprintln(out.Stderr, "There are no jobs yet.")
		return nil
	}
	t := newTable(
		out.Stdout, "JOB", "KIND", "STATE", "MATCHED", "DONE", "STORED", "FAILED", "CREATED", "CALLER", "FILTER", "COMMENT",
	)
	for _, i := range list.Items {
		j, err := read[api.Job](i)
		if err != nil {
			return err
		}
		kind := string(j.Kind)
		if j.DryRun {
			kind += " (dry run)"
		}
		t.row(
			j.ID, kind, string(j.State), count(j.Matched), count(j.Done), count(j.Stored), count(j.Failed), t.when(j.CreatedAt),
			j.Caller, cut(t, filterText(j.Filter), 60), cut(t, string(j.Comment), 40),
		)
	}
	return t.flush()
}

// JobsShow is `docket jobs show JOB`.
type JobsShow struct {
	Console
	Form
	Detach bool   `help:"Do not wait for the end."`
	ID     string `arg:"" name:"JOB" help:"As docket jobs prints it."`
}

// Run shows a job, at its end unless told otherwise.
func (s *JobsShow) Run(ctx context.Context, out Out) error {
	answer, err := s.get(ctx, jobPath(s.ID), nil)
	if err != nil {
		return err
	}
	if j, err := read[api.Job](answer); err != nil {
		return err
	} else if !s.Detach && !j.Rests() {
		if answer, err = s.watch(ctx, out, j); err != nil {
			return err
		}
	}
	return concludeJob(out, answer, s.Output)
}

// jobMove is what the next three have in common.
type jobMove struct {
	Console
	Form
	ID string `arg:"" name:"JOB" help:"As docket jobs prints it."`
}

func (m *jobMove) move(ctx context.Context, out Out, move domain.JobMove) error {
	answer, err := m.post(ctx, jobPath(m.ID)+"/"+string(move), nil)
	if err != nil {
		return err
	}
	return printAnswer(out, answer, m.Output, printJob)
}

type (
	// JobsPause is `docket jobs pause JOB`.
	JobsPause struct{ jobMove }
	// JobsResume is `docket jobs resume JOB`.
	JobsResume struct{ jobMove }
	// JobsCancel is `docket jobs cancel JOB`.
	JobsCancel struct{ jobMove }
)

// Run pauses.
func (p *JobsPause) Run(ctx context.Context, out Out) error { return p.move(ctx, out, domain.Pause) }

// Run resumes.
func (r *JobsResume) Run(ctx context.Context, out Out) error { return r.move(ctx, out, domain.Resume) }

// Run cancels.
func (c *JobsCancel) Run(ctx context.Context, out Out) error { return c.move(ctx, out, domain.Cancel) }

const jobsPath = "/api/v1/jobs"

func jobPath(id string) string { return jobsPath + "/" + url.PathEscape(id) }

func printJob(w io.Writer, j api.Job) error {
	what := string(j.Kind)
	switch j.Kind {
	case domain.Reproject:
		what = "reprojection"
	case domain.Erase:
		what = "erasure"
	case domain.Replay, domain.Discard, domain.Reindex:
	}
	if j.DryRun {
		article := "a "
		if j.Kind == domain.Erase {
			article = "an "
		}
		what = "dry run of " + article + what
	}
	heading := strings.ToUpper(printable(string(j.State)))
	if j.DryRun && j.State == domain.JobDone {
		heading = "DRY RUN" // that it is done says nothing about what it found
	}
	if err := verdictLine(w, heading, ": "+j.Message); err != nil {
		return err
	}
	fmt.Fprintln(w)
	t := newTable(w)
	t.row("job", j.ID+", "+what)
	switch {
	case j.Kind != domain.Erase:
		t.row("filter", filterText(j.Filter))
	case j.Tenants == nil: // nobody is told whom it is about
		t.row("tenants", "all but docket-system")
	default:
		t.row("tenants", strings.Join(j.Tenants, ", "))
	}
	switch {
	case j.Kind == domain.Reproject && !j.DryRun:
		t.row("changed", count(j.Done))
		t.row("left as they are", count(j.Skipped))
	case !j.Kind.OfDecisions():
		t.row("matched", count(j.Matched))
		if !j.DryRun {
			t.row("done", count(j.Done))
		}
	}
	if j.Kind == domain.Replay && !j.DryRun {
		t.row("stored", count(j.Stored))
		t.row("failed", count(j.Failed))
		if j.Reparsed > 0 {
			t.row("parsed anew", count(j.Reparsed))
		}
		if j.Skipped > 0 {
			t.row("skipped", count(j.Skipped))
		}
		t.row("on the way", count(j.OnTheWay))
	}
	t.pair("comment", string(j.Comment))
	t.row("caller", j.Caller+" at "+stamp(j.CreatedAt))
	if err := t.flush(); err != nil {
		return err
	}
	if j.Kind == domain.Discard && !j.DryRun && j.Done > 0 {
		fmt.Fprintf(w, "\nTo undo it: docket dlq replay --state discarded --job %s\n", printable(j.ID))
	}
	switch {
	case j.Report == nil:
		return nil
	case j.Kind == domain.Reproject:
		return printChanges(w, j)
	case j.Kind == domain.Erase:
		return printErasure(w, j)
	}
	return printReport(w, j)
}

func filterText(values url.Values) string {
	text, err := url.QueryUnescape(strings.ReplaceAll(values.Encode(), "&", " "))
	if err != nil {
		return values.Encode()
	}
	return text
}

// printReport prints what a dry run found, and how to go on.
func printReport(w io.Writer, j api.Job) error {
	r := j.Report
	fmt.Fprintln(w, "\nWhat matches:")
	t := newTable(w, "  DEAD LETTERS", "CAUSE", "CLASS", "CODE", "PATH", "ERROR")
	for _, h := range r.Histogram {
		t.row("  "+count(h.Letters), string(h.Cause), string(h.Class), h.Code, h.Path, short(h.Error, 80))
	}
	if err := t.flush(); err != nil {
		return err
	}
	if j.Kind != domain.Replay {
		fmt.Fprintln(w, "\nTo discard them: repeat with --yes --comment WHY")
		return nil
	}
	fmt.Fprintf(w, "\nWhat would become of them now (%d of %d were tried, and rolled back):\n", r.Tried, r.Of)
	t = newTable(w, "  DEAD LETTERS", "WOULD BE")
	for _, f := range []struct {
		status domain.SaveStatus
		text   string
	}{
		{domain.Saved, "stored"}, {domain.Duplicate, "stored already"}, {domain.DryRunFailed, "rejected by the store again"},
		{domain.Conflicting, "dead-lettered again: the store has other bytes under the same key"},
		{domain.TooOld, "dead-lettered again: older than the retention"},
		{domain.Erased, "left out: an erasure is in force"},
	} {
		if n := r.Statuses[string(f.status)]; n > 0 {
			t.row("  "+count(int64(n)), f.text)
		}
	}
	if r.Bodies > 0 {
		t.row(
			"  "+count(int64(r.Bodies)),
			fmt.Sprintf("parsed anew, with decisions: %d; still cannot be read to their end: %d", r.Events, r.Broken),
		)
	}
	if r.Gone > 0 {
		t.row("  "+count(int64(r.Gone)), "left alone: their bytes are no longer in the log")
	}
	if err := t.flush(); err != nil {
		return err
	}
	if len(r.Failures) > 0 {
		fmt.Fprintln(w, "\nWhy some would fail:")
		t = newTable(w, "  DEAD LETTERS", "CLASS", "CODE", "PATH", "SAMPLE", "ERROR")
		for _, f := range r.Failures {
			t.row("  "+count(int64(f.Letters)), string(f.Class), f.Code, f.Path, f.Sample, short(f.Error, 100))
		}
		if err := t.flush(); err != nil {
			return err
		}
	}
	hint := "To replay them: repeat with --yes --comment WHY (and --rate, --max to begin gently)"
	if r.Verdict != "safe" {
		hint = "Fix the cause first: docket help CAUSE tells how"
	}
	_, err := fmt.Fprintln(w, "\n"+hint)
	return err
}
