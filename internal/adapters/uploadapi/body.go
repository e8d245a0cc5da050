package uploadapi

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"golang.org/x/sync/semaphore"

	"github.com/docket-project/docket/internal/adapters/web"
	"github.com/docket-project/docket/internal/domain"
)

// budget bounds the bytes of all requests in flight, wire and inflated together. Bytes are charged as they arrive, so
// that a slow or lying client holds no more than it sent.
type budget struct {
	all *semaphore.Weighted
}

// share is one request's part of the budget.
type share struct {
	*budget
	held, used int64
}

const shareStep = 64 << 10

var errBudget = domain.Errorf(domain.Unavailable, "too many bytes of uploads are in flight; send it again")

// charge takes n more bytes from the budget.
func (s *share) charge(n int) error {
	s.used += int64(n)
	for s.used > s.held {
		if !s.all.TryAcquire(shareStep) {
			return errBudget
		}
		s.held += shareStep
	}
	return nil
}

// release gives everything back.
func (s *share) release() { s.all.Release(s.held) }

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

// errCutOff is a body that could not be read to its end: whoever sent it is gone, or wrong about its length.
var errCutOff = errors.New("the body broke off")

// readWire reads a body as it came, at most limit bytes.
func readWire(r *http.Request, limit int64, s *share) ([]byte, error) {
	tooLarge := web.Problem(http.StatusRequestEntityTooLarge, fmt.Sprintf(
		"the upload is larger than %d bytes on the wire: set decision_logs.reporting.upload_size_limit_bytes to at most that",
		limit,
	))
	if r.ContentLength > limit {
		return nil, tooLarge
	}
	const first = 4 << 10 // what is set aside on a client's word alone
	buf := bytes.NewBuffer(make([]byte, 0, min(max(r.ContentLength, 0), first)+bytes.MinRead))
	_, err := buf.ReadFrom(charged{io.LimitReader(r.Body, limit+1), s})
	switch {
	case errors.Is(err, errBudget):
		return nil, err
	case err != nil:
		return nil, errCutOff
	case int64(buf.Len()) > limit:
		return nil, tooLarge
	}
	return buf.Bytes(), nil
}

// encodingOf tells gzip from no encoding.
func encodingOf(r *http.Request) (gzipped bool, err error) {
	switch e := strings.ToLower(strings.TrimSpace(strings.Join(r.Header.Values("Content-Encoding"), ","))); e {
	case "", "identity":
		return false, nil
	case "gzip", "x-gzip":
		return true, nil
	default:
		return false, web.Problem(
			http.StatusUnsupportedMediaType,
			fmt.Sprintf("docket cannot decode Content-Encoding %.80q: send gzip or none", e),
		)
	}
}
