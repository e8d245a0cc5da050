package httpapi

import (
	"context"
	_ "embed"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/ports"
	"github.com/docket-project/docket/internal/trail"
)

//go:embed openapi.yaml
var openAPI []byte

// Store is what the console listener reads, and the little that it writes.
type Store interface {
	ports.DecisionReader
	ports.OPARegistry
	ports.BlameLedger
	ports.DeadLetterIndex
	ports.JobStore
	ports.AuditLog
}

// Pipeline is the state of everything between an upload and its row.
type Pipeline struct {
	Stages []Stage `json:"stages"`
	// Parked counts the records in the parking topic.
	Parked int64 `json:"parked"`
	// Breaker is that of the process that answers: "closed", "half-open" or "open". NextProbe is when an open one asks the
	// store again.
	Breaker   string  `json:"breaker"`
	NextProbe float64 `json:"next_probe_seconds"`
	// FloodStop says that blamed rows are parked instead of dead-lettered.
	FloodStop bool `json:"flood_stop"`
	// DeadLetters counts what the dead-letter topics hold, and DeadLettersOpen what of it nobody has dealt with.
	DeadLetters     []DeadLetterTopic `json:"dead_letters"`
	DeadLettersOpen int64             `json:"dead_letters_open"`
	// SampledAt is when the figures were taken.
	SampledAt time.Time `json:"sampled_at"`
}

// Stage is a topic and the role that consumes it. Rates are records a second over the last ten.
type Stage struct {
	Name          string     `json:"name"`
	Topic         string     `json:"topic"`
	InPerSecond   float64    `json:"in_per_second"`
	OutPerSecond  float64    `json:"out_per_second"`
	Waiting       int64      `json:"waiting"`
	OldestAt      *time.Time `json:"oldest_at"`
	OldestSeconds float64    `json:"oldest_seconds"`
}

// DeadLetterTopic is a topic that only the index consumes.
type DeadLetterTopic struct {
	Topic   string `json:"topic"`
	Records int64  `json:"records"`
	// Waiting counts those that are not indexed yet.
	Waiting int64 `json:"waiting"`
}

// query serves people and consoles.
type query struct {
	store    Store
	log      ports.LogReader
	follow   *trail.Trail
	tokens   *Tokens
	pipeline func(context.Context) Pipeline
	now      func() time.Time
}

// NewQuery makes the handler of the console listener.
func NewQuery(store Store, log ports.LogReader, follow *trail.Trail, tokens *Tokens, pipeline func(context.Context) Pipeline, logger *slog.Logger) http.Handler {
	q := &query{store: store, log: log, follow: follow, tokens: tokens, pipeline: pipeline, now: time.Now}
	e := newEcho(logger)
	api := e.Group("/api/v1", q.authenticated)
	api.GET("/decisions", q.search)
	api.GET("/decisions/*", q.decision)
	api.GET("/opas", q.opas)
	api.GET("/flood", q.flood)
	api.POST("/flood/acceptances", q.acceptBlame)
	api.GET("/dead-letters", q.deadLetters)
	api.GET("/dead-letters/groups", q.deadGroups)
	api.GET("/dead-letters/replays", q.jobs)
	api.POST("/dead-letters/replays", q.createJob(domain.Replay))
	api.POST("/dead-letters/discards", q.createJob(domain.Discard))
	api.POST("/dead-letters/reindexes", q.createJob(domain.Reindex))
	api.GET("/dead-letters/replays/:id", q.job)
	api.POST("/dead-letters/replays/:id/cancel", q.moveJob("cancel"))
	api.POST("/dead-letters/replays/:id/pause", q.moveJob("pause"))
	api.POST("/dead-letters/replays/:id/resume", q.moveJob("resume"))
	api.GET("/dead-letters/:id", q.deadLetter)
	api.GET("/dead-letters/:id/raw", q.deadLetterRaw)
	api.GET("/audit", q.audit)
	api.GET("/pipeline", func(c echo.Context) error { return c.JSON(http.StatusOK, q.pipeline(c.Request().Context())) })
	e.GET("/api/v1/openapi.yaml", func(c echo.Context) error { return c.Blob(http.StatusOK, "application/yaml", openAPI) })
	return e
}

func (q *query) authenticated(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		if _, err := q.tokens.authenticate(c.Request()); err != nil {
			return err
		}
		return next(c)
	}
}

// decisionView is a decision as the API shows it. What is absent is null.
type decisionView struct {
	DecisionID  string                `json:"decision_id"`
	Time        time.Time             `json:"time"`
	Timestamp   *time.Time            `json:"timestamp"`
	ReceivedAt  *time.Time            `json:"received_at"`
	SavedAt     *time.Time            `json:"saved_at"`
	Tenant      string                `json:"tenant"`
	Path        *string               `json:"path"`
	Outcome     domain.Outcome        `json:"outcome"`
	Reason      *string               `json:"reason"`
	Principal   *string               `json:"principal"`
	Action      *string               `json:"action"`
	Resource    *string               `json:"resource"`
	OPA         *string               `json:"opa"`
	App         *string               `json:"app"`
	Bundles     map[string]bundleView `json:"bundles"`
	TraceID     *string               `json:"trace_id"`
	RequestedBy *string               `json:"requested_by"`
	Error       *string               `json:"error"`
}

// bundleView has the shape of a bundle in OPA's own events.
type bundleView struct {
	Revision string `json:"revision"`
}

