package api

import (
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/trail"
)

func TestTrailIsWorded(t *testing.T) {
	at := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	opa := func(id string) *domain.OPA { return &domain.OPA{Observation: domain.Observation{OPA: id, Last: at}} }
	dead := func(state domain.DeadState) []domain.DeadLetter {
		return []domain.DeadLetter{
			{ID: "dlq:0:1", State: state, Cause: domain.Rejected, Error: "check", Replay: "r-1", ChangedAt: at},
		}
	}
	waiting := func(h domain.Headers) []trail.Found {
		return []trail.Found{
			{Stage: "saver", Record: domain.Record{Topic: "decisions", Offset: 7, WrittenAt: at, Headers: h}},
		}
	}
	for _, c := range []struct {
		name   string
		report trail.Report
		says   string
	}{
		{"stored", trail.Report{State: trail.Stored, Rows: []domain.Decision{{ReceivedAt: at,
			SavedAt: at.Add(1500 * time.Millisecond)}}},
			"it is stored: received 2026-11-20T12:00:00Z, saved 1.5s later"},
		{"waiting", trail.Report{State: trail.Waiting, Waiting: waiting(domain.Headers{})},
			"it waits in decisions for the saver, since 2026-11-20T12:00:00Z"},
		{"parked", trail.Report{State: trail.Waiting, Waiting: waiting(domain.Headers{ErrorClass: domain.Unavailable,
			Error: "away"})}, "it was parked because: away"},
		{"dead", trail.Report{State: trail.Dead, Dead: dead(domain.DeadOpen)},
			"it is a dead letter, dlq:0:1: rejected (check)"},
		{"dead, and not indexed yet", trail.Report{State: trail.Dead, Waiting: waiting(domain.Headers{Error: "check"})},
			"decisions:0:7, that is not indexed yet: check"},
		{"replayed", trail.Report{State: trail.Replayed, Dead: dead(domain.DeadReplayed)}, "job r-1 replayed it"},
		{"discarded", trail.Report{State: trail.Discarded, Dead: dead(domain.DeadDiscarded)},
			"that job r-1 discarded at 2026-11-20T12:00:00Z"},
		{"the store is away", trail.Report{State: trail.Unknown, StoreErr: errors.New("away")}, "the store does not answer"},
		{"the log is away", trail.Report{State: trail.Unknown, Search: []trail.Search{{Err: errors.New("gone")}}},
			"cannot read what waits in the log: gone"},
		{"too much waits", trail.Report{State: trail.Unknown, Search: []trail.Search{{End: 50, Oldest: at}}},
			"among 50 records that wait and were not looked at, the oldest of them of 2026-11-20T12:00:00Z"},
		{"nowhere", trail.Report{State: trail.NotFound, Explained: true, LastUpload: opa("two")},
			`. The last upload of OPA "two" came at 2026-11-20T12:00:00Z`},
		{"nowhere, and that OPA has no id", trail.Report{State: trail.NotFound, Explained: true, LastUpload: opa("")},
			"The last upload of an OPA without labels.id came"},
		{"nowhere, of one that is not known", trail.Report{State: trail.NotFound, Explained: true, OPA: "three"},
			`Nothing has ever come from an OPA with the id "three"`},
		{"nowhere, and nothing ever came", trail.Report{State: trail.NotFound, Explained: true},
			"Nothing has ever come from any OPA"},
		{"nowhere, but uploads were quarantined", trail.Report{State: trail.NotFound, Explained: true, QuarantinedUploads: 3},
			"3 uploads were quarantined"},
		{"nowhere, but the log has lost records", trail.Report{State: trail.NotFound, Explained: true,
			Lost: []domain.Loss{{At: at, First: 3, Last: 9}}},
			"may be among the 7 records that the log has lost of the partitions that it would have been in, the last of them " +
				"as of 2026-11-20T12:00:00Z"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := TrailOf(c.report)
			require.Contains(t, got.Message, c.says)
			require.Equal(t, c.report.State == trail.Unknown && c.report.StoreErr == nil, got.NextCursor != "")
		})
	}
}

func TestTrailCursor(t *testing.T) {
	got := TrailOf(trail.Report{State: trail.Unknown, Search: []trail.Search{{Topic: "a", Next: 7, End: 9}}})
	from, err := ParseTrailCursor(string(got.NextCursor))
	require.NoError(t, err)
	require.Equal(t, map[string]int64{"a": 7}, from)
	_, err = ParseTrailCursor("xyz")
	require.ErrorContains(t, err, "is not one of docket's")
}

func TestAbsentIsNull(t *testing.T) {
	b := Marshal(struct {
		Text Text
		At   Instant
	}{})
	require.JSONEq(t, `{"Text":null,"At":null}`, string(b))
	var back struct {
		Text Text
		At   Instant
	}
	require.NoError(t, json.Unmarshal(b, &back))
	require.Empty(t, back.Text)
	require.True(t, back.At.IsZero())
}

// TestEveryCodeIsWorded keeps a code from being shown instead of a sentence.
func TestEveryCodeIsWorded(t *testing.T) {
	seen := map[string]bool{}
	for _, book := range books {
		for code, say := range book {
			require.False(t, seen[code], "%s stands in two books", code)
			seen[code] = true
			require.NotEmpty(t, say(domain.Args{}), code)
			require.NotEqual(t, code, Word(domain.Say(code, nil)))
		}
	}
	require.Equal(t, "of_the_future", Word(domain.Say("of_the_future", nil)))
}

func TestFilterTexts(t *testing.T) {
	for in, want := range map[string]Texts{`"a"`: {"a"}, `["a","b"]`: {"a", "b"}} {
		var got Texts
		require.NoError(t, json.Unmarshal([]byte(in), &got))
		require.Equal(t, want, got)
	}
	for _, in := range []string{`[]`, `7`, `null`, `[1]`, `{}`} {
		var got Texts
		if in == "null" {
			continue // encoding/json leaves a null alone
		}
		require.ErrorContains(t, json.Unmarshal([]byte(in), &got), "an empty one would choose everything", in)
	}
}
