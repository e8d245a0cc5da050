package sqlstore

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/search"
)

// How many rows one goroutine judges at a time, few at first, and of how many bytes as they are stored.
const (
	firstRows  = 8
	chunkRows  = 64
	chunkBytes = 64 << 10
)

// keptRoom is how much room a row keeps for the event of the next one.
const keptRoom = 16 << 10

// Judging judges the rows of a search beside each other, and settles them in the order in which they came: to unpack an
// event and to look into it costs more than to read its row, and a connection hands over one row at a time. A few
// chunks of rows are judged at once, as many as there are cores. It belongs to one goroutine.
type Judging struct {
	plan    search.Plan
	events  bool
	unpack  Unpack
	settle  func(*JudgedRow) (more bool, err error)
	rows    int // of the chunk that is being filled
	filling *chunk
	waiting []*chunk // the oldest first
	ended   atomic.Bool
}

// Unpack returns the event of a row, which has it as JSON or packed, in the room of a buffer where there is enough of
// it. It is called on several goroutines at once.
type Unpack func(event, packed, buffer []byte) ([]byte, error)

// JudgedRow is a row with what was found about it. It is written over once it is settled.
type JudgedRow struct {
	domain.Decision
	// Fits says whether it fits the rest of the plan.
	Fits bool
	// Err is what Unpack failed with. The row was not judged then.
	Err error

	event, packed []byte // as they are stored
	unpacked      []byte // room for the event
}

// Judge unpacks the row's event and judges it by the rest of a plan.
func (r *JudgedRow) Judge(plan search.Plan, unpack Unpack) {
	r.Event, r.Err = unpack(r.event, r.packed, r.unpacked)
	if r.packed != nil {
		r.unpacked = r.Event
	}
	r.Fits = r.Err == nil && (plan.Rest == nil || plan.Rest.Fits(&r.Decision))
}

// NewJudging begins to judge rows by the rest of a plan, if it has one. settle gets those that fit with their events,
// where these are wanted, and says whether to go on.
func NewJudging(
	plan search.Plan, events bool, unpack Unpack, settle func(*JudgedRow) (more bool, err error),
) *Judging {
	return &Judging{
		plan: plan, events: events && plan.Event, unpack: unpack, settle: settle, rows: firstRows,
		filling: chunks.Get().(*chunk),
	}
}

// Add takes a row with its event as it is stored, of which it keeps copies. It may settle rows that came before.
func (j *Judging) Add(d *domain.Decision, event, packed []byte) (more bool, err error) {
	if j.ended.Load() {
		return false, nil
	}
	c := j.filling
	r := &c.rows[c.n]
	c.n++
	c.bytes += len(event) + len(packed)
	r.event, r.packed = copied(r.event, event), copied(r.packed, packed)
	if r.Timestamp, r.Tenant, r.ID, r.Unsearchable = d.Timestamp, d.Tenant, d.ID, d.Unsearchable; len(j.plan.Fields) > 0 {
		r.Decision = *d
	}
	switch {
	case !j.plan.Event: // it costs more to hand the row over than to judge it
		r.Judge(j.plan, j.unpack)
		return j.settled(c)
	case c.n < j.rows && c.bytes < chunkBytes:
		return true, nil
	}
	j.handOver()
	for more = true; more && len(j.waiting) > 0; {
		if len(j.waiting) <= runtime.GOMAXPROCS(0) && len(j.waiting[0].judged) == 0 {
			return true, nil
		}
		more, err = j.settleOldest()
	}
	return more, err
}

// End settles what was added and is not settled yet, unless settle has had enough.
func (j *Judging) End() (err error) {
	if j.ended.Load() {
		return nil
	}
	if j.filling.n > 0 {
		j.handOver()
	}
	for more := true; more && len(j.waiting) > 0; {
		more, err = j.settleOldest()
	}
	return err
}

// handOver has the rows that were added judged on another goroutine.
func (j *Judging) handOver() {
	c := j.filling
	c.judged = make(chan error, 1)
	go func() {
		defer func() {
			if failed := recover(); failed != nil {
				c.judged <- fmt.Errorf("judging a row: %v\n%s", failed, debug.Stack())
				return
			}
			c.judged <- nil
		}()
		j.judge(c)
	}()
	j.waiting, j.filling, j.rows = append(j.waiting, c), chunks.Get().(*chunk), min(2*j.rows, chunkRows)
}

// judge judges the rows of a chunk, until nobody wants them any more.
func (j *Judging) judge(c *chunk) {
	for i := range c.rows[:c.n] {
		r := &c.rows[i]
		if j.ended.Load() {
			return
		}
		if r.unpacked == nil {
			r.unpacked, c.spare = c.spare, nil
		}
		if r.Judge(j.plan, j.unpack); !r.Fits || !j.events {
			c.spare, r.unpacked, r.Event = r.unpacked, nil, nil
		}
	}
}

func (j *Judging) settleOldest() (more bool, err error) {
	c := j.waiting[0]
	j.waiting = j.waiting[1:]
	if failed := <-c.judged; failed != nil {
		panic(failed) // where whoever serves the request looks for it
	}
	if more, err = j.settled(c); more {
		chunks.Put(c)
	}
	return more, err
}

// settled settles the rows of a chunk, and makes room for others. What large events took is given back.
func (j *Judging) settled(c *chunk) (more bool, err error) {
	for i := range c.rows[:c.n] {
		r := &c.rows[i]
		if more, err = j.settle(r); !more || err != nil {
			j.ended.Store(true)
			return false, err
		}
		if len(j.plan.Fields) > 0 {
			r.Decision = domain.Decision{}
		}
		if max(cap(r.unpacked), cap(r.packed), cap(r.event)) > keptRoom {
			r.unpacked, r.packed, r.event = nil, nil, nil
		}
	}
	if c.n, c.bytes = 0, 0; cap(c.spare) > keptRoom {
		c.spare = nil
	}
	return true, nil
}

// chunk is what one goroutine judges.
type chunk struct {
	rows   [chunkRows]JudgedRow
	n      int // of rows that are there
	bytes  int
	judged chan error // what the judging has panicked with
	spare  []byte     // room for the next event: few rows fit, and the others do not keep theirs
}

// chunks are empty.
var chunks = sync.Pool{New: func() any { return new(chunk) }}

// copied is a copy in the room of a buffer, nil of nil.
func copied(buffer, b []byte) []byte {
	if b == nil {
		return nil
	}
	return append(buffer[:0], b...)
}
