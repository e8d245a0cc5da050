package domain

import "time"

// Day is a day in UTC, counted from 1970-01-01.
type Day int64

const secondsOfDay = 24 * 60 * 60

// DaysAhead is how many days after today stores have room for, so that a batch does not have to make it.
const DaysAhead = 2

// DayOf is the day that a time is in.
func DayOf(t time.Time) Day {
	s := t.Unix()
	if s < 0 {
		s -= secondsOfDay - 1
	}
	return Day(s / secondsOfDay)
}

// Start is the day's first instant.
func (d Day) Start() time.Time { return time.Unix(int64(d)*secondsOfDay, 0).UTC() }

// End is the next day's first instant.
func (d Day) End() time.Time { return (d + 1).Start() }

// String spells the day as 2006-01-02.
func (d Day) String() string { return d.Start().Format(time.DateOnly) }
