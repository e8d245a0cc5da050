package httpapi

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/docket-project/docket/internal/domain"
)

// texts is one text or several, as a filter in JSON spells what a query string repeats.
type texts []string

// UnmarshalJSON reads a string or an array of strings.
func (t *texts) UnmarshalJSON(b []byte) error {
	var one string
	if json.Unmarshal(b, &one) == nil {
		*t = texts{one}
		return nil
	}
	var many []string
	if err := json.Unmarshal(b, &many); err != nil || len(many) == 0 {
		return fmt.Errorf("a filter's values are strings or arrays of strings, at least one, and not %.40s: an empty one would choose everything", b)
	}
	*t = many
	return nil
}

// jobWanted is the body that asks for a job.
type jobWanted struct {
	Filter     map[string]texts `json:"filter"`
	DryRun     *bool            `json:"dry_run"`
	Rate       *float64         `json:"rate"`
	Max        *int64           `json:"max"`
	MaxReplays *int             `json:"max_replays"`
	StopRatio  *float64         `json:"stop_ratio"`
	Reason     string           `json:"reason"`
}

const jobExample = `{"filter": {"fingerprint": "…"}, "dry_run": true, "rate": 100, "max": 10000, "reason": "…"}`

// minRate is the slowest replay: below it a job would seem to stand still.
const minRate = 0.1

// job makes a job of what is wanted. Without a word about it, it only looks, and only at what is open.
func (w jobWanted) job(kind domain.JobKind, who string, now time.Time) (j domain.Job, err error) {
	var suffix [3]byte
	_, _ = rand.Read(suffix[:]) // it never fails
	j = domain.Job{
		ID: fmt.Sprintf("%c-%s-%x", kind[0], now.UTC().Format("20060102-150405"), suffix), Kind: kind, DryRun: w.DryRun == nil || *w.DryRun, Who: who,
		MaxReplays: domain.DefaultMaxReplays, StopRatio: domain.DefaultStopRatio, State: domain.JobPending,
		Message: "it waits for a parking role to take it up", CreatedAt: now.UTC().Truncate(time.Microsecond),
	}
	values := url.Values{}
	for name, v := range w.Filter {
		values[name] = v
	}
	if values.Has("limit") || values.Has("cursor") {
		return j, problem(http.StatusBadRequest, "a filter has no limit and no cursor: max bounds a job")
	}
	if !values.Has("state") && kind != domain.Reindex {
		values.Set("state", string(domain.DeadOpen))
	}
	if j.Filter, err = domain.ParseDeadQuery(values, now); err != nil {
		return j, problem(http.StatusBadRequest, "filter: "+err.Error())
	}
	if w.Rate != nil {
		if j.Rate = *w.Rate; !(j.Rate >= minRate && j.Rate <= 1e6) {
			return j, problem(http.StatusBadRequest, fmt.Sprintf("rate %v: it is in dead letters a second, from %v on; leave it out for as fast as it goes", j.Rate, minRate))
		}
	}
	if w.Max != nil {
		if j.Max = *w.Max; j.Max < 1 {
			return j, problem(http.StatusBadRequest, fmt.Sprintf("max %d: at least 1; leave it out for all", j.Max))
		}
	}
	if w.MaxReplays != nil {
		if j.MaxReplays = *w.MaxReplays; j.MaxReplays < 1 || j.MaxReplays > 1000 {
			return j, problem(http.StatusBadRequest, fmt.Sprintf("max_replays %d: from 1 to 1000", j.MaxReplays))
		}
	}
	if w.StopRatio != nil {
		if j.StopRatio = *w.StopRatio; !(j.StopRatio > 0 && j.StopRatio <= 1) {
			return j, problem(http.StatusBadRequest, fmt.Sprintf("stop_ratio %v: a share above 0, up to 1", j.StopRatio))
		}
	}
	if !j.DryRun || w.Reason != "" {
		j.Reason, err = reasonGiven(w.Reason)
	}
	return j, err
}

