package kafka

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/ports"
)

// squeezed is what codecs make of src.
func squeezed(t *testing.T, codec kgo.CompressionCodecType, src []byte) []byte {
	t.Helper()
	var dst bytes.Buffer
	switch codec {
	case kgo.CodecGzip:
		z := gzip.NewWriter(&dst)
		_, err := z.Write(src)
		require.NoError(t, err)
		require.NoError(t, z.Close())
	case kgo.CodecZstd:
		z, err := zstd.NewWriter(&dst)
		require.NoError(t, err)
		_, err = z.Write(src)
		require.NoError(t, err)
		require.NoError(t, z.Close())
	case kgo.CodecSnappy:
		c, err := kgo.DefaultCompressor(kgo.SnappyCompression())
		require.NoError(t, err)
		out, _ := c.Compress(&dst, src)
		return out
	case kgo.CodecLz4:
		c, err := newCompressor()
		require.NoError(t, err)
		out, _ := c.Compress(&dst, src)
		return bytes.Clone(out)
	default:
		return src
	}
	return dst.Bytes()
}

var codecs = map[string]kgo.CompressionCodecType{
	"none": kgo.CodecNone, "gzip": kgo.CodecGzip, "snappy": kgo.CodecSnappy, "lz4": kgo.CodecLz4, "zstd": kgo.CodecZstd,
}

func TestInflate(t *testing.T) {
	plain := bytes.Repeat([]byte(`{"decision_id":"1","path":"a/b"}`), 1<<15) // 1 MiB
	for name, codec := range codecs {
		t.Run(name, func(t *testing.T) {
			wire := squeezed(t, codec, plain)
			h := newMemory(4<<20+1<<19, 0).join("g")
			for n := range 4 {
				out, err := h.Decompress(wire, codec)
				require.NoError(t, err)
				require.True(t, bytes.Equal(plain, out))
				if codec != kgo.CodecNone {
					require.Equal(t, int64(n+1)*int64(len(plain)), h.inHand())
				}
			}
			if codec == kgo.CodecNone {
				return
			}
			_, err := h.Decompress(wire, codec)
			require.ErrorIs(t, err, errNoRoom)
			require.Equal(t, 4*int64(len(plain)), h.inHand(), "what was not admitted is given back")
			h.OnFetchRecordBuffered(&kgo.Record{Value: plain[:len(plain)-24]})
			_, err = h.Decompress(wire, codec)
			require.NoError(t, err, "a record was made: it is counted elsewhere")
			_, err = h.Decompress(wire[:len(wire)/2], codec)
			require.Error(t, err)
			require.Equal(t, 4*int64(len(plain)), h.inHand(), "what is damaged is given back")
		})
	}
	t.Run("a small batch keeps a small buffer", func(t *testing.T) {
		small := bytes.Repeat([]byte("x"), 2<<10)
		h := newMemory(1<<30, 0).join("g")
		for range 3 { // also behind a batch that inflated to a thousand times its bytes
			for _, codec := range []kgo.CompressionCodecType{kgo.CodecLz4, kgo.CodecGzip, kgo.CodecZstd} {
				out, err := h.Decompress(squeezed(t, codec, small), codec)
				require.NoError(t, err)
				require.Less(t, cap(out), 4<<10)
			}
			_, err := h.Decompress(squeezed(t, kgo.CodecGzip, make([]byte, 8<<20)), kgo.CodecGzip)
			require.NoError(t, err)
		}
	})
	t.Run("one batch is always admitted", func(t *testing.T) {
		h := newMemory(1<<10, 0).join("g")
		out, err := h.Decompress(squeezed(t, kgo.CodecLz4, plain), kgo.CodecLz4)
		require.NoError(t, err)
		require.Len(t, out, len(plain))
		_, err = h.Decompress(squeezed(t, kgo.CodecLz4, plain), kgo.CodecLz4)
		require.ErrorIs(t, err, errNoRoom)
	})
	t.Run("unless nobody could hold it", func(t *testing.T) {
		bomb := squeezed(t, kgo.CodecZstd, make([]byte, largestInflated+1))
		require.Less(t, len(bomb), 100<<10)
		h := newMemory(1<<10, 0).join("g")
		_, err := h.Decompress(bomb, kgo.CodecZstd)
		require.Error(t, err)
		require.Zero(t, h.inHand())
		_, err = h.Decompress(squeezed(t, kgo.CodecLz4, make([]byte, largestInflated+1)), kgo.CodecLz4)
		require.ErrorIs(t, err, kgo.ErrMaxDecompress)
		require.Zero(t, h.inHand())
	})
	t.Run("batches that the client made no records of are forgotten", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h := newMemory(1<<20, 0).join("g")
			require.True(t, h.grow(1<<20, 0))
			time.Sleep(recordsMadeWithin + time.Millisecond)
			require.Zero(t, h.inHand())
		})
	})
}

