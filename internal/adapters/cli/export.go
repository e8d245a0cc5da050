package cli

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"github.com/docket-project/docket/internal/adapters/api"
)

// maxLine is longer than any line of an export, in bytes: an event of 64 MiB, at most, and its columns.
const maxLine = 80 << 20

// lines asks for a stream and visits its lines until visit wants no more. It has no limit of time: what does not come
// in time is ended by docket, or by the person who waits.
func (s Console) lines(
	ctx context.Context, path string, query url.Values, visit func(line []byte) (more bool, err error),
) error {
	asked, cancel := context.WithCancel(ctx)
	defer cancel()
	resp, err := answerTo(
		asked, ctx, http.MethodGet, urlOf(s.Server, path)+"?"+query.Encode(), s.TokenFile, nil, "",
	)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		answer, err := wholeOf(resp)
		if err != nil {
			return err
		}
		return refusal(resp, answer)
	}
	in := bufio.NewScanner(resp.Body)
	in.Buffer(make([]byte, 0, 64<<10), maxLine)
	for in.Scan() {
		if more, err := visit(in.Bytes()); err != nil || !more {
			return err
		}
	}
	switch err := in.Err(); {
	case ctx.Err() != nil:
		return fail(ExitFailed, "interrupted")
	case errors.Is(err, bufio.ErrTooLong):
		return fail(ExitFailed, "%s sends longer lines than docket ever does: is this its address?", s.Server)
	case err != nil:
		return fail(ExitUnavailable, "the answer broke off: %v", err)
	}
	return nil
}

// export prints what an export sends, up to the limit, in the order in which it comes. What is missing it tells at the
// end, and by its exit code.
func (f *Find) export(ctx context.Context, out Out, query url.Values) error {
	query.Set("format", "ndjson")
	query.Set("with_event", strconv.FormatBool(f.WithEvent))
	form := &exportPrinter{w: bufio.NewWriterSize(out.Stdout, 64<<10), form: f.Output, csv: api.CSV{Events: f.WithEvent}}
	if err := form.begin(); err != nil {
		return err
	}
	var end *api.ExportEnd
	more := false
	err := f.lines(ctx, "/api/v1/decisions/export", query, func(line []byte) (bool, error) {
		d, last, err := exportLine(line)
		switch {
		case err != nil:
			return false, err
		case last != nil:
			end = last
			return false, nil
		case f.Limit > 0 && form.printed == f.Limit:
			more = true
			return false, nil
		}
		return true, form.decision(d)
	})
	if ended := form.end(); err == nil {
		err = ended
	}
	switch {
	case err != nil:
		return err
	case more:
		fmt.Fprintf(out.Stderr, "There are more decisions: --limit 0 prints all of them, as ndjson or csv.\n")
		return nil
	case end == nil:
		return fail(ExitUnavailable, "the export broke off behind %d decisions: what is printed is not everything",
			form.printed)
	case !end.Complete:
		return fail(ExitUnavailable, "what is printed is not everything: %s", printable(end.String()))
	}
	return nil
}

// exportLine reads a line of an export: a decision, or its end.
func exportLine(line []byte) (d api.Exported, end *api.ExportEnd, err error) {
	var both struct {
		api.Exported
		Complete *bool `json:"complete"`
	}
	if err := json.Unmarshal(line, &both); err != nil {
		return d, nil, fail(ExitFailed, "the answer is not docket's: %w", err)
	}
	if both.Complete == nil {
		return both.Exported, nil, nil
	}
	end = new(api.ExportEnd)
	return d, end, json.Unmarshal(line, end)
}

// exportPrinter prints decisions one by one.
type exportPrinter struct {
	w       *bufio.Writer
	form    string
	csv     api.CSV
	printed int
	row     bytes.Buffer
}

func (p *exportPrinter) begin() error {
	switch p.form {
	case "csv":
		p.csv.Begin(&p.row)
		return p.flushRow()
	case "json":
		_, err := io.WriteString(p.w, "[")
		return err
	}
	return nil
}

func (p *exportPrinter) decision(d api.Exported) error {
	p.printed++
	switch p.form {
	case "csv":
		p.csv.Decision(&p.row, d.Decision, d.Event, d.Damaged)
		return p.flushRow()
	case "json":
		if p.printed > 1 {
			if err := p.w.WriteByte(','); err != nil {
				return err
			}
		}
	}
	return printJSON(p.w, d, p.form)
}

func (p *exportPrinter) flushRow() error {
	_, err := p.row.WriteTo(p.w)
	return err
}

// end completes the form. What became of the export is not a part of it: it is told beside it.
func (p *exportPrinter) end() error {
	if p.form == "json" {
		if _, err := io.WriteString(p.w, "]\n"); err != nil {
			return err
		}
	}
	return p.w.Flush()
}
