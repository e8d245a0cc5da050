package kafka

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
)

func TestCompress(t *testing.T) {
	c, err := newCompressor()
	require.NoError(t, err)
	random := make([]byte, 3<<20)
	_, _ = rand.NewChaCha8([32]byte{}).Read(random)
	for name, src := range map[string][]byte{
		"nothing":                nil,
		"a byte":                 {7},
		"an event":               []byte(`{"decision_id":"1","path":"a/b","result":true}`),
		"just a block":           bytes.Repeat([]byte("ab"), 32<<10),
		"a byte more":            append(bytes.Repeat([]byte("ab"), 32<<10), 'c'),
		"many blocks":            bytes.Repeat([]byte(`{"decision_id":"1","path":"a/b","result":true}`), 100_000),
		"what can't be squeezed": random,
	} {
		t.Run(name, func(t *testing.T) {
			var dst bytes.Buffer
			for range 2 { // a writer is used again
				dst.Reset()
				out, codec := c.Compress(&dst, src)
				require.Equal(t, kgo.CodecLz4, codec)
				// The LZ4 frame format: magic number, flags, block size (4 is 64 KiB).
				require.Equal(t, []byte{0x04, 0x22, 0x4d, 0x18}, out[:4])
				require.Equal(t, byte(4<<4), out[5])
				back, err := kgo.DefaultDecompressor().Decompress(out, codec)
				require.NoError(t, err)
				require.True(t, bytes.Equal(src, back))
			}
		})
	}
}

// BenchmarkCompress compares with the client's own compressor, for batches as ingest makes them.
func BenchmarkCompress(b *testing.B) {
	ours, err := newCompressor()
	require.NoError(b, err)
	theirs, err := kgo.DefaultCompressor(kgo.Lz4Compression())
	require.NoError(b, err)
	for _, events := range []int{3, 30, 300} {
		var src strings.Builder
		for i := range events {
			fmt.Fprintf(
				&src,
				`{"decision_id":"%032x","path":"authz/allow","input":{"user":"u%d","action":"read","resource":"r/%d"},"result":%t,"requested_by":"10.0.0.%d"}`,
				rand.Uint64(), i, rand.Uint32(), i%3 == 0, i%250,
			)
		}
		for _, c := range []struct {
			name string
			kgo.Compressor
		}{{"blocks of 64 KiB", ours}, {"blocks of 4 MiB", theirs}} {
			b.Run(fmt.Sprintf("%d events/%s", events, c.name), func(b *testing.B) {
				var dst bytes.Buffer
				b.SetBytes(int64(src.Len()))
				b.ReportAllocs()
				for b.Loop() {
					dst.Reset()
					_, _ = c.Compress(&dst, []byte(src.String()))
				}
			})
		}
	}
}
