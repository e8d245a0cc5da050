package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/schollz/progressbar/v3"
)

// askAgain is how often a job is asked how far it is.
const askAgain = 500 * time.Millisecond

// job is what the commands print of the API's job.
type job struct {
	ID         string     `json:"id"`
	Kind       string     `json:"kind"`
	DryRun     bool       `json:"dry_run"`
	State      string     `json:"state"`
	Message    string     `json:"message"`
	Filter     url.Values `json:"filter"`
	Rate       *float64   `json:"rate"`
	Max        *int64     `json:"max"`
	Reason     string     `json:"reason"`
	Who        string     `json:"who"`
	Matched    int64      `json:"matched"`
	Done       int64      `json:"done"`
	Stored     int64      `json:"stored"`
	Failed     int64      `json:"failed"`
	Reparsed   int64      `json:"reparsed"`
	Skipped    int64      `json:"skipped"`
	OnTheWay   int64      `json:"on_the_way"`
	CreatedAt  *time.Time `json:"created_at"`
	FinishedAt *time.Time `json:"finished_at"`
	Report     *report    `json:"report"`
}

// rests reports that nothing more happens without an operator.
func (j job) rests() bool {
	switch j.State {
	case "pending", "running":
		return false
	default:
		return true
	}
}

type report struct {
	Verdict   string `json:"verdict"`
	Histogram []struct {
		Reason  string `json:"reason"`
		Path    string `json:"path"`
		Class   string `json:"class"`
		Code    string `json:"code"`
		Error   string `json:"error"`
		Letters int64  `json:"letters"`
	} `json:"histogram"`
	Tried    int            `json:"tried"`
	Of       int64          `json:"of"`
	Fates    map[string]int `json:"fates"`
	Failures []struct {
		Fingerprint string `json:"fingerprint"`
		Class       string `json:"class"`
		Code        string `json:"code"`
		Error       string `json:"error"`
		Path        string `json:"path"`
		Letters     int    `json:"letters"`
		Sample      string `json:"sample"`
	} `json:"failures"`
	Bodies int `json:"bodies"`
	Events int `json:"events"`
	Broken int `json:"broken"`
	Gone   int `json:"gone"`
}

// JobFlags are what replays and discards have in common.
type JobFlags struct {
	Console    `embed:""`
	DeadFilter `embed:""`
	Output     string   `short:"o" help:"How to print: table, json or ndjson." enum:"table,json,ndjson" default:"table"`
	DiedOf     []string `help:"Reason: refused, gave_up, conflict, expired, bad_gzip, too_deep, …" sep:"none"`
	DecisionID []string `name:"decision-id" help:"The decision_id." sep:"none"`
	Max        int64    `help:"The most dead letters to deal with; 0 for all." default:"0"`
	Reason     string   `help:"Why you do this, for the audit; required with --yes. To choose by reason, use --died-of."`
	DryRun     bool     `help:"Only tell what would happen: the default."`
	Yes        bool     `help:"Do it."`
	Detach     bool     `help:"Do not wait for the end."`
	IDs        []string `arg:"" optional:"" name:"ID" help:"Single dead letters, instead of a filter."`
}

// DLQReplay is `docket dlq replay`.
type DLQReplay struct {
	JobFlags   `embed:""`
	Rate       string  `help:"Dead letters a second; without it, as fast as it goes."`
	MaxReplays int     `help:"Leave alone dead letters that were already replayed this many times." default:"3"`
	StopRatio  float64 `help:"Stop when more than this share fails again." default:"0.1"`
}

// Help points to the whole story.
func (*DLQReplay) Help() string {
	return "docket help replay tells how to replay safely, step by step."
}

// Run makes a job and watches it.
func (r *DLQReplay) Run(ctx context.Context, out Out) error {
	wanted := map[string]any{"max_replays": r.MaxReplays, "stop_ratio": r.StopRatio}
	if r.Rate != "" {
		var rate json.Number
		if err := json.Unmarshal([]byte(r.Rate), &rate); err != nil {
			return fail(ExitUsage, "--rate %q is no number of dead letters a second", r.Rate)
		}
		wanted["rate"] = rate
	}
	return r.run(ctx, out, "replays", wanted)
}

// DLQDiscard is `docket dlq discard`.
type DLQDiscard struct {
	JobFlags `embed:""`
	All      bool `help:"Everything in the state: wanted with --yes where no filter and no ID says what."`
}

