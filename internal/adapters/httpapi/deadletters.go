package httpapi

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/labstack/echo/v4"

	"github.com/docket-project/docket/internal/domain"
)

// Runbook is where people read what to do.
const Runbook = "https://github.com/docket-project/docket/blob/main/docs/runbook.md"

// runbookOf is the part of the runbook about a reason to die.
func runbookOf(r domain.Reason) string { return Runbook + "#" + string(r) }

// deadView is a dead letter as the API shows it. What is absent is null.
type deadView struct {
	ID            string           `json:"id"`
	State         domain.DeadState `json:"state"`
	Class         domain.Class     `json:"class"`
	Code          *string          `json:"code"`
	Reason        domain.Reason    `json:"reason"`
	Error         *string          `json:"error"`
	Fingerprint   string           `json:"fingerprint"`
	Attempts      int              `json:"attempts"`
	Tenant        string           `json:"tenant"`
	DecisionID    *string          `json:"decision_id"`
	Path          *string          `json:"path"`
	Timestamp     *time.Time       `json:"timestamp"`
	ReceivedAt    *time.Time       `json:"received_at"`
	FirstFailedAt *time.Time       `json:"first_failed_at"`
	DiedAt        *time.Time       `json:"died_at"`
	ChangedAt     *time.Time       `json:"changed_at"`
	Topic         string           `json:"topic"`
	Partition     int32            `json:"partition"`
	Offset        int64            `json:"offset"`
	Copies        int              `json:"copies"`
	Bytes         int              `json:"bytes"`
	SHA256        string           `json:"sha256"`
	Upload        *string          `json:"upload"`
	Origin        *string          `json:"origin"`
	Replay        *string          `json:"replay"`
	Replays       int              `json:"replays"`
	Runbook       string           `json:"runbook"`
}

func deadViewOf(l *domain.DeadLetter) deadView {
	return deadView{
		ID: l.ID, State: l.State, Class: l.Class, Code: text(l.Code), Reason: l.Reason, Error: text(l.Error), Fingerprint: l.Fingerprint, Attempts: l.Attempts,
		Tenant: l.Tenant, DecisionID: text(l.DecisionID), Path: text(l.Path), Timestamp: instant(l.Timestamp), ReceivedAt: instant(l.ReceivedAt),
		FirstFailedAt: instant(l.FirstFailedAt), DiedAt: instant(l.DiedAt), ChangedAt: instant(l.ChangedAt), Topic: l.Topic, Partition: l.Partition, Offset: l.Offset,
		Copies: l.Copies, Bytes: l.Bytes, SHA256: hex.EncodeToString(l.SHA256[:]), Upload: text(l.Upload), Origin: text(l.Origin), Replay: text(l.Replay),
		Replays: l.Replays, Runbook: runbookOf(l.Reason),
	}
}

// deadLetters answers GET /api/v1/dead-letters.
func (q *query) deadLetters(c echo.Context) error {
	wanted, err := q.wanted(c, domain.ParseDeadQuery)
	if err != nil {
		return err
	}
	page, err := q.store.DeadLetters(c.Request().Context(), wanted)
	if err != nil {
		return err
	}
	answer := struct {
		Items      []deadView `json:"items"`
		NextCursor *string    `json:"next_cursor"`
	}{Items: make([]deadView, 0, len(page.Items))}
	for i := range page.Items {
		answer.Items = append(answer.Items, deadViewOf(&page.Items[i]))
	}
	if page.Next != nil {
		answer.NextCursor = text(page.Next.String())
	}
	return c.JSON(http.StatusOK, answer)
}

// groupView is a group of dead letters as the API shows it.
type groupView struct {
	Fingerprint string        `json:"fingerprint"`
	Count       int64         `json:"count"`
	Open        int64         `json:"open"`
	Replayed    int64         `json:"replayed"`
	Discarded   int64         `json:"discarded"`
	Stored      int64         `json:"stored"`
	Class       domain.Class  `json:"class"`
	Code        *string       `json:"code"`
	Reason      domain.Reason `json:"reason"`
	Error       *string       `json:"error"`
	Path        *string       `json:"path"`
	FirstSeen   time.Time     `json:"first_seen"`
	LastSeen    time.Time     `json:"last_seen"`
	Sample      string        `json:"sample"`
	Runbook     string        `json:"runbook"`
}

// deadGroups answers GET /api/v1/dead-letters/groups.
func (q *query) deadGroups(c echo.Context) error {
	wanted, err := q.wanted(c, domain.ParseDeadQuery)
	if err != nil {
		return err
	}
	for _, f := range []domain.Field{domain.FieldID, domain.FieldDecisionID, domain.FieldReplay} {
		if wanted.Names(f) {
			return problem(http.StatusBadRequest, fmt.Sprintf("%s chooses dead letters, not groups: ask /api/v1/dead-letters", f))
		}
	}
	groups, err := q.store.DeadGroups(c.Request().Context(), wanted)
	if err != nil {
		return err
	}
	answer := struct {
		Items []groupView `json:"items"`
	}{Items: make([]groupView, 0, len(groups))}
	for _, g := range groups {
		v := groupView{
			Fingerprint: g.Fingerprint, Open: g.Letters[domain.DeadOpen], Replayed: g.Letters[domain.DeadReplayed], Discarded: g.Letters[domain.DeadDiscarded],
			Stored: g.Letters[domain.DeadStored], Class: g.Class, Code: text(g.Code), Reason: g.Reason, Error: text(g.Text), Path: text(g.Path),
			FirstSeen: g.First, LastSeen: g.Last, Sample: g.Sample, Runbook: runbookOf(g.Reason),
		}
		v.Count = v.Open + v.Replayed + v.Discarded + v.Stored
		answer.Items = append(answer.Items, v)
	}
	return c.JSON(http.StatusOK, answer)
}

