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

func TestParsePlace(t *testing.T) {
	for _, c := range []struct {
		text string
		want Place
		ok   bool
	}{
		{"docket.dlq:3:1207", Place{"docket.dlq", 3, 1207}, true},
		{"docket.dlq:0:0", Place{"docket.dlq", 0, 0}, true},
		{"docket.dlq:3", Place{}, false},
		{"docket.dlq:3:x", Place{}, false},
		{"docket.dlq:-1:7", Place{}, false},
		{"docket.dlq:1:-7", Place{}, false},
		{"docket.dlq:9999999999:7", Place{}, false},
		{":1:7", Place{}, false},
		{"", Place{}, false},
		{"a:b:1:7", Place{}, false},
	} {
		t.Run(c.text, func(t *testing.T) {
			got, err := ParsePlace(c.text)
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
		{"a row that is refused", Record{Topic: "docket.dlq", Key: "d-1", Value: []byte(decision), Headers: Headers{Tenant: "acme", ErrorClass: Invalid, ErrorCode: "23514", Error: "check 7", Attempt: 1}},
			DeadLetter{Class: Invalid, Code: "23514", Reason: Refused, Text: "check #", Tenant: "acme", DecisionID: "d-1", Path: "http/authz/allow", Timestamp: at, Decision: true}},
		{"a row that was given up", Record{Topic: "docket.parking.dlq", Key: "d-1", Value: []byte(decision), Headers: Headers{ErrorClass: Unknown, Error: "no"}},
			DeadLetter{Class: Unknown, Reason: GaveUp, Text: "no", Tenant: "default", DecisionID: "d-1", Path: "http/authz/allow", Timestamp: at, Decision: true}},
		{"a conflict", Record{Topic: "docket.dlq", Key: "d-1", Value: []byte(decision), Headers: Headers{ErrorClass: Invalid, Error: "taken", Reason: Conflict}},
			DeadLetter{Class: Invalid, Reason: Conflict, Text: "taken", Tenant: "default", DecisionID: "d-1", Path: "http/authz/allow", Timestamp: at, Decision: true}},
		{"a decision without an id", Record{Topic: "docket.dlq", Value: []byte(`{"a":1}`), Headers: Headers{ErrorClass: Invalid, Reason: Expired}},
			DeadLetter{Class: Invalid, Reason: Expired, Text: "expired", Tenant: "default", DecisionID: HashID([]byte(`{"a":1}`)), Decision: true}},
		{"an element with an id", Record{Topic: "docket.dlq", Value: []byte(decision), Headers: Headers{ErrorClass: Invalid, Reason: TooDeep, Upload: upload("more")}},
			DeadLetter{Class: Invalid, Reason: TooDeep, Text: "too_deep", Tenant: "default", DecisionID: "d-1", Path: "http/authz/allow"}},
		{"an element with an id that is no text", Record{Topic: "docket.dlq", Value: []byte("{\"decision_id\":\"caf\xe9\"}"), Headers: Headers{ErrorClass: Invalid, Reason: InvalidUTF8, Upload: upload("more")}},
			DeadLetter{Class: Invalid, Reason: InvalidUTF8, Text: "invalid_utf8", Tenant: "default", DecisionID: "caf\uFFFD"}},
		{"an element that is none", Record{Topic: "docket.dlq", Value: []byte(`7`), Headers: Headers{ErrorClass: Invalid, Reason: NotObject, Upload: upload("[7]")}},
			DeadLetter{Class: Invalid, Reason: NotObject, Text: "not_object", Tenant: "default"}},
		{"a whole upload", Record{Topic: "docket.dlq", Value: []byte("rubbish"), Headers: Headers{ErrorClass: Invalid, Reason: BadGzip, Upload: upload("rubbish")}},
			DeadLetter{Class: Invalid, Reason: BadGzip, Text: "bad_gzip", Tenant: "default", Whole: true}},
		{"another program's record", Record{Topic: "docket.dlq", Value: nil, Headers: Headers{Tenant: "a\x00b", ErrorClass: "bad", Error: "\xff"}},
			DeadLetter{Class: Unknown, Reason: Refused, Text: "\uFFFD", Tenant: "a\uFFFDb", DecisionID: HashID(nil), Decision: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.record.Partition, c.record.Offset, c.record.WrittenAt = 3, 7, at.Add(time.Nanosecond)
			got := newProjector(t).DeadLetter(c.record, deadTopics)
			require.Equal(t, c.record.Topic+":3:7", got.ID)
			require.Equal(t, DeadOpen, got.State)
			require.Equal(t, at, got.DiedAt)
			require.Len(t, got.Fingerprint, 2*FingerprintBytes)
			require.Equal(t, c.want, DeadLetter{
				Class: got.Class, Code: got.Code, Reason: got.Reason, Text: got.Text, Tenant: got.Tenant, DecisionID: got.DecisionID, Path: got.Path,
				Timestamp: got.Timestamp, Decision: got.Decision, Whole: got.Whole,
			})
		})
	}
	t.Run("the flood's fingerprint is the dead letter's", func(t *testing.T) {
		failure := &Error{Class: Invalid, Op: "save to the database", Code: "23514", Text: "check 12"}
		h := Headers{}.Failed(at, failure)
		l := newProjector(t).DeadLetter(Record{Topic: "docket.dlq", Value: []byte(decision), Headers: h}, deadTopics)
		require.Equal(t, BlameOf(failure, "http/authz/allow").Fingerprint, l.Fingerprint)
	})
}

func TestFoldDeadLetters(t *testing.T) {
	l := func(offset int64, class Class, text string) DeadLetter {
		p := Place{"docket.dlq", 0, offset}
		return DeadLetter{ID: p.String(), Place: p, Tenant: "t", Class: class, Error: text, Copies: 1}
	}
	got := FoldDeadLetters([]DeadLetter{l(1, Invalid, "a"), l(2, Unknown, "b"), l(3, Invalid, "c"), l(4, Invalid, "d")})
	first := l(4, Invalid, "d")
	first.ID, first.Copies = "docket.dlq:0:1", 3
	require.Equal(t, []DeadLetter{first, l(2, Unknown, "b")}, got)

	back := l(5, Invalid, "e")
	back.Replay, back.Replays = "r-1", 2
	got = FoldDeadLetters([]DeadLetter{back, l(6, Invalid, "f")})
	require.Equal(t, []any{"r-1", 2, "f"}, []any{got[0].Replay, got[0].Replays, got[0].Error}, "one of them came from a replay")
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
			again, err := ParseDeadQuery(q.Filter(), now.Add(time.Hour))
			require.NoError(t, err)
			again.Limit = q.Limit
			require.Equal(t, q, again, "it is spelled for good, times included")
		})
	}
}