// createJob answers POST /api/v1/dead-letters/replays, …/discards and …/reindexes.
func (q *query) createJob(kind domain.JobKind) echo.HandlerFunc {
	return func(c echo.Context) error {
		var wanted jobWanted
		who, err := q.command(c, &wanted, jobExample)
		if err != nil {
			return err
		}
		if kind == domain.Reindex { // it changes nothing that anybody could miss
			if len(wanted.Filter) > 0 {
				return problem(http.StatusBadRequest, "reindexing reads everything: it takes no filter")
			}
			wanted.DryRun = new(bool)
			if wanted.Reason == "" {
				wanted.Reason = "reindex"
			}
		}
		j, err := wanted.job(kind, who.Name, q.now())
		if err != nil {
			return err
		}
		ctx := c.Request().Context()
		if kind != domain.Reindex {
			if j.Matched, err = q.store.CountJob(ctx, j); err != nil {
				return err
			}
			if j.Matched == 0 {
				if j.Message, err = q.nothingMatches(c, j); err != nil {
					return err
				}
				j.State, j.FinishedAt = domain.JobDone, j.CreatedAt
			}
		}
		others, err := q.store.Jobs(ctx)
		if err != nil {
			return err
		}
		for _, o := range others { // the newest first: the last one is in front
			if o.DryRun == j.DryRun && slices.Contains(domain.Active, o.State) && j.State == domain.JobPending {
				j.Message = "it waits for job " + o.ID + " to end"
			}
		}
		var entry domain.AuditEntry
		if !j.DryRun {
			entry = j.Audit("create", who.Name, j.CreatedAt)
		}
		created, err := q.store.CreateJob(ctx, j, entry)
		if err != nil {
			return err
		}
		if !created {
			return conflict(j, others)
		}
		c.Response().Header().Set(echo.HeaderLocation, "/api/v1/dead-letters/replays/"+j.ID)
		return c.JSON(http.StatusAccepted, jobViewOf(j, q.now()))
	}
}

// conflict names the job that does the same.
func conflict(j domain.Job, others []domain.Job) error {
	for _, o := range others {
		if o.Kind == j.Kind && !o.DryRun && !o.State.Over() && o.Filter.Filter().Encode() == j.Filter.Filter().Encode() {
			return problem(http.StatusConflict, fmt.Sprintf("job %s does the same and is %s: wait for it, or docket dlq resume %s, or docket dlq cancel %s", o.ID, o.State, o.ID, o.ID))
		}
	}
	return problem(http.StatusConflict, "another job does the same and is not over: docket dlq jobs lists them")
}

// anyState is a filter without its states.
func anyState(f domain.Query) domain.Query {
	f.Terms = slices.DeleteFunc(slices.Clone(f.Terms), func(t domain.Term) bool { return t.Field == domain.FieldState })
	return f
}

// nothingMatches says why a job has nothing to do.
func (q *query) nothingMatches(c echo.Context, j domain.Job) (string, error) {
	fits, err := q.store.CountDeadLetters(c.Request().Context(), j.Filter)
	if err != nil {
		return "", err
	}
	if n := fits[domain.DeadOpen] + fits[domain.DeadReplayed] + fits[domain.DeadDiscarded]; n > 0 && j.Kind == domain.Replay {
		return fmt.Sprintf("nothing is left to do: %d dead letters fit the filter, and were replayed %d times already. Look why they come back; --max-replays %d lets them go once more",
			n, j.MaxReplays, j.MaxReplays+1), nil
	}
	all, err := q.store.CountDeadLetters(c.Request().Context(), anyState(j.Filter))
	if err != nil {
		return "", err
	}
	if all[domain.DeadStored]+all[domain.DeadReplayed]+all[domain.DeadDiscarded]+all[domain.DeadOpen] == 0 {
		return "nothing fits the filter", nil
	}
	return fmt.Sprintf("nothing is left to do: of what fits the filter in any state, %d are stored already, %d replayed, %d discarded and %d open",
		all[domain.DeadStored], all[domain.DeadReplayed], all[domain.DeadDiscarded], all[domain.DeadOpen]), nil
}

// jobView is a job as the API shows it.
type jobView struct {
	ID         string            `json:"id"`
	Kind       domain.JobKind    `json:"kind"`
	DryRun     bool              `json:"dry_run"`
	State      domain.JobState   `json:"state"`
	Message    string            `json:"message"`
	Filter     url.Values        `json:"filter"`
	Rate       *float64          `json:"rate"`
	Max        *int64            `json:"max"`
	MaxReplays int               `json:"max_replays"`
	StopRatio  float64           `json:"stop_ratio"`
	Reason     *string           `json:"reason"`
	Who        string            `json:"who"`
	Matched    int64             `json:"matched"`
	Done       int64             `json:"done"`
	Stored     int64             `json:"stored"`
	Failed     int64             `json:"failed"`
	Reparsed   int64             `json:"reparsed"`
	Skipped    int64             `json:"skipped"`
	OnTheWay   int64             `json:"on_the_way"`
	CreatedAt  time.Time         `json:"created_at"`
	StartedAt  *time.Time        `json:"started_at"`
	FinishedAt *time.Time        `json:"finished_at"`
	Report     *domain.Rehearsal `json:"report"`
}

