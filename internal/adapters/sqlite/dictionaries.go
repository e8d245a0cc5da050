package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/docket-project/docket/internal/adapters/sqlstore"
	"github.com/docket-project/docket/internal/domain"
)

// eventOf is the event of a row. No other process makes dictionaries, so those that are known are all.
func (s *Store) eventOf(packed bool, event []byte) ([]byte, error) {
	if !packed {
		return event, nil
	}
	event, err := s.dictionaries.Unpack(event)
	s.dictionaries.Missing(err)
	return event, err
}

// unpack is eventOf in the room of a buffer. An event that cannot be unpacked is nil.
func (s *Store) unpack(event, packed, buffer []byte) ([]byte, error) {
	if packed == nil {
		return event, nil
	}
	event, err := s.dictionaries.UnpackInto(buffer, packed)
	s.dictionaries.Missing(err)
	return event, nil
}

// packing begins a batch; nil where events are kept as they are.
func (s *Store) packing() *sqlstore.Packing {
	if s.opts.JSON {
		return nil
	}
	return s.dictionaries.Begin()
}

// dictionariesIn lists what stands in a store.
const dictionariesIn = `SELECT sha256, tenant, bytes, ratio, made_at FROM dictionaries ORDER BY made_at`

// scanDictionary reads a row of dictionariesIn.
func scanDictionary(rows *sql.Rows) (d domain.Dictionary, err error) {
	var sum []byte
	var at int64
	err = rows.Scan(&sum, &d.Tenant, &d.Bytes, &d.Ratio, &at)
	copy(d.SHA256[:], sum)
	d.MadeAt = instantOf(at)
	return d, err
}

func (s *Store) readDictionaries(ctx context.Context) error {
	var found []domain.Dictionary
	err := s.each(ctx, dictionariesIn, nil, func(rows *sql.Rows) error {
		d, err := scanDictionary(rows)
		found = append(found, d)
		return err
	})
	s.dictionaries.Learn(found)
	return s.checked("read dictionaries in "+storeFile, err)
}

// needDictionaries writes those down again that a batch was packed with, and that somebody has deleted.
func needDictionaries(tx *sql.Tx, packing *sqlstore.Packing) error {
	if packing == nil {
		return nil
	}
	for _, d := range packing.Used() {
		var there bool
		row := tx.QueryRow(`SELECT EXISTS (SELECT 1 FROM dictionaries WHERE sha256 = ?)`, d.SHA256[:])
		if err := row.Scan(&there); err != nil {
			return fmt.Errorf("look for a dictionary: %w", err)
		}
		if !there {
			if _, err := tx.Exec(insertDictionary, dictionaryValues(d)...); err != nil {
				return err
			}
		}
	}
	return nil
}

const insertDictionary = `INSERT INTO dictionaries (sha256, tenant, bytes, ratio, made_at) SELECT ?1, ?2, ?3, ?4, ?5`

func dictionaryValues(d domain.Dictionary) []any {
	return []any{d.SHA256[:], d.Tenant, d.Bytes, d.Ratio, d.MadeAt.UnixMicro()}
}

// NewestDictionaries returns the newest of each tenant; see ports.Dictionaries.
func (s *Store) NewestDictionaries(context.Context) (map[string]domain.Dictionary, error) {
	return s.dictionaries.Newest(), nil
}

// AddDictionary keeps one; see ports.Dictionaries.
func (s *Store) AddDictionary(ctx context.Context, lease domain.Lease, d domain.Dictionary) (added bool, err error) {
	if !s.dictionaries.Free(d.SHA256) {
		return false, nil
	}
	d.MadeAt = s.opts.Now()
	err = s.inTx(ctx, func(tx *sql.Tx) error {
		res, err := tx.Exec(
			insertDictionary+` WHERE EXISTS (SELECT 1 FROM leases WHERE name = ?6 AND owner = ?7 AND until > ?8)
			ON CONFLICT DO NOTHING`, append(dictionaryValues(d), lease.Name, lease.Owner, s.opts.Now().UnixMicro())...,
		)
		if err != nil {
			return err
		}
		n, err := res.RowsAffected()
		added = n > 0
		return err
	})
	if err != nil || !added {
		return false, s.checked("keep a dictionary in "+storeFile, err)
	}
	s.dictionaries.Learn([]domain.Dictionary{d})
	return true, nil
}

// TakeLease takes or renews a lease; see ports.Leases.
func (s *Store) TakeLease(ctx context.Context, lease domain.Lease, length time.Duration) (held bool, err error) {
	now := s.opts.Now()
	err = s.inTx(ctx, func(tx *sql.Tx) error {
		res, err := tx.Exec(`INSERT INTO leases AS l (name, owner, until) VALUES (?1, ?2, ?3)
			ON CONFLICT DO UPDATE SET owner = excluded.owner, until = excluded.until
				WHERE l.owner = excluded.owner OR l.until < ?4`,
			lease.Name, lease.Owner, now.Add(length).UnixMicro(), now.UnixMicro())
		if err != nil {
			return err
		}
		n, err := res.RowsAffected()
		held = n > 0
		return err
	})
	return held, s.checked("take the lease "+lease.Name+" in "+storeFile, err)
}
