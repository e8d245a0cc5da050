package domain

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// Topics names the five topics of the durable log.
type Topics struct {
	// Decisions has what was accepted and is not yet stored.
	Decisions string
	// Parking has what the store could not take.
	Parking string
	// Held has what the store, in good health, does not take for a while, by what it waits for.
	Held string
	// ParkingDLQ has what was parked and failed at its last attempt.
	ParkingDLQ string
	// DLQ is the data DLQ: what the database would never accept, and what ingest quarantined.
	DLQ string

	prefix string
}

// DefaultPrefix is what the names of topics begin with unless a setting says otherwise.
const DefaultPrefix = "docket."

// TopicsWithPrefix names the topics; DefaultPrefix is docket's own.
func TopicsWithPrefix(prefix string) Topics {
	return Topics{
		Decisions:  prefix + "decisions",
		Parking:    prefix + "parking",
		Held:       prefix + "held",
		ParkingDLQ: prefix + "parking.dlq",
		DLQ:        prefix + "dlq",
		prefix:     prefix,
	}
}

// Group is the name of a consumer group: two installations on one Kafka that differ in their prefix share none.
func (t Topics) Group(name string) string {
	if t.prefix == DefaultPrefix {
		return name
	}
	return t.prefix + name
}

// All lists the topics, the ones that are consumed first.
func (t Topics) All() []string { return []string{t.Decisions, t.Parking, t.Held, t.ParkingDLQ, t.DLQ} }

// Record is one event in the durable log.
type Record struct {
	// Topic is where the record goes, or came from.
	Topic string
	// Partition and Offset are its position there. The log sets them on consuming and ignores them on publishing.
	Partition int32
	Offset    int64
	// WrittenAt is when the log took it. It is set and ignored as the position is.
	WrittenAt time.Time
	// Key is the decision id. Records of one key share a partition.
	Key string
	// Value is the event exactly as sent. Nobody writes to it once the record is made.
	Value []byte
	// Headers say where the event comes from and what has happened to it.
	Headers Headers
}

// Origin is the record's position as the docket-origin header spells it.
func (r Record) Origin() string { return fmt.Sprintf("%s/%d/%d", r.Topic, r.Partition, r.Offset) }

// FirstLogged is when the log took the record in its first home. It is the same for every delivery of it.
func (r Record) FirstLogged() time.Time {
	if r.Headers.LoggedAt.IsZero() {
		return r.WrittenAt
	}
	return r.Headers.LoggedAt
}

// received is when the upload was read or, where another program wrote the record, when the log took it.
func (r Record) received() time.Time {
	if r.Headers.ReceivedAt.IsZero() {
		return r.FirstLogged()
	}
	return r.Headers.ReceivedAt
}

// Moved are the headers of a record that leaves for another home: they keep where it was first, and since when.
func (r Record) Moved() Headers {
	h := r.Headers
	if h.Origin == "" {
		h.Origin = r.Origin()
	}
	h.LoggedAt = r.FirstLogged()
	h.HeldFor = ""
	return h
}

// Headers is what a record carries beside the event. Zero fields are not written.
type Headers struct {
	// Tenant is whose credential uploaded the event.
	Tenant string
	// OPAPartition is the {partition} of the upload path.
	OPAPartition string
	// ReceivedAt is when ingest read the upload.
	ReceivedAt time.Time
	// Upload is the hex SHA-256 of the body as received; OPA's retry of an upload repeats it.
	Upload string
	// Uploader is the name of the credential that the upload came with, and RemoteAddress where it came from.
	Uploader, RemoteAddress string
	// Reason stands on quarantined records, and on those that the store in good health did not keep.
	Reason Cause
	// Masked says that a policy took something out of the event, or replaced it.
	Masked bool
	// TraceParent is docket's own trace (W3C Trace Context), never the application's.
	TraceParent string
	// Attempt counts failures that were the row's own, from 1.
	Attempt int
	// NotBefore is when a parked record may be tried again.
	NotBefore time.Time
	// FirstFailedAt is when the record was first parked.
	FirstFailedAt time.Time
	// ErrorClass, ErrorCode and Error tell the last failure. Error is at most 1 KiB and free of row contents.
	ErrorClass Class
	ErrorCode  string
	Error      string
	// Origin is "topic/partition/offset" of the record's first home, and LoggedAt when the log took it there.
	Origin   string
	LoggedAt time.Time
	// Encoding is EncodedGzip where the value of a quarantined record is compressed; see Unpacked.
	Encoding string
	// HeldFor is what a held record waits for; see HeldForDay and its like.
	HeldFor string
	// Part is "i/n" where a record had to be cut up, because no topic takes it whole.
	Part string
	// Replay is the operator's replay job, and ReplayCount the guard against loops.
	Replay      string
	ReplayCount int
}

