package kafka

import (
	"bytes"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/twmb/franz-go/pkg/kgo"
)

// What a process keeps of fetched records, in inflated bytes. A few KiB on the wire may be many MiB of records, and
// whoever uploads chooses how many.
const (
	// consumerMemory is for all consumer groups of a process together, and groupMemory a part of it that each has for
	// itself, so that none starves another.
	consumerMemory = 64 << 20
	groupMemory    = 8 << 20
	// readerMemory is for all reads outside of groups: trails, replays.
	readerMemory = 32 << 20
	// largestInflated is the most that one record batch may inflate to. docket's own are a third of it at most.
	largestInflated = 64 << 20
	// fetchInflated is what a fetch should come to once it is inflated: how much is asked for follows from it.
	fetchInflated = 8 << 20
	// inflateLeast is what a batch's buffer begins with at least, and inflateStep what it grows by.
	inflateLeast = 4 << 10
	inflateStep  = 64 << 10
)

// errNoRoom is a record batch that there was no room for: its partition waits, and is fetched again.
var errNoRoom = errors.New("there is no room for another batch of records")

// memory is the budget of a process's consumers.
type memory struct {
	limit, reserve int64

	mu       sync.Mutex
	holdings map[*holding]struct{}
}

func newMemory(limit, reserve int64) *memory {
	return &memory{limit: limit, reserve: reserve, holdings: map[*holding]struct{}{}}
}

// join makes the holding of a client that consumes for a group.
func (m *memory) join(group string) *holding {
	h := &holding{memory: m, group: group, plain: kgo.DefaultDecompressor()}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.holdings[h] = struct{}{}
	return h
}

// leave gives back whatever a client still had.
func (m *memory) leave(h *holding) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.holdings, h)
}

// room reports whether a holding may have so many more bytes. A client with nothing in hand may always have one batch:
// it could not go on otherwise.
func (m *memory) room(h *holding, more, ofThis int64) bool {
	if h.inHand()-ofThis <= 0 {
		return true
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	used := map[string]int64{}
	for other := range m.holdings {
		used[other.group] += other.inHand() + other.resting.Load()
	}
	free := m.limit
	for _, bytes := range used {
		free -= max(bytes, m.reserve)
	}
	return more <= free+max(m.reserve-used[h.group], 0)
}

// holding is what one client has inflated: it inflates for it, and counts. Of a batch that is inflated the client makes
// records, which it keeps until they are polled; then they are the member's.
type holding struct {
	memory *memory
	group  string
	plain  kgo.Decompressor
	// client keeps records until they are polled; nil while it is made.
	client atomic.Pointer[kgo.Client]
	// waiting are the bytes of the records that were polled and are not done, and resting those of them whose partition is
	// paused: they wait for somebody else.
	waiting, resting atomic.Int64
	// polled are on their way from the client to the member.
	polled atomic.Int64
	ratio  ratio

	mu        sync.Mutex
	inflating []inflated // no records yet, the oldest first
	sum       int64
}

// inflated is a batch of which the client has not made records yet.
type inflated struct {
	at    time.Time
	bytes int64
}

var (
	_ kgo.Decompressor              = (*holding)(nil)
	_ kgo.HookFetchRecordBuffered   = (*holding)(nil)
	_ kgo.HookFetchRecordUnbuffered = (*holding)(nil)
)

// recordsMadeWithin is how long a client takes at most to make records of a batch. It makes none of those it has no use
// for, and does not say so.
const recordsMadeWithin = time.Second

// inHand is what the client and its member are at work on.
func (h *holding) inHand() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	for len(h.inflating) > 0 && time.Since(h.inflating[0].at) > recordsMadeWithin {
		h.sum -= h.inflating[0].bytes
		h.inflating = h.inflating[1:]
	}
	sum := h.sum + h.polled.Load() + h.waiting.Load()
	if client := h.client.Load(); client != nil {
		sum += client.BufferedFetchBytes()
	}
	return sum
}

