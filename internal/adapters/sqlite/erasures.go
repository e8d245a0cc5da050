package sqlite

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"time"

	"github.com/docket-project/docket/internal/adapters/sqlstore"
	"github.com/docket-project/docket/internal/domain"
)

// orderErasure writes an erasure down with its job.
func orderErasure(tx *sql.Tx, job string, e *domain.Erasure) error {
	if e == nil {
		return nil
	}
	for i := range e.Subjects {
		_, err := tx.Exec(
			`INSERT INTO erasures (job, subject, tenants, at) VALUES (?, ?, ?, ?)`, job, e.Subjects[i][:],
			text(sqlstore.EncodeScope(e.Tenants)), e.At.UnixMicro(),
		)
		if err != nil {
			return err
		}
	}
	return nil
}

// ErasureKey is what subjects are hashed with; see ports.ErasureReader.
func (s *Store) ErasureKey(ctx context.Context) (key []byte, err error) {
	fresh := make([]byte, 32)
	_, _ = rand.Read(fresh) // it never fails
	err = s.inTx(ctx, func(tx *sql.Tx) error {
		if _, err := tx.Exec(`INSERT INTO erasure_key VALUES (1, ?) ON CONFLICT DO NOTHING`, fresh); err != nil {
			return err
		}
		return tx.QueryRow(`SELECT key FROM erasure_key`).Scan(&key)
	})
	return key, s.checked("read the key of erasures in "+storeFile, err)
}

// Erasures lists those in force; see ports.ErasureReader.
func (s *Store) Erasures(ctx context.Context) (out []domain.Erasure, err error) {
	const inForce = `SELECT e.job, e.subject, coalesce(e.tenants, ''), e.at, e.until
		FROM erasures e JOIN jobs j ON j.id = e.job
		WHERE (e.until IS NULL OR e.until > ?) AND j.state <> ? ORDER BY e.job, e.subject`
	args := []any{s.opts.Now().UnixMicro(), string(domain.JobCanceled)}
	err = s.inTx(ctx, func(tx *sql.Tx) error { // as those who save do, who wait for no search
		rows, err := tx.Query(inForce, args...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var job, tenants string
			var subject []byte
			var at int64
			var until sql.NullInt64
			if err := rows.Scan(&job, &subject, &tenants, &at, &until); err != nil {
				return err
			}
			if out, err = sqlstore.AddErasure(out, job, subject, tenants, instantOf(at), instant(until)); err != nil {
				return err
			}
		}
		return rows.Err()
	})
	return out, s.checked("list erasures in "+storeFile, err)
}

// KeepErasure says until when one is in force; see ports.Erasures.
func (s *Store) KeepErasure(ctx context.Context, job string, until time.Time) error {
	err := s.inTx(ctx, func(tx *sql.Tx) error {
		if _, err := tx.Exec(`UPDATE erasures SET until = ? WHERE job = ?`, until.UnixMicro(), job); err != nil {
			return err
		}
		_, err := tx.Exec(`DELETE FROM erasures WHERE until <= ?`, s.opts.Now().UnixMicro())
		return err
	})
	return s.checked("keep an erasure in "+storeFile, err)
}

// wiping has SQLite write over what a transaction deletes (https://www.sqlite.org/pragma.html#pragma_secure_delete),
// which makes it slower, and so is not for everything that is deleted.
func (s *Store) wiping(ctx context.Context, fn func(*sql.Tx) error) error {
	return s.inTx(ctx, func(tx *sql.Tx) (err error) {
		if _, err := tx.Exec(`PRAGMA secure_delete = 1`); err != nil {
			return err
		}
		err = fn(tx)
		if _, offErr := tx.Exec(`PRAGMA secure_delete = 0`); err == nil {
			err = offErr
		}
		return err
	})
}

// EraseLetters removes dead letters from the index; see ports.Erasures.
func (s *Store) EraseLetters(ctx context.Context, ids []string) error {
	err := s.wiping(ctx, func(tx *sql.Tx) error {
		for _, id := range ids {
			if _, err := tx.Exec(`DELETE FROM dead_letters WHERE id = ?`, id); err != nil {
				return err
			}
		}
		return nil
	})
	return s.checked("erase dead letters in "+storeFile, err)
}

// EraseDecisions removes rows; see ports.DecisionEraser.
func (s *Store) EraseDecisions(ctx context.Context, decisions []domain.Decision) error {
	err := s.wiping(ctx, func(tx *sql.Tx) error {
		const key = ` WHERE decision_id = ? AND tenant = ? AND timestamp IS ? AND sha256 = ?`
		inside, err := tx.Prepare(`DELETE FROM decisions` + key + ` RETURNING coalesce(path, ''), outcome`)
		if err != nil {
			return err
		}
		defer inside.Close()
		counts := tally{}
		for i := range decisions {
			d := decisions[i]
			args := []any{d.ID, d.Tenant, micros(d.Timestamp), d.SHA256[:]}
			err := inside.QueryRow(args...).Scan(&d.Path, &d.Outcome)
			switch {
			case err == nil:
				counts.add(&d, s.opts.Now(), -1)
			case errors.Is(err, sql.ErrNoRows):
				if _, err := tx.Exec(`DELETE FROM decisions_out_of_window`+key, args...); err != nil {
					return err
				}
			default:
				return err
			}
			if err := ctx.Err(); err != nil {
				return err
			}
		}
		return counts.write(tx)
	})
	return s.checked("erase decisions in "+storeFile, err)
}
