package sqlite

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"hash/crc32"
	"io/fs"
	"os"
)

// mark is the high-water mark beside the log: for every topic the offset that its next record gets. It is written
// after every commit and before anyone hears of it, so a log that ends below it has lost acknowledged records: its
// write-ahead file was deleted, or an old copy was put back. Writing survives the death of the process; the regular
// sync makes it survive the machine's, up to the last second.
//
// The file has two slots that are written in turn; of the valid ones the one with the higher sequence counts, so a torn
// write costs one step and never the mark. It is allocated whole when it is made, so that a full disk cannot stop it.
type mark struct {
	f        *os.File
	sequence uint64
	offsets  map[string]int64 // as they were when the file was opened
}

const (
	slotSize   = 4096
	slotHeader = 4 + 4 + 8 // checksum, length of the JSON, sequence
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// openMark opens or makes the file. found is false when there was no mark to compare with.
func openMark(path string) (m *mark, found bool, err error) {
	m = &mark{offsets: map[string]int64{}}
	b, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, false, err
	}
	for slot := range 2 {
		if len(b) < (slot+1)*slotSize {
			break
		}
		sequence, offsets, ok := decodeSlot(b[slot*slotSize : (slot+1)*slotSize])
		if ok && (!found || sequence > m.sequence) {
			found, m.sequence, m.offsets = true, sequence, offsets
		}
	}
	m.f, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE, filePerm)
	if err != nil {
		return nil, false, err
	}
	if len(b) < 2*slotSize {
		if _, err := m.f.WriteAt(make([]byte, 2*slotSize), 0); err != nil {
			_ = m.f.Close()
			return nil, false, err
		}
	}
	return m, found, nil
}

// decodeSlot reads one slot.
func decodeSlot(b []byte) (sequence uint64, offsets map[string]int64, ok bool) {
	if len(b) < slotHeader {
		return 0, nil, false
	}
	n := binary.LittleEndian.Uint32(b[4:])
	if uint64(n) > uint64(len(b)-slotHeader) ||
		crc32.Checksum(b[4:slotHeader+n], castagnoli) != binary.LittleEndian.Uint32(b) {
		return 0, nil, false
	}
	if err := json.Unmarshal(b[slotHeader:slotHeader+n], &offsets); err != nil || offsets == nil {
		return 0, nil, false
	}
	return binary.LittleEndian.Uint64(b[8:]), offsets, true
}

// write raises the mark.
func (m *mark) write(next map[string]int64) error {
	text, err := json.Marshal(next)
	if err != nil || slotHeader+len(text) > slotSize {
		return errors.Join(err, errors.New("high-water mark: too many topics"))
	}
	b := make([]byte, slotHeader+len(text))
	m.sequence++
	binary.LittleEndian.PutUint32(b[4:], uint32(len(text)))
	binary.LittleEndian.PutUint64(b[8:], m.sequence)
	copy(b[slotHeader:], text)
	binary.LittleEndian.PutUint32(b, crc32.Checksum(b[4:], castagnoli))
	_, err = m.f.WriteAt(b, int64(m.sequence%2)*slotSize)
	return err
}

func (m *mark) sync() error { return m.f.Sync() }

func (m *mark) close() error { return errors.Join(m.f.Sync(), m.f.Close()) }
