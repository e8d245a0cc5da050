package postgres

import (
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/docket-project/docket/internal/adapters/sqlstore"
	"github.com/docket-project/docket/internal/domain"
)

// inputType is the OID of decision_input, asked once: every database numbers its own types.
func (s *Store) inputType(ctx context.Context, conn *pgx.Conn) (uint32, error) {
	if oid := s.input.Load(); oid != 0 {
		return oid, nil
	}
	var oid uint32
	if err := conn.QueryRow(ctx, `SELECT 'decision_input'::regtype::oid`).Scan(&oid); err != nil {
		return 0, err
	}
	s.input.Store(oid)
	return oid, nil
}

// unknownType recognises the answers to an OID that is out of date: undefined object, datatype mismatch.
func unknownType(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && (pg.Code == "42704" || pg.Code == "42804")
}

// wire is a value in PostgreSQL's binary format. That of arrays and records is what array_recv and record_recv read: an
// array is its dimensions (1), a flag for nulls, its elements' type, their number, the first index (1) and the
// elements; a record is the number of its columns and, for each, its type and value. Values are preceded by their
// length, which is -1 for null.
type wire []byte

// inputColumns counts the columns of decision_input.
var inputColumns = uint32(11 + len(domain.TextColumns))

// arrays are the buffers of encode: a batch fills a megabyte, which is dear to clear and to give back each time.
var arrays = sync.Pool{New: func() any { return new(wire) }}

// largestKept is the longest buffer that is kept for the next batch, in bytes.
const largestKept = 4 << 20

// giveBack ends the use of what encode returned.
func (w *wire) giveBack() {
	if cap(*w) <= largestKept {
		arrays.Put(w)
	}
}

// encode spells rows as an array of decision_input, whose OID is element. Their events are packed; without packing they
// are JSON. Whoever called gives the array back once it is part of a message to the server.
func encode(element uint32, rows []row, packing *sqlstore.Packing) *wire {
	size := 0
	for _, r := range rows {
		size += len(r.Event) + 700 // what a usual row has beside its event
	}
	w := arrays.Get().(*wire)
	*w = slices.Grow((*w)[:0], size)
	for _, n := range []uint32{1, 0, element, uint32(len(rows)), 1} {
		w.number(n)
	}
	bundles := domain.BundleEncoder{}
	for _, r := range rows {
		start := len(*w)
		w.number(0) // its length, known below
		w.number(inputColumns)
		w.record(r.Decision, packing, bundles)
		binary.BigEndian.PutUint32((*w)[start:], uint32(len(*w)-start-4))
	}
	return w
}

// record writes the columns of decision_input, in its order.
func (w *wire) record(d *domain.Decision, packing *sqlstore.Packing, known domain.BundleEncoder) {
	w.instant(d.Timestamp)
	w.instant(d.ReceivedAt)
	w.boolean(d.Sanitised)
	w.boolean(d.Unsearchable)
	w.number(pgtype.ByteaOID)
	w.number(uint32(len(d.SHA256)))
	*w = append(*w, d.SHA256[:]...)
	w.text(d.Tenant)
	w.text(d.ID)
	w.text(string(d.Outcome))
	for _, c := range domain.TextColumns {
		w.text(*c.Of(d))
	}
	w.number(pgtype.JSONBOID)
	if bundles := known.Encode(d.Bundles); bundles == "" {
		w.null()
	} else {
		w.number(uint32(1 + len(bundles)))
		*w = append(append(*w, 1), bundles...) // 1 is the version of jsonb's format
	}
	w.number(pgtype.JSONOID)
	if packing != nil || d.Event == nil {
		w.null()
	} else {
		w.number(uint32(len(d.Event)))
		*w = append(*w, d.Event...)
	}
	w.number(pgtype.ByteaOID)
	if packing == nil || d.Event == nil {
		w.null()
		return
	}
	start := len(*w)
	w.number(0) // its length, known below
	*w = packing.Append(*w, d.Tenant, d.Event)
	binary.BigEndian.PutUint32((*w)[start:], uint32(len(*w)-start-4))
}

func (w *wire) number(n uint32) { *w = binary.BigEndian.AppendUint32(*w, n) }

func (w *wire) null() { w.number(1<<32 - 1) }

func (w *wire) instant(t time.Time) {
	w.number(pgtype.TimestamptzOID)
	if t.IsZero() {
		w.null()
		return
	}
	w.number(8)
	*w = binary.BigEndian.AppendUint64(*w, uint64(t.UnixMicro()-epoch))
}

func (w *wire) boolean(b bool) {
	w.number(pgtype.BoolOID)
	w.number(1)
	if b {
		*w = append(*w, 1)
	} else {
		*w = append(*w, 0)
	}
}

// text writes "" as null: absent.
func (w *wire) text(s string) {
	w.number(pgtype.TextOID)
	if s == "" {
		w.null()
		return
	}
	w.number(uint32(len(s)))
	*w = append(*w, s...)
}