func jobViewOf(j domain.Job, now time.Time) jobView {
	v := jobView{
		ID: j.ID, Kind: j.Kind, DryRun: j.DryRun, State: j.State, Message: j.Message, Filter: j.Filter.Filter(), MaxReplays: j.MaxReplays, StopRatio: j.StopRatio,
		Reason: text(j.Reason), Who: j.Who, Matched: j.Matched, Done: j.Done, Stored: j.Stored, Failed: j.Failed, Reparsed: j.Reparsed, Skipped: j.Skipped,
		CreatedAt: j.CreatedAt, StartedAt: instant(j.StartedAt), FinishedAt: instant(j.FinishedAt), Report: j.Report,
	}
	if j.Kind == domain.Replay {
		v.OnTheWay = j.OnTheWay()
	}
	if j.Rate > 0 {
		v.Rate = &j.Rate
	}
	if j.Max > 0 {
		v.Max = &j.Max
	}
	if j.State == domain.JobRunning && j.LeaseUntil.Before(now) {
		v.Message = "the process that worked on it is gone; the next parking role takes it up"
	}
	return v
}

// jobs answers GET /api/v1/dead-letters/replays.
func (q *query) jobs(c echo.Context) error {
	jobs, err := q.store.Jobs(c.Request().Context())
	if err != nil {
		return err
	}
	answer := struct {
		Items []jobView `json:"items"`
	}{Items: make([]jobView, 0, len(jobs))}
	for _, j := range jobs {
		answer.Items = append(answer.Items, jobViewOf(j, q.now()))
	}
	return c.JSON(http.StatusOK, answer)
}

// jobOf finds the job that the path names.
func (q *query) jobOf(c echo.Context) (domain.Job, error) {
	j, found, err := q.store.Job(c.Request().Context(), c.Param("id"))
	if err == nil && !found {
		err = problem(http.StatusNotFound, "there is no job "+c.Param("id")+": docket dlq jobs lists them")
	}
	return j, err
}

// job answers GET /api/v1/dead-letters/replays/{id}.
func (q *query) job(c echo.Context) error {
	j, err := q.jobOf(c)
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, jobViewOf(j, q.now()))
}

// moves are what an operator may do to a job.
var moves = map[string]struct {
	from []domain.JobState
	to   domain.JobState
	past string
}{
	"cancel": {append(append([]domain.JobState{}, domain.Active...), domain.Resumable...), domain.JobCanceled, "canceled"},
	"pause":  {domain.Active, domain.JobPaused, "paused"},
	"resume": {domain.Resumable, domain.JobPending, "resumed"},
}

// moveJob answers POST /api/v1/dead-letters/replays/{id}/cancel, …/pause and …/resume.
func (q *query) moveJob(name string) echo.HandlerFunc {
	return func(c echo.Context) error {
		who, err := q.tokens.operator(c.Request())
		if err != nil {
			return err
		}
		if origin := c.Request().Header.Get(echo.HeaderOrigin); origin != "" {
			if u, err := url.Parse(origin); err != nil || u.Host != c.Request().Host {
				return problem(http.StatusForbidden, "a page of another site may not do this") // there is no body whose type would tell
			}
		}
		j, err := q.jobOf(c)
		if err != nil {
			return err
		}
		m := moves[name]
		ctx, now := c.Request().Context(), q.now().UTC()
		var entry domain.AuditEntry
		if !j.DryRun {
			entry = j.Audit(name, who.Name, now)
			entry.Outcome = m.past
		}
		moved, err := q.store.MoveJob(ctx, j.ID, m.from, m.to, m.past+" by "+who.Name, now, entry)
		if err != nil {
			return err
		}
		if !moved {
			return problem(http.StatusConflict, fmt.Sprintf("job %s is %s: it cannot be %s", j.ID, j.State, m.past))
		}
		if j, err = q.jobOf(c); err != nil {
			return err
		}
		return c.JSON(http.StatusOK, jobViewOf(j, now))
	}
}