func viewOf(d *domain.Decision) decisionView {
	v := decisionView{
		DecisionID: d.ID, Time: d.Time(), Timestamp: instant(d.Timestamp), ReceivedAt: instant(d.ReceivedAt), SavedAt: instant(d.SavedAt),
		Tenant: d.Tenant, Path: text(d.Path), Outcome: d.Outcome, Reason: text(d.Reason), Principal: text(d.Principal),
		Action: text(d.Action), Resource: text(d.Resource), OPA: text(d.OPA), App: text(d.App), Bundles: map[string]bundleView{},
		TraceID: text(d.TraceID), RequestedBy: text(d.RequestedBy), Error: text(d.Error),
	}
	for _, b := range d.Bundles {
		v.Bundles[b.Name] = bundleView{b.Revision}
	}
	return v
}

func text(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func instant(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// search answers GET /api/v1/decisions.
func (q *query) search(c echo.Context) error {
	wanted, err := q.wanted(c, domain.ParseQuery)
	if err != nil {
		return err
	}
	page, err := q.store.Search(c.Request().Context(), wanted)
	if err != nil {
		return err
	}
	answer := struct {
		Items      []decisionView `json:"items"`
		NextCursor *string        `json:"next_cursor"`
	}{Items: make([]decisionView, 0, len(page.Items))}
	for i := range page.Items {
		answer.Items = append(answer.Items, viewOf(&page.Items[i]))
	}
	if page.Next != nil {
		answer.NextCursor = text(page.Next.String())
	}
	return c.JSON(http.StatusOK, answer)
}

// wanted reads the query string.
func (q *query) wanted(c echo.Context, parse func(url.Values, time.Time) (domain.Query, error)) (domain.Query, error) {
	params, err := url.ParseQuery(c.Request().URL.RawQuery) // echo's own drops what it cannot read
	if err != nil {
		return domain.Query{}, problem(http.StatusBadRequest, "the query string: "+err.Error())
	}
	wanted, err := parse(params, q.now())
	if err != nil {
		return domain.Query{}, problem(http.StatusBadRequest, err.Error())
	}
	return wanted, nil
}

const decisionPrefix = "/api/v1/decisions/"

// decision answers GET /api/v1/decisions/{decision_id} and …/raw. An id may hold anything, a percent-encoded slash
// included, so it is taken from the path as it was sent.
func (q *query) decision(c echo.Context) error {
	escaped := strings.TrimPrefix(c.Request().URL.EscapedPath(), decisionPrefix)
	escaped, raw := strings.CutSuffix(escaped, "/raw")
	escaped, trail := strings.CutSuffix(escaped, "/trail")
	id, err := url.PathUnescape(escaped)
	if err != nil {
		return problem(http.StatusBadRequest, "the decision id in the path is not percent-encoded: "+err.Error())
	}
	if trail && !raw {
		return q.trail(c, id)
	}
	rows, err := q.store.Decisions(c.Request().Context(), id)
	if err != nil {
		return err
	}
	if len(rows) == 0 {
		return problem(http.StatusNotFound, "no decision "+id+" is stored: it may still be on its way, have been put aside as a dead letter, or never have come. "+
			"Its trail tells: docket trail, or /api/v1/decisions/{decision_id}/trail")
	}
	newest := &rows[0]
	if raw {
		return c.Blob(http.StatusOK, echo.MIMEApplicationJSON, newest.Event)
	}
	var also []decisionView
	for i := range rows[1:] {
		also = append(also, viewOf(&rows[1+i]))
	}
	return c.Blob(http.StatusOK, echo.MIMEApplicationJSON, withEvent(viewOf(newest), newest.Event, also))
}

// withEvent spells a decision with its event's bytes.
func withEvent(v decisionView, event []byte, also []decisionView) []byte {
	answer := with(marshal(v), "event", event)
	if len(also) > 0 {
		answer = with(answer, "also", marshal(also))
	}
	return answer
}

// with adds a member to a JSON object, its bytes as they are: encoding/json would rewrite them.
func with(object []byte, name string, raw []byte) []byte {
	return slices.Concat(object[:len(object)-1], []byte(`,"`+name+`":`), raw, []byte("}"))
}

// marshal spells a view: texts, times and numbers, which cannot fail.
func marshal(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

// opaView is an OPA as the API shows it.
type opaView struct {
	Tenant          string          `json:"tenant"`
	OPA             string          `json:"opa"`
	Version         *string         `json:"version"`
	FirstUpload     *time.Time      `json:"first_upload"`
	LastUpload      *time.Time      `json:"last_upload"`
	IntervalSeconds *float64        `json:"interval_seconds"`
	Uploads         int64           `json:"uploads"`
	Events          int64           `json:"events"`
	StatusAt        *time.Time      `json:"status_at"`
	Status          json.RawMessage `json:"status"`
	Hint            *string         `json:"hint"`
}

// slowHint explains the most frequent reason for decisions that seem to be missing.
const slowHint = "uploads are minutes apart, like with OPA's default delays of 300 to 600 s: " +
	"set decision_logs.reporting.min_delay_seconds to 1 and max_delay_seconds to 5"

// opas answers GET /api/v1/opas.
func (q *query) opas(c echo.Context) error {
	known, err := q.store.OPAs(c.Request().Context())
	if err != nil {
		return err
	}
	answer := struct {
		Items []opaView `json:"items"`
	}{Items: make([]opaView, 0, len(known))}
	for _, o := range known {
		v := opaView{
			Tenant: o.Tenant, OPA: o.OPA, Version: text(o.Version), FirstUpload: instant(o.First), LastUpload: instant(o.Last),
			Uploads: o.Uploads, Events: o.Events, StatusAt: instant(o.StatusAt),
		}
		if o.Interval > 0 {
			s := o.Interval.Seconds()
			v.IntervalSeconds = &s
		}
		if json.Valid(o.Status) {
			v.Status = o.Status
		}
		if o.Slow() {
			v.Hint = text(slowHint)
		}
		answer.Items = append(answer.Items, v)
	}
	return c.JSON(http.StatusOK, answer)
}
