package queryapi

import (
	"net/http"

	"github.com/labstack/echo/v4"

	"github.com/docket-project/docket/internal/adapters/api"
	"github.com/docket-project/docket/internal/adapters/web"
	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/operate"
)

const (
	jobExample    = `{"filter": {"fingerprint": "…"}, "dry_run": true, "rate": 100, "max": 10000, "comment": "…"}`
	eraseExample  = `{"filter": {"principal": "…", "tenant": "…"}, "dry_run": true, "comment": "…"}`
	acceptExample = `{"fingerprint": "…", "comment": "…"}`
)

// createJob answers POST /api/v1/dead-letters/replays, …/discards, …/reindexes, /api/v1/decisions/reprojections and
// …/erasures.
func (r *routes) createJob(kind domain.JobKind) echo.HandlerFunc {
	return func(c echo.Context) error {
		var req api.JobRequest
		example := jobExample
		if kind == domain.Erase {
			example = eraseExample
		}
		if err := request(c, &req, example); err != nil {
			return err
		}
		filter := map[string][]string{}
		for name, values := range req.Filter {
			filter[name] = values
		}
		j, err := r.Operate.CreateJob(c.Request().Context(), web.Caller(c), operate.JobRequest{
			Kind: kind, Filter: filter, DryRun: req.DryRun, Rate: req.Rate, Max: req.Max, MaxReplays: req.MaxReplays,
			StopRatio: req.StopRatio, Comment: req.Comment,
		})
		if err != nil {
			return err
		}
		c.Response().Header().Set(echo.HeaderLocation, "/api/v1/jobs/"+j.ID)
		return c.JSON(http.StatusAccepted, api.JobOf(j, r.now()))
	}
}

// jobs answers GET /api/v1/jobs.
func (r *routes) jobs(c echo.Context) error {
	jobs, err := r.Operate.Jobs(c.Request().Context(), scope(c))
	if err != nil {
		return err
	}
	now := r.now()
	return c.JSON(http.StatusOK, api.ItemsOf(jobs, func(j domain.Job) api.Job { return api.JobOf(j, now) }))
}

// job answers GET /api/v1/jobs/{id}.
func (r *routes) job(c echo.Context) error {
	j, err := r.Operate.Job(c.Request().Context(), scope(c), c.Param("id"))
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, api.JobOf(j, r.now()))
}

// moveJob answers POST /api/v1/jobs/{id}/cancel, …/pause and …/resume.
func (r *routes) moveJob(m domain.JobMove) echo.HandlerFunc {
	return func(c echo.Context) error {
		j, err := r.Operate.MoveJob(c.Request().Context(), web.Caller(c), c.Param("id"), m)
		if err != nil {
			return err
		}
		return c.JSON(http.StatusOK, api.JobOf(j, r.now()))
	}
}

// guard answers GET /api/v1/dead-letters/guard.
func (r *routes) guard(c echo.Context) error {
	report, err := r.Operate.Rejections(c.Request().Context(), scope(c))
	return answerGuard(c, report, err)
}

// accept answers POST /api/v1/dead-letters/guard/acceptances.
func (r *routes) accept(c echo.Context) error {
	var req api.AcceptRequest
	if err := request(c, &req, acceptExample); err != nil {
		return err
	}
	report, err := r.Operate.Accept(c.Request().Context(), web.Caller(c), req.Fingerprint, req.Comment)
	return answerGuard(c, report, err)
}

// revoke answers DELETE /api/v1/dead-letters/guard/acceptances/{fingerprint}.
func (r *routes) revoke(c echo.Context) error {
	report, err := r.Operate.Revoke(c.Request().Context(), web.Caller(c), c.Param("fingerprint"))
	return answerGuard(c, report, err)
}

func answerGuard(c echo.Context, report domain.RejectionReport, err error) error {
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, api.GuardOf(report))
}
