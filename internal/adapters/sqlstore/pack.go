package sqlstore

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"

	"github.com/klauspost/compress/s2"

	"github.com/docket-project/docket/internal/domain"
)

// A packed event is a byte that names the codec, the first four bytes of its dictionary's SHA-256, which are zero
// without one, and the codec's block.
const (
	packedPlain byte = 0 // as it is: what s2 would make longer
	packedS2    byte = 1
	packedHead       = 5
)

// maxUnpacked bounds what a block may say that it unpacks to, in bytes, before anything is allocated. It is the most
// that an upload may inflate to.
const maxUnpacked = 64 << 20

// prefix is how a packed event names its dictionary.
type prefix [4]byte

// Dictionaries are those that a process knows, and the packing and unpacking with them. It reads no table: the stores
// tell it what stands there. It is safe for concurrent use.
type Dictionaries struct {
	log *slog.Logger

	mu      sync.RWMutex
	known   map[prefix]*dictionary
	tenants map[string]*dictionary // the newest
	damaged map[[sha256.Size]byte]bool
	missing map[string]bool // what Missing has told
}

type dictionary struct {
	domain.Dictionary
	s2 *s2.Dict
}

// NewDictionaries knows none.
func NewDictionaries(log *slog.Logger) *Dictionaries {
	return &Dictionaries{
		log: log, known: map[prefix]*dictionary{}, tenants: map[string]*dictionary{},
		damaged: map[[sha256.Size]byte]bool{}, missing: map[string]bool{},
	}
}

// Known lists the hashes of those that need not be read again.
func (d *Dictionaries) Known() [][]byte {
	d.mu.RLock()
	defer d.mu.RUnlock()
	out := make([][]byte, 0, len(d.known)+len(d.damaged))
	for _, k := range d.known {
		out = append(out, k.SHA256[:])
	}
	for sum := range d.damaged {
		out = append(out, sum[:])
	}
	return out
}

// Learn takes in dictionaries that stand in the store, the oldest first. One that is damaged is not used: what was
// packed with it is damaged as well, until its bytes are restored and the process starts anew.
func (d *Dictionaries) Learn(found []domain.Dictionary) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, f := range found {
		read := s2.NewDict(f.Bytes)
		if read == nil || sha256.Sum256(f.Bytes) != f.SHA256 {
			d.damaged[f.SHA256] = true
			d.log.Error(
				"a dictionary in the store is damaged: events that were packed with it cannot be read until the table "+
					"dictionaries is restored from a backup", "sha256", hex.EncodeToString(f.SHA256[:]), "tenant", f.Tenant,
			)
			continue
		}
		k := &dictionary{f, read}
		d.known[prefix(f.SHA256[:4])] = k
		if newest := d.tenants[f.Tenant]; newest == nil || newest.MadeAt.Before(f.MadeAt) {
			d.tenants[f.Tenant] = k
		}
	}
}

// Newest are the newest of each tenant.
func (d *Dictionaries) Newest() map[string]domain.Dictionary {
	d.mu.RLock()
	defer d.mu.RUnlock()
	out := make(map[string]domain.Dictionary, len(d.tenants))
	for tenant, k := range d.tenants {
		out[tenant] = k.Dictionary
	}
	return out
}

// Free reports that a dictionary's short name is not another's: rows would not tell them apart.
func (d *Dictionaries) Free(sum [sha256.Size]byte) bool {
	short := prefix(sum[:4])
	d.mu.RLock()
	defer d.mu.RUnlock()
	k := d.known[short]
	return short != prefix{} && (k == nil || k.SHA256 == sum)
}

// Packing packs the events of one batch, with the dictionaries of the moment it began.
type Packing struct {
	tenants map[string]*dictionary
	used    map[string]*dictionary
}

// Begin begins a batch.
func (d *Dictionaries) Begin() *Packing {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return &Packing{tenants: maps.Clone(d.tenants), used: map[string]*dictionary{}}
}

// Append appends the packed event to dst.
func (p *Packing) Append(dst []byte, tenant string, event []byte) []byte {
	k := p.tenants[tenant]
	at := len(dst)
	dst = append(dst, packedS2, 0, 0, 0, 0)
	room := s2.MaxEncodedLen(len(event))
	if room < 0 || len(event) > maxUnpacked {
		return append(append(dst[:at], packedPlain, 0, 0, 0, 0), event...)
	}
	dst = slices.Grow(dst, room)
	var block []byte
	if k != nil {
		copy(dst[at+1:], k.SHA256[:4])
		block = k.s2.Encode(dst[len(dst):len(dst)+room], event)
	} else {
		block = s2.Encode(dst[len(dst):len(dst)+room], event)
	}
	if len(block) >= len(event) {
		return append(append(dst[:at], packedPlain, 0, 0, 0, 0), event...)
	}
	if k != nil {
		p.used[tenant] = k
	}
	return dst[:len(dst)+len(block)]
}

// Used are the dictionaries that the batch cannot be read without, by their hashes.
func (p *Packing) Used() []domain.Dictionary {
	out := make([]domain.Dictionary, 0, len(p.used))
	for _, k := range p.used {
		out = append(out, k.Dictionary)
	}
	slices.SortFunc(out, func(a, b domain.Dictionary) int { return slices.Compare(a.SHA256[:], b.SHA256[:]) })
	return out
}

// Missing tells an operator, once, of what Unpack has said though everything there was had been read.
func (d *Dictionaries) Missing(err error) {
	if !errors.Is(err, ErrUnknownDictionary) {
		return
	}
	d.mu.Lock()
	said := d.missing[err.Error()]
	d.missing[err.Error()] = true
	d.mu.Unlock()
	if !said {
		d.log.Error("a dictionary is missing from the store: events that were packed with it cannot be read", "error", err)
	}
}

// ErrUnknownDictionary is what Unpack returns where the event's dictionary is not known: it may have been made since.
var ErrUnknownDictionary = errors.New(
	"its dictionary is not in the table dictionaries, or is damaged: restore that table",
)

// Unpack returns the event that was packed. Whoever hands the bytes on compares their hash.
func (d *Dictionaries) Unpack(packed []byte) ([]byte, error) { return d.UnpackInto(nil, packed) }

// UnpackInto is Unpack into the room of a buffer, where there is enough of it.
func (d *Dictionaries) UnpackInto(buffer, packed []byte) ([]byte, error) {
	if len(packed) < packedHead {
		return nil, errors.New("its packed form is cut off")
	}
	short, block := prefix(packed[1:packedHead]), packed[packedHead:]
	if packed[0] == packedPlain {
		return append(buffer[:0:cap(buffer)], block...), nil
	}
	if packed[0] != packedS2 {
		return nil, fmt.Errorf("it is packed by codec %d, which this docket does not know: a newer one does", packed[0])
	}
	n, err := s2.DecodedLen(block)
	if err != nil || n > maxUnpacked {
		return nil, fmt.Errorf("its packed form says that it has %d bytes (%w)", n, errors.Join(err, s2.ErrCorrupt))
	}
	buffer = buffer[:cap(buffer)]
	if short == (prefix{}) {
		return s2.Decode(buffer, block)
	}
	d.mu.RLock()
	k := d.known[short]
	d.mu.RUnlock()
	if k == nil {
		return nil, fmt.Errorf("%w (%x)", ErrUnknownDictionary, short)
	}
	return k.s2.Decode(buffer, block)
}
