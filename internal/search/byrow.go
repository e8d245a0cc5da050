package search

import (
	"context"
	"maps"
	"time"

	"github.com/docket-project/docket/internal/domain"
)

// The slices of time in which decisions are counted one by one: the first is short, and the others are as long as may
// be counted in such a part of the patience.
const (
	firstSlice = 10 * time.Second // of which a busy store has a hundred thousand decisions
	slicePart  = 8
	sliceGrows = 8
	wholePast  = 20 * 366 * 24 * time.Hour
)

// rows counts the decisions of a span one by one, the newest slice of time first. What a slice comes to counts once all
// of it was seen.
func (c *counter) rows(ctx context.Context, span domain.Filter) error {
	limited, cancel := context.WithDeadline(ctx, c.began.Add(c.patience))
	defer cancel()
	slice := span
	first := time.Duration(float64(firstSlice) * float64(c.patience) / float64(statsTime))
	for length := max(time.Second, first); ; {
		end := c.now
		if !slice.Until.IsZero() && slice.Until.Before(end) {
			end = slice.Until
		}
		if slice.Since = end.Add(-length); slice.Since.Before(span.Since) || length > wholePast {
			slice.Since = span.Since
		}
		began := time.Now()
		err := c.slice(limited, slice)
		switch {
		case err != nil && limited.Err() != nil && ctx.Err() == nil && c.some, c.full:
			c.reached = end
			return nil
		case err != nil:
			return err
		case slice.Since.Equal(span.Since):
			return nil
		}
		slice.Until, c.some = slice.Since, true
		if c.late() {
			c.reached = slice.Until
			return nil
		}
		factor := float64(c.patience/slicePart) / float64(max(time.Since(began), time.Millisecond))
		length = max(time.Second, time.Duration(float64(length)*min(factor, sliceGrows)))
	}
}

// slice counts the decisions of one slice.
func (c *counter) slice(ctx context.Context, slice domain.Filter) error {
	read, counted, firsts, total, fresh := c.reader(), groups{}, groups{}, int64(0), 0
	err := c.in.Scan(ctx, c.scope, slice, c.asked.By, func(d *domain.Decision) bool {
		total++
		read(d, func(g group) {
			if _, known := c.groups[g]; !known && counted[g] == 0 {
				if c.separately {
					if c.told[g.field] == maxTold {
						return
					}
					c.told[g.field]++
				}
				fresh++
			}
			counted[g]++
			if c.separately {
				first, known := firsts[g]
				if at := d.Timestamp.Unix(); !known || at < first {
					firsts[g] = at
				}
			}
		})
		c.full = len(c.groups)+fresh > maxGroups
		return !c.full
	})
	if err != nil || c.full {
		return err
	}
	c.total += total
	for g, n := range counted {
		c.groups[g] += n
	}
	maps.Copy(c.firsts, firsts) // each slice is older than the one before
	return nil
}
