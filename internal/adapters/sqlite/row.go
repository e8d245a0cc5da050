package sqlite

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"

	"github.com/docket-project/docket/internal/domain"
)

// headerCache encodes headers. The records of one upload share theirs, so most calls cost a comparison.
type headerCache struct {
	last domain.Headers
	text string
}

func (c *headerCache) encode(h domain.Headers) string {
	if c.text == "" || h != c.last {
		b, err := json.Marshal(h.Encode())
		if err != nil {
			panic(err) // pairs of strings
		}
		c.last, c.text = h, string(b)
	}
	return c.text
}

func (c *headerCache) decode(text string) (domain.Headers, error) {
	if c.text != text {
		var pairs []domain.Header
		if err := json.Unmarshal([]byte(text), &pairs); err != nil {
			return domain.Headers{}, fmt.Errorf("headers: %w", err)
		}
		c.last, c.text = domain.DecodeHeaders(pairs), text
	}
	return c.last, nil
}

// checksum covers everything in a row.
func checksum(id, writtenAt int64, key, headers string, value []byte) uint32 {
	var b [32]byte
	binary.LittleEndian.PutUint64(b[0:], uint64(id))
	binary.LittleEndian.PutUint64(b[8:], uint64(writtenAt))
	binary.LittleEndian.PutUint64(b[16:], uint64(len(key)))
	binary.LittleEndian.PutUint64(b[24:], uint64(len(headers)))
	sum := crc32.Update(0, castagnoli, b[:])
	sum = crc32.Update(sum, castagnoli, []byte(key))
	sum = crc32.Update(sum, castagnoli, []byte(headers))
	return crc32.Update(sum, castagnoli, value)
}
