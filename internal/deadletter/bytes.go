package deadletter

import (
	"context"
	"crypto/sha256"
	"io"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/ingest"
	"github.com/docket-project/docket/internal/ports"
)

// oneTimeout is how long the log may take to hand out one record.
const oneTimeout = 5 * time.Second

// Bytes reads a dead letter's newest copy from the log. A topic that was made anew may have another record at that
// position, perhaps of another tenant: that one is not found.
func Bytes(ctx context.Context, log ports.LogReader, l *domain.DeadLetter) (rec domain.Record, found bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, oneTimeout)
	defer cancel()
	_, err = log.Read(ctx, l.Topic, l.Partition, l.Offset, func(at domain.Record) bool {
		at = at.Unpacked()
		found = at.Offset == l.Offset && sha256.Sum256(at.Value) == l.SHA256 && at.Headers.Owner() == l.Tenant
		if found {
			rec = at
		}
		return false
	})
	return rec, found, err
}

// maxPreview is how much of bytes that are no JSON is shown, in bytes.
const maxPreview = 512

// Preview is how bytes begin, inflated where they are gzip, with escapes for what is no text.
func Preview(l *domain.DeadLetter, value []byte) string {
	if l.Whole {
		body, done := ingest.Open(value, true)
		defer done()
		inflated := make([]byte, maxPreview)
		if n, _ := io.ReadFull(body, inflated); n > 0 { // as far as it goes
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
