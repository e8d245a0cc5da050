package httpapi

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/trail"
)

// trailView is a trail as the API shows it. What is absent is null.
type trailView struct {
	DecisionID string          `json:"decision_id"`
	State      trail.State     `json:"state"`
	Message    string          `json:"message"`
	Stored     []storedView    `json:"stored"`
	Waiting    []waitingView   `json:"waiting"`
	Dead       []deadView      `json:"dead"`
	Searched   []searchView    `json:"searched"`
	LastUpload *lastUploadView `json:"last_upload"`
	PutAside   int64           `json:"put_aside"`
	// NextCursor goes on with the search where more waits than was looked at.
	NextCursor *string `json:"next_cursor"`
}

type storedView struct {
	Tenant      string         `json:"tenant"`
	Time        time.Time      `json:"time"`
	Timestamp   *time.Time     `json:"timestamp"`
	ReceivedAt  *time.Time     `json:"received_at"`
	SavedAt     *time.Time     `json:"saved_at"`
	LateSeconds float64        `json:"late_seconds"`
	Outcome     domain.Outcome `json:"outcome"`
}

type waitingView struct {
	Stage         string     `json:"stage"`
	Topic         string     `json:"topic"`
	Partition     int32      `json:"partition"`
	Offset        int64      `json:"offset"`
	Tenant        string     `json:"tenant"`
	ReceivedAt    *time.Time `json:"received_at"`
	WrittenAt     *time.Time `json:"written_at"`
	Attempt       int        `json:"attempt"`
	NotBefore     *time.Time `json:"not_before"`
	FirstFailedAt *time.Time `json:"first_failed_at"`
	ErrorClass    *string    `json:"error_class"`
	ErrorCode     *string    `json:"error_code"`
	Error         *string    `json:"error"`
	Replay        *string    `json:"replay"`
}

type searchView struct {
	Stage     string     `json:"stage"`
	Topic     string     `json:"topic"`
	Partition int32      `json:"partition"`
	LookedAt  int64      `json:"looked_at"`
	Left      int64      `json:"left"`
	OldestAt  *time.Time `json:"oldest_at"`
	Complete  bool       `json:"complete"`
	Error     *string    `json:"error"`
}

type lastUploadView struct {
	Tenant string     `json:"tenant"`
	OPA    string     `json:"opa"`
	At     *time.Time `json:"at"`
}

// trail answers GET /api/v1/decisions/{decision_id}/trail.
func (q *query) trail(c echo.Context, id string) error {
	var opa string
	from := map[string]int64{}
	params := c.QueryParams()
	for name := range params {
		switch value := params.Get(name); name {
		case "opa":
			opa = value
		case "cursor":
			b, err := base64.RawURLEncoding.DecodeString(value)
			if err == nil {
				err = json.Unmarshal(b, &from)
			}
			if err != nil {
				return problem(http.StatusBadRequest, fmt.Sprintf("cursor %.40q is not one of ours: pass on next_cursor unchanged", value))
			}
		default:
			return problem(http.StatusBadRequest, fmt.Sprintf("unknown parameter %q: known are opa and cursor", name))
		}
	}
	r, err := q.follow.Follow(c.Request().Context(), id, opa, from)
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, trailViewOf(r))
}

func trailViewOf(r trail.Report) trailView {
	v := trailView{
		DecisionID: r.ID, State: r.State, Message: r.Message, PutAside: r.PutAside, Stored: []storedView{}, Waiting: []waitingView{}, Dead: []deadView{}, Searched: []searchView{},
	}
	for i := range r.Rows {
		d := &r.Rows[i]
		v.Stored = append(v.Stored, storedView{
			Tenant: d.Tenant, Time: d.Time(), Timestamp: instant(d.Timestamp), ReceivedAt: instant(d.ReceivedAt), SavedAt: instant(d.SavedAt),
			LateSeconds: max(d.SavedAt.Sub(d.ReceivedAt).Seconds(), 0), Outcome: d.Outcome,
		})
	}
	for _, f := range r.Waiting {
		h := f.Headers
		v.Waiting = append(v.Waiting, waitingView{
			Stage: f.Stage, Topic: f.Topic, Partition: f.Partition, Offset: f.Offset, Tenant: h.Tenant, ReceivedAt: instant(h.ReceivedAt), WrittenAt: instant(f.WrittenAt),
			Attempt: h.Attempt, NotBefore: instant(h.NotBefore), FirstFailedAt: instant(h.FirstFailedAt), ErrorClass: text(string(h.ErrorClass)),
			ErrorCode: text(h.ErrorCode), Error: text(h.Error), Replay: text(h.Replay),
		})
	}
	for i := range r.Dead {
		v.Dead = append(v.Dead, deadViewOf(&r.Dead[i]))
	}
	next := map[string]int64{}
	for _, s := range r.Search {
		view := searchView{
			Stage: s.Stage, Topic: s.Topic, Partition: s.Partition, LookedAt: s.LookedAt, Left: s.Left(), OldestAt: instant(s.Oldest), Complete: s.Left() == 0 && s.Err == nil,
		}
		if s.Err != nil {
			view.Error = text(s.Err.Error())
		}
		v.Searched = append(v.Searched, view)
		next[s.Topic] = s.Next
	}
	if r.State == trail.Unknown && r.StoreErr == nil {
		v.NextCursor = text(base64.RawURLEncoding.EncodeToString(marshal(next)))
	}
	if o := r.LastUpload; o != nil {
		v.LastUpload = &lastUploadView{Tenant: o.Tenant, OPA: o.OPA, At: instant(o.Last)}
	}
	return v
}
