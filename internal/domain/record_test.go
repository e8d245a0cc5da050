package domain

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestHeadersRoundTrip(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	for _, h := range []Headers{
		{},
		{Tenant: "t", OPAPartition: "p", ReceivedAt: at, Upload: "u", Uploader: "edge-eu", RemoteAddress: "192.0.2.1"},
		{
			Tenant: "t", Reason: TooDeep, TraceParent: "tp", Attempt: 3, NotBefore: at, FirstFailedAt: at.Add(time.Hour),
			ErrorClass: Unknown,
			ErrorCode:  "c", Error: "e", Origin: "a/0/1", LoggedAt: at, HeldFor: "day:none", Part: "1/3",
			Encoding: EncodedGzip,
			Replay:   "r", ReplayCount: 9,
		},
	} {
		require.Equal(t, h, DecodeHeaders(h.Encode()))
	}
	require.Contains(t, Headers{ReceivedAt: at}.Encode(), Header{"docket-received-at", "2026-01-02T03:04:05.000000006Z"})
	require.Equal(t, Headers{Tenant: "b"}, DecodeHeaders([]Header{
		{
			"docket-tenant",
			"a",
		},
		{"docket-tenant", "b"},
		{"x-other", "1"},
		{"docket-attempt", "-4"},
		{"docket-replay-count", "many"},
		{"docket-not-before", "soon"},
	}))
}

func TestMoved(t *testing.T) {
	first, later := time.Date(2026, 7, 31, 12, 0, 0, 0, time.UTC), time.Date(2026, 8, 2, 12, 0, 0, 0, time.UTC)
	foreign := Record{Topic: "docket.decisions", Partition: 2, Offset: 7, WrittenAt: first, Value: []byte(`{}`)}
	parked := Record{Topic: "docket.parking", WrittenAt: later, Value: foreign.Value, Headers: foreign.Moved()}
	require.Equal(t, Headers{Origin: "docket.decisions/2/7", LoggedAt: first}, parked.Headers)
	require.Equal(t, parked.Headers, parked.Moved(), "its first home stays")
	p, err := NewProjector(nil)
	require.NoError(t, err)
	for _, r := range []Record{foreign, parked} {
		d := p.Project(r)
		require.Equal(t, first, d.LoggedAt)
		require.Equal(t, first, d.ReceivedAt, "nothing else says when it was received")
	}
}

func TestUnpacked(t *testing.T) {
	squeeze := func(plain []byte) []byte {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		_, err := z.Write(plain)
		require.NoError(t, err)
		require.NoError(t, z.Close())
		return b.Bytes()
	}
	plain, bomb := bytes.Repeat([]byte("["), 5000), squeeze(make([]byte, MaxQuarantined+1))
	for _, c := range []struct {
		name        string
		value       []byte
		encoding    string
		want        []byte
		encodedThen string
	}{
		{"compressed", squeeze(plain), EncodedGzip, plain, ""},
		{"as it was sent", squeeze(plain), "", squeeze(plain), ""},
		{"an encoding of somebody else's", squeeze(plain), "br", squeeze(plain), "br"},
		{"no gzip", plain, EncodedGzip, plain, EncodedGzip},
		{"gzip that ends too early", squeeze(plain)[:20], EncodedGzip, squeeze(plain)[:20], EncodedGzip},
		{"the longest", squeeze(make([]byte, MaxQuarantined)), EncodedGzip, make([]byte, MaxQuarantined), ""},
		{"a bomb", bomb, EncodedGzip, bomb, EncodedGzip},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := Record{Value: c.value, Headers: Headers{Tenant: "t", Encoding: c.encoding}}.Unpacked()
			require.True(t, bytes.Equal(c.want, r.Value))
			require.Equal(t, Headers{Tenant: "t", Encoding: c.encodedThen}, r.Headers)
		})
	}
	p, err := NewProjector(nil)
	require.NoError(t, err)
	r := Record{Topic: "docket.dlq", Value: plain, Headers: Headers{Reason: TooDeep, ErrorClass: Invalid}}
	as := p.DeadLetter(r, TopicsWithPrefix("docket."))
	r.Value, r.Headers.Encoding = squeeze(plain), EncodedGzip
	require.Equal(t, as, p.DeadLetter(r, TopicsWithPrefix("docket.")), "the index knows the bytes that were sent")
}

