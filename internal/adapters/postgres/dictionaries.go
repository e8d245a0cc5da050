package postgres

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/docket-project/docket/internal/adapters/sqlstore"
	"github.com/docket-project/docket/internal/domain"
)

// eventColumns are where a row has its event; see eventOf.
const eventColumns = `, event::text AS event, packed`

// eventOf is the event of a row, which has it as JSON or packed. A dictionary that is not known may have been made
// since they were read.
func (s *Store) eventOf(ctx context.Context, event, packed []byte) ([]byte, error) {
	if packed == nil {
		return event, nil
	}
	event, err := s.dictionaries.Unpack(packed)
	if errors.Is(err, sqlstore.ErrUnknownDictionary) {
		if err := s.readDictionaries(ctx); err != nil {
			return nil, err
		}
		event, err = s.dictionaries.Unpack(packed)
		s.dictionaries.Missing(err)
	}
	return event, err
}

// packing begins a batch; nil where events are kept as JSON.
func (s *Store) packing() *sqlstore.Packing {
	if s.opts.JSON {
		return nil
	}
	return s.dictionaries.Begin()
}

// learnDictionariesEvery is how old what is known of them may be.
const learnDictionariesEvery = time.Minute

// learnDictionaries looks for new ones now and then. Without an answer the known ones do as well.
func (s *Store) learnDictionaries(ctx context.Context) {
	s.mu.Lock()
	due := !s.opts.JSON && time.Since(s.dictionariesLearned) >= learnDictionariesEvery
	if due {
		s.dictionariesLearned = time.Now()
	}
	s.mu.Unlock()
	if !due {
		return
	}
	if err := s.readDictionaries(ctx); err != nil {
		s.opts.Log.Debug("the dictionaries could not be read; those that are known are used", "error", err)
	}
}

// readDictionaries reads those that are not known, from the primary: a standby may not have the newest, and its
// searches must not keep a batch waiting.
func (s *Store) readDictionaries(ctx context.Context) error {
	var found []domain.Dictionary
	err := s.change(ctx, "read dictionaries", func(b *pgx.Batch) {
		b.Queue(`SELECT sha256, tenant, bytes, ratio, made_at FROM dictionaries
			WHERE sha256 <> ALL ($1::bytea[]) ORDER BY made_at`, s.dictionaries.Known()).Query(func(rows pgx.Rows) (err error) {
			found, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (d domain.Dictionary, err error) {
				var sum []byte
				err = row.Scan(&sum, &d.Tenant, &d.Bytes, &d.Ratio, &d.MadeAt)
				copy(d.SHA256[:], sum)
				return d, err
			})
			return err
		})
	})
	s.dictionaries.Learn(found)
	return err
}

// needDictionaries ends a transaction whose rows could not be read beside what the database has.
func needDictionaries(batch *pgconn.Batch, used []domain.Dictionary) {
	w := make(wire, 0, 20+len(used)*36) // an array; see encode
	for _, n := range []uint32{1, 0, pgtype.ByteaOID, uint32(len(used)), 1} {
		w.number(n)
	}
	for _, d := range used {
		w.number(uint32(len(d.SHA256)))
		w = append(w, d.SHA256[:]...)
	}
	batch.ExecParams(
		`SELECT need_dictionaries($1::bytea[])`, [][]byte{w}, []uint32{pgtype.ByteaArrayOID}, binaryFormat, binaryFormat,
	)
}

// lacksDictionary recognises what need_dictionaries says.
func lacksDictionary(err error) bool { return domain.CodeOf(err) == "DK001" }

const insertDictionary = `INSERT INTO dictionaries (sha256, tenant, bytes, ratio, made_at)
	SELECT $1::bytea, $2::text, $3::bytea, $4::float8, $5::timestamptz`

// restoreDictionaries writes the newest ones down again: the database was restored from a backup that lacks them.
func (s *Store) restoreDictionaries(ctx context.Context) error {
	return s.change(ctx, "write dictionaries down again", func(b *pgx.Batch) {
		for _, d := range s.dictionaries.Newest() {
			b.Queue(insertDictionary+` ON CONFLICT DO NOTHING`, d.SHA256[:], d.Tenant, d.Bytes, d.Ratio, d.MadeAt)
		}
	})
}

// NewestDictionaries returns the newest of each tenant; see ports.Dictionaries.
func (s *Store) NewestDictionaries(ctx context.Context) (map[string]domain.Dictionary, error) {
	if err := s.readDictionaries(ctx); err != nil {
		return nil, err
	}
	return s.dictionaries.Newest(), nil
}

// AddDictionary keeps one; see ports.Dictionaries.
func (s *Store) AddDictionary(ctx context.Context, lease domain.Lease, d domain.Dictionary) (added bool, err error) {
	if err := s.readDictionaries(ctx); err != nil || !s.dictionaries.Free(d.SHA256) {
		return false, err
	}
	err = s.change(ctx, "keep a dictionary", func(b *pgx.Batch) {
		b.Queue(insertDictionary+` WHERE EXISTS (SELECT 1 FROM leases WHERE name = $6::text AND owner = $7::text
			AND until > clock_timestamp()) ON CONFLICT DO NOTHING`,
			d.SHA256[:], d.Tenant, d.Bytes, d.Ratio, s.opts.Now(), lease.Name, lease.Owner,
		).Exec(func(tag pgconn.CommandTag) error {
			added = tag.RowsAffected() > 0
			return nil
		})
	})
	if err != nil || !added {
		return false, err
	}
	return true, s.readDictionaries(ctx)
}

// TakeLease takes or renews a lease; see ports.Leases.
func (s *Store) TakeLease(ctx context.Context, lease domain.Lease, length time.Duration) (held bool, err error) {
	err = s.change(ctx, "take the lease "+lease.Name, func(b *pgx.Batch) {
		b.Queue(`INSERT INTO leases AS l (name, owner, until) VALUES ($1::text, $2::text, clock_timestamp() + $3::interval)
			ON CONFLICT (name) DO UPDATE SET owner = excluded.owner, until = excluded.until
			WHERE l.owner = excluded.owner OR l.until < clock_timestamp()`, lease.Name, lease.Owner, length,
		).Exec(func(tag pgconn.CommandTag) error {
			held = tag.RowsAffected() > 0
			return nil
		})
	})
	return held, err
}