// Owner is the tenant that the record belongs to, as the store spells it: DefaultTenant where no header says so.
func (h Headers) Owner() string {
	if h.Tenant == "" {
		return DefaultTenant
	}
	return Name(h.Tenant) // another program may have written the record
}

// partBytes is what a part of a record has at most: every dead-letter topic takes it.
const partBytes = 8 << 20

// Foreign reports that docket has not written the record: ingest gives every one the hash of its upload.
func (r Record) Foreign() bool { return r.Headers.Upload == "" }

// Parts cuts a record up that no topic takes whole, for the data DLQ. The parts share its value.
func (r Record) Parts(dlq string) []Record {
	n := (len(r.Value) + partBytes - 1) / partBytes
	out := make([]Record, 0, n)
	h := r.Moved()
	h.Reason, h.ErrorClass, h.ErrorCode = EventTooLarge, Invalid, "MESSAGE_TOO_LARGE"
	h.Attempt, h.NotBefore = 0, time.Time{}
	h.Error = "another program wrote a record that is larger than what its next topic takes"
	for i := range n {
		h.Part = fmt.Sprintf("%d/%d", i+1, n)
		value := r.Value[i*partBytes : min((i+1)*partBytes, len(r.Value))]
		out = append(out, Record{Topic: dlq, Key: r.Key, Value: value, Headers: h})
	}
	return out
}

// EncodedGzip is the encoding of a value that is kept as gzip.
const EncodedGzip = "gzip"

// Unpacked is the record with its value as it was sent. What says that it is compressed and is not, or is larger than
// anything that docket quarantines, stays as it is: another program may have written it.
func (r Record) Unpacked() Record {
	if r.Headers.Encoding != EncodedGzip {
		return r
	}
	z, err := gzip.NewReader(bytes.NewReader(r.Value))
	if err != nil {
		return r
	}
	value, err := io.ReadAll(io.LimitReader(z, MaxQuarantined+1))
	if err != nil || len(value) > MaxQuarantined {
		return r
	}
	r.Value, r.Headers.Encoding = value, ""
	return r
}

// maxErrorText bounds the docket-error header, in bytes.
const maxErrorText = 1 << 10

// Failed returns the headers with what a failure of class, code and text says, keeping the first failure's time.
func (h Headers) Failed(at time.Time, err error) Headers {
	if h.FirstFailedAt.IsZero() {
		h.FirstFailedAt = at.UTC()
	}
	h.ErrorClass, h.ErrorCode = ClassOf(err), CodeOf(err)
	h.Error, _ = cleanText(err.Error(), maxErrorText)
	return h
}

// Header is one header as it stands in the log: text, never binary.
type Header struct{ Name, Value string }

// The header names are a contract with everything that reads the topics.
const (
	headerTenant        = "docket-tenant"
	headerOPAPartition  = "docket-opa-partition"
	headerReceivedAt    = "docket-received-at"
	headerUpload        = "docket-upload"
	headerUploader      = "docket-uploader"
	headerRemoteAddress = "docket-remote-address"
	headerReason        = "docket-reason"
	headerMasked        = "docket-masked"
	headerTraceParent   = "traceparent"
	headerAttempt       = "docket-attempt"
	headerNotBefore     = "docket-not-before"
	headerFirstFailedAt = "docket-first-failed-at"
	headerErrorClass    = "docket-error-class"
	headerErrorCode     = "docket-error-code"
	headerError         = "docket-error"
	headerOrigin        = "docket-origin"
	headerLoggedAt      = "docket-logged-at"
	headerHeldFor       = "docket-held-for"
	headerEncoding      = "docket-encoding"
	headerPart          = "docket-part"
	headerReplay        = "docket-replay"
	headerReplayCount   = "docket-replay-count"
)

