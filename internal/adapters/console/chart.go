package console

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/search"
)

// Size of a chart, in units of its own: it is as wide as its place.
const (
	chartWidth  = 1000
	chartHeight = 120
)

// barLengths are how long the spans of a chart may be.
var barLengths = []time.Duration{
	time.Second, 5 * time.Second, 15 * time.Second, time.Minute, 5 * time.Minute, 15 * time.Minute, time.Hour,
	2 * time.Hour, 6 * time.Hour, 24 * time.Hour, 7 * 24 * time.Hour,
}

// maxBars is how many bars a chart has about at most.
const maxBars = 125

// barLength is how long the spans of a chart of a time are.
func barLength(span time.Duration) time.Duration {
	for _, l := range barLengths {
		if span/l <= maxBars {
			return l
		}
	}
	return barLengths[len(barLengths)-1]
}

// stack is in what order outcomes stand on each other: what people look for is at the bottom, where it can be compared.
var stack = []domain.Outcome{
	domain.OutcomeDenied, domain.OutcomeError, domain.OutcomeUndefined, domain.OutcomeUnknown, domain.OutcomeAllowed,
}

// chart is decisions by outcome over time.
type chart struct {
	bars   []bar
	totals map[domain.Outcome]int64
	total  int64
	most   int64
	every  time.Duration
	// since and until are the chart's edges, and rest is the search without a time.
	since, until time.Time
	rest         string
	// later is how many of them are later than the chart's end, because clocks are wrong.
	later int64
	// why tells what is missing; "" where nothing is.
	why string
}

// bar is one span of time.
type bar struct {
	at     time.Time
	counts map[domain.Outcome]int64
	total  int64
	x, w   float64
	href   string
}

// piece is a part of a bar.
type piece struct {
	outcome domain.Outcome
	y, h    float64
}

// newChart draws counts by outcome and time. href is where a span of time leads to; bounded says that the search ends
// at until, and not just the chart.
func newChart(
	c search.Counted, since, until time.Time, bounded bool, href func(since, until time.Time) string,
) chart {
	out := chart{
		totals: map[domain.Outcome]int64{}, every: c.Asked.Every, total: c.Stats.Total, why: c.Stats.Why,
		since: since.UTC().Truncate(c.Asked.Every), until: until.UTC(),
	}
	bars := map[time.Time]*bar{}
	for _, s := range c.Stats.Items {
		outcome := domain.Outcome(s.Values[0].Text)
		if s.Time.After(out.until) {
			out.totals[outcome] += s.Count
			out.later += s.Count
			continue
		}
		b := bars[s.Time]
		if b == nil {
			b = &bar{at: s.Time, counts: map[domain.Outcome]int64{}}
			bars[s.Time] = b
		}
		b.counts[outcome] += s.Count
		b.total += s.Count
		out.totals[outcome] += s.Count
		out.most = max(out.most, b.total)
	}
	width := float64(max(out.until.Sub(out.since), out.every))
	for _, b := range bars {
		b.x = chartWidth * float64(b.at.Sub(out.since)) / width
		b.w = max(chartWidth*float64(out.every)/width-1, 1)
		from, to := b.at, b.at.Add(out.every)
		if from.Before(since) {
			from = since
		}
		if bounded && to.After(until) {
			to = until
		}
		b.href = href(from, to)
		out.bars = append(out.bars, *b)
	}
	slices.SortFunc(out.bars, func(a, b bar) int { return cmp.Compare(a.x, b.x) })
	return out
}

// pieces are those of a bar, from the bottom.
func (c *chart) pieces(b *bar) (out []piece) {
	y := float64(chartHeight)
	for _, o := range stack {
		if n := b.counts[o]; n > 0 {
			h := max(chartHeight*float64(n)/float64(c.most), 1.5) // what is there can be seen
			h = min(h, y)
			y -= h
			out = append(out, piece{o, y, h})
		}
	}
	return out
}

// label tells a bar in words.
func (c *chart) label(b *bar) string {
	parts := []string{}
	for _, o := range stack {
		if n := b.counts[o]; n > 0 {
			parts = append(parts, fmt.Sprintf("%s %s", number(n), o))
		}
	}
	return b.at.Format("2006-01-02 15:04:05Z") + " and " + length(c.every) + " on: " + strings.Join(parts, ", ")
}

// summary tells the chart in words, for those who do not see it.
func (c *chart) summary() string {
	parts := []string{}
	for _, o := range stack {
		if n := c.totals[o]; n > 0 {
			parts = append(parts, fmt.Sprintf("%s %s", number(n), o))
		}
	}
	return fmt.Sprintf(
		"%s decisions from %s to %s: %s. The most in %s are %s.", number(c.total), c.since.Format(time.RFC3339),
		c.until.Format(time.RFC3339), strings.Join(parts, ", "), length(c.every), number(c.most),
	)
}

// length spells a round length of time.
func length(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d%day == 0:
		return fmt.Sprintf("%d d", d/day)
	case d%time.Hour == 0:
		return fmt.Sprintf("%d h", d/time.Hour)
	case d%time.Minute == 0:
		return fmt.Sprintf("%d min", d/time.Minute)
	}
	return fmt.Sprintf("%d s", d/time.Second)
}

// number spells a count with thin spaces between its thousands.
func number(n int64) string {
	text := fmt.Sprint(n)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "\u202f" + text[i:]
	}
	return text
}

// between is the page of a search's decisions of a span of time.
func (a *asked) between(since, until time.Time) string {
	return with("/decisions", a.timed(since.UTC().Format(time.RFC3339Nano), until.UTC().Format(time.RFC3339Nano)))
}
