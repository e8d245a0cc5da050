package domain

import (
	"bytes"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
)

// denseBodies are 64 MiB each of what costs a parser most, beside plain events.
func denseBodies() map[string]string {
	fill := func(event func(n int) string) string {
		var b strings.Builder
		b.WriteByte('[')
		for n := 0; ; n++ {
			e := event(n)
			if b.Len()+len(e)+2 > 64<<20 {
				b.WriteByte(']')
				return b.String()
			}
			if n > 0 {
				b.WriteByte(',')
			}
			b.WriteString(e)
		}
	}
	nest := func(open, inner, shut string, depth int) string {
		return strings.Repeat(open, depth) + inner + strings.Repeat(shut, depth)
	}
	within := func(s string) string { return `{"input":` + s + `}` }
	wide := func(item string) string {
		return within("[" + strings.Repeat(item+",", (3<<20)/len(item)) + item + "]")
	}
	empty := strings.Repeat("[],", 1<<20) + "0"
	return map[string]string{
		"plain":                     fill(sampleEvent),
		"objects 10,050 deep":       fill(func(int) string { return within(nest(`{"a":`, "1", "}", 10_050)) }),
		"objects 9,000 deep":        fill(func(int) string { return within(nest(`{"a":`, "1", "}", 9_000)) }),
		"arrays 10,050 deep":        fill(func(int) string { return within(nest("[", "", "]", 10_050)) }),
		"arrays 3,000,000 deep":     fill(func(int) string { return within(nest("[", "", "]", 1_500_000)) }),
		"empty arrays":              fill(func(int) string { return wide("[]") }),
		"empty arrays 60 deep":      fill(func(int) string { return within(nest("[", empty, "]", 60)) }),
		"numbers":                   fill(func(int) string { return wide("1") }),
		"empty strings":             fill(func(int) string { return wide(`""`) }),
		"escapes":                   fill(func(int) string { return wide(`"\u0026\u0026\u0026\u0026"`) }),
		"empty objects as elements": "[" + strings.Repeat("{},", 49_999) + "{}" + strings.Repeat(" ", 60<<20) + "]",
	}
}

// BenchmarkDenseBodies is what a hostile body costs beside plain events of the same size.
func BenchmarkDenseBodies(b *testing.B) {
	for name, body := range denseBodies() {
		wire := gz(b, body)
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(body)))
			for b.Loop() {
				zr, err := gzip.NewReader(bytes.NewReader(wire))
				if err != nil {
					b.Fatal(err)
				}
				if _, err := ParseBatch(b.Context(), zr, len(body), DefaultLimits); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