// Run makes a job and watches it. A variable that came out empty must not give up everything.
func (d *DLQDiscard) Run(ctx context.Context, out Out) error {
	if d.Yes && !d.All && !d.selects() && len(d.IDs) == 0 {
		return fail(ExitUsage, "say which: IDs, a filter such as --fingerprint or --died-of, or --all")
	}
	return d.run(ctx, out, "discards", map[string]any{})
}

// DLQReindex is `docket dlq reindex`.
type DLQReindex struct {
	Console `embed:""`
	Output  string `short:"o" help:"How to print: table, json or ndjson." enum:"table,json,ndjson" default:"table"`
	Detach  bool   `help:"Do not wait for the end."`
}

// Run makes a job and watches it.
func (r *DLQReindex) Run(ctx context.Context, out Out) error {
	return create(ctx, out, r.Console, "reindexes", map[string]any{}, r.Output, r.Detach)
}

// selects reports that a filter says more than a state.
func (f *JobFlags) selects() bool { return f.chosen() || len(f.DiedOf)+len(f.DecisionID) > 0 }

func (f *JobFlags) run(ctx context.Context, out Out, what string, wanted map[string]any) error {
	if f.Yes && f.DryRun {
		return fail(ExitUsage, "--yes and --dry-run: one or the other")
	}
	if f.Yes && strings.TrimSpace(f.Reason) == "" {
		return fail(ExitUsage, "--yes wants a --reason: whoever reads the audit will ask")
	}
	filter := f.values()
	set(filter, "reason", f.DiedOf)
	set(filter, "decision_id", f.DecisionID)
	if len(f.IDs) > 0 && f.selects() {
		return fail(ExitUsage, "IDs or a filter: one or the other")
	}
	if len(f.IDs) > 0 {
		filter["id"] = f.IDs
		for _, id := range f.IDs { // one that is gone is told by name
			if _, err := f.get(ctx, "/api/v1/dead-letters/"+url.PathEscape(id), nil); err != nil {
				return err
			}
		}
	}
	wanted["filter"], wanted["dry_run"] = filter, !f.Yes
	if f.Reason != "" {
		wanted["reason"] = f.Reason
	}
	if f.Max != 0 {
		wanted["max"] = f.Max
	}
	return create(ctx, out, f.Console, what, wanted, f.Output, f.Detach)
}

// create asks for a job and, unless told otherwise, watches it to its end.
func create(ctx context.Context, out Out, c Console, what string, wanted map[string]any, output string, detach bool) error {
	body, err := json.Marshal(wanted)
	if err != nil {
		return err
	}
	answer, err := c.post(ctx, "/api/v1/dead-letters/"+what, body)
	if err != nil {
		return err
	}
	j, err := read[job](answer)
	if err != nil {
		return err
	}
	if !detach {
		if answer, err = c.watch(ctx, out, j); err != nil {
			return err
		}
	}
	return concludeJob(out, answer, output)
}