func TestGroupsShareTheMemory(t *testing.T) {
	m := newMemory(100, 20)
	saver, other, index := m.join("saver"), m.join("saver"), m.join("index")
	saver.waiting.Store(70)
	require.True(t, saver.room(10), "80 of 100, and 20 are the index's")
	require.False(t, saver.room(11))
	require.True(t, other.room(1000), "it has nothing in hand")
	other.waiting.Store(5)
	require.False(t, other.room(6), "the group has 75")
	index.waiting.Store(1)
	require.True(t, index.room(19), "its reserve")
	require.False(t, index.room(30))
	saver.resting.Store(saver.waiting.Swap(0))
	require.True(t, saver.room(1000), "what rests waits for somebody else")
	m.leave(saver)
	require.True(t, index.room(30))
}

func (h *holding) room(more int64) bool { return h.memory.room(h, more, 0) }

// TestRepetitiveRecords has 40 uploads of fifteen repetitive events of 4 MiB: 8 MiB in the log, 2.4 GiB in memory if
// anybody took them all.
func TestRepetitiveRecords(t *testing.T) {
	const events, each = 60, 2 << 20
	for _, c := range []struct {
		name    string
		brokers int
		members int
	}{{"one member", 1, 1}, {"members of one process", 3, 3}} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, 6, func(o *Options) { o.MaxBuffered = 256 << 20 }, kfake.NumBrokers(c.brokers))
			const limit = 16 << 20
			r.memory = newMemory(limit, 2<<20)
			value := bytes.Repeat([]byte("abcdefgh"), each/8)
			var want []string
			for n := range events {
				key := fmt.Sprint("id-", n)
				want = append(want, key)
				require.NoError(t, r.publish(t, 10*time.Second, domain.Record{Topic: r.topics.Decisions, Key: key, Value: value}))
			}
			var most atomic.Int64
			var got sync.Map
			var delivered atomic.Int64
			handle := func(_ context.Context, batch []domain.Record) ([]ports.Pause, error) {
				var sum int64
				r.memory.mu.Lock()
				for h := range r.memory.holdings {
					sum += h.inHand() + h.resting.Load()
				}
				r.memory.mu.Unlock()
				most.Store(max(most.Load(), sum))
				for _, rec := range batch {
					if len(rec.Value) != each {
						return nil, domain.Errorf(domain.Misconfigured, "%d bytes", len(rec.Value))
					}
					got.Store(rec.Key, true)
					delivered.Add(1)
				}
				return nil, nil
			}
			for range c.members {
				r.consume(t, r.topics.Decisions, handle)
			}
			require.Eventually(t, func() bool {
				for _, key := range want {
					if _, ok := got.Load(key); !ok {
						return false
					}
				}
				return true
			}, patience, 5*time.Millisecond)
			require.LessOrEqual(t, most.Load(), int64(limit+c.members*(each+each/2)), "the budget, and a batch for each member")
			t.Logf("delivered %d, at most %d MiB in memory", delivered.Load(), most.Load()>>20)
		})
	}
	t.Run("a partition that is paused with what it has does not keep the others from going on", func(t *testing.T) {
		r := newRig(t, 6, func(o *Options) { o.MaxBuffered = 256 << 20 })
		r.memory = newMemory(4<<20, 0)
		value := bytes.Repeat([]byte("abcdefgh"), each/8)
		for n := range 24 {
			require.NoError(t, r.publish(
				t, 10*time.Second, domain.Record{Topic: r.topics.Decisions, Key: fmt.Sprint("id-", n), Value: value},
			))
		}
		var mu sync.Mutex
		seen := map[int32]int{}
		r.consume(t, r.topics.Decisions, func(_ context.Context, batch []domain.Record) ([]ports.Pause, error) {
			mu.Lock()
			defer mu.Unlock()
			for _, rec := range batch {
				seen[rec.Partition]++
			}
			return ports.PauseAll(batch, time.Now().Add(time.Hour)), nil
		})
		want, err := r.Backlog(t.Context(), "g", r.topics.Decisions)
		require.NoError(t, err)
		filled := 0
		for _, b := range want {
			if b.End > 0 {
				filled++
			}
		}
		require.Greater(t, filled, 3)
		require.Eventually(t, func() bool {
			mu.Lock()
			defer mu.Unlock()
			return len(seen) == filled
		}, patience, 5*time.Millisecond)
	})
	t.Run("read outside of a group", func(t *testing.T) {
		r := newRig(t, 1, func(o *Options) { o.MaxBuffered = 256 << 20 })
		value := bytes.Repeat([]byte("abcdefgh"), each/8)
		for n := range events {
			require.NoError(t, r.publish(
				t, 10*time.Second, domain.Record{Topic: r.topics.Decisions, Key: fmt.Sprint("id-", n), Value: value},
			))
		}
		n := 0
		next, err := r.Read(t.Context(), r.topics.Decisions, 0, 0, func(rec domain.Record) bool {
			n += len(rec.Value) / each
			return true
		})
		require.NoError(t, err)
		require.Equal(t, events, n)
		require.Equal(t, int64(events), next)
	})
}
