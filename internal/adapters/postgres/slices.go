package postgres

import (
	"time"

	"github.com/docket-project/docket/internal/domain"
)

// The slices of time in which rare values are looked for: the first is short, each is so many times as long as the one
// before, and none is longer than the last.
const (
	firstSlice = 5 * time.Minute
	sliceGrows = 4
	lastSlice  = 64 * 24 * time.Hour
)

// walk goes through the time of a search a slice at a time, away from the cursor: what is nearest is found first.
type walk struct {
	asked domain.Query
	back  bool
	span  time.Duration
	slice domain.Query
}

func newWalk(q domain.Query, columns domain.Expr) *walk {
	w := &walk{asked: q, back: q.After != nil && q.After.Back, span: firstSlice, slice: q}
	w.slice.Where = columns
	switch {
	case q.After == nil:
	case w.back: // nothing in front of it is older
		if q.After.Time.After(q.Since) {
			w.slice.Since = q.After.Time
		}
	default: // nothing behind it is newer
		if end := q.After.Time.Add(time.Microsecond); q.Until.IsZero() || end.Before(q.Until) {
			w.slice.Until = end
		}
	}
	return w
}

// cut ends the slice.
func (w *walk) cut(days []domain.Day, now time.Time) {
	if w.back {
		w.slice.Until = sliceUntil(w.slice.Since, w.asked.Until, w.span, now)
	} else {
		w.slice.Since = sliceSince(w.asked.Since, w.slice.Until, w.span, days, now)
	}
}

// ended reports that there is no time behind the slice.
func (w *walk) ended() bool {
	if w.back {
		return w.slice.Until.Equal(w.asked.Until)
	}
	return w.slice.Since.Equal(w.asked.Since)
}

// rest is where a search goes on that has seen all of the slice.
func (w *walk) rest() *domain.Cursor {
	if w.back {
		return domain.CursorBefore(w.slice.Until)
	}
	return domain.CursorBefore(w.slice.Since)
}

// on begins the next slice, which is longer.
func (w *walk) on() {
	if w.back {
		w.slice.Since = w.slice.Until
	} else {
		w.slice.Until = w.slice.Since
	}
	w.span = min(sliceGrows*w.span, lastSlice)
}

// sliceSince is where the next slice of a search begins that ends at until; that may be zero, or ahead of all rows.
// Where there is no older day it reaches back as far as the search does: decisions without a day of their own may be
// older.
func sliceSince(since, until time.Time, span time.Duration, days []domain.Day, now time.Time) time.Time {
	if len(days) == 0 {
		return since
	}
	end := now
	if last := days[len(days)-1].End(); last.Before(now) {
		end = last
	}
	if !until.IsZero() && until.Before(end) {
		end = until
	}
	begin := end.Add(-span)
	if begin.Before(since) || begin.Before(days[0].Start()) {
		return since
	}
	return begin
}

// sliceUntil is where the next slice of a search ends that begins at since. Once it is ahead of the clock it reaches as
// far as the search does.
func sliceUntil(since, until time.Time, span time.Duration, now time.Time) time.Time {
	end := since.Add(span)
	if end.After(now) || !until.IsZero() && end.After(until) {
		return until
	}
	return end
}