// grow counts more bytes of the batch that is inflated, if there is room.
func (h *holding) grow(more, ofThis int64) bool {
	if !h.memory.room(h, more, ofThis) {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.inflating = append(h.inflating, inflated{time.Now(), more})
	h.sum += more
	return true
}

// made counts bytes that are inflated no more: records were made of them, or they were given up.
func (h *holding) made(bytes int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for len(h.inflating) > 0 && bytes > 0 {
		first := &h.inflating[0]
		part := min(first.bytes, bytes)
		first.bytes -= part
		bytes -= part
		h.sum -= part
		if first.bytes == 0 {
			h.inflating = h.inflating[1:]
		}
	}
}

// OnFetchRecordBuffered is called for every record that the client makes and keeps.
func (h *holding) OnFetchRecordBuffered(r *kgo.Record) { h.made(wireSize(r)) }

// OnFetchRecordUnbuffered is called for every record that the client keeps no more.
func (h *holding) OnFetchRecordUnbuffered(r *kgo.Record, polled bool) {
	if polled {
		h.polled.Add(wireSize(r))
	}
}

// wireSize is what a record takes in its batch: at most a few bytes more than that.
func wireSize(r *kgo.Record) int64 {
	const lengths, headerLengths = 24, 10 // varints
	n := lengths + len(r.Key) + len(r.Value)
	for _, header := range r.Headers {
		n += headerLengths + len(header.Key) + len(header.Value)
	}
	return int64(n)
}

// Decompress implements kgo.Decompressor. It never waits: where there is no room it fails with errNoRoom, and where a
// batch is larger than any may be with kgo.ErrMaxDecompress.
func (h *holding) Decompress(src []byte, codec kgo.CompressionCodecType) ([]byte, error) {
	if codec == kgo.CodecNone {
		return src, nil
	}
	out, err := h.inflate(src, codec)
	if err == nil {
		h.ratio.saw(len(src), len(out))
	}
	return out, err
}

func (h *holding) inflate(src []byte, codec kgo.CompressionCodecType) ([]byte, error) {
	r, done, err := inflaterOf(src, codec)
	if err != nil {
		return nil, err
	}
	defer done()
	if r == nil { // snappy, which at most makes 21 bytes of one
		out, err := h.plain.Decompress(src, codec)
		if err == nil && !h.grow(int64(len(out)), 0) {
			err = errNoRoom
		}
		return out, err
	}
	var buf []byte
	giveUp := func(err error) ([]byte, error) {
		h.made(int64(cap(buf)))
		return nil, err
	}
	var beyond [512]byte // a batch that fills its buffer exactly needs no larger one
	for {
		if len(buf) == cap(buf) {
			n, err := r.Read(beyond[:])
			if errors.Is(err, io.EOF) && n == 0 {
				return h.fitted(buf), nil
			}
			if err != nil && !errors.Is(err, io.EOF) {
				return giveUp(err)
			}
			more := max(cap(buf)/4, inflateStep)
			if cap(buf) == 0 {
				more = min(max(h.ratio.of(len(src)), inflateLeast), largestInflated)
			}
			if !h.grow(int64(more), int64(cap(buf))) {
				return giveUp(errNoRoom)
			}
			grown := make([]byte, len(buf)+n, cap(buf)+more)
			copy(grown[copy(grown, buf):], beyond[:n])
			buf = grown
		}
		n, err := r.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if len(buf) > largestInflated {
			return giveUp(kgo.ErrMaxDecompress)
		}
		if errors.Is(err, io.EOF) {
			return h.fitted(buf), nil
		}
		if err != nil {
			return giveUp(err)
		}
	}
}

// fitted is a batch whose buffer is not much larger than it is: its records keep all of it in memory, and there may be
// a thousand batches of a few KiB.
func (h *holding) fitted(buf []byte) []byte {
	h.made(int64(cap(buf) - len(buf)))
	if cap(buf) > len(buf)+len(buf)/4 {
		return bytes.Clone(buf)
	}
	return buf
}

var (
	lz4Readers  = sync.Pool{New: func() any { return lz4.NewReader(nil) }}
	gzipReaders = sync.Pool{New: func() any { return new(gzip.Reader) }}
)

// inflaterOf lends a reader of a batch; nil for a codec whose library makes no stream of it. Call done after the last
// read.
func inflaterOf(src []byte, codec kgo.CompressionCodecType) (r io.Reader, done func(), err error) {
	switch codec {
	case kgo.CodecLz4:
		z := lz4Readers.Get().(*lz4.Reader)
		z.Reset(bytes.NewReader(src))
		return z, func() { lz4Readers.Put(z) }, nil
	case kgo.CodecGzip:
		z := gzipReaders.Get().(*gzip.Reader)
		return z, func() { gzipReaders.Put(z) }, z.Reset(bytes.NewReader(src))
	case kgo.CodecZstd: // a foreign program's: rare enough to need no pool
		z, err := zstd.NewReader(
			bytes.NewReader(src), zstd.WithDecoderLowmem(true), zstd.WithDecoderConcurrency(1),
			zstd.WithDecoderMaxMemory(largestInflated),
		)
		if err != nil {
			return nil, func() {}, err
		}
		return z, z.Close, nil
	default:
		return nil, func() {}, nil
	}
}

// ratio is how many times their bytes batches have inflated to lately. It follows a growing one at once.
type ratio struct{ bits atomic.Uint64 } // in hundredths

func (r *ratio) saw(wire, plain int) {
	seen := uint64(100 * max(plain, 1) / max(wire, 1))
	if last := r.bits.Load(); seen < last {
		seen = (7*last + seen) / 8
	}
	r.bits.Store(seen)
}

// of is what so many bytes may inflate to.
func (r *ratio) of(wire int) int { return int(r.bits.Load()+1) * wire / 100 }

// fetch is how many compressed bytes to ask for, so that they inflate to about fetchInflated, at most most.
func (r *ratio) fetch(most int32) int32 {
	const least = 64 << 10
	hundredths := r.bits.Load()
	if hundredths == 0 {
		return most
	}
	return max(int32(min(uint64(most), fetchInflated*100/hundredths)), least)
}
