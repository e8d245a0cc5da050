package deadletter

import (
	"context"
	"slices"
	"time"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/job"
	"github.com/docket-project/docket/internal/ports"
)

// Reader is what Each asks of the index.
type Reader interface {
	DeadLetters(ctx context.Context, scope domain.Scope, q domain.Query) (domain.DeadPage, error)
}

// Each goes through all dead letters of a job's tenants behind a cursor, the newest first. visit gets some of them with
// their records, and the cursor behind them; those that have fallen off the log have no record, and neither have whole
// uploads, which are not read. goOn is false where visit, or whoever moves the job, does not want to.
func Each(
	t *job.Turn, index Reader, log ports.Log, after *domain.Cursor,
	visit func(letters []domain.DeadLetter, of map[domain.Position]domain.Record, next *domain.Cursor) (bool, error),
) (goOn bool, err error) {
	w := &work{Jobs: &Jobs{Log: log}, Turn: t}
	for {
		page, err := index.DeadLetters(t.Context, t.Job.Tenants, domain.Query{Limit: jobStep, After: after})
		if err != nil {
			return false, err
		}
		for rest := page.Items; len(rest) > 0; {
			chunk := rest
			for i, size := 0, 0; i < len(rest); i++ {
				if size += rest[i].Bytes; size > jobBytes && i > 0 {
					chunk = rest[:i]
					break
				}
			}
			rest = rest[len(chunk):]
			inOrder := slices.DeleteFunc(slices.Clone(chunk), func(l domain.DeadLetter) bool { return l.Whole })
			slices.SortFunc(inOrder, func(a, b domain.DeadLetter) int { return a.Compare(b.Position) })
			records, goOn, err := w.readAlive(inOrder)
			if err != nil || !goOn {
				return false, err
			}
			if goOn, err := visit(chunk, records, domain.DeadCursorOf(&chunk[len(chunk)-1])); err != nil || !goOn {
				return false, err
			}
		}
		if page.Next == nil {
			return true, nil
		}
		after = page.Next
	}
}

// readAlive reads the bytes of dead letters, and says meanwhile that the job's owner lives.
func (w *work) readAlive(letters []domain.DeadLetter) (of map[domain.Position]domain.Record, goOn bool, err error) {
	ctx, cancel := context.WithCancel(w.Context)
	defer cancel()
	pending := make(chan fetched, 1)
	go func() {
		var f fetched
		f.records, f.err = w.records(ctx, letters)
		pending <- f
	}()
	alive := time.NewTicker(job.Heartbeat)
	defer alive.Stop()
	for {
		select {
		case f := <-pending:
			return f.records, true, f.err
		case <-alive.C:
			if goOn, err := w.Alive(); err != nil || !goOn {
				cancel()
				<-pending
				return nil, false, err
			}
		}
	}
}
