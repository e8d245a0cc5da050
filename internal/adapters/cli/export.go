package cli

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"github.com/docket-project/docket/internal/adapters/api"
	"github.com/docket-project/docket/internal/adapters/replaypolicy"
)

// lines asks for a stream and visits its lines until visit wants no more. It has no limit of time: what does not come
// in time is ended by docket, or by the person who waits.
func (s Console) lines(
	ctx context.Context, path string, query url.Values, visit func(line []byte) (more bool, err error),
) error {
	asked, cancel := context.WithCancel(ctx)
	defer cancel()
	resp, err := answerTo(
		asked, ctx, http.MethodGet, urlOf(s.Server, path)+"?"+query.Encode(), s.Identity, nil, "",
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
	in.Buffer(make([]byte, 0, 64<<10), replaypolicy.MaxLine)
	in.Split(wholeLines)
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

// wholeLines splits at new lines, and leaves out what stands behind the last one: it was cut.
func wholeLines(data []byte, atEOF bool) (advance int, line []byte, err error) {
	if i := bytes.IndexByte(data, '\n'); i >= 0 {
		return i + 1, data[:i], nil
	}
	if atEOF {
		return len(data), nil, nil
	}
	return 0, nil, nil
}

// export prints what an export sends, up to the limit, in the order in which it comes. What is missing it tells at the
// end, and by its exit code.
func (f *Find) export(ctx context.Context, out Out, query url.Values) error {
	query.Set("format", "ndjson")
	query.Set("with_event", strconv.FormatBool(f.WithEvent))
	form := newExportPrinter(out, f.Output, f.WithEvent)
	var end *api.ExportEnd
	more := false
	err := f.lines(ctx, "/api/v1/decisions/export", query, func(line []byte) (bool, error) {
		d, last, err := exportLine(line)
		switch {
		case err != nil:
			return false, err
		case last != nil:
			end = last
			return false, form.begin()
		case f.Limit > 0 && form.printed == f.Limit:
			more = true
			return false, nil
		}
		return true, form.decision(line, d)
	})
	complete := err == nil && (more || end != nil && end.Complete)
	if ended := form.end(complete); err == nil {
		err = ended
	}
	switch {
	case err != nil:
		return err
	case end == nil && !more:
		return fail(ExitUnavailable, "the export broke off behind %d decisions: what is printed is not everything",
			form.printed)
	case end != nil && !end.Complete:
		return fail(ExitUnavailable, "what is printed is not everything: %s", printable(end.String()))
	case form.damaged > 0:
		return fail(
			ExitUnavailable, "%d of these events are damaged in the store, and were left out; docket verify names them",
			form.damaged,
		)
	case more:
		fmt.Fprintln(
			out.Stderr, "There are more decisions: use a higher --limit, or --limit 0 with -o ndjson or -o csv for all.",
		)
	}
	return nil
}

// exportLine reads a line of an export: a decision, or its end.
func exportLine(line []byte) (d api.Exported, end *api.ExportEnd, err error) {
	var which struct {
		Complete *bool `json:"complete"`
	}
	err = json.Unmarshal(line, &which)
	switch {
	case err != nil:
	case which.Complete != nil:
		end = new(api.ExportEnd)
		err = json.Unmarshal(line, end)
	default:
		err = json.Unmarshal(line, &d)
	}
	if err != nil {
		return d, nil, fail(ExitFailed, "the answer is not docket's: %w", err)
	}
	return d, end, nil
}

// exportPrinter prints decisions one by one, from the first line that docket sends on.
type exportPrinter struct {
	w       *bufio.Writer
	form    string
	csv     api.CSV
	begun   bool
	printed int
	damaged int
	row     bytes.Buffer
}

// newExportPrinter prints lines and rows as they are where no terminal is behind them.
func newExportPrinter(out Out, form string, events bool) *exportPrinter {
	w := out.Raw
	if form == "json" {
		w = out.Stdout
	}
	return &exportPrinter{w: bufio.NewWriterSize(w, 64<<10), form: form, csv: api.CSV{Events: events}}
}

// begin prints what stands in front of the first decision, once.
func (p *exportPrinter) begin() error {
	if p.begun {
		return nil
	}
	p.begun = true
	switch p.form {
	case "csv":
		p.csv.Begin(&p.row)
	case "json":
		p.row.WriteByte('[')
	}
	return p.flushRow()
}

func (p *exportPrinter) decision(line []byte, d api.Exported) error {
	if err := p.begin(); err != nil {
		return err
	}
	p.printed++
	if d.Damaged {
		p.damaged++
	}
	switch p.form {
	case "csv":
		p.csv.Decision(&p.row, d.Decision, d.Event, d.Damaged)
	case "json":
		if p.printed > 1 {
			p.row.WriteByte(',')
		}
		if err := printJSON(&p.row, d, p.form); err != nil {
			return err
		}
	default:
		p.row.Write(line)
		p.row.WriteByte('\n')
	}
	return p.flushRow()
}

func (p *exportPrinter) flushRow() error {
	_, err := p.row.WriteTo(p.w)
	return err
}

// end completes the form, unless something is missing: an array that is closed looks like all there is. What became of
// the export is not a part of it: it is told beside it.
func (p *exportPrinter) end(complete bool) error {
	if p.form == "json" && p.begun && complete {
		p.row.WriteString("]\n")
	}
	if err := p.flushRow(); err != nil {
		return err
	}
	return p.w.Flush()
}
