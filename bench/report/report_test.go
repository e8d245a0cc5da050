package report_test

import (
	"encoding/xml"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/bench/report"
)

func example() *report.Report {
	var waves, spikes []report.Point
	for i := range 1000 {
		waves = append(waves, report.Point{Second: float64(i), Value: 3000 + 200*math.Sin(float64(i)/40)})
		spikes = append(spikes, report.Point{Second: float64(i), Value: 2})
	}
	spikes[777].Value = 900
	return &report.Report{
		Title: "A title with <b>", About: "What was done.", At: time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC),
		Environment: []report.Fact{{"cores", "2"}},
		Verdicts:    []report.Verdict{{"dropped", "0", "0", true}, {"p95", "<= 6 ms", "7 ms", false}},
		Tables:      []report.Table{{"Figures", []string{"service", "a|b"}, [][]string{{"docket", "1"}}}},
		Runs: []report.Run{{Name: "docket", Charts: []report.Chart{
			{
				Title: "Decisions a second",
				Unit:  "1/s",
				Lines: []report.Line{{"arrived & <kept>", waves}},
				Marks: []report.Span{{"database away", 300, 600}},
			},
			{Title: "Latency", Unit: "ms", Log: true, Lines: []report.Line{{"p95", spikes}}},
			{Title: "Nothing", Unit: "", Log: true},
		}}},
	}
}

func TestReport(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "plots"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "plots", "9-9-old.svg"), nil, 0o600))
	r := example()
	require.NoError(t, r.Write(dir))
	assert.Equal(t, []report.Verdict{r.Verdicts[1]}, r.Missed())

	md, err := os.ReadFile(filepath.Join(dir, "report.md"))
	require.NoError(t, err)
	for _, want := range []string{
		"# A title with <b>\n", "- cores: 2\n", "| dropped | 0 | 0 | met |\n", "| p95 | <= 6 ms | 7 ms | **missed** |\n",
		"| service | a\\|b |\n|---|---|\n| docket | 1 |\n", "![Latency](plots/1-2-latency.svg)\n",
	} {
		assert.Contains(t, string(md), want)
	}

	page, err := os.ReadFile(filepath.Join(dir, "report.html"))
	require.NoError(t, err)
	assert.Contains(t, string(page), "A title with &lt;b&gt;")
	assert.Equal(t, 3, strings.Count(string(page), "<svg"))
	assert.NotContains(t, string(page), "<?xml")
	for _, elsewhere := range []string{"src=", "href=\"http", "@import", "url(http"} {
		assert.NotContains(t, string(page), elsewhere, "the page has to be all there is")
	}

	plots, err := filepath.Glob(filepath.Join(dir, "plots", "*"))
	require.NoError(t, err)
	assert.Len(t, plots, 3, "old plots are removed")
	for _, name := range plots {
		b, err := os.ReadFile(name)
		require.NoError(t, err)
		assert.NoError(t, xml.Unmarshal(b, new(struct{})), "%s", name)
	}
	first, err := os.ReadFile(filepath.Join(dir, "plots", "1-1-decisions-a-second.svg"))
	require.NoError(t, err)
	assert.Contains(t, string(first), "arrived &amp; &lt;kept&gt;")
	assert.Contains(t, string(first), "database away")
	assert.Contains(t, string(first), ">3k<", "ticks are short")
}
