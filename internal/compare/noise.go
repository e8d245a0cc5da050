package compare

import (
	"cmp"
	"regexp"
	"slices"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/docket-project/docket/internal/domain"
)

// passing are names of what is another one for nearly every decision.
var passing = regexp.MustCompile(`(?i)^(.*[_.-])?(time|times|timestamp|date|datetime|nonce|seconds|nanos|ns|ts|` +
	`iat|exp|nbf|jti|auth_time|req_?id|request_?id|x-request-id|trace_?id|traceparent|tracestate|span_?id|` +
	`x-b3-.*|correlation_?id|session_?id|source_?port|port|content-length|date|if-none-match|etag)$`)

// random is a text that was made up to be used once.
var random = regexp.MustCompile(`^[0-9a-fA-F]{8}-?([0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}$|^[0-9a-fA-F]{32,}$`)

// Noise reports a difference that two decisions of one kind nearly always have: times, ids of requests, and so on.
func (d Difference) Noise() bool {
	if d.Path[0] == "bundles" { // a revision may look like a hash
		return false
	}
	return passing.MatchString(d.Path[len(d.Path)-1]) || once(d.A) && once(d.B)
}

// once reports a value that looks like a time, or made up to be used once.
func once(v jsontext.Value) bool {
	text, ok := domain.TextOf(v)
	if !ok {
		return false
	}
	_, err := time.Parse(time.RFC3339Nano, text)
	return err == nil || random.MatchString(text)
}

// Rank sorts differences: what was asked and by which policies it was decided, then what came of it, then noise.
func Rank(found []Difference) {
	rank := func(d Difference) int {
		switch {
		case d.Noise():
			return 2
		case d.Path[0] == "result":
			return 1
		}
		return 0
	}
	slices.SortStableFunc(found, func(a, b Difference) int { return cmp.Compare(rank(a), rank(b)) })
}
