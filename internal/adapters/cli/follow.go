package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/docket-project/docket/internal/adapters/api"
)

// follow prints decisions as they are acknowledged, until it is interrupted. Where docket goes away it waits for it to
// come back, and tells that decisions of meanwhile are not shown.
func (f *Find) follow(ctx context.Context, out Out, query url.Values) error {
	query.Set("with_event", strconv.FormatBool(f.WithEvent))
	p := &followPrinter{find: f, out: out}
	retry := backoff.NewExponentialBackOff(backoff.WithInitialInterval(250*time.Millisecond),
		backoff.WithMaxInterval(10*time.Second), backoff.WithMaxElapsedTime(0))
	for seen, away := false, false; ; {
		err := f.lines(ctx, "/api/v1/decisions/tail", query, func(line []byte) (bool, error) {
			if !seen {
				seen = true
				fmt.Fprintln(out.Stderr, "Following: what docket acknowledges from now on. Press Ctrl-C to end.")
			}
			if away {
				away = false
				fmt.Fprintln(out.Stderr, "Following again.")
			}
			retry.Reset()
			return true, p.line(line)
		})
		switch {
		case ctx.Err() != nil:
			return nil //nolint:nilerr // it was to end so
		case err != nil && (ExitCode(err) != ExitUnavailable || !seen):
			return err
		case err == nil:
			err = fail(ExitUnavailable, "docket is shutting down")
		}
		if !away {
			away = true
			fmt.Fprintf(
				out.Stderr, "%s\nTrying again until it answers. What is acknowledged until then is not shown here; docket find "+
					"has it.\n", PrintableLines(err.Error()),
			)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(retry.NextBackOff()):
		}
	}
}

// followPrinter prints the lines of a tail.
type followPrinter struct {
	find   *Find
	out    Out
	event  string // the name of the event that is read; "" is a decision
	headed bool
}

// line reads one line of server-sent events. docket spells the data of an event on one line.
func (p *followPrinter) line(line []byte) error {
	name, value, _ := strings.Cut(string(line), ":")
	value = strings.TrimPrefix(value, " ")
	switch name {
	case "event":
		p.event = value
	case "data":
		if p.event == "lagged" {
			l, err := read[api.Lagged]([]byte(value))
			if err != nil {
				return err
			}
			missed := "some decisions are"
			if l.Missed != nil {
				missed = fmt.Sprintf("%d decisions are", *l.Missed)
			}
			fmt.Fprintf(p.out.Stderr, "This was too slow: %s not shown here; docket find has them.\n", missed)
			return nil
		}
		if p.event == "" {
			return p.decision([]byte(value))
		}
	case "":
		if len(line) == 0 { // the end of an event
			p.event = ""
		}
	}
	return nil
}

func (p *followPrinter) decision(data []byte) error {
	d, err := read[api.Exported](data)
	if err != nil {
		return err
	}
	switch p.find.Output {
	case "json":
		return printJSON(p.out.Stdout, json.RawMessage(data), "json")
	case "ndjson":
		return printJSON(p.out.Stdout, json.RawMessage(data), "ndjson")
	case "csv":
		var b bytes.Buffer
		form := api.CSV{Events: p.find.WithEvent}
		if !p.headed {
			p.headed = true
			form.Begin(&b)
		}
		form.Decision(&b, d.Decision, d.Event, false)
		_, err := b.WriteTo(p.out.Raw)
		return err
	}
	return p.row(d.Decision)
}

// row prints a decision on one line. Nobody knows how long the values of the next ones are, so that columns have no
// width but the first ones, whose is known.
func (p *followPrinter) row(d api.Decision) error {
	w := p.out.Stdout
	l := lookOf(w)
	at := d.Time.UTC().Format("2006-01-02T15:04:05.000Z")
	if l.local {
		at = d.Time.In(l.now().Location()).Format("15:04:05.000")
	}
	outcome := fmt.Sprintf("%-9s", printable(string(d.Outcome)))
	if l.colour {
		outcome = paint("OUTCOME", outcome)
	}
	var rest []string
	for _, text := range []string{
		string(d.Path), string(d.Principal), string(d.Action), string(d.Resource), why(d),
	} {
		if text != "" {
			rest = append(rest, printable(text))
		}
	}
	return direct(w, at+"  "+outcome+"  "+strings.Join(append(rest, printable(d.DecisionID)), "  ")+"\n")
}
