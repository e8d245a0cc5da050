package queryapi

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/docket-project/docket/internal/adapters/api"
	"github.com/docket-project/docket/internal/adapters/web"
	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/search"
)

// exportPatience is how long a client may take for a piece of an export, of so many bytes. Nothing is held in the store
// meanwhile.
const (
	exportPatience = 5 * time.Minute
	exportPiece    = 64 << 10
)

// exportTrailer tells a client behind the body whether it has everything.
const exportTrailer = "Docket-Complete"

// exported is what is asked of an export.
type exported struct {
	search.Request
	form        api.ExportForm
	kind, named string // its media type, and how its file is called
	events      bool
}

// parseExport reads the query string of an export: that of a search, without a limit, and how it is spelled.
func parseExport(raw string, now time.Time) (out exported, err error) {
	params, err := url.ParseQuery(raw)
	if err != nil {
		return out, fmt.Errorf("the query string: %w", err)
	}
	if params.Has("limit") {
		return out, errors.New("limit: an export has none; leave it out, and narrow the search by since, until or q")
	}
	form, err := take(params, "format")
	if err != nil {
		return out, err
	}
	if out.events, err = takeBool(params, "with_event", form != "csv"); err != nil {
		return out, err
	}
	switch form {
	case "", "ndjson":
		out.form, out.kind, out.named = api.NDJSON{}, "application/x-ndjson", "decisions.ndjson"
	case "csv":
		out.form, out.kind, out.named = api.CSV{Events: out.events}, "text/csv; charset=utf-8", "decisions.csv"
	default:
		return out, fmt.Errorf("format: %q is neither ndjson nor csv", form)
	}
	out.Request, err = search.ParseRequest(params.Encode(), now)
	if err == nil && out.After != nil && out.After.Back {
		err = errors.New("cursor: an export does not go back; give it a next_cursor")
	}
	out.Limit = domain.MaxPage
	return out, err
}

// take takes a parameter that stands at most once out of the others.
func take(params url.Values, name string) (string, error) {
	value, err := domain.Once(params, name)
	if err != nil {
		return "", fmt.Errorf("%s: %w", name, err)
	}
	params.Del(name)
	return value, nil
}

// takeBool takes one that is true or false.
func takeBool(params url.Values, name string, otherwise bool) (bool, error) {
	text, err := take(params, name)
	switch {
	case err != nil || text == "":
		return otherwise, err
	case text != "true" && text != "false":
		return false, fmt.Errorf("%s: %q is neither true nor false", name, text)
	}
	return text == "true", nil
}

// errStopping ends an export with the process.
var errStopping = errors.New("docket stops")

// exportPage is a page of an export, or why there is none. at is where it begins.
type exportPage struct {
	domain.Page
	at  *domain.Cursor
	err error
}

// exportPages reads pages ahead: the next one while the one before is spelled and sent. It ends behind the last page,
// an error, or the end of ctx.
func (r *routes) exportPages(ctx context.Context, scope domain.Scope, asked exported) <-chan exportPage {
	pages := make(chan exportPage)
	in := search.Reader(r.Decisions)
	if asked.events {
		in = search.WithEvents(r.Decisions)
	}
	go func() {
		defer close(pages)
		for {
			page, err := search.Find(ctx, in, scope, asked.Request)
			select {
			case pages <- exportPage{page, asked.After, err}:
			case <-ctx.Done():
				return
			}
			if err != nil || page.Next == nil {
				return
			}
			asked.After = page.Next
		}
	}()
	return pages
}

// export answers GET /api/v1/decisions/export: everything that fits, page by page, each in a transaction of its own.
// What goes wrong behind the first page is told in the last line and in a trailer: the status is sent by then.
func (r *routes) export(c echo.Context) error {
	asked, err := parseExport(c.Request().URL.RawQuery, r.now())
	if err != nil {
		return web.BadRequest(err)
	}
	release, err := r.exports.Take(c.Request().Context(), web.Caller(c))
	if err != nil {
		return err
	}
	defer release()
	ctx, cancel := context.WithCancel(c.Request().Context())
	pages := r.exportPages(ctx, scope(c), asked)
	defer func() {
		cancel()
		for range pages { // until nobody reads the store any more
		}
	}()
	page, reading := <-pages
	if !reading {
		return ctx.Err()
	}
	if page.err != nil {
		return page.err
	}
	answer := c.Response()
	answer.Header().Set(echo.HeaderContentType, asked.kind)
	answer.Header().Set(echo.HeaderContentDisposition, `attachment; filename="`+asked.named+`"`)
	answer.Header().Set("Trailer", exportTrailer)
	stream(answer)
	if web.IsHead(c.Request()) {
		return nil
	}

	end := api.ExportEnd{Since: api.At(asked.Since), Until: api.At(asked.Until)}
	var b bytes.Buffer
	asked.form.Begin(&b)
	for page.err == nil {
		for i := range page.Items {
			d := &page.Items[i]
			damaged := asked.events && sha256.Sum256(d.Event) != d.SHA256
			if damaged {
				end.Damaged++
			}
			api.ExportOf(asked.form, &b, *d, damaged)
		}
		end.Decisions += len(page.Items)
		if page.Next == nil {
			break
		}
		if send(answer, &b, exportPatience) != nil {
			return nil // nobody listens any more
		}
		at := page.Next
		select {
		case page, reading = <-pages:
			if !reading {
				return nil // nor here: an end would say that this is everything
			}
		case <-r.Stopping:
			page = exportPage{at: at, err: errStopping}
		}
	}
	switch {
	case page.err != nil:
		end.NextCursor = api.Text(page.at.String())
		end.Why = api.Text("docket could not read on: " + page.err.Error() + "; go on with next_cursor, and the same since")
		if class := domain.ClassOf(page.err); class != domain.Canceled && !errors.Is(page.err, errStopping) {
			r.Logger.Error("an export broke off", "decisions", end.Decisions, "class", class, "error", page.err)
		}
	case end.Damaged > 0:
		end.Why = api.Text(fmt.Sprintf(
			"%d events are damaged in the store, and were left out; docket verify names them", end.Damaged,
		))
	default:
		end.Complete = true
	}
	asked.form.End(&b, end)
	answer.Header().Set(exportTrailer, trailer(end))
	_ = send(answer, &b, exportPatience)
	return nil
}

// trailer says how an export ended in the characters that a header may have.
func trailer(end api.ExportEnd) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, fmt.Sprintf("%t; %s", end.Complete, end))
}

// stream begins an answer that may take longer than any other. The server's own limit would end it: it is there for
// requests that do not come to their end.
func stream(answer *echo.Response) {
	_ = http.NewResponseController(answer).SetReadDeadline(time.Time{}) // not every writer has one
	answer.WriteHeader(http.StatusOK)
}

// send writes what was gathered, and gives the client so much time for each piece of it.
func send(to *echo.Response, b *bytes.Buffer, patience time.Duration) error {
	defer b.Reset()
	for b.Len() > 0 {
		_ = http.NewResponseController(to).SetWriteDeadline(time.Now().Add(patience)) // not every writer has one
		if _, err := to.Write(b.Next(exportPiece)); err != nil {
			return err
		}
	}
	to.Flush()
	return nil
}
