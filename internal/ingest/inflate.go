package ingest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"sync"

	"github.com/klauspost/compress/gzip"

	"github.com/docket-project/docket/internal/domain"
)

// gzipMagic begins a gzip member (RFC 1952 section 2.3.1).
const gzipMagic = "\x1f\x8b"

// LooksGzipped reports that bytes begin as gzip does.
func LooksGzipped(wire []byte) bool { return bytes.HasPrefix(wire, []byte(gzipMagic)) }

// Open reads a body as it came over the wire, and inflates it where it is gzip. A body that is at fault is reported as
// *domain.BodyError. Call done after the last read.
func Open(wire []byte, gzipped bool) (body io.Reader, done func()) {
	if !gzipped {
		return bytes.NewReader(wire), func() {}
	}
	f := inflate(wire)
	return f, f.release
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

// next enters the next member. The gzip reader's own way through several members takes a few bytes of rubbish behind
// the last one for a header that was cut off.
func (f *inflater) next() error {
	rest := f.wire[len(f.wire)-f.src.Len():]
	if len(rest) == 0 {
		return io.EOF
	}
	if n := min(len(rest), len(gzipMagic)); string(rest[:n]) != gzipMagic[:n] {
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
		return &domain.BodyError{Cause: domain.Truncated, Err: err}
	default: // the source is memory: only the bytes can be wrong
		return &domain.BodyError{Cause: domain.BadGzip, Err: err}
	}
}

// maxRatio is deflate's: no byte inflates to more.
const maxRatio = 1032

// sizeHint is the length that a gzip body says it inflates to (RFC 1952 section 2.3.1), at most limit. A body that lies
// costs its sender's share of the memory, because the hint is charged beforehand.
func sizeHint(wire []byte, gzipped bool, limit int) int {
	if !gzipped {
		return min(len(wire), limit)
	}
	if len(wire) < 18 {
		return 0
	}
	return int(min(uint64(binary.LittleEndian.Uint32(wire[len(wire)-4:])), uint64(len(wire))*maxRatio, uint64(limit)))
}
