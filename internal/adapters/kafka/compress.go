package kafka

import (
	"bytes"
	"sync"

	"github.com/pierrec/lz4/v4"
	"github.com/twmb/franz-go/pkg/kgo"
)

// compressor makes LZ4 frames as Kafka's own clients do: of blocks of 64 KiB, without a checksum, which a record batch
// has itself. The client's has blocks of 4 MiB, and whoever reads or writes such a frame takes as much memory for a
// batch of a few KiB: three quarters of ingest's heap, and as much in a saver and in the broker, which looks into every
// batch.
type compressor struct{ writers sync.Pool }

func newCompressor() (*compressor, error) {
	options := []lz4.Option{lz4.BlockSizeOption(lz4.Block64Kb), lz4.ChecksumOption(false)}
	if err := lz4.NewWriter(nil).Apply(options...); err != nil {
		return nil, err
	}
	return &compressor{sync.Pool{New: func() any {
		w := lz4.NewWriter(nil)
		_ = w.Apply(options...) // it succeeded before
		return w
	}}}, nil
}

// Compress implements kgo.Compressor. What it returns is dst's.
func (c *compressor) Compress(dst *bytes.Buffer, src []byte, _ ...kgo.CompressFlag) ([]byte, kgo.CompressionCodecType) {
	w := c.writers.Get().(*lz4.Writer)
	defer c.writers.Put(w)
	w.Reset(dst)
	if _, err := w.Write(src); err != nil {
		return nil, kgo.CodecError
	}
	if err := w.Close(); err != nil {
		return nil, kgo.CodecError
	}
	return dst.Bytes(), kgo.CodecLz4
}
