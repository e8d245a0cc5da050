package load

import (
	"context"
	"errors"
	"fmt"
	"iter"
	mathbits "math/bits"

	"github.com/jackc/pgx/v5"

	"github.com/docket-project/docket/bench/events"
	"github.com/docket-project/docket/bench/stack"
)

// Tally says what became of every decision of a run, by set.
type Tally struct {
	Sent   int `json:"sent"`         // decisions of all uploads
	Acked  int `json:"acknowledged"` // of uploads that were answered with 200
	Stored int `json:"stored"`       // rows of the run
	// Lost were acknowledged and have no row.
	Lost int `json:"lost"`
	// Twice have more than one row, and Strangers are rows of the run that nobody sent.
	Twice     int `json:"twice"`
	Strangers int `json:"strangers"`
}

// Sound is an error unless every acknowledged decision is stored once, and nothing else but what was sent.
func (t Tally) Sound() error {
	if t.Lost+t.Twice+t.Strangers > 0 {
		return fmt.Errorf(
			"of %d acknowledged decisions %d are lost; %d are stored twice, %d were never sent", t.Acked, t.Lost, t.Twice,
			t.Strangers,
		)
	}
	return nil
}

// TakeTally reads every id of a table. Others is how many rows there are that are not the run's.
func TakeTally(s *stack.Stack, table string, run events.Run, sent, acked bits, others int) (t Tally, err error) {
	var stored bits
	for upload := range sent.all() {
		t.Sent += events.Size(upload)
	}
	conn, err := pgx.Connect(context.Background(), s.Postgres.URL("postgres", ""))
	if err != nil {
		return t, err
	}
	defer func() { err = errors.Join(err, conn.Close(context.Background())) }()
	rows, err := conn.Query(context.Background(), `SELECT decision_id FROM `+table)
	if err != nil {
		return t, err
	}
	strangers := 0
	var id string
	if _, err := pgx.ForEachRow(rows, []any{&id}, func() error {
		n, ours := run.Number(id)
		switch {
		case !ours:
			strangers++
		case !sent.has(n/events.PerUpload) || n%events.PerUpload >= int64(events.Size(n/events.PerUpload)):
			t.Strangers++
		case stored.has(n):
			t.Twice++
		default:
			stored.set(n)
			t.Stored++
		}
		return nil
	}); err != nil {
		return t, err
	}
	if strangers != others {
		return t, fmt.Errorf("%s has %d rows of other runs, and %d before", table, strangers, others)
	}
	for upload := range acked.all() {
		for k := range int64(events.Size(upload)) {
			t.Acked++
			if !stored.has(upload*events.PerUpload + k) {
				t.Lost++
			}
		}
	}
	return t, nil
}

// bits is a set of small numbers.
type bits []uint64

// UpTo has all numbers below n.
func UpTo(n int64) (b bits) {
	for i := range n {
		b.set(i)
	}
	return b
}

func (b *bits) set(n int64) {
	for int64(len(*b)) <= n/64 {
		*b = append(*b, 0)
	}
	(*b)[n/64] |= 1 << (n % 64)
}

func (b bits) has(n int64) bool { return n/64 < int64(len(b)) && b[n/64]&(1<<(n%64)) != 0 }

func (b bits) Count() (n int) {
	for _, word := range b {
		n += mathbits.OnesCount64(word)
	}
	return n
}

// all goes through the set in order.
func (b bits) all() iter.Seq[int64] {
	return func(yield func(int64) bool) {
		for i, word := range b {
			for ; word != 0; word &= word - 1 {
				if !yield(int64(i)*64 + int64(mathbits.TrailingZeros64(word))) {
					return
				}
			}
		}
	}
}
