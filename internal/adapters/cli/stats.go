package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/docket-project/docket/internal/adapters/api"
	"github.com/docket-project/docket/internal/search"
)

// Stats is `docket stats`.
type Stats struct {
	Console `embed:""`
	Form    `embed:"" set:"forms=table,json,ndjson,csv"`
	Wanted  `embed:""`
	By      []string `help:"Count by the values of up to three fields, such as path,outcome or input.method." default:"outcome" sep:"none"`
	Every   string   `help:"Count by time as well: for each 5m, 1h or 7d."`
	Limit   int      `help:"The most values to print, those with the most decisions." default:"50"`
}

// statsAnswer is what docket answers.
type statsAnswer struct {
	Items []json.RawMessage `json:"items"`
	api.StatsEnd
}

// Run counts.
func (s *Stats) Run(ctx context.Context, out Out) error {
	query := s.parameters()
	query["by"] = s.By
	query.Set("limit", strconv.Itoa(s.Limit))
	if s.Every != "" {
		query.Set("every", s.Every)
	}
	asked, err := search.ParseStats(query.Encode(), time.Now())
	if err != nil {
		return fail(ExitUsage, "%s", pointAt(strings.Join(s.Query, " "), err))
	}
	body, err := s.get(ctx, "/api/v1/decisions/stats", query)
	if err != nil {
		return err
	}
	answer, err := read[statsAnswer](body)
	if err != nil {
		return err
	}
	names := make([]string, 0, search.MaxBy+1)
	if asked.Every > 0 {
		names = append(names, "time")
	}
	for _, f := range asked.By {
		names = append(names, search.FieldName(f))
	}
	switch s.Output {
	case "table":
		err = printStats(out.Stdout, names, answer)
	case "csv":
		err = printStatsCSV(out.Raw, names, answer.Items)
	case "json":
		err = printJSON(out.Stdout, json.RawMessage(body), s.Output)
	default:
		err = printItems(out.Stdout, answer.Items, s.Output)
	}
	if err == nil && !answer.Complete {
		w := out.Stderr
		if s.Output == "table" { // behind it, also in a pager
			w = out.Stdout
		}
		fmt.Fprintf(w, "This is not everything: %s.\n", printable(string(answer.Why)))
	}
	return err
}

// statCells are the values of an item, and its count. A value that is there and empty is spelled as empty.
func statCells(names []string, item json.RawMessage, empty string) (cells []string, count int64, err error) {
	values, err := read[map[string]any](item)
	if err != nil {
		return nil, 0, err
	}
	for _, name := range names {
		text, there := values[name].(string)
		if there && text == "" && empty != "" {
			text = empty
		}
		cells = append(cells, text)
	}
	n, err := read[struct{ Count int64 }](item)
	return cells, n.Count, err
}

// barWidth is how wide a bar is, in characters, that stands for the highest count.
const barWidth = 20

// printStats prints a table with each count's part of all; on a screen, with a bar.
func printStats(w io.Writer, names []string, answer statsAnswer) error {
	headings := make([]string, len(names))
	for i, name := range names {
		headings[i] = strings.ToUpper(name)
	}
	t := newTable(w, append(headings, "COUNT", "SHARE", "BAR")...)
	if t.look.width == 0 {
		t.names = t.names[:len(names)+2]
	}
	most := int64(1)
	for _, item := range answer.Items {
		_, n, err := statCells(names, item, "")
		if err != nil {
			return err
		}
		most = max(most, n)
	}
	for _, item := range answer.Items {
		cells, n, err := statCells(names, item, `""`)
		if err != nil {
			return err
		}
		if len(names) > 0 && names[0] == "time" {
			if at, err := time.Parse(time.RFC3339, cells[0]); err == nil {
				cells[0] = spanStart(t, at)
			}
		}
		share := 100 * float64(n) / float64(max(answer.Total, 1))
		cells = append(cells, strconv.FormatInt(n, 10), fmt.Sprintf("%.1f %%", share))
		if t.look.width > 0 {
			cells = append(cells, strings.Repeat("█", int(math.Ceil(barWidth*float64(n)/float64(most)))))
		}
		t.row(cells...)
	}
	if err := t.flush(); err != nil {
		return err
	}
	since := ""
	if !answer.Since.IsZero() {
		since = " since " + t.look.moment(api.At(answer.Since.Truncate(time.Second)))
	}
	_, err := fmt.Fprintf(w, "%d decisions%s\n", answer.Total, since)
	return err
}

// spanStart spells where a span of time begins.
func spanStart(t *table, at time.Time) string {
	if t.look.local {
		return at.In(t.look.now().Location()).Format("2006-01-02 15:04:05")
	}
	return at.UTC().Format(time.RFC3339)
}

func printStatsCSV(w io.Writer, names []string, items []json.RawMessage) error {
	var b bytes.Buffer
	api.CSVRow(&b, append(names[:len(names):len(names)], "count"))
	for _, item := range items {
		cells, n, err := statCells(names, item, "")
		if err != nil {
			return err
		}
		api.CSVRow(&b, append(cells, strconv.FormatInt(n, 10)))
	}
	_, err := b.WriteTo(w)
	return err
}