func TestTooManyFail(t *testing.T) {
	for _, c := range []struct {
		name string
		job  Job
		want bool
	}{
		{"nothing yet", Job{}, false},
		{"a handful", Job{Done: 9, Failed: 9}, false},
		{"ten of ten", Job{Done: 10, Failed: 10}, true},
		{"just the share", Job{Done: 100, Failed: 10}, false},
		{"above it", Job{Done: 100, Failed: 11}, true},
		{"resumed since", Job{Done: 150, Failed: 60, BaseDone: 100, BaseFailed: 60}, false},
		{"resumed, and failing again", Job{Done: 150, Failed: 90, BaseDone: 100, BaseFailed: 60}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.job.StopRatio = DefaultStopRatio
			require.Equal(t, c.want, c.job.TooManyFail())
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
		for _, s := range []string{string(l.Class), l.Code, string(l.Reason), l.Error, l.Text, l.Tenant, l.DecisionID, l.Path, l.Upload, l.Origin, l.Replay} {
			if !utf8.ValidString(s) || strings.IndexByte(s, 0) >= 0 {
				t.Fatalf("%q is no text for a store", s)
			}
		}
		if l.Fingerprint == "" || l.Reason == "" || l.Tenant == "" {
			t.Fatalf("%+v", l)
		}
	})
}
