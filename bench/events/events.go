// Package events makes uploads as OPA does, of numbered decisions about a corpus that is the same in every run.
//
// k6 would compress a body with a new compressor for each request, which costs it more than everything else does (95th
// percentile against a server that answers at once: 4 to 16 ms that way, 0.6 ms this way). Its uploads are therefore
// put together from parts of the corpus that are compressed once: only times and ids stand between them, uncompressed.
// They are 64 decisions, and compress better than the corpus does. The package owns the form of ids and uploads, and
// writes the parts that k6's scripts use (k6/events.json); sending is its callers' business.
package events

import (
	"bytes"
	"compress/flate"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/klauspost/compress/gzip"
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

// A decision of k6's begins with what differs: the opening, which is the same in all decisions of an upload, and an id.
// Their lengths never change: the constant part of the second and every further decision of an upload refers back over
// them, to that of the decision before.
const (
	opening    = `,{"timestamp":"` + timeLayout + `","decision_id":"`
	timeLayout = "2006-01-02T15:04:05.000Z"
	idBytes    = 36
	// k6's decisions are those of groups of consecutive ones, each of which are one OPA's. An upload begins with one of
	// the first of a group.
	groups, groupSize = 8, 8
)

// part is the rest of one of k6's decisions.
type part struct {
	inflated []byte
	// Deflate blocks that end on a byte's border. Those of again refer to the part in front of it.
	first, again []byte
}

// k6Parts makes the parts. Their times are no upload's, so the bundles have one revision.
func k6Parts() (out []part) {
	var c decision
	for group := range groups {
		var before []byte
		for k := range groupSize {
			c.read(int64(group)*1000, k, time.Date(2026, 11, 27, 0, 0, 0, 0, time.UTC))
			p := part{inflated: slices.Concat([]byte(`","labels":`), c.labels, []byte(","), c.about, []byte(","), c.measured)}
			p.first = deflate(p.inflated, nil)
			// Nothing shall refer to the bytes that differ: zeros occur nowhere else.
			p.again = deflate(p.inflated, append(before, make([]byte, len(opening)+idBytes)...))
			before = bytes.Clone(p.inflated)
			out = append(out, p)
		}
	}
	return out
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

var zips = sync.Pool{New: func() any {
	z, err := gzip.NewWriterLevel(nil, gzip.BestSpeed)
	if err != nil {
		panic(err) // the level is a constant
	}
	return z
}}

// Append appends an upload's body, gzip, to dst.
func (r Run) Append(dst []byte, upload int64, at time.Time) []byte {
	z := zips.Get().(*gzip.Writer)
	defer zips.Put(z)
	out := bytes.NewBuffer(dst)
	z.Reset(out)
	var plain []byte
	for k := range Size(upload) {
		plain = append(plain, "[,,,,"[k])
		plain = AppendDecision(plain, r.ID(upload*PerUpload+int64(k)), upload, k, at)
	}
	_, _ = z.Write(append(plain, ']')) // to memory
	_ = z.Close()
	return out.Bytes()
}

// WriteParts writes k6/events.json.
func WriteParts(w io.Writer) error {
	type jsonPart struct {
		CRC   uint32   `json:"crc"`
		Bytes int      `json:"bytes"`
		Shift []uint32 `json:"shift"`
		First []byte   `json:"first"`
		Again []byte   `json:"again"`
	}
	file := struct {
		Comment      string     `json:"comment"`
		OpeningBytes int        `json:"opening_bytes"`
		IDBytes      int        `json:"id_bytes"`
		Group        int        `json:"group"`
		OpeningShift []uint32   `json:"opening_shift"`
		MiddleShift  []uint32   `json:"middle_shift"`
		Parts        []jsonPart `json:"parts"`
	}{
		Comment:      "made by make generate from bench/events",
		OpeningBytes: len(opening), IDBytes: idBytes, Group: groupSize,
		OpeningShift: shift(len(opening) - 1), MiddleShift: shift(idBytes - 16),
	}
	for _, p := range k6Parts() {
		file.Parts = append(file.Parts, jsonPart{
			crc32.ChecksumIEEE(p.inflated), len(p.inflated), shift(len(p.inflated)), p.first, p.again,
		})
	}
	return json.NewEncoder(w).Encode(file)
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