func TestParts(t *testing.T) {
	r := Record{Topic: "docket.decisions", Partition: 3, Offset: 7, Key: "huge", Value: make([]byte, 20<<20)}
	require.True(t, r.Foreign())
	require.False(t, Record{Headers: Headers{Upload: "ab"}}.Foreign())
	parts := r.Parts("docket.dlq")
	require.Len(t, parts, 3)
	sum := 0
	for i, part := range parts {
		require.Equal(t, "docket.dlq", part.Topic)
		require.Equal(t, "huge", part.Key)
		require.Equal(t, fmt.Sprintf("%d/3", i+1), part.Headers.Part)
		require.Equal(t, "docket.decisions/3/7", part.Headers.Origin)
		require.Equal(t, EventTooLarge, part.Headers.Reason)
		require.LessOrEqual(t, len(part.Value), partBytes)
		sum += len(part.Value)
	}
	require.Equal(t, len(r.Value), sum)
}

func FuzzDecodeHeaders(f *testing.F) {
	for _, h := range (Headers{Tenant: "t", ReceivedAt: time.Unix(1, 2), Attempt: 2}).Encode() {
		f.Add(h.Name, h.Value)
	}
	f.Fuzz(func(t *testing.T, name, value string) {
		h := DecodeHeaders([]Header{{name, value}})
		if again := DecodeHeaders(h.Encode()); again != h {
			t.Fatalf("%+v became %+v", h, again)
		}
	})
}

func TestFailed(t *testing.T) {
	first, second := time.Unix(100, 0), time.Unix(200, 0)
	err := &Error{Class: Unknown, Code: "P0001", Op: "save", Text: strings.Repeat("x", 2000)}
	h := Headers{}.Failed(first, err)
	h = h.Failed(second, err)
	require.Equal(t, first.UTC(), h.FirstFailedAt, "the first failure's time stays")
	require.Equal(t, Unknown, h.ErrorClass)
	require.Equal(t, "P0001", h.ErrorCode)
	require.Len(t, h.Error, 1024)
}

func TestClassOf(t *testing.T) {
	inner := &Error{Class: Invalid, Code: "22021"}
	for _, c := range []struct {
		name string
		err  error
		want Class
	}{
		{"its own", Errorf(Unavailable, "x"), Unavailable},
		{"wrapped", fmt.Errorf("more: %w", Errorf(Misconfigured, "x")), Misconfigured},
		{"joined", errors.Join(errors.New("x"), Errorf(Invalid, "y")), Invalid},
		{"the outermost", Errorf(Unavailable, "x: %w", inner), Unavailable},
		{"canceled", fmt.Errorf("x: %w", context.Canceled), Canceled},
		{"deadline", context.DeadlineExceeded, Unavailable},
		{"anything else", errors.New("x"), Unknown},
	} {
		t.Run(c.name, func(t *testing.T) { require.Equal(t, c.want, ClassOf(c.err)) })
	}
	require.Equal(t, "22021", CodeOf(Errorf(Unavailable, "x: %w", inner)))
	require.Empty(t, CodeOf(errors.New("x")))
	require.Equal(t, "save: text", (&Error{Op: "save", Text: "text", Err: errors.New("secret row")}).Error())
}

func TestWindow(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	w := Window{Retention: time.Hour, Ahead: time.Minute}
	for at, want := range map[time.Time]Placement{
		now: Inside, now.Add(-time.Hour): Inside, now.Add(-time.Hour - 1): BeforeWindow,
		now.Add(time.Minute): Inside, now.Add(time.Minute + 1): Outside, {}: Outside,
	} {
		require.Equal(t, want, w.Classify(at, now), at)
	}
}

