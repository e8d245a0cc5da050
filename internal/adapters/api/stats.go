package api

import (
	"bytes"
	"fmt"

	"github.com/docket-project/docket/internal/search"
)

// StatsEnd is what statistics say behind their items.
type StatsEnd struct {
	// Total is how many decisions fit.
	Total int64 `json:"total"`
	// Complete is false where something is missing, and Why says what.
	Complete bool `json:"complete"`
	Why      Text `json:"why"`
	// Since is from when on decisions were counted, null for all of them, and Until up to when, null for no end.
	Since Instant `json:"since"`
	Until Instant `json:"until"`
}

// SpellStats makes the JSON of statistics: each item has the values of the fields in their order, null where a decision
// has none, the time at which its span begins, where there are spans, and the count.
func SpellStats(asked search.StatsRequest, stats search.Stats) []byte {
	end := StatsEnd{stats.Total, stats.Why == "" && stats.More == 0, Text(stats.Why), At(stats.Since), At(stats.Until)}
	if end.Why == "" && stats.More > 0 {
		advice := "raise limit"
		if stats.Room < asked.Top {
			advice = "name a longer every"
		}
		end.Why = Text(fmt.Sprintf(
			"the %d values with the most decisions are shown, and %d others are not: %s, or narrow the search", stats.Room,
			stats.More, advice,
		))
	}
	names := make([][]byte, len(asked.By))
	for i, f := range asked.By {
		names[i] = Marshal(search.FieldName(f))
	}
	return spellItems(stats.Items, func(b *bytes.Buffer, s search.Stat) {
		for i, name := range names {
			b.Write(name)
			b.WriteByte(':')
			b.Write(spellValue(s.Values[i]))
			b.WriteByte(',')
		}
		if asked.Every > 0 {
			b.WriteString(`"time":`)
			b.Write(Marshal(s.Time))
			b.WriteByte(',')
		}
		fmt.Fprintf(b, `"count":%d`, s.Count)
	}, end)
}

// FacetEnd is what the values of a field say behind their items.
type FacetEnd struct {
	StatsEnd
	// Absent is how many decisions have no value, and More how many values there are besides the items.
	Absent int64 `json:"absent"`
	More   int   `json:"more"`
}

// SpellFacet makes the JSON of the most frequent values of a field.
func SpellFacet(stats search.Stats) []byte {
	end := FacetEnd{
		StatsEnd: StatsEnd{stats.Total, stats.Why == "", Text(stats.Why), At(stats.Since), At(stats.Until)},
		Absent:   stats.Absent, More: stats.More,
	}
	return spellItems(stats.Items, func(b *bytes.Buffer, s search.Stat) {
		fmt.Fprintf(b, `"value":%s,"count":%d`, spellValue(s.Values[0]), s.Count)
	}, end)
}

// spellItems makes the JSON of items, whose members spell writes, with the members of end behind them.
func spellItems(items []search.Stat, spell func(*bytes.Buffer, search.Stat), end any) []byte {
	var b bytes.Buffer
	b.WriteString(`{"items":[`)
	for i, s := range items {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteByte('{')
		spell(&b, s)
		b.WriteByte('}')
	}
	b.WriteString(`],`)
	b.Write(Marshal(end)[1:])
	return b.Bytes()
}

func spellValue(v search.Value) []byte {
	if !v.There {
		return []byte("null")
	}
	return Marshal(v.Text)
}
