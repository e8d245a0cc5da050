package sqlite

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/ports"
)

// couple is a log and the store that it fills, as docket serve has them.
type couple struct {
	t     *testing.T
	path  string
	lost  atomic.Int64
	dir   *Dir
	store *Store
	log   *Log
	next  int
}

func (c *couple) open() {
	c.t.Helper()
	c.dir = openDir(c.t, c.path)
	var err error
	c.store, err = OpenStore(c.t.Context(), c.dir, StoreOptions{
		Window: domain.Window{Retention: time.Hour, Ahead: time.Hour}, Migrate: true, Log: logOptions(c.t).Log,
		Fatal: func(err error) { c.t.Error(err) },
	})
	require.NoError(c.t, err)
	o := logOptions(c.t)
	o.Renamed = map[string]string{"g": "g"}
	o.Marks, o.Lost = c.store, func(l domain.Loss) { c.lost.Add(l.Records()) }
	c.log, err = OpenLog(c.t.Context(), c.dir, o)
	require.NoError(c.t, err)
}

func (c *couple) close() {
	c.t.Helper()
	require.NoError(c.t, c.log.Close())
	require.NoError(c.t, c.store.Close())
	require.NoError(c.t, c.dir.Close())
}

// take publishes so many decisions.
func (c *couple) take(n int) {
	c.t.Helper()
	for range n {
		id := fmt.Sprintf("id-%d", c.next)
		c.next++
		require.NoError(c.t, c.log.Publish(c.t.Context(), []domain.Record{{
			Topic: testTopics.Decisions, Key: id, Value: []byte(`{"decision_id":"` + id + `"}`),
			Headers: domain.Headers{ReceivedAt: time.Now()},
		}}))
	}
}

// save has everything stored that waits, and the store told so; and again, so that a commit knows that it was.
func (c *couple) save() {
	c.t.Helper()
	p, err := domain.NewProjector(nil)
	require.NoError(c.t, err)
	for range 2 {
		ctx, cancel := context.WithTimeout(c.t.Context(), 300*time.Millisecond)
		sub := ports.Subscription{Group: "g", Topics: []string{testTopics.Decisions}, MaxRecords: 10, MaxBytes: 1 << 20}
		require.NoError(c.t, c.log.Consume(ctx, sub, func(ctx context.Context, batch []domain.Record) ([]ports.Pause, error) {
			var rows []domain.Decision
			for _, r := range batch {
				rows = append(rows, p.Project(r))
			}
			_, err := c.store.SaveBatch(ctx, rows)
			return nil, err
		}))
		cancel()
		require.NoError(c.t, c.log.writeMarks(c.t.Context()))
		c.take(1)
	}
}

func (c *couple) rows() int {
	c.t.Helper()
	page, err := c.store.Search(c.t.Context(), domain.AllTenants(), domain.Query{Limit: 1000})
	require.NoError(c.t, err)
	return len(page.Items)
}

// copyOf keeps files, and putBack puts them where they were; nil is that they were not there.
func (c *couple) copyOf(names ...string) map[string][]byte {
	out := map[string][]byte{}
	for _, name := range names {
		b, err := os.ReadFile(filepath.Join(c.path, name))
		if err == nil {
			out[name] = b
		} else {
			out[name] = nil
		}
	}
	return out
}

func (c *couple) putBack(files map[string][]byte) {
	c.t.Helper()
	for name, b := range files {
		for _, more := range []string{"", "-wal", "-shm"} {
			_ = os.Remove(filepath.Join(c.path, name+more))
		}
		if b != nil {
			require.NoError(c.t, os.WriteFile(filepath.Join(c.path, name), b, 0o600))
		}
	}
}

// TestFilesOfDifferentTimes are noticed at the start: nothing is lost without a word.
func TestFilesOfDifferentTimes(t *testing.T) {
	for _, c := range []struct {
		name    string
		files   []string // put back as they were
		removed bool     // instead
		lost    bool
	}{
		{name: "an older store", files: []string{storeFile}, lost: true},
		{name: "a store that was removed", files: []string{storeFile}, removed: true, lost: true},
		{name: "an older log with its mark", files: []string{logFile, markFile}, lost: true},
		{name: "a log that was removed with its mark", files: []string{logFile, markFile}, removed: true, lost: true},
		{name: "both", files: []string{logFile, markFile, storeFile}},
		{name: "both removed", files: []string{logFile, markFile, storeFile}, removed: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := &couple{t: t, path: t.TempDir()}
			d.open()
			d.take(20)
			d.save()
			d.close()
			files := d.copyOf(c.files...)
			if c.removed {
				for name := range files {
					files[name] = nil
				}
			}
			d.open()
			require.Zero(t, d.lost.Load(), "the same files again")
			d.take(30)
			d.save()
			before := d.rows()
			d.close()
			d.putBack(files)
			d.open()
			require.Equal(t, c.lost, d.lost.Load() > 0, "%d", d.lost.Load())
			d.take(5)
			d.save()
			require.Positive(t, d.rows())
			require.Positive(t, before)
			d.close()
			lost := d.lost.Load()
			d.open()
			require.Equal(t, lost, d.lost.Load(), "it is said once")
			d.close()
		})
	}
}