// watch asks for a job until it rests, with a bar on a terminal. Whoever interrupts it leaves the job as it is.
func (s Console) watch(ctx context.Context, out Out, j job) (answer []byte, err error) {
	bar := newBar(out, j)
	told := ""
	for {
		if answer, err = s.get(ctx, "/api/v1/dead-letters/replays/"+url.PathEscape(j.ID), nil); err == nil {
			j, err = read[job](answer)
		}
		if err != nil {
			if code := ExitCode(err); ctx.Err() != nil || code == ExitUnavailable || code == ExitMisconfigured {
				fmt.Fprintf(out.Stderr, "\nThe job goes on without being watched: docket dlq job %s\n", j.ID)
			}
			return nil, err
		}
		if bar != nil {
			bar.show(j)
		} else if j.Message != told && j.Message != "" && !j.rests() {
			fmt.Fprintf(out.Stderr, "%s: %s\n", j.ID, printable(j.Message))
		}
		told = j.Message
		if j.rests() {
			if bar != nil {
				_ = bar.Finish() // it only draws
			}
			return answer, nil
		}
		select {
		case <-ctx.Done():
			fmt.Fprintf(out.Stderr, "\nThe job goes on without being watched: docket dlq job %s\n", j.ID)
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

func newBar(out Out, j job) *bar {
	if !out.Terminal || j.rests() {
		return nil
	}
	most := j.most()
	if j.DryRun {
		most = -1
	}
	return &bar{progressbar.NewOptions64(most, progressbar.OptionSetWriter(out.Stderr), progressbar.OptionShowCount(), progressbar.OptionShowIts(),
		progressbar.OptionSetItsString("letters"), progressbar.OptionClearOnFinish(), progressbar.OptionSetDescription(j.Kind), progressbar.OptionSetPredictTime(true)), j.DryRun}
}

// most is how many dead letters the job deals with at the most.
func (j job) most() int64 {
	most := j.Matched
	if j.Max != nil {
		most = min(most, *j.Max)
	}
	return max(most, 1)
}

func (b *bar) show(j job) {
	text := j.Kind
	if j.Message != "" {
		text += ": " + printable(j.Message)
	}
	b.Describe(text)
	if b.spins {
		_ = b.Add(1) // it only draws
		return
	}
	b.ChangeMax64(j.most())
	_ = b.Set64(min(j.Done+j.Skipped, j.most())) // as above
}

// concludeJob prints a job, and fails where it did not do what was wanted.
func concludeJob(out Out, answer []byte, output string) error {
	j, err := read[job](answer)
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
	case j.State == "paused":
		return fail(ExitFailed, "job %s is paused: docket dlq resume %s", j.ID, j.ID)
	case j.State == "failed" || j.State == "stopped" || j.State == "canceled":
		return fail(ExitFailed, "job %s was not done: it is %s", j.ID, j.State)
	case j.State == "done" && j.Failed > 0:
		return fail(ExitFailed, "%d of %d dead letters failed again: docket dlq groups tells why", j.Failed, j.Done)
	}
	return nil
}

func printJob(w io.Writer, j job) error {
	what := j.Kind
	if j.DryRun {
		what = "dry run of a " + j.Kind
	}
	fmt.Fprintf(w, "%s: %s\n\n", strings.ToUpper(printable(j.State)), printable(j.Message))
	t := newTable(w)
	t.row("job", j.ID+", "+what)
	t.row("filter", filterText(j.Filter))
	t.row("matched", count(j.Matched))
	if !j.DryRun {
		t.row("done", count(j.Done))
	}
	if j.Kind == "replay" && !j.DryRun {
		t.row("stored", count(j.Stored))
		t.row("failed", count(j.Failed))
		if j.Reparsed > 0 {
			t.row("parsed anew", count(j.Reparsed))
		}
		if j.Skipped > 0 {
			t.row("not in the log", count(j.Skipped))
		}
		t.row("on the way", count(j.OnTheWay))
	}
	if j.Reason != "" {
		t.row("reason", j.Reason)
	}
	t.row("by", j.Who+" at "+stamp(j.CreatedAt))
	if err := t.flush(); err != nil {
		return err
	}
	if j.Report == nil {
		return nil
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
func printReport(w io.Writer, j job) error {
	r := j.Report
	fmt.Fprintln(w, "\nWhat matches:")
	t := newTable(w, "  LETTERS", "REASON", "CLASS", "CODE", "PATH", "ERROR")
	for _, h := range r.Histogram {
		t.row("  "+count(h.Letters), h.Reason, h.Class, h.Code, h.Path, short(h.Error, 80))
	}
	if err := t.flush(); err != nil {
		return err
	}
	if j.Kind != "replay" {
		fmt.Fprintln(w, "\nTo discard them: repeat with --yes --reason WHY")
		return nil
	}
	fmt.Fprintf(w, "\nWhat would become of them now (%d of %d were tried, and rolled back):\n", r.Tried, r.Of)
	t = newTable(w, "  LETTERS", "WOULD BE")
	for _, f := range []struct{ name, text string }{
		{"saved", "stored"}, {"duplicate", "stored already"}, {"failed", "refused by the store again"}, {"conflict", "refused: the key is taken by other bytes"},
		{"expired", "refused: older than the retention"},
	} {
		if n := r.Fates[f.name]; n > 0 {
			t.row("  "+count(int64(n)), f.text)
		}
	}
	if r.Bodies > 0 {
		t.row("  "+count(int64(r.Bodies)), fmt.Sprintf("parsed anew: %d decisions in them; %d cannot be read to their end even so", r.Events, r.Broken))
	}
	if r.Gone > 0 {
		t.row("  "+count(int64(r.Gone)), "left alone: their bytes are not in the log any more")
	}
	if err := t.flush(); err != nil {
		return err
	}
	if len(r.Failures) > 0 {
		fmt.Fprintln(w, "\nWhy some would fail:")
		t = newTable(w, "  LETTERS", "CLASS", "CODE", "PATH", "SAMPLE", "ERROR")
		for _, f := range r.Failures {
			t.row("  "+count(int64(f.Letters)), f.Class, f.Code, f.Path, f.Sample, short(f.Error, 100))
		}
		if err := t.flush(); err != nil {
			return err
		}
	}
	hint := "To replay them: repeat with --yes --reason WHY (and --rate, --max to begin gently)"
	if r.Verdict != "safe" {
		hint = "Mend the cause first: docket dlq groups has a link to what the runbook says of it"
	}
	_, err := fmt.Fprintln(w, "\n"+hint)
	return err
}

// DLQJobs is `docket dlq jobs`: the newest 100.
type DLQJobs struct {
	Console `embed:""`
	Output  string `short:"o" help:"How to print: table, json or ndjson." enum:"table,json,ndjson" default:"table"`
}

// Run lists jobs.
func (l *DLQJobs) Run(ctx context.Context, out Out) error {
	answer, err := l.get(ctx, "/api/v1/dead-letters/replays", nil)
	if err != nil {
		return err
	}
	items, err := read[struct{ Items []json.RawMessage }](answer)
	if err != nil {
		return err
	}
	if l.Output != "table" {
		return printItems(out.Stdout, items.Items, l.Output)
	}
	if len(items.Items) == 0 {
		fmt.Fprintln(out.Stderr, "Nobody has replayed, discarded or reindexed anything yet.")
		return nil
	}
	t := newTable(out.Stdout, "JOB", "KIND", "STATE", "MATCHED", "DONE", "STORED", "FAILED", "CREATED", "BY", "FILTER", "REASON")
	for _, i := range items.Items {
		j, err := read[job](i)
		if err != nil {
			return err
		}
		kind := j.Kind
		if j.DryRun {
			kind += " (dry run)"
		}
		t.row(j.ID, kind, j.State, count(j.Matched), count(j.Done), count(j.Stored), count(j.Failed), stamp(j.CreatedAt), j.Who, short(filterText(j.Filter), 60), short(j.Reason, 40))
	}
	return t.flush()
}

// DLQJob is `docket dlq job ID`.
type DLQJob struct {
	Console `embed:""`
	Output  string `short:"o" help:"How to print: table, json or ndjson." enum:"table,json,ndjson" default:"table"`
	Detach  bool   `help:"Do not wait for the end."`
	ID      string `arg:"" name:"JOB" help:"As docket dlq jobs prints it."`
}

// Run shows a job, at its end unless told otherwise.
func (s *DLQJob) Run(ctx context.Context, out Out) error {
	answer, err := s.get(ctx, "/api/v1/dead-letters/replays/"+url.PathEscape(s.ID), nil)
	if err != nil {
		return err
	}
	if j, err := read[job](answer); err != nil {
		return err
	} else if !s.Detach && !j.rests() {
		if answer, err = s.watch(ctx, out, j); err != nil {
			return err
		}
	}
	return concludeJob(out, answer, s.Output)
}

// jobMove is what the next three have in common.
type jobMove struct {
	Console `embed:""`
	Output  string `short:"o" help:"How to print: table, json or ndjson." enum:"table,json,ndjson" default:"table"`
	ID      string `arg:"" name:"JOB" help:"As docket dlq jobs prints it."`
}

func (m *jobMove) move(ctx context.Context, out Out, what string) error {
	answer, err := m.post(ctx, "/api/v1/dead-letters/replays/"+url.PathEscape(m.ID)+"/"+what, nil)
	if err != nil {
		return err
	}
	if m.Output != "table" {
		return printJSON(out.Stdout, json.RawMessage(answer), m.Output)
	}
	j, err := read[job](answer)
	if err != nil {
		return err
	}
	return printJob(out.Stdout, j)
}

type (
	// DLQPause is `docket dlq pause JOB`.
	DLQPause struct {
		jobMove `embed:""`
	}
	// DLQResume is `docket dlq resume JOB`.
	DLQResume struct {
		jobMove `embed:""`
	}
	// DLQCancel is `docket dlq cancel JOB`.
	DLQCancel struct {
		jobMove `embed:""`
	}
)

// Run pauses.
func (p *DLQPause) Run(ctx context.Context, out Out) error { return p.move(ctx, out, "pause") }

// Run resumes.
func (r *DLQResume) Run(ctx context.Context, out Out) error { return r.move(ctx, out, "resume") }

// Run cancels.
func (c *DLQCancel) Run(ctx context.Context, out Out) error { return c.move(ctx, out, "cancel") }

// post asks the console listener to do something.
func (s Console) post(ctx context.Context, path string, body []byte) ([]byte, error) {
	return do(ctx, http.MethodPost, strings.TrimRight(s.Server, "/")+path, s.TokenFile, body, "")
}
