package uploadapi

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
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
	errSlowOnes = domain.Errorf(
		domain.Unavailable, "more than %d bodies of this tenant are on their way, and this one arrived too slowly: after %s "+
			"it has to come at %d bytes a second then; send it again", maxBodies, crowdGrace, slowRate,
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
	// crowdGrace is what a body has while more of its tenant's than maxBodies are being read.
	crowdGrace = time.Second
	maxBodies  = 1024
)

// paced is a body that has to keep coming. Whoever sends a byte now and then would otherwise hold a connection for as
// long as it likes.
type paced struct {
	body    io.Reader
	control *http.ResponseController
	began   time.Time
	until   time.Time
	n       atomic.Int64
	ended   atomic.Bool // by end
}

func (p *paced) Read(b []byte) (int, error) {
	allowed := min(slowGrace+time.Duration(p.n.Load())*time.Second/slowRate, slowest)
	if until := p.began.Add(allowed); until.After(p.until) {
		p.until = until.Add(slowStep)
		_ = p.control.SetReadDeadline(p.until) // a test's recorder has none
	}
	if p.ended.Load() { // in the meantime, perhaps
		return 0, errSlowOnes
	}
	n, err := p.body.Read(b)
	p.n.Add(int64(n))
	if err != nil && p.ended.Load() {
		return n, errSlowOnes
	}
	return n, err
}

// slow says that a body takes its time: it has had crowdGrace, and came at less than slowRate.
func (p *paced) slow(now time.Time) bool {
	took := now.Sub(p.began)
	return took >= crowdGrace && time.Duration(p.n.Load())*time.Second/slowRate < took
}

// end has the body's reader return. It may be called while the request is being handled, by others.
func (p *paced) end() {
	p.ended.Store(true)
	_ = p.control.SetReadDeadline(time.Now())
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
	body := &paced{body: io.LimitReader(r.Body, limit+1), control: http.NewResponseController(w), began: time.Now()}
	s.reads(body)
	wire, err := readAll(charged{body, s}, r.ContentLength)
	s.hasRead()
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, errSlow
	case domain.ClassOf(err) == domain.Unavailable: // charge's
		return nil, err
	case err != nil:
		return nil, errCutOff
	case int64(len(wire)) > limit:
		return nil, tooLarge(limit)
	}
	body.done()
	return wire, nil
}

// readAll reads to the end. declared is the length that the client told, or -1. A client's word alone sets first bytes
// aside; once a quarter of what it told has come, there is room for all of it, and no more.
func readAll(r io.Reader, declared int64) ([]byte, error) {
	size := int64(4 << 10)
	if declared >= 0 {
		size = min(size, declared)
	}
	buf := make([]byte, 0, size+1) // one more, to meet io.EOF without growing
	for {
		n, err := r.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if errors.Is(err, io.EOF) {
			return buf, nil
		}
		if err != nil {
			return nil, err
		}
		if len(buf) < cap(buf) {
			continue
		}
		room := 2 * len(buf)
		if declared > int64(len(buf)) {
			room = min(4*len(buf), int(declared)+1)
		}
		buf = append(make([]byte, 0, room), buf...)
	}
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
