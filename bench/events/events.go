// Package events makes uploads as OPA does, of numbered decisions, at so small a cost that the generator is not what is
// measured.
//
// An upload is put together from parts that are compressed once: only times and ids stand between them, uncompressed.
// k6 would compress a body with a new compressor for each request, which costs it more than everything else does (95th
// percentile against a server that answers at once: 4 to 16 ms that way, 0.6 ms this way). The package owns the form of
// ids and uploads, and writes the parts that k6's scripts use (k6/events.json); sending is its callers' business.
package events

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io"
	"strconv"
	"time"
)

// PerUpload is the most decisions of an upload. Upload i has 1 to PerUpload of them, three on average, and they have
// the numbers from i*PerUpload on.
const PerUpload = 5

// Size is how many decisions an upload has.
func Size(upload int64) int { return int(upload%PerUpload) + 1 }

// Run tells the ids of one run from those of every other: seven hex digits.
type Run string

// NewRun is named after the time.
func NewRun() Run { return Run(fmt.Sprintf("%07x", time.Now().UnixMilli()&(1<<28-1))) }

// ID is the id of a decision: as scattered as a UUID, the number, below 2^32, in its last eight digits. k6/uploads.js
// makes the same.
func (r Run) ID(n int64) string {
	return fmt.Sprintf("%08x-%s-4%s-8000-0000%08x", uint32(n)*2654435761, r[:4], r[4:], n)
}

// Number is the number of an id of this run; false, if it is not one.
func (r Run) Number(id string) (int64, bool) {
	if len(id) != idBytes || id[9:13] != string(r[:4]) || id[15:18] != string(r[4:]) {
		return 0, false
	}
	n, err := strconv.ParseInt(id[24:], 16, 64)
	return n, err == nil && r.ID(n) == id
}

// A decision begins with what differs: the opening, which is the same in all decisions of an upload, and an id. Their
// lengths never change: the constant part of the second and every further decision of an upload refers back over them.
const (
	opening    = `,{"timestamp":"` + timeLayout + `","decision_id":"`
	timeLayout = "2006-01-02T15:04:05.000Z"
	idBytes    = 36
	variants   = 16 // how many different requests the decisions are about
)

// part is the rest of one variant's decisions.
type part struct {
	inflated []byte
	// Deflate blocks that end on a byte's border. Those of again refer to the same part of the decision before.
	first, again []byte
}

var parts = func() (out [variants]part) {
	for v := range out {
		p := part{inflated: constant(v)}
		p.first = deflate(p.inflated, nil)
		// Nothing shall refer to the bytes that differ: zeros occur nowhere else.
		p.again = deflate(p.inflated, append(bytes.Clone(p.inflated), make([]byte, len(opening)+idBytes)...))
		out[v] = p
	}
	return out
}()

// constant is a decision without its opening and id, equally long for all variants.
func constant(v int) []byte {
	return fmt.Appendf(
		nil,
		`","labels":{"app":"shop","env":"prod","id":"opa-%03d","version":"1.22.2"},"trace_id":"4bf92f3577b34da6a3ce929d0e0e%04x","span_id":"00f067aa0ba9%04x","bundles":{"authz":{"revision":"W3sibCI6InN5cy9jYXRhbG9nIiwicyI6NDA3MX1d"}},"path":"http/authz/allow","input":{"method":"GET","path":["finance","salary","user%03d"],"user":"alice%03d","subject":{"id":"alice%03d","roles":["employee","manager","auditor"],"department":"finance","clearance":3},"source":{"address":"10.0.12.%d","port":443},"headers":{"accept":"application/json","user-agent":"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0 Safari/537.36","x-request-id":"7d0f6a2be1c94f3c8a55e0b1d2f3%04x","x-forwarded-for":"203.0.113.7, 10.0.0.1"},"resource":{"type":"salary","owner":"bob","sensitivity":"high","tags":["pii","payroll"]}},"result":{"allow":false,"reasons":["user is not the owner","user is not in the group hr"],"obligations":[{"type":"log","level":"warn"}]},"requested_by":"10.0.12.7:51442","metrics":{"counter_server_query_cache_hit":1,"timer_rego_input_parse_ns":32111,"timer_rego_query_eval_ns":187221,"timer_server_handler_ns":301232,"timer_rego_external_resolve_ns":1042}}`,
		v*7, v*4099, v*257, v*61, v*37, v*37, 100+v, v*3571,
	)
}

