package domain

import (
	"crypto/sha256"
	"encoding/hex"
	"net/url"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

func TestParsePosition(t *testing.T) {
	for _, c := range []struct {
		text string
		want Position
		ok   bool
	}{
		{"docket.dlq:3:1207", Position{"docket.dlq", 3, 1207}, true},
		{"docket.dlq:0:0", Position{"docket.dlq", 0, 0}, true},
		{"docket.dlq:3", Position{}, false},
		{"docket.dlq:3:x", Position{}, false},
		{"docket.dlq:-1:7", Position{}, false},
		{"docket.dlq:1:-7", Position{}, false},
		{"docket.dlq:9999999999:7", Position{}, false},
		{":1:7", Position{}, false},
		{"", Position{}, false},
		{"a:b:1:7", Position{}, false},
	} {
		t.Run(c.text, func(t *testing.T) {
			got, err := ParsePosition(c.text)
			require.Equal(t, c.ok, err == nil, "%v", err)
			require.Equal(t, c.want, got)
			if c.ok {
				require.Equal(t, c.text, got.String())
			}
		})
	}
}

var deadTopics = TopicsWithPrefix("docket.")

func newProjector(t testing.TB) *Projector {
	p, err := NewProjector(nil)
	require.NoError(t, err)
	return p
}

func TestDeadLetterOf(t *testing.T) {
	const decision = `{"decision_id":"d-1","path":"/http/authz/allow","timestamp":"2026-11-20T12:00:00Z"}`
	upload := func(s string) string { sum := sha256.Sum256([]byte(s)); return hex.EncodeToString(sum[:]) }
	at := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		name   string
		record Record
		want   DeadLetter // of it, what the case is about
	}{
		{"a row that was rejected", Record{Topic: "docket.dlq", Key: "d-1", Value: []byte(decision),
			Headers: Headers{Tenant: "acme", ErrorClass: Invalid, ErrorCode: "23514", Error: "check 7", Attempt: 1}},
			DeadLetter{Class: Invalid, Code: "23514", Cause: Rejected, Text: "check #", Tenant: "acme", DecisionID: "d-1",
				Path: "http/authz/allow", Timestamp: at, Decision: true}},
		{"a row that failed too often", Record{Topic: "docket.parking.dlq", Key: "d-1", Value: []byte(decision),
			Headers: Headers{ErrorClass: Unknown, Error: "no"}},
			DeadLetter{Class: Unknown, Cause: AttemptsExhausted, Text: "no", Tenant: "default", DecisionID: "d-1",
				Path: "http/authz/allow", Timestamp: at, Decision: true}},
		{"a conflict", Record{Topic: "docket.dlq", Key: "d-1", Value: []byte(decision), Headers: Headers{ErrorClass: Invalid,
			Error: "taken", Reason: Conflict}},
			DeadLetter{Class: Invalid, Cause: Conflict, Text: "taken", Tenant: "default", DecisionID: "d-1",
				Path: "http/authz/allow", Timestamp: at, Decision: true}},
		{"a decision without an id", Record{Topic: "docket.dlq", Value: []byte(`{"a":1}`),
			Headers: Headers{ErrorClass: Invalid, Reason: Expired}},
			DeadLetter{Class: Invalid, Cause: Expired, Text: "expired", Tenant: "default", DecisionID: HashID([]byte(`{"a":1}`)),
				Decision: true}},
		{"an element with an id", Record{Topic: "docket.dlq", Value: []byte(decision), Headers: Headers{ErrorClass: Invalid,
			Reason: TooDeep, Upload: upload("more")}},
			DeadLetter{Class: Invalid, Cause: TooDeep, Text: "too_deep", Tenant: "default", DecisionID: "d-1",
				Path: "http/authz/allow"}},
		{"an element with an id that is no text", Record{Topic: "docket.dlq", Value: []byte("{\"decision_id\":\"caf\xe9\"}"),
			Headers: Headers{ErrorClass: Invalid, Reason: InvalidUTF8, Upload: upload("more")}},
			DeadLetter{Class: Invalid, Cause: InvalidUTF8, Text: "invalid_utf8", Tenant: "default", DecisionID: "caf\uFFFD"}},
		{"an element that is none", Record{Topic: "docket.dlq", Value: []byte(`7`), Headers: Headers{ErrorClass: Invalid,
			Reason: NotObject, Upload: upload("[7]")}},
			DeadLetter{Class: Invalid, Cause: NotObject, Text: "not_object", Tenant: "default"}},
		{"a whole upload", Record{Topic: "docket.dlq", Value: []byte("rubbish"), Headers: Headers{ErrorClass: Invalid,
			Reason: BadGzip, Upload: upload("rubbish")}},
			DeadLetter{Class: Invalid, Cause: BadGzip, Text: "bad_gzip", Tenant: "default", Whole: true}},
		{"another program's record", Record{Topic: "docket.dlq", Value: nil, Headers: Headers{Tenant: "a\x00b",
			ErrorClass: "bad", Error: "\xff"}},
			DeadLetter{Class: Unknown, Cause: Rejected, Text: "\uFFFD", Tenant: "a\uFFFDb", DecisionID: HashID(nil),
				Decision: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.record.Partition, c.record.Offset, c.record.WrittenAt = 3, 7, at.Add(time.Nanosecond)
			got := newProjector(t).DeadLetter(c.record, deadTopics)
			require.Equal(t, c.record.Topic+":3:7", got.ID)
			require.Equal(t, DeadOpen, got.State)
			require.Equal(t, at, got.DiedAt)
			require.Len(t, got.Fingerprint, 2*FingerprintBytes)
			require.Equal(t, c.want, DeadLetter{
				Class: got.Class, Code: got.Code, Cause: got.Cause, Text: got.Text, Tenant: got.Tenant,
				DecisionID: got.DecisionID, Path: got.Path, Timestamp: got.Timestamp, Decision: got.Decision, Whole: got.Whole,
			})
		})
	}
	t.Run("the guard's fingerprint is the dead letter's", func(t *testing.T) {
		failure := &Error{Class: Invalid, Op: "save to the database", Code: "23514", Text: "check 12"}
		h := Headers{}.Failed(at, failure)
		l := newProjector(t).DeadLetter(Record{Topic: "docket.dlq", Value: []byte(decision), Headers: h}, deadTopics)
		require.Equal(t, RejectionOf(failure, "acme", "http/authz/allow").Fingerprint, l.Fingerprint)
	})
}

