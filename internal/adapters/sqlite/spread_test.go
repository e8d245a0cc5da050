package sqlite

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
)

// spread makes ids that are as scattered as UUIDs.
func spread(n uint64) string {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], n)
	sum := sha256.Sum256(b[:])
	return hex.EncodeToString(sum[:16])
}