// deflate compresses behind what the reader knows already.
func deflate(b, before []byte) []byte {
	var out bytes.Buffer
	w, err := flate.NewWriterDict(&out, flate.BestCompression, before)
	if err != nil {
		panic(err) // the level is a constant
	}
	_, _ = w.Write(b) // to memory
	_ = w.Flush()
	return out.Bytes()
}

// Append appends an upload's body, one gzip member, to dst.
func (r Run) Append(dst []byte, upload int64, at time.Time) []byte {
	p := &parts[upload%variants]
	dst = append(dst, 0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255) // RFC 1952, 2.3
	crc, length := uint32(0), 0
	stored := func(b []byte, last byte) { // RFC 1951, 3.2.4
		dst = append(dst, last)
		dst = binary.LittleEndian.AppendUint16(dst, uint16(len(b)))
		dst = binary.LittleEndian.AppendUint16(dst, ^uint16(len(b)))
		dst = append(dst, b...)
		crc, length = crc32.Update(crc, crc32.IEEETable, b), length+len(b)
	}
	var own, clock [len(opening) + idBytes]byte
	now := at.UTC().AppendFormat(clock[:0], timeLayout)
	for k := range Size(upload) {
		b := append(own[:0], opening...)
		copy(b[len(`,{"timestamp":"`):], now)
		deflated := p.again
		if k == 0 {
			b[0], deflated = '[', p.first
		}
		stored(append(b, r.ID(upload*PerUpload+int64(k))...), 0)
		dst = append(dst, deflated...)
		crc, length = crc32.Update(crc, crc32.IEEETable, p.inflated), length+len(p.inflated)
	}
	stored([]byte("]"), 1)
	dst = binary.LittleEndian.AppendUint32(dst, crc)
	return binary.LittleEndian.AppendUint32(dst, uint32(length))
}

// WriteParts writes k6/events.json.
func WriteParts(w io.Writer) error {
	type jsonPart struct {
		CRC   uint32 `json:"crc"`
		First []byte `json:"first"`
		Again []byte `json:"again"`
	}
	file := struct {
		Comment      string     `json:"comment"`
		OpeningBytes int        `json:"opening_bytes"`
		IDBytes      int        `json:"id_bytes"`
		PartBytes    int        `json:"part_bytes"`
		OpeningShift []uint32   `json:"opening_shift"`
		MiddleShift  []uint32   `json:"middle_shift"`
		PartShift    []uint32   `json:"part_shift"`
		Parts        []jsonPart `json:"parts"`
	}{
		Comment:      "made by make generate from bench/events",
		OpeningBytes: len(opening), IDBytes: idBytes, PartBytes: len(parts[0].inflated),
		OpeningShift: shift(len(opening) - 1), MiddleShift: shift(idBytes - 16), PartShift: shift(len(parts[0].inflated)),
	}
	for _, p := range parts {
		file.Parts = append(file.Parts, jsonPart{crc32.ChecksumIEEE(p.inflated), p.first, p.again})
	}
	e := json.NewEncoder(w)
	e.SetIndent("", " ")
	return e.Encode(file)
}

// shift is what so many bytes that follow do to each bit of a CRC-32: the columns of a matrix over GF(2), as in zlib's
// crc32_combine. A script, to which a byte costs half a microsecond, need not read the parts again with it.
func shift(bytes int) []uint32 {
	columns := make([]uint32, 32)
	for i := range columns {
		c := uint32(1) << i
		for range bytes * 8 {
			c = c>>1 ^ crc32.IEEE&-(c&1)
		}
		columns[i] = c
	}
	return columns
}
