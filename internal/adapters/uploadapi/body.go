package uploadapi

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/docket-project/docket/internal/adapters/web"
	"github.com/docket-project/docket/internal/domain"
)

// charged is a reader whose bytes are charged as they arrive.
type charged struct {
	r io.Reader
	s *share
}

func (c charged) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	if budgetErr := c.s.charge(n); budgetErr != nil {
		return 0, budgetErr
	}
	return n, err
}

// Why a body could not be read to its end.
var (
	// errCutOff is a sender who is gone, or wrong about the length.
	errCutOff = errors.New("the body broke off")
	errSlow   = domain.Errorf(
		domain.Unavailable, "the body arrived too slowly: after %s it has to come at %d bytes a second; send it again",
		slowGrace, slowRate,
	)
)

// A body has slowGrace, and for every slowRate bytes that have arrived a second more.
const (
	slowGrace = 5 * time.Second
	slowRate  = 8 << 10
	// slowStep is how much later than that a body may come, so that a fast one sets its deadline once.
	slowStep = time.Second
	// slowest is how long a body may take in all. OPA waits for an answer for 10 s.
	slowest = time.Minute
)

// paced is a body that has to keep coming. Whoever sends a byte now and then would otherwise hold a connection for as
// long as it likes.
type paced struct {
	body    io.Reader
	control *http.ResponseController
	began   time.Time
	until   time.Time
	n       int64
}

func (p *paced) Read(b []byte) (int, error) {
	allowed := min(slowGrace+time.Duration(p.n)*time.Second/slowRate, slowest)
	if until := p.began.Add(allowed); until.After(p.until) {
		p.until = until.Add(slowStep)
		_ = p.control.SetReadDeadline(p.until) // a test's recorder has none
	}
	n, err := p.body.Read(b)
	p.n += int64(n)
	return n, err
}

// done takes the deadline away: the answer may take its time.
func (p *paced) done() { _ = p.control.SetReadDeadline(time.Time{}) }

func tooLarge(limit int64) error {
	return web.Problem(http.StatusRequestEntityTooLarge, fmt.Sprintf(
		"the upload is larger than %d bytes on the wire: set decision_logs.reporting.upload_size_limit_bytes to at most that",
		limit,
	))
}

// readWire reads a body as it came, at most limit bytes.
func readWire(w http.ResponseWriter, r *http.Request, limit int64, s *share) ([]byte, error) {
	if r.ContentLength > limit {
		return nil, tooLarge(limit)
	}
	const first = 4 << 10 // what is set aside on a client's word alone
	buf := bytes.NewBuffer(make([]byte, 0, min(max(r.ContentLength, 0), first)+bytes.MinRead))
	body := &paced{body: io.LimitReader(r.Body, limit+1), control: http.NewResponseController(w), began: time.Now()}
	_, err := buf.ReadFrom(charged{body, s})
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, errSlow
	case domain.ClassOf(err) == domain.Unavailable: // charge's
		return nil, err
	case err != nil:
		return nil, errCutOff
	case int64(buf.Len()) > limit:
		return nil, tooLarge(limit)
	}
	body.done()
	return buf.Bytes(), nil
}

// encodingOf tells gzip from no encoding. identity changes nothing, wherever it stands in the list (RFC 9110 section
// 8.4).
func encodingOf(r *http.Request) (gzipped bool, err error) {
	all := strings.Join(r.Header.Values("Content-Encoding"), ",")
	for e := range strings.SplitSeq(all, ",") {
		switch e = strings.ToLower(strings.TrimSpace(e)); {
		case e == "", e == "identity":
		case !gzipped && (e == "gzip" || e == "x-gzip"):
			gzipped = true
		default:
			return false, web.Problem(
				http.StatusUnsupportedMediaType,
				fmt.Sprintf("docket cannot decode Content-Encoding %.80q: send gzip or none", all),
			)
		}
	}
	return gzipped, nil
}