func TestParseQueryRefuses(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	for query, want := range map[string]string{
		"colour=red":                "unknown parameter \"colour\"",
		"since=tomorrow":            "since: \"tomorrow\" is neither",
		"since=-5m":                 "since: ",
		"limit=0":                   "limit: ",
		"limit=1001":                "limit: ",
		"limit=many":                "limit: ",
		"cursor=xyz":                "cursor: \"xyz\" is not one of docket's",
		"outcome=maybe":             "outcome: \"maybe\" is no outcome",
		"path=":                     "path: is empty",
		"path=!":                    "path: is empty",
		"since=1h&until=2h":         "until ",
		"since=2026-13-01T00:00:00": "since: ",
		"since=200000d":             "more than 292 years",
		"since=1h&since=2h":         "since: it is there 2 times; name it once",
		"until=1h&until=1h":         "until: it is there 2 times",
		"limit=5&limit=6":           "limit: it is there 2 times",
		"cursor=a&cursor=b":         "cursor: it is there 2 times",
		"path=a%00b":                "path: has a NUL in it",
		"path=%ff":                  "or is no UTF-8",
		"path=" + strings.Repeat("a&path=", MaxTerms) + "b": "more than 100 values",
		strings.Repeat("path=N*&", 950) + "app=x":           "more than 100 values",
	} {
		values, err := url.ParseQuery(query)
		require.NoError(t, err)
		_, err = ParseQuery(values, now)
		require.ErrorContains(t, err, want, query)
	}
}