// Encode spells the headers in a fixed order: times as RFC 3339 with nanoseconds in UTC, counts in decimal.
func (h Headers) Encode() []Header {
	out := make([]Header, 0, 8)
	text := func(name, value string) {
		if value != "" {
			out = append(out, Header{name, value})
		}
	}
	instant := func(name string, t time.Time) {
		if !t.IsZero() {
			text(name, t.UTC().Format(time.RFC3339Nano))
		}
	}
	count := func(name string, n int) {
		if n != 0 {
			text(name, strconv.Itoa(n))
		}
	}
	text(headerTenant, h.Tenant)
	text(headerOPAPartition, h.OPAPartition)
	instant(headerReceivedAt, h.ReceivedAt)
	text(headerUpload, h.Upload)
	text(headerUploader, h.Uploader)
	text(headerRemoteAddress, h.RemoteAddress)
	text(headerReason, string(h.Reason))
	if h.Masked {
		text(headerMasked, "true")
	}
	text(headerTraceParent, h.TraceParent)
	count(headerAttempt, h.Attempt)
	instant(headerNotBefore, h.NotBefore)
	instant(headerFirstFailedAt, h.FirstFailedAt)
	text(headerErrorClass, string(h.ErrorClass))
	text(headerErrorCode, h.ErrorCode)
	text(headerError, h.Error)
	text(headerOrigin, h.Origin)
	instant(headerLoggedAt, h.LoggedAt)
	text(headerHeldFor, h.HeldFor)
	text(headerEncoding, h.Encoding)
	text(headerPart, h.Part)
	text(headerReplay, h.Replay)
	count(headerReplayCount, h.ReplayCount)
	return out
}

// DecodeHeaders reads what Encode wrote. A name it does not know, or a value it cannot read, is skipped: another
// program may have written to the topic, and its mistake must not cost a decision. The last of a repeated name stands.
func DecodeHeaders(headers []Header) Headers {
	var h Headers
	for _, p := range headers {
		switch p.Name {
		case headerTenant:
			h.Tenant = p.Value
		case headerOPAPartition:
			h.OPAPartition = p.Value
		case headerReceivedAt:
			h.ReceivedAt = instantOf(p.Value)
		case headerUpload:
			h.Upload = p.Value
		case headerUploader:
			h.Uploader = p.Value
		case headerRemoteAddress:
			h.RemoteAddress = p.Value
		case headerReason:
			h.Reason = Cause(p.Value)
		case headerMasked:
			h.Masked = p.Value == "true"
		case headerTraceParent:
			h.TraceParent = p.Value
		case headerAttempt:
			h.Attempt = countOf(p.Value)
		case headerNotBefore:
			h.NotBefore = instantOf(p.Value)
		case headerFirstFailedAt:
			h.FirstFailedAt = instantOf(p.Value)
		case headerErrorClass:
			h.ErrorClass = Class(p.Value)
		case headerErrorCode:
			h.ErrorCode = p.Value
		case headerError:
			h.Error = p.Value
		case headerOrigin:
			h.Origin = p.Value
		case headerLoggedAt:
			h.LoggedAt = instantOf(p.Value)
		case headerHeldFor:
			h.HeldFor = p.Value
		case headerEncoding:
			h.Encoding = p.Value
		case headerPart:
			h.Part = p.Value
		case headerReplay:
			h.Replay = p.Value
		case headerReplayCount:
			h.ReplayCount = countOf(p.Value)
		}
	}
	return h
}

func instantOf(s string) time.Time {
	t, err := ParseRFC3339(s)
	if err != nil || !readableYear(t) {
		return time.Time{}
	}
	return t.UTC()
}

// ParseRFC3339 reads a time as RFC 3339 section 5.6 defines it. Go's own parser knows no leap second and no small "t"
// and "z", and takes a comma, an hour of one digit and any offset. A leap second is the first instant of the next
// minute, as PostgreSQL has it.
func ParseRFC3339(s string) (time.Time, error) {
	const seconds, behind = len("2006-01-02T15:04:"), len("2006-01-02T15:04:05")
	if len(s) <= behind || s[behind] == ',' || s[seconds-1] != ':' {
		return time.Time{}, errNotRFC3339
	}
	if strings.ContainsAny(s, "tz") {
		s = strings.ToUpper(s)
	}
	leap := s[seconds:behind] == "60"
	if leap {
		s = s[:seconds] + "59" + s[behind:]
	}
	if offset := s[len(s)-len("15:04"):]; s[len(s)-1] != 'Z' && (offset > "23:59" || offset[len("15:")] > '5') {
		return time.Time{}, errNotRFC3339
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	if leap {
		t = t.Add(time.Second)
	}
	return t, err
}

var errNotRFC3339 = errors.New("it is no RFC 3339 time")

func countOf(s string) int {
	n, err := strconv.Atoi(strings.TrimSpace(s))
	if err != nil || n < 0 {
		return 0
	}
	return n
}
