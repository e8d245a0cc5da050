package httpapi

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/docket-project/docket/internal/domain"
)

// maxReason bounds what an operator writes, in bytes.
const maxReason = 1000

// floodView is what the store refused lately.
type floodView struct {
	Stopping      bool        `json:"stopping"`
	Judged        int64       `json:"judged"`
	Blamed        int64       `json:"blamed"`
	WithinSeconds float64     `json:"within_seconds"`
	Items         []blameView `json:"items"`
}

type blameView struct {
	Fingerprint    string       `json:"fingerprint"`
	Class          domain.Class `json:"class"`
	Code           *string      `json:"code"`
	Error          string       `json:"error"`
	Path           *string      `json:"path"`
	Rows           int64        `json:"rows"`
	AcceptedAt     *time.Time   `json:"accepted_at"`
	AcceptedUntil  *time.Time   `json:"accepted_until"`
	AcceptedBy     *string      `json:"accepted_by"`
	AcceptedReason *string      `json:"accepted_reason"`
}

// flood answers GET /api/v1/flood.
func (q *query) flood(c echo.Context) error {
	report, err := q.store.ExchangeBlames(c.Request().Context(), q.now(), 0, nil)
	if err != nil {
		return err
	}
	answer := floodView{
		Stopping: report.Stopping, Judged: report.Judged, Blamed: report.Blamed(), WithinSeconds: domain.FloodSpan.Seconds(),
		Items: make([]blameView, 0, len(report.Blames)),
	}
	for _, b := range report.Blames {
		v := blameView{Fingerprint: b.Fingerprint, Class: b.Class, Code: text(b.Code), Error: b.Text, Path: text(b.Path), Rows: b.Rows}
		if a, ok := report.Accepted[b.Fingerprint]; ok {
			v.AcceptedAt, v.AcceptedUntil, v.AcceptedBy, v.AcceptedReason = instant(a.At), instant(a.Until), text(a.Who), text(a.Reason)
		}
		answer.Items = append(answer.Items, v)
	}
	return c.JSON(http.StatusOK, answer)
}

// acceptBlame answers POST /api/v1/flood/acceptances.
func (q *query) acceptBlame(c echo.Context) error {
	var wanted struct{ Fingerprint, Reason string }
	who, err := q.command(c, &wanted, `{"fingerprint": "…", "reason": "…"}`)
	if err != nil {
		return err
	}
	if wanted.Reason, err = reasonGiven(wanted.Reason); err != nil {
		return err
	}
	if b, err := hex.DecodeString(wanted.Fingerprint); err != nil || len(b) != domain.FingerprintBytes {
		return problem(http.StatusBadRequest, fmt.Sprintf("%q is no fingerprint: docket flood lists those of the last ten minutes", wanted.Fingerprint))
	}
	now := q.now().UTC()
	a := domain.Acceptance{Fingerprint: wanted.Fingerprint, At: now, Until: now.Add(domain.LongestAcceptance), Who: who.Name, Reason: wanted.Reason}
	if err := q.store.AcceptBlame(c.Request().Context(), a); err != nil {
		return err
	}
	if err := q.store.Audit(c.Request().Context(), domain.AuditEntry{
		At: now.Truncate(time.Microsecond), Who: a.Who, Action: "flood.accept", Target: a.Fingerprint, Reason: a.Reason, Outcome: "until " + a.Until.Format(time.RFC3339),
	}); err != nil {
		return err
	}
	return q.flood(c)
}

// command reads what an operator wants: who it is, and a small JSON body that looks like the example.
func (q *query) command(c echo.Context, into any, example string) (principal, error) {
	who, err := q.tokens.operator(c.Request())
	if err != nil {
		return who, err
	}
	if kind, _, _ := mime.ParseMediaType(c.Request().Header.Get(echo.HeaderContentType)); kind != echo.MIMEApplicationJSON {
		return who, problem(http.StatusUnsupportedMediaType, "want Content-Type: application/json") // no page of a browser's may send it unasked
	}
	dec := json.NewDecoder(io.LimitReader(c.Request().Body, 64<<10))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		return who, problem(http.StatusBadRequest, "want "+example+": "+err.Error())
	}
	return who, nil
}

// reasonGiven checks what an operator says of why.
func reasonGiven(s string) (string, error) {
	if s = strings.TrimSpace(s); s == "" || len(s) > maxReason {
		return "", problem(http.StatusBadRequest, "a reason is wanted, of at most 1,000 bytes: whoever finds these dead letters, or the audit, will ask")
	}
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD"), nil
}
