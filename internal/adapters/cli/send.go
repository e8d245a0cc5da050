package cli

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/klauspost/compress/gzip"
)

// Send is `docket send FILE…`.
type Send struct {
	UploadServer string `help:"Upload listener of the docket to send to." default:"http://127.0.0.1:8080" env:"DOCKET_UPLOAD_SERVER" placeholder:"URL"`
	Console      `embed:""`
	Form         `embed:""`
	Partition    string   `help:"Upload to /logs/PARTITION." placeholder:"NAME"`
	Files        []string `arg:"" name:"FILE" help:"Files of decisions: an array, one object, or NDJSON; gzip or not; - is standard input."`
}

// One upload of send carries at most this; OPA's own are about as large.
const (
	sendEvents = 5000
	sendBytes  = 8 << 20
)

// sent sums up the answers.
type sent struct {
	Accepted    int            `json:"accepted"`
	Quarantined int            `json:"quarantined"`
	Reasons     map[string]int `json:"reasons"`
	// Dropped counts what docket does not keep, as its policies have it.
	Dropped int `json:"dropped,omitempty"`
	// TooLarge counts events that docket takes on no account, because they are too large on the wire.
	TooLarge int `json:"too_large,omitempty"`
}

// Run sends every event of every file, unchanged.
func (s *Send) Run(ctx context.Context, out Out) error {
	total := sent{Reasons: map[string]int{}}
	var err error
	for _, name := range s.Files {
		if err = s.file(ctx, name, &total, out); err != nil {
			break // what was sent is told all the same
		}
	}
	if err == nil && total.TooLarge > 0 {
		err = fail(ExitFailed, "%d events are larger than this docket takes and were not sent", total.TooLarge)
	}
	return errors.Join(s.print(out, total), err)
}

func (s *Send) print(out Out, total sent) error {
	if s.Output != "table" {
		return printJSON(out.Stdout, total, s.Output)
	}
	fmt.Fprintf(out.Stdout, "%d accepted, %d quarantined", total.Accepted, total.Quarantined)
	if total.Dropped > 0 {
		fmt.Fprintf(out.Stdout, ", %d dropped by policies", total.Dropped)
	}
	fmt.Fprintln(out.Stdout)
	for _, reason := range slices.Sorted(maps.Keys(total.Reasons)) {
		fmt.Fprintf(out.Stdout, "  %s: %d\n", reason, total.Reasons[reason])
	}
	return nil
}

// file sends one file in uploads of bounded size.
func (s *Send) file(ctx context.Context, name string, total *sent, out Out) error {
	r, done, err := openEvents(name)
	if err != nil {
		return err
	}
	defer done()
	var batch bytes.Buffer
	count := 0
	flush := func() error {
		if count == 0 {
			return nil
		}
		batch.WriteByte(']')
		err := s.wait(ctx, out, func() error { return s.post(ctx, batch.Bytes(), total) })
		var refused *Failure
		if errors.As(err, &refused) && refused.Status == http.StatusRequestEntityTooLarge && count == 1 {
			total.TooLarge++ // the others are sent all the same
			err = nil
		}
		if err != nil {
			return err
		}
		if out.Terminal {
			fmt.Fprintf(out.Stderr, "\r%d sent ", total.Accepted+total.Quarantined+total.Dropped)
		}
		batch.Reset()
		count = 0
		return nil
	}
	err = eachEvent(r, func(event []byte) error {
		if batch.Len()+len(event) > sendBytes { // a large one goes alone
			if err := flush(); err != nil {
				return err
			}
		}
		batch.WriteByte("[,"[min(count, 1)])
		batch.Write(event)
		count++
		if count == sendEvents || batch.Len() >= sendBytes {
			return flush()
		}
		return nil
	})
	var syntax *jsontext.SyntacticError
	if errors.As(err, &syntax) || errors.Is(err, io.ErrUnexpectedEOF) {
		if err := flush(); err != nil {
			return err
		}
		return fail(ExitFailed, "%s is not JSON: %v; what stands in front of that was sent", fileName(name), err)
	}
	if err == nil {
		err = flush()
	}
	if out.Terminal && total.Accepted > 0 {
		fmt.Fprintln(out.Stderr)
	}
	return err
}

// sendPatience is how long a quota may refuse one upload until send gives up.
const sendPatience = 10 * time.Minute

// wait does as OPA does with an upload that a quota refuses: it has it sent again, once the quota says that it is time.
func (s *Send) wait(ctx context.Context, out Out, post func() error) error {
	for began := time.Now(); ; {
		err := post()
		var refused *Failure
		if !errors.As(err, &refused) || refused.Status != http.StatusTooManyRequests || time.Since(began) > sendPatience {
			return err
		}
		if out.Terminal {
			fmt.Fprintf(out.Stderr, "\r%s: waiting for %s ", printable(refused.Error()), refused.RetryAfter)
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(refused.RetryAfter):
		}
	}
}

// post makes one upload.
func (s *Send) post(ctx context.Context, body []byte, total *sent) error {
	var zipped bytes.Buffer
	w := gzip.NewWriter(&zipped)
	if _, err := w.Write(body); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	u := urlOf(s.UploadServer, "/logs")
	if s.Partition != "" {
		u += "/" + url.PathEscape(s.Partition)
	}
	answer, err := do(ctx, http.MethodPost, u, s.Identity, zipped.Bytes(), "gzip")
	if err != nil {
		return err
	}
	got, err := read[sent](answer)
	if err != nil {
		return err
	}
	total.Accepted += got.Accepted
	total.Quarantined += got.Quarantined
	total.Dropped += got.Dropped
	for reason, n := range got.Reasons {
		total.Reasons[reason] += n
	}
	return nil
}

// openEvents opens a file, or standard input, and inflates it where it is gzip.
func openEvents(name string) (io.Reader, func(), error) {
	f, done := os.Stdin, func() {}
	if name != "-" {
		var err error
		if f, err = os.Open(name); err != nil {
			return nil, nil, fail(ExitFailed, "%w", err)
		}
		done = func() { _ = f.Close() }
	}
	r := bufio.NewReaderSize(f, 1<<20)
	if magic, _ := r.Peek(2); len(magic) == 2 && magic[0] == 0x1f && magic[1] == 0x8b {
		z, err := gzip.NewReader(r)
		if err != nil {
			done()
			return nil, nil, fail(ExitFailed, "%s begins like gzip but is not: %w", fileName(name), err)
		}
		r = bufio.NewReaderSize(z, 1<<20)
	}
	if mark, _ := r.Peek(len(byteOrderMark)); string(mark) == byteOrderMark {
		_, _ = r.Discard(len(byteOrderMark)) // it is there
	}
	return r, done, nil
}

// fileName is how people call a file.
func fileName(name string) string {
	if name == "-" {
		return "standard input"
	}
	return name
}

// byteOrderMark is what some editors put in front of UTF-8.
const byteOrderMark = "\xEF\xBB\xBF"

// eachEvent visits the elements of arrays, and every other value as it is. The bytes are valid during the visit only.
func eachEvent(r io.Reader, visit func([]byte) error) error {
	d := jsontext.NewDecoder(r, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
	for {
		switch kind := d.PeekKind(); {
		case kind == '[' && d.StackDepth() == 0, kind == ']':
			if _, err := d.ReadToken(); err != nil {
				return err
			}
			continue
		}
		v, err := d.ReadValue()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := visit(v); err != nil {
			return err
		}
	}
}
