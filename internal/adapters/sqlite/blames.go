package sqlite

import (
	"context"
	"database/sql"
	"time"

	"github.com/docket-project/docket/internal/domain"
)

const (
	addBlame = `INSERT INTO blames AS b (minute, fingerprint, class, code, error, path, rows) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
		ON CONFLICT (minute, fingerprint) DO UPDATE SET rows = b.rows + excluded.rows`
	listBlames = `SELECT fingerprint, min(class), min(code), min(error), min(path), sum(rows) FROM blames
		WHERE minute > ? AND minute <= ? GROUP BY fingerprint ORDER BY fingerprint <> '', sum(rows) DESC, fingerprint LIMIT 1001`
	// The other columns are those of the row with the maximum (https://sqlite.org/lang_select.html#bareagg).
	listAcceptances = `SELECT fingerprint, max(accepted_at), until, who, reason FROM blame_acceptances
		GROUP BY fingerprint HAVING until > ? LIMIT 1000`
)

// ExchangeBlames adds to what is known and sums it up; see ports.BlameLedger.
func (s *Store) ExchangeBlames(ctx context.Context, at time.Time, judged int64, blames []domain.Blame) (report domain.BlameReport, err error) {
	if judged > 0 {
		if err := s.addBlames(ctx, at, append([]domain.Blame{{Rows: judged}}, blames...)); err != nil {
			return report, s.checked("record blames in "+storeFile, err)
		}
	}
	err = s.each(ctx, listBlames, []any{at.Add(-domain.FloodSpan).UnixMicro(), at.Add(time.Minute).UnixMicro()}, func(rows *sql.Rows) error {
		var b domain.Blame
		err := rows.Scan(&b.Fingerprint, &b.Class, &b.Code, &b.Text, &b.Path, &b.Rows)
		report.Add(b)
		return err
	})
	if err == nil {
		err = s.each(ctx, listAcceptances, []any{at.UnixMicro()}, func(rows *sql.Rows) error {
			var a domain.Acceptance
			var acceptedAt, until int64
			err := rows.Scan(&a.Fingerprint, &acceptedAt, &until, &a.Who, &a.Reason)
			a.At, a.Until = time.UnixMicro(acceptedAt), time.UnixMicro(until)
			report.Accept(a)
			return err
		})
	}
	if err == nil {
		err = s.read.QueryRowContext(ctx, `SELECT count(*) > 0 FROM flood_stops WHERE ended_at IS NULL`).Scan(&report.Stopping)
	}
	return report, s.checked("list blames in "+storeFile, err)
}

func (s *Store) addBlames(ctx context.Context, at time.Time, blames []domain.Blame) error {
	return s.inTx(ctx, func(tx *sql.Tx) error {
		minute := at.Truncate(time.Minute).UnixMicro()
		for _, b := range blames {
			if _, err := tx.Exec(addBlame, minute, b.Fingerprint, b.Class, b.Code, b.Text, b.Path, b.Rows); err != nil {
				return err
			}
		}
		_, err := tx.Exec(`DELETE FROM blames WHERE minute < ?`, at.Add(-24*time.Hour).UnixMicro())
		return err
	})
}

// each reads the rows of a query.
func (s *Store) each(ctx context.Context, query string, args []any, scan func(*sql.Rows) error) error {
	rows, err := s.read.QueryContext(ctx, query, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// SetFloodStop writes down when the flood stop begins and ends; see ports.BlameLedger.
func (s *Store) SetFloodStop(ctx context.Context, at time.Time, on bool) error {
	query := `UPDATE flood_stops SET ended_at = ? WHERE ended_at IS NULL`
	if on {
		query = `INSERT INTO flood_stops (begun_at) VALUES (?) ON CONFLICT DO NOTHING`
	}
	err := s.inTx(ctx, func(tx *sql.Tx) error {
		_, err := tx.Exec(query, at.UnixMicro())
		return err
	})
	return s.checked("write down the flood stop in "+storeFile, err)
}

// AcceptBlame writes an acceptance down; see ports.BlameLedger.
func (s *Store) AcceptBlame(ctx context.Context, a domain.Acceptance) error {
	err := s.inTx(ctx, func(tx *sql.Tx) error {
		_, err := tx.Exec(`INSERT INTO blame_acceptances (fingerprint, accepted_at, until, who, reason) VALUES (?, ?, ?, ?, ?)`,
			a.Fingerprint, a.At.UnixMicro(), a.Until.UnixMicro(), a.Who, a.Reason)
		return err
	})
	return s.checked("accept a fingerprint in "+storeFile, err)
}