func TestFoldDeadLetters(t *testing.T) {
	l := func(offset int64, class Class, text string) DeadLetter {
		p := Position{"docket.dlq", 0, offset}
		return DeadLetter{ID: p.String(), Position: p, Tenant: "t", Class: class, Error: text, Copies: 1}
	}
	got := FoldDeadLetters([]DeadLetter{l(1, Invalid, "a"), l(2, Unknown, "b"), l(3, Invalid, "c"), l(4, Invalid, "d")})
	first := l(4, Invalid, "d")
	first.ID, first.Copies = "docket.dlq:0:1", 3
	require.Equal(t, []DeadLetter{first, l(2, Unknown, "b")}, got)

	back := l(5, Invalid, "e")
	back.Replay, back.Replays = "r-1", 2
	got = FoldDeadLetters([]DeadLetter{back, l(6, Invalid, "f")})
	require.Equal(
		t, []any{"r-1", 2, "f"}, []any{got[0].Replay, got[0].Replays, got[0].Error}, "one of them came from a replay",
	)
}

func TestParseDeadQuery(t *testing.T) {
	now := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct{ query, says string }{
		{"", ""},
		{"state=open&state=replayed&class=!invalid&path=http*&since=1h&until=2026-11-20T11:30:00Z&limit=7", ""},
		{"state=*", ""},
		{"path=/!x&path=*&path=!a", ""},
		{"until=9999-12-31T23:59:59-05:00", "until:"},
		{"state=shut", "is no state"},
		{"class=bad", "is no class"},
		{"colour=red", "unknown parameter"},
		{"outcome=denied", "unknown parameter"},
		{"since=yesterday", "since:"},
		{"since=1h&until=2h", "lies before"},
		{"limit=0", "limit:"},
		{"code=", "is empty"},
	} {
		t.Run(c.query, func(t *testing.T) {
			values, err := url.ParseQuery(c.query)
			require.NoError(t, err)
			q, err := ParseDeadQuery(values, now)
			if c.says != "" {
				require.ErrorContains(t, err, c.says)
				return
			}
			require.NoError(t, err)
			params, ok := q.Params()
			require.True(t, ok)
			again, err := ParseDeadQuery(params, now.Add(time.Hour))
			require.NoError(t, err)
			again.Limit = q.Limit
			require.Equal(t, q, again, "it is spelled for good, times included")
		})
	}
}

// FuzzDeadLetter reads whatever somebody may have written to a dead-letter topic.
func FuzzDeadLetter(f *testing.F) {
	f.Add([]byte(`{"decision_id":"a"}`), "docket-reason", "too_deep")
	f.Add([]byte("\x1f\x8b"), "docket-error", "\xff\x00")
	f.Add([]byte("{\"decision_id\":\"caf\xe9\"}"), "docket-reason", "invalid_utf8")
	f.Add([]byte(strings.Repeat("[", 20_000)), "docket-error-class", "invalid")
	p := newProjector(f)
	f.Fuzz(func(t *testing.T, value []byte, name, text string) {
		h := DecodeHeaders([]Header{{name, text}})
		l := p.DeadLetter(Record{Topic: "docket.dlq", Value: value, Headers: h}, deadTopics)
		for _, s := range []string{string(l.Class), l.Code, string(l.Cause), l.Error, l.Text, l.Tenant, l.DecisionID, l.Path,
			l.Upload, l.Origin, l.Replay} {
			if !utf8.ValidString(s) || strings.IndexByte(s, 0) >= 0 {
				t.Fatalf("%q is no text for a store", s)
			}
		}
		if l.Fingerprint == "" || l.Cause == "" || l.Tenant == "" {
			t.Fatalf("%+v", l)
		}
	})
}

// TestRejectionsOfPostgreSQL have the SQLSTATE as their code, and not as a number in their text.
func TestRejectionsOfPostgreSQL(t *testing.T) {
	reject := func(text string) Rejection {
		return RejectionOf(&Error{Class: Invalid, Code: "42P01", Text: text}, "t", "p")
	}
	r := reject(`ERROR: relation "decisions_20261126" does not exist (SQLSTATE 42P01)`)
	require.Equal(t, `ERROR: relation "decisions_#" does not exist`, r.Text)
	require.Equal(t, "42P01", r.Code)
	require.Equal(t, r.Fingerprint, reject(`ERROR: relation "decisions_20261127" does not exist`).Fingerprint)
}
