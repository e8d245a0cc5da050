package sqlite

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/ports"
)

// TestAlteredLog has every field that says where something is changed, bit by bit: docket says what is wrong, and goes
// on or stops. It never panics, and never counts a loss that is none.
func TestAlteredLog(t *testing.T) {
	build := func(t *testing.T) string {
		path := t.TempDir()
		dir := openDir(t, path)
		l, err := OpenLog(t.Context(), dir, logOptions(t))
		require.NoError(t, err)
		for i := range 10 {
			require.NoError(t, l.Publish(t.Context(), []domain.Record{
				{Topic: testTopics.Decisions, Key: fmt.Sprint(i), Value: []byte("{}")},
				{Topic: testTopics.DLQ, Key: fmt.Sprint(i), Value: []byte("{}")},
			}))
		}
		ctx, cancel := context.WithCancel(t.Context())
		sub := ports.Subscription{Group: "g", Topics: []string{testTopics.Decisions}, MaxRecords: 5, MaxBytes: 1 << 20}
		require.NoError(t, l.Consume(ctx, sub, func(context.Context, []domain.Record) ([]ports.Pause, error) {
			cancel()
			return nil, nil
		}))
		require.NoError(t, l.Close())
		require.NoError(t, dir.Close())
		return path
	}
	var statements []string
	for _, bit := range []int{0, 3, 40, 44, 63} {
		for _, field := range []string{
			"UPDATE records SET id = (id | %[1]d) - (id & %[1]d) WHERE id = (SELECT max(id) - 3 FROM records WHERE id < %[2]d)",
			"UPDATE commits SET next_offset = (next_offset | %[1]d) - (next_offset & %[1]d)",
			"UPDATE topics SET next_offset = (next_offset | %[1]d) - (next_offset & %[1]d) WHERE number = 1",
			"UPDATE topics SET first_offset = (first_offset | %[1]d) - (first_offset & %[1]d) WHERE number = 1",
			"UPDATE topics SET number = (number | %[1]d) - (number & %[1]d) WHERE number = 1",
			"UPDATE records SET written_at = (written_at | %[1]d) - (written_at & %[1]d)",
		} {
			statements = append(statements, fmt.Sprintf(field, int64(uint64(1)<<bit), int64(2)<<offsetBits))
		}
	}
	for i, statement := range statements {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			path := build(t)
			dir := openDir(t, path)
			defer func() { require.NoError(t, dir.Close()) }()
			db, err := dir.open(logFile, 0)
			require.NoError(t, err)
			_, err = db.ExecContext(t.Context(), statement)
			require.NoError(t, db.Close())
			if err != nil {
				return // SQLite itself refuses it
			}
			o := logOptions(t)
			o.Log = slog.New(slog.DiscardHandler)
			o.Fatal = func(error) {}
			o.Lost = func(l domain.Loss) { require.NotEmpty(t, l.Topic, statement) }
			use(t, dir, o, statement)
			_, err = AcceptLoss(t.Context(), dir, o, true)
			_ = err // whatever it says: it did not panic
			if _, err = AcceptLoss(t.Context(), dir, o, false); err == nil {
				use(t, dir, o, statement)
			}
		})
	}
}

// use opens a log and does what docket does with it; errors are fine.
func use(t *testing.T, dir *Dir, o LogOptions, statement string) {
	t.Helper()
	l, err := OpenLog(t.Context(), dir, o)
	if err != nil {
		require.Equal(t, domain.Misconfigured, domain.ClassOf(err), "%s: %v", statement, err)
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Millisecond)
	defer cancel()
	for _, topic := range []string{testTopics.Decisions, testTopics.DLQ} {
		backlog, err := l.Backlog(ctx, "g", topic)
		if err == nil {
			require.GreaterOrEqual(t, backlog[0].Waiting(), int64(0), statement)
		}
		_ = l.Publish(ctx, []domain.Record{{Topic: topic, Key: "new", Value: []byte("{}")}})
		_, _ = l.Read(ctx, topic, 0, 0, func(domain.Record) bool { return true })
	}
	sub := ports.Subscription{Group: "g", Topics: []string{testTopics.Decisions}, MaxRecords: 5, MaxBytes: 1 << 20}
	_ = l.Consume(ctx, sub, func(context.Context, []domain.Record) ([]ports.Pause, error) { return nil, nil })
	_ = l.expire(ctx)
	_ = l.Close()
}

// TestACommitBeyondTheEnd is of another log: docket says so, and goes on once somebody has looked.
func TestACommitBeyondTheEnd(t *testing.T) {
	path := t.TempDir()
	dir := openDir(t, path)
	defer func() { require.NoError(t, dir.Close()) }()
	l, err := OpenLog(t.Context(), dir, logOptions(t))
	require.NoError(t, err)
	one := domain.Record{Topic: testTopics.Decisions, Key: "a", Value: []byte("{}")}
	require.NoError(t, l.Publish(t.Context(), []domain.Record{one}))
	require.NoError(t, l.Close())
	db, err := dir.open(logFile, 0)
	require.NoError(t, err)
	_, err = db.ExecContext(t.Context(), `INSERT INTO commits VALUES ('g', 1, 77, 0)`)
	require.NoError(t, err)
	require.NoError(t, db.Close())
	_, err = OpenLog(t.Context(), dir, logOptions(t))
	require.Equal(t, domain.Misconfigured, domain.ClassOf(err))
	require.ErrorContains(t, err, "beyond the end of the log")
	require.ErrorContains(t, err, "docket log accept-loss")
	losses, err := AcceptLoss(t.Context(), dir, logOptions(t), true)
	require.NoError(t, err)
	require.Len(t, losses, 1)
	_, err = AcceptLoss(t.Context(), dir, logOptions(t), false)
	require.NoError(t, err)
	l, err = OpenLog(t.Context(), dir, logOptions(t))
	require.NoError(t, err)
	require.NoError(t, l.Close())
}

// TestALogThatWasRemoved is given up at once, whatever its high-water mark was.
func TestALogThatWasRemoved(t *testing.T) {
	path := t.TempDir()
	dir := openDir(t, path)
	defer func() { require.NoError(t, dir.Close()) }()
	l, err := OpenLog(t.Context(), dir, logOptions(t))
	require.NoError(t, err)
	next, _, _ := l.snapshot()
	next[testTopics.Decisions] = 5_000_000_000
	require.NoError(t, l.mark.write(next))
	require.NoError(t, l.Close())
	_, err = OpenLog(t.Context(), dir, logOptions(t))
	require.Equal(t, domain.Misconfigured, domain.ClassOf(err), "%v", err)
	_, err = AcceptLoss(t.Context(), dir, logOptions(t), false)
	require.NoError(t, err)
	l, err = OpenLog(t.Context(), dir, logOptions(t))
	require.NoError(t, err)
	one := domain.Record{Topic: testTopics.Decisions, Key: "a", Value: []byte("{}")}
	require.NoError(t, l.Publish(t.Context(), []domain.Record{one}))
	require.NoError(t, l.Close())
}
