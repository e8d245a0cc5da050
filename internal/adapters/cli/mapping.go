package cli

import (
	"cmp"
	"fmt"
	"io"
	"strings"

	"github.com/docket-project/docket/internal/adapters/api"
	"github.com/docket-project/docket/internal/domain"
)

// MappingTest is `docket mapping test FILE…`. It asks no server: a projector has the mappings.
type MappingTest struct {
	Form  `embed:""`
	Files []string `arg:"" name:"FILE" help:"Files of events as OPA uploads them: an array, one object, or NDJSON; gzip or not; - is standard input."`
}

// projected is an event with what docket makes of it.
type projected struct {
	DecisionID string         `json:"decision_id"`
	Path       api.Text       `json:"path"`
	Outcome    domain.Outcome `json:"outcome"`
	Rule       string         `json:"rule"`
	Reason     api.Text       `json:"reason"`
	Principal  api.Text       `json:"principal"`
	Action     api.Text       `json:"action"`
	Resource   api.Text       `json:"resource"`
	Masked     []string       `json:"masked,omitempty"`
}

// Test prints what becomes of every event of every file, and which rule decided.
func (m MappingTest) Test(out Out, p *domain.Projector) error {
	return tryEvents(out, m.Output, m.Files, m.print, func(n int, event []byte) (one projected, err error) {
		if event[0] != '{' {
			return one, fail(ExitFailed, "value %d is no event: it is not an object", n)
		}
		d, rule := p.Explain(domain.Record{Value: event})
		row := api.DecisionOf(d)
		return projected{
			row.DecisionID, row.Path, row.Outcome, rule.String(), row.Reason, row.Principal, row.Action, row.Resource,
			row.Masked,
		}, nil
	})
}

// tryEvents prints what becomes of every event of some files.
func tryEvents[T any](
	out Out, format string, files []string, print func(io.Writer, T) error, try func(n int, event []byte) (T, error),
) error {
	n := 0
	all := []T{}
	for _, name := range files {
		r, done, err := openEvents(name)
		if err != nil {
			return err
		}
		err = eachEvent(r, func(event []byte) error {
			n++
			one, err := try(n, event)
			switch {
			case err != nil:
				return err
			case format == "json":
				all = append(all, one)
				return nil
			case format == "ndjson":
				return printJSON(out.Stdout, one, format)
			}
			if n > 1 {
				fmt.Fprintln(out.Stdout)
			}
			return print(out.Stdout, one)
		})
		done()
		if err != nil {
			return fail(ExitFailed, "%s: %w", fileName(name), err)
		}
	}
	if n == 0 {
		return fail(ExitFailed, "there is no event in %s", strings.Join(files, ", "))
	}
	if format == "json" {
		return printJSON(out.Stdout, all, format)
	}
	return nil
}

func (m MappingTest) print(w io.Writer, p projected) error {
	if err := verdictLine(w, strings.ToUpper(string(p.Outcome)), "  "+cmp.Or(string(p.Path), "(no path)")); err != nil {
		return err
	}
	t := newTable(w)
	t.row("  decided by", p.Rule)
	for _, column := range []struct {
		name string
		text api.Text
	}{{"reason", p.Reason}, {"principal", p.Principal}, {"action", p.Action}, {"resource", p.Resource}} {
		t.row("  "+column.name, string(column.text))
	}
	t.pair("  masked", strings.Join(p.Masked, ", "))
	t.row("  decision", p.DecisionID)
	return t.flush()
}
