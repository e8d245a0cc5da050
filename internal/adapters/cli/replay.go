package cli

import (
	"context"
	"encoding/json"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/docket-project/docket/internal/adapters/api"
	"github.com/docket-project/docket/internal/domain"
)

// JobFlags are what replays and discards have in common.
type JobFlags struct {
	Console    `embed:""`
	DeadFilter `embed:""`
	Form       `embed:""`
	DecisionID []string `name:"decision-id" help:"The decision_id." sep:"none"`
	Job        []string `help:"What a job took up, and none after it: a discard, to undo it." sep:"none"`
	Max        int64    `help:"The most dead letters to deal with; 0 for all." default:"0"`
	Consent    `embed:""`
	IDs        []string `arg:"" optional:"" name:"ID" help:"Single dead letters, instead of a filter."`
}

// Consent is how a person says that a job is meant.
type Consent struct {
	Comment string `help:"Why you do this, for the audit; required with --yes."`
	DryRun  bool   `help:"Only report what would happen: the default."`
	Yes     bool   `help:"Do it."`
	Detach  bool   `help:"Do not wait for the end."`
}

func (c Consent) check() error {
	if c.Yes && c.DryRun {
		return fail(ExitUsage, "give --yes or --dry-run, not both")
	}
	if c.Yes && strings.TrimSpace(c.Comment) == "" {
		return fail(ExitUsage, "--yes needs a --comment: whoever reads the audit will ask why")
	}
	return nil
}

// DLQReplay is `docket dlq replay`.
type DLQReplay struct {
	JobFlags   `embed:""`
	Rate       *float64 `help:"Dead letters a second; without it, as fast as it goes."`
	Anyway     bool     `help:"Also where the last dry run said no."`
	MaxReplays int      `help:"Leave alone dead letters that were already replayed this many times." default:"3"`
	StopRatio  float64  `help:"Stop when more than this share fails again." default:"0.1"`
}

// Help points to the whole story.
func (*DLQReplay) Help() string {
	return "docket help replay tells how to replay safely, step by step."
}

// Run makes a job and watches it.
func (r *DLQReplay) Run(ctx context.Context, out Out) error {
	if r.Yes && !r.Anyway {
		if err := r.heeds(ctx); err != nil {
			return err
		}
	}
	return r.run(ctx, out, "replays", api.JobRequest{Rate: r.Rate, MaxReplays: &r.MaxReplays, StopRatio: &r.StopRatio})
}

// heedFor is how long a dry run counts.
const heedFor = time.Hour

// heeds fails where the last dry run of the same dead letters said no. Times do not count: those of a dry run and of
// what follows it are never the same.
func (r *DLQReplay) heeds(ctx context.Context) error {
	answer, err := r.get(ctx, jobsPath, nil)
	if err != nil {
		return err
	}
	list, err := read[api.Items[api.Job]](answer)
	if err != nil {
		return err
	}
	wanted := r.filter()
	for _, j := range list.Items { // the newest first
		if !j.DryRun || j.Kind != domain.Replay || j.State != domain.JobDone || !sameFilter(j.Filter, wanted) {
			continue
		}
		if j.Report != nil && j.Report.Verdict == "nothing" {
			continue // of another time, perhaps
		}
		if unsafe(j) && time.Since(j.CreatedAt.Time) < heedFor {
			return fail(
				ExitFailed, "the dry run %s said: %s\nMake another one once the cause is fixed, or add --anyway.", j.ID, j.Message,
			)
		}
		return nil
	}
	return nil
}

// sameFilter compares what two filters choose, but for their times.
func sameFilter(a, b url.Values) bool {
	clean := func(v url.Values) string {
		out := url.Values{}
		for name, values := range v {
			if name != "since" && name != "until" {
				out[name] = slices.Sorted(slices.Values(values))
			}
		}
		return out.Encode()
	}
	return clean(a) == clean(b)
}

// DLQDiscard is `docket dlq discard`.
type DLQDiscard struct {
	JobFlags `embed:""`
	All      bool `help:"Everything in the state: wanted with --yes where no filter and no ID says what."`
}

// Run makes a job and watches it. A variable that came out empty must not discard everything.
func (d *DLQDiscard) Run(ctx context.Context, out Out) error {
	if d.Yes && !d.All && !d.selects() && len(d.IDs) == 0 {
		return fail(ExitUsage, "say which dead letters to discard: IDs, a filter such as --fingerprint or --cause, or --all")
	}
	return d.run(ctx, out, "discards", api.JobRequest{})
}

// DLQReindex is `docket dlq reindex`.
type DLQReindex struct {
	Console `embed:""`
	Form    `embed:""`
	Detach  bool `help:"Do not wait for the end."`
}

// Run makes a job and watches it.
func (r *DLQReindex) Run(ctx context.Context, out Out) error {
	return create(ctx, out, r.Console, "dead-letters/reindexes", api.JobRequest{}, r.Output, r.Detach)
}

// selects reports that a filter says more than a state.
func (f *JobFlags) selects() bool { return f.chosen() || len(f.DecisionID)+len(f.Job) > 0 }

// filter is what they choose.
func (f *JobFlags) filter() url.Values {
	filter := f.values()
	set(filter, "decision_id", f.DecisionID)
	set(filter, "replay", f.Job)
	set(filter, "id", f.IDs)
	return filter
}

func (f *JobFlags) run(ctx context.Context, out Out, jobs string, wanted api.JobRequest) error {
	if err := f.check(); err != nil {
		return err
	}
	filter := f.filter()
	if len(f.IDs) > 0 && f.selects() {
		return fail(ExitUsage, "give IDs or a filter, not both")
	}
	if len(f.IDs) > 0 {
		for _, id := range f.IDs { // one that is gone is told by name
			if _, err := f.get(ctx, "/api/v1/dead-letters/"+url.PathEscape(id), nil); err != nil {
				return err
			}
		}
	}
	wanted.Filter = map[string]api.Texts{}
	for name, values := range filter {
		wanted.Filter[name] = values
	}
	dry := !f.Yes
	wanted.DryRun, wanted.Comment = &dry, f.Comment
	if f.Max != 0 {
		wanted.Max = &f.Max
	}
	return create(ctx, out, f.Console, "dead-letters/"+jobs, wanted, f.Output, f.Detach)
}

// create asks for a job and, unless told otherwise, watches it to its end.
func create(
	ctx context.Context, out Out, c Console, jobs string, wanted api.JobRequest, output string, detach bool,
) error {
	body, err := json.Marshal(wanted)
	if err != nil {
		return err
	}
	answer, err := c.post(ctx, "/api/v1/"+jobs, body)
	if err != nil {
		return err
	}
	j, err := read[api.Job](answer)
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
