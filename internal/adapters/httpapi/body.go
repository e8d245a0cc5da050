package httpapi

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"

	"github.com/klauspost/compress/gzip"
	"golang.org/x/sync/semaphore"

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
	prepaid    int // bytes that were charged before they arrived
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

// prepay charges bytes that are to arrive, so that memory for them can be set aside at once.
func (s *share) prepay(n int) error {
	s.prepaid += n
	return s.charge(n)
}

// arrived charges bytes that arrived, unless they are prepaid.
func (s *share) arrived(n int) error {
	covered := min(n, s.prepaid)
	s.prepaid -= covered
	return s.charge(n - covered)
}

// release gives everything back.
func (s *share) release() { s.all.Release(s.held) }

// charged is a reader whose bytes are charged.
type charged struct {
	r io.Reader
	s *share
}

func (c charged) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	if budgetErr := c.s.arrived(n); budgetErr != nil {
		return 0, budgetErr
	}
	return n, err
}

// errCutOff is a body that could not be read to its end: whoever sent it is gone, or wrong about its length.
var errCutOff = errors.New("the body broke off")

// readWire reads a body as it came, at most limit bytes.
func readWire(r *http.Request, limit int64, s *share) ([]byte, error) {
	tooLarge := problem(http.StatusRequestEntityTooLarge, fmt.Sprintf(
		"the upload is larger than %d bytes on the wire: set decision_logs.reporting.upload_size_limit_bytes to at most that", limit))
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
		return false, problem(http.StatusUnsupportedMediaType, fmt.Sprintf("Content-Encoding %.80q cannot be undone here: send gzip or none", e))
	}
}

// inflater is a pooled gzip reader that reports a body at fault as *domain.BodyError.
type inflater struct {
	zr     gzip.Reader
	src    bytes.Reader
	wire   []byte
	err    error
	member bool // zr is inside a member
}

var inflaters = sync.Pool{New: func() any { return new(inflater) }}

// inflate lends a reader over wire; release it after the last read.
func inflate(wire []byte) *inflater {
	f := inflaters.Get().(*inflater)
	f.src.Reset(wire)
	f.wire, f.err, f.member = wire, nil, false
	return f
}

// Inflate undoes gzip as the upload API does.
func Inflate(wire []byte) io.Reader { return inflate(wire) }

func (f *inflater) release() {
	f.src.Reset(nil)
	f.wire = nil
	inflaters.Put(f)
}

// Read inflates. Several members are one stream; a body of no bytes at all is an empty one.
func (f *inflater) Read(b []byte) (int, error) {
	for f.err == nil {
		if !f.member {
			f.err = f.next()
			continue
		}
		n, err := f.zr.Read(b)
		if errors.Is(err, io.EOF) {
			f.member, err = false, nil
		}
		f.err = bodyError(err)
		if n > 0 {
			return n, f.err
		}
	}
	return 0, f.err
}

// next enters the next member. The reader's own way through several members takes a few bytes of rubbish behind the last
// one for a header that was cut off.
func (f *inflater) next() error {
	rest := f.wire[len(f.wire)-f.src.Len():]
	if len(rest) == 0 {
		return io.EOF
	}
	const magic = "\x1f\x8b"
	if n := min(len(rest), len(magic)); string(rest[:n]) != magic[:n] {
		return bodyError(gzip.ErrHeader)
	}
	err := f.zr.Reset(&f.src)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	f.zr.Multistream(false)
	f.member = true
	return bodyError(err)
}

func bodyError(err error) error {
	switch {
	case err == nil, errors.Is(err, io.EOF):
		return err
	case errors.Is(err, io.ErrUnexpectedEOF):
		return &domain.BodyError{Reason: domain.Truncated, Err: err}
	default: // the source is memory: only the bytes can be wrong
		return &domain.BodyError{Reason: domain.BadGzip, Err: err}
	}
}

// maxRatio is deflate's: no byte inflates to more.
const maxRatio = 1032

// sizeHint is the length that a gzip body says it inflates to (RFC 1952 section 2.3.1), at most limit. A body that lies
// costs its sender's share of the budget, because the hint is prepaid.
func sizeHint(wire []byte, gzipped bool, limit int) int {
	if !gzipped {
		return min(len(wire), limit)
	}
	if len(wire) < 18 {
		return 0
	}
	return int(min(uint64(binary.LittleEndian.Uint32(wire[len(wire)-4:])), uint64(len(wire))*maxRatio, uint64(limit)))
}
