package sqlstore_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/adapters/sqlstore"
	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/search"
)

// planOf plans a search.
func planOf(t *testing.T, query string) search.Plan {
	q, err := search.Parse(query, time.Now())
	require.NoError(t, err)
	return search.NewPlan(q.Where)
}

// unpack has the event behind a mark. It is called on several goroutines.
func unpack(event, packed, buffer []byte) ([]byte, error) {
	switch string(packed) {
	case "":
		return event, nil
	case "damaged":
		return nil, errors.New("it is damaged")
	case "panic":
		panic("of the judging")
	}
	return append(buffer[:0:cap(buffer)], strings.TrimPrefix(string(packed), "packed ")...), nil
}

func TestJudging(t *testing.T) {
	const rows = 1000
	row := func(n int) (*domain.Decision, []byte) {
		event := fmt.Sprintf(`{"input":{"n":%d,"text":%q}}`, n, strings.Repeat("x", n%50/49*30_000))
		return &domain.Decision{ID: fmt.Sprint(n), Path: fmt.Sprint("path/", n%5)}, []byte(event)
	}
	for name, tc := range map[string]struct {
		query string
		fits  func(n int) bool
		path  bool // is read
	}{
		"what has to be unpacked": {"input.n<10", func(n int) bool { return n < 10 }, false},
		"with a column":           {"input.n<100 path:*/3", func(n int) bool { return n < 100 && n%5 == 3 }, true},
		"a column alone":          {"path:*/3", func(n int) bool { return n%5 == 3 }, true},
		"everything":              {"", func(int) bool { return true }, false},
	} {
		t.Run(name, func(t *testing.T) {
			plan, settled := planOf(t, tc.query), 0
			j := sqlstore.NewJudging(plan, true, unpack, func(r *sqlstore.JudgedRow) (bool, error) {
				d, event := row(settled)
				require.Equal(t, d.ID, r.ID, "in order")
				require.Equal(t, tc.fits(settled), r.Fits, r.ID)
				if r.Fits {
					require.Equal(t, string(event), string(r.Event))
				}
				if tc.path {
					require.Equal(t, d.Path, r.Path)
				} else {
					require.Empty(t, r.Path, "of no row before, nor of a search before")
				}
				settled++
				return true, nil
			})
			for n := range rows {
				d, event := row(n)
				var packed []byte
				if n%3 > 0 {
					event, packed = nil, append([]byte("packed "), event...)
				}
				more, err := j.Add(d, event, packed)
				require.NoError(t, err)
				require.True(t, more)
				clear(event) // they are the connection's
				clear(packed)
			}
			require.NoError(t, j.End())
			require.Equal(t, rows, settled)
			require.NoError(t, j.End())
			require.Equal(t, rows, settled, "once")
		})
	}
}

func TestJudgingEnds(t *testing.T) {
	failed := errors.New("no more")
	for name, tc := range map[string]struct {
		packed  string
		settled int
		err     error
	}{
		"with enough":        {"packed {}", 100, nil},
		"with an error":      {"packed {}", 1, failed},
		"with what a row is": {"damaged", 1, nil},
	} {
		t.Run(name, func(t *testing.T) {
			settled := 0
			j := sqlstore.NewJudging(planOf(t, "input.n:1"), false, unpack, func(r *sqlstore.JudgedRow) (bool, error) {
				settled++
				require.Equal(t, tc.packed == "damaged", r.Err != nil)
				require.False(t, r.Fits)
				return settled < 100 && r.Err == nil, tc.err
			})
			var err error
			for range 5000 {
				var more bool
				if more, err = j.Add(&domain.Decision{ID: "x"}, nil, []byte(tc.packed)); !more {
					break
				}
			}
			require.Equal(t, tc.err, err)
			require.NoError(t, j.End())
			more, err := j.Add(&domain.Decision{}, nil, nil)
			require.NoError(t, err)
			require.False(t, more)
			require.Equal(t, tc.settled, settled)
		})
	}
}

// TestJudgingPanics has the panic where whoever serves a request recovers from it.
func TestJudgingPanics(t *testing.T) {
	settle := func(*sqlstore.JudgedRow) (bool, error) { return true, nil }
	j := sqlstore.NewJudging(planOf(t, "input.n:1"), false, unpack, settle)
	_, err := j.Add(&domain.Decision{}, nil, []byte("panic"))
	require.NoError(t, err)
	defer func() {
		failed, ok := recover().(error)
		require.True(t, ok)
		require.ErrorContains(t, failed, "of the judging")
		require.ErrorContains(t, failed, "judging_test.go", "where it was")
	}()
	_ = j.End()
	t.Error("nothing panicked")
}