// deadLetterOf finds the dead letter that the path names.
func (q *query) deadLetterOf(c echo.Context) (domain.DeadLetter, error) {
	id, err := url.PathUnescape(c.Param("id"))
	if err == nil {
		_, err = domain.ParsePlace(id)
	}
	if err != nil {
		return domain.DeadLetter{}, problem(http.StatusBadRequest, err.Error())
	}
	l, found, err := q.store.DeadLetter(c.Request().Context(), id)
	if err == nil && !found {
		err = problem(http.StatusNotFound, "there is no dead letter "+id+": it may have passed its topic's retention, be a copy of another one, or not be indexed yet")
	}
	return l, err
}

// bytesOf reads a dead letter's newest copy from the log.
func (q *query) bytesOf(c echo.Context, l *domain.DeadLetter) (r domain.Record, found bool, err error) {
	ctx, cancel := context.WithTimeout(c.Request().Context(), readTimeout)
	defer cancel()
	_, err = q.log.Read(ctx, l.Topic, l.Partition, l.Offset, func(at domain.Record) bool {
		if found = at.Offset == l.Offset; found {
			r = at
		}
		return false
	})
	return r, found, err
}

// readTimeout is how long the log may take to hand out one record.
const readTimeout = 5 * time.Second

// maxPreview is how much of bytes that are no JSON is shown, in bytes.
const maxPreview = 512

// deadLetter answers GET /api/v1/dead-letters/{id}: what the index knows, the record's headers, and the event or the beginning of
// what stands in for it.
func (q *query) deadLetter(c echo.Context) error {
	l, err := q.deadLetterOf(c)
	if err != nil {
		return err
	}
	answer := struct {
		deadView
		Available bool              `json:"available"`
		ReadError *string           `json:"read_error"`
		Headers   map[string]string `json:"headers"`
		Preview   *string           `json:"preview"`
	}{deadView: deadViewOf(&l), Headers: map[string]string{}}
	event := []byte("null")
	r, found, err := q.bytesOf(c, &l)
	answer.Available = found
	for _, h := range r.Headers.Encode() {
		answer.Headers[h.Name] = strings.ToValidUTF8(h.Value, "\uFFFD")
	}
	switch {
	case err != nil: // what the index knows is an answer
		answer.ReadError = text(err.Error())
	case found && l.Decision && utf8.Valid(r.Value) && json.Valid(r.Value):
		event = r.Value
	case found:
		answer.Preview = text(preview(&l, r.Value))
	}
	return c.Blob(http.StatusOK, echo.MIMEApplicationJSON, with(marshal(answer), "event", event))
}

// preview is how bytes begin, inflated where they are gzip, with escapes for what is no text.
func preview(l *domain.DeadLetter, value []byte) string {
	if l.Whole {
		inflated := make([]byte, maxPreview)
		if n, _ := io.ReadFull(Inflate(value), inflated); n > 0 { // as far as it goes
			value = inflated[:n]
		}
	}
	value = value[:min(len(value), maxPreview)]
	if utf8.Valid(value) {
		return string(value)
	}
	quoted := strconv.QuoteToGraphic(string(value))
	return quoted[1 : len(quoted)-1]
}

// deadLetterRaw answers GET /api/v1/dead-letters/{id}/raw.
func (q *query) deadLetterRaw(c echo.Context) error {
	l, err := q.deadLetterOf(c)
	if err != nil {
		return err
	}
	r, found, err := q.bytesOf(c, &l)
	switch {
	case err != nil:
		return err
	case !found:
		return problem(http.StatusNotFound, "the bytes of "+l.ID+" are not in the log any more: they have passed the retention of "+l.Topic)
	case l.Decision:
		return c.Blob(http.StatusOK, echo.MIMEApplicationJSON, r.Value)
	default:
		c.Response().Header().Set("X-Content-Type-Options", "nosniff")
		return c.Blob(http.StatusOK, echo.MIMEOctetStream, r.Value)
	}
}

// auditView is an entry of the audit as the API shows it.
type auditView struct {
	At      time.Time `json:"at"`
	Who     string    `json:"who"`
	Action  string    `json:"action"`
	Target  string    `json:"target"`
	Filter  string    `json:"filter"`
	Matched int64     `json:"matched"`
	Done    int64     `json:"done"`
	Failed  int64     `json:"failed"`
	Reason  string    `json:"reason"`
	Outcome string    `json:"outcome"`
}

// audit answers GET /api/v1/audit.
func (q *query) audit(c echo.Context) error {
	limit, before := domain.DefaultPage, time.Time{}
	params := c.QueryParams()
	for name := range params {
		var err error
		switch value := params.Get(name); name {
		case "limit":
			if limit, err = strconv.Atoi(value); err != nil || limit < 1 || limit > domain.MaxPage {
				err = fmt.Errorf("limit: %q is not a number from 1 to %d", value, domain.MaxPage)
			}
		case "until":
			before, err = domain.ParseInstant(value, q.now())
		default:
			err = fmt.Errorf("unknown parameter %q: known are until and limit", name)
		}
		if err != nil {
			return problem(http.StatusBadRequest, err.Error())
		}
	}
	entries, err := q.store.Audits(c.Request().Context(), before, limit)
	if err != nil {
		return err
	}
	answer := struct {
		Items []auditView `json:"items"`
	}{Items: make([]auditView, 0, len(entries))}
	for _, e := range entries {
		answer.Items = append(answer.Items, auditView(e))
	}
	return c.JSON(http.StatusOK, answer)
}