// TestMarksThatAreMeant has values with a "!" in front or a "*" behind, through the tree and back.
func TestMarksThatAreMeant(t *testing.T) {
	for value, want := range map[string]Expr{
		"a":    Equals(FieldPrincipal, "a"),
		"!a":   Not(Equals(FieldPrincipal, "a")),
		"!!a":  Equals(FieldPrincipal, "!a"),
		"!!!a": Not(Equals(FieldPrincipal, "!a")),
		"a*":   HasPrefix(FieldPrincipal, "a"),
		"a**":  Equals(FieldPrincipal, "a*"),
		"a***": HasPrefix(FieldPrincipal, "a*"),
		"**":   Equals(FieldPrincipal, "*"),
		"*":    Present(FieldPrincipal),
		"!*":   Not(Present(FieldPrincipal)),
		`C\*`:  HasPrefix(FieldPrincipal, `C\`),
		"a!":   Equals(FieldPrincipal, "a!"),
		"*a":   Equals(FieldPrincipal, "*a"),
	} {
		q, err := ParseQuery(url.Values{"principal": {value}}, time.Unix(1e9, 0))
		require.NoError(t, err, value)
		require.Equal(t, want, q.Where, value)
		spelled, ok := Filter{Where: q.Where}.Params()
		require.True(t, ok)
		require.Equal(t, []string{value}, spelled["principal"])
	}
}

// TestInstants reads times as RFC 3339 has them (section 5.6), not as Go's parser does.
func TestInstants(t *testing.T) {
	at := func(text string) time.Time {
		parsed, err := time.Parse(time.RFC3339Nano, text)
		require.NoError(t, err)
		return parsed.UTC()
	}
	for text, want := range map[string]time.Time{
		"2026-11-26T10:20:30Z":                at("2026-11-26T10:20:30Z"),
		"2026-11-26t10:20:30z":                at("2026-11-26T10:20:30Z"),
		"2026-11-26T10:20:30.123456789+02:30": at("2026-11-26T07:50:30.123456789Z"),
		"2026-11-26T10:20:30.1234567891234Z":  at("2026-11-26T10:20:30.123456789Z"),
		"2016-12-31T23:59:60Z":                at("2017-01-01T00:00:00Z"),
		"2016-12-31T23:59:60.5Z":              at("2017-01-01T00:00:00.5Z"),
		"2017-01-01T00:59:60+01:00":           at("2017-01-01T00:00:00Z"),
		"2026-11-26T10:20:30-00:00":           at("2026-11-26T10:20:30Z"),
		"2026-11-26T10:20:30,5Z":              {},
		"2026-11-26T1:20:30Z":                 {},
		"2026-11-26T10:20:61Z":                {},
		"2026-11-26T10:20:30+24:00":           {},
		"2026-11-26T10:20:30+02:60":           {},
		"2026-11-26T10:20:30":                 {},
		"2026-11-26 10:20:30Z":                {},
		"2026-11-26T10:20Z":                   {},
		"2026-02-30T10:20:30Z":                {},
		"0000-01-01T00:00:00Z":                {},
		"":                                    {},
	} {
		require.Equal(t, want, instantOf(text), text)
	}
	p, err := NewProjector(nil)
	require.NoError(t, err)
	project := func(timestamp string) Decision {
		return p.Project(Record{Value: []byte(`{"decision_id":"a","timestamp":"` + timestamp + `"}`)})
	}
	require.NotEqual(
		t, project("2016-12-31T23:59:59Z").Timestamp, project("2016-12-31T23:59:60Z").Timestamp,
		"two instants under one id are no conflict",
	)
}

func FuzzInstant(f *testing.F) {
	f.Add("2016-12-31T23:59:60.5+01:00")
	f.Add("2026-11-26t10:20:30z")
	f.Fuzz(func(t *testing.T, s string) {
		if got := instantOf(s); !got.IsZero() && !readableYear(got) {
			t.Fatalf("%q became %s", s, got)
		}
	})
}

func FuzzParseCursor(f *testing.F) {
	f.Add((&Cursor{Time: time.UnixMicro(5), Tenant: "t", ID: "i"}).String())
	f.Add("e30")
	f.Fuzz(func(t *testing.T, s string) {
		c, err := ParseCursor(s)
		if err != nil {
			return
		}
		again, err := ParseCursor(c.String())
		if err != nil || *again != *c {
			t.Fatalf("%+v became %+v, %v", c, again, err)
		}
	})
}

func TestObservationMerge(t *testing.T) {
	at := func(s int64) time.Time { return time.Unix(s, 0) }
	s := Observation{OPA: "a", Version: "1", First: at(10), Last: at(20), Uploads: 2, Events: 5}
	s.Merge(Observation{First: at(30), Last: at(30), Uploads: 1, Events: 1, Status: []byte("x"), StatusAt: at(30)})
	require.Equal(
		t,
		Observation{
			OPA: "a", Version: "1", First: at(10), Last: at(30), Uploads: 3, Events: 6, Status: []byte("x"), StatusAt: at(30),
		},
		s,
	)
}

func TestGroup(t *testing.T) {
	for prefix, want := range map[string]string{
		DefaultPrefix: "docket-saver", "team-a.": "team-a.docket-saver", "": "docket-saver",
	} {
		require.Equal(t, want, TopicsWithPrefix(prefix).Group("docket-saver"), prefix)
	}
}

func TestParseInstant(t *testing.T) {
	now := time.Date(2026, 7, 31, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]string{
		"2026-07-31":                     "2026-07-31T00:00:00Z",
		"2026-07-31T10:00":               "2026-07-31T10:00:00Z",
		"2026-07-31T10:00Z":              "2026-07-31T10:00:00Z",
		"2026-07-31T10:00+02:00":         "2026-07-31T08:00:00Z",
		"2026-07-31T10:00:05":            "2026-07-31T10:00:05Z",
		"2026-07-31T10:00:05.123456":     "2026-07-31T10:00:05.123456Z",
		"2026-07-31T10:00:05.5+02:00":    "2026-07-31T08:00:05.5Z",
		"2026-07-31T10:00:05.123456789Z": "2026-07-31T10:00:05.123456789Z",
		"15m":                            "2026-07-31T11:45:00Z",
		"2d":                             "2026-07-29T12:00:00Z",
		"0s":                             "2026-07-31T12:00:00Z",
		"2026-07-31 10:00":               "",
		"2026-07":                        "",
		"2026-02-30":                     "",
		"":                               "",
		"-1h":                            "",
		"10":                             "",
	} {
		t.Run(text, func(t *testing.T) {
			at, err := ParseInstant(text, now)
			if want == "" {
				require.Error(t, err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, want, at.Format(time.RFC3339Nano))
		})
	}
}
