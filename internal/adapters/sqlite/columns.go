package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"strings"

	"github.com/docket-project/docket/internal/domain"
)

// StoredEvents returns one page of rows with their events; see ports.DecisionColumns.
func (s *Store) StoredEvents(ctx context.Context, scope domain.Scope, q domain.Query) (domain.Page, error) {
	return s.page(ctx, scope, q, true)
}

// scanStored reads a row with its event. One that cannot be unpacked is nil, which has another hash.
func (s *Store) scanStored(rows *sql.Rows) (domain.Decision, error) {
	var packed bool
	var event []byte
	d, err := scanWith(rows, &packed, &event)
	if err == nil {
		d.Event, _ = s.eventOf(packed, event)
	}
	return d, err
}

// setColumns updates a row of a table.
var setColumns = func() string {
	names := []string{"outcome = ?", "bundles = ?", "sanitised = ?", "unsearchable = ?"}
	for _, c := range domain.TextColumns {
		names = append(names, c.Name+" = ?")
	}
	return `UPDATE TABLE SET ` + strings.Join(names, ", ") +
		` WHERE decision_id = ? AND tenant = ? AND timestamp IS ? AND sha256 = ?`
}()

// SetColumns gives rows other columns; see ports.DecisionColumns.
func (s *Store) SetColumns(ctx context.Context, decisions []domain.Decision) error {
	err := s.inTx(ctx, func(tx *sql.Tx) error {
		if err := s.recount(tx, decisions); err != nil {
			return err
		}
		for _, table := range []string{"decisions", "decisions_out_of_window"} {
			update, err := tx.Prepare(strings.ReplaceAll(setColumns, "TABLE", table))
			if err != nil {
				return err
			}
			defer update.Close()
			for i := range decisions {
				d := &decisions[i]
				args := []any{string(d.Outcome), text(domain.EncodeBundles(d.Bundles)), d.Sanitised, d.Unsearchable}
				for _, c := range domain.TextColumns {
					args = append(args, text(*c.Of(d)))
				}
				if _, err := update.Exec(append(args, d.ID, d.Tenant, micros(d.Timestamp), d.SHA256[:])...); err != nil {
					return err
				}
				if err := ctx.Err(); err != nil {
					return err
				}
			}
		}
		return nil
	})
	return s.checked("change columns in "+storeFile, err)
}

// recount takes rows that get another path or outcome out of the counts, and puts them in as what they become.
func (s *Store) recount(tx *sql.Tx, decisions []domain.Decision) error {
	was, err := tx.Prepare(`SELECT coalesce(path, ''), outcome FROM decisions
		WHERE decision_id = ? AND tenant = ? AND timestamp IS ? AND sha256 = ?`)
	if err != nil {
		return err
	}
	defer was.Close()
	counts := tally{}
	for i := range decisions {
		before, after := decisions[i], &decisions[i]
		err := was.QueryRow(after.ID, after.Tenant, micros(after.Timestamp), after.SHA256[:]).
			Scan(&before.Path, &before.Outcome)
		if errors.Is(err, sql.ErrNoRows) {
			continue
		}
		if err != nil {
			return err
		}
		counts.add(&before, s.opts.Now(), -1)
		counts.add(after, s.opts.Now(), 1)
	}
	return counts.write(tx)
}
