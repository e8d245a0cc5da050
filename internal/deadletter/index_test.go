package deadletter

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/ports"
)

// indexStore fails as it is told, and keeps what it was given.
type indexStore struct {
	ports.DeadLetterIndex
	fail    func(letters []domain.DeadLetter) error
	indexed []string
	gone    map[domain.DeadState]int64
	audited []domain.AuditEntry
}

func (s *indexStore) IndexDeadLetters(_ context.Context, letters []domain.DeadLetter) error {
	if err := s.fail(letters); err != nil {
		return err
	}
	for _, l := range letters {
		s.indexed = append(s.indexed, l.ID)
	}
	return nil
}

func (s *indexStore) ForgetDeadLetters(
	_ context.Context, _ string, partition int32, _ int64,
) (map[domain.DeadState]int64, error) {
	if partition > 0 {
		return nil, nil
	}
	return s.gone, nil
}

func (s *indexStore) Audit(_ context.Context, e domain.AuditEntry) error {
	s.audited = append(s.audited, e)
	return nil
}

type indexLog struct {
	ports.Log
	backlog []ports.Backlog
}

func (l indexLog) Backlog(context.Context, string, ...string) ([]ports.Backlog, error) {
	return l.backlog, nil
}

func newIndex(t *testing.T, s *indexStore, l ports.Log) (*Index, *strings.Builder) {
	p, err := domain.NewProjector(nil)
	require.NoError(t, err)
	var text strings.Builder
	return &Index{
		Store: s, Log: l, Projector: p, Topics: domain.TopicsWithPrefix("docket."),
		Logger: slog.New(slog.NewTextHandler(&text, nil)),
	}, &text
}

func TestIndexHandle(t *testing.T) {
	batch := []domain.Record{
		{
			Topic:  "docket.dlq",
			Offset: 5,
			Value:  []byte(`{"decision_id":"a"}`),
		},
		{Topic: "docket.dlq", Offset: 6, Value: []byte(`{"decision_id":"bad"}`)},
		{Topic: "docket.parking.dlq", Partition: 1, Offset: 9, Value: []byte(`{"decision_id":"c"}`)},
	}
	failing := func(class domain.Class) func([]domain.DeadLetter) error {
		return func([]domain.DeadLetter) error { return domain.Errorf(class, "no") }
	}
	for _, c := range []struct {
		name    string
		fail    func([]domain.DeadLetter) error
		indexed int
		paused  int
		err     domain.Class
	}{
		{"all is well", func([]domain.DeadLetter) error { return nil }, 3, 0, ""},
		{"the store is away", failing(domain.Unavailable), 0, 2, ""},
		{"the schema is wrong", failing(domain.Misconfigured), 0, 2, ""},
		{"docket stops", failing(domain.Canceled), 0, 0, domain.Canceled},
		{"one cannot be indexed", func(letters []domain.DeadLetter) error {
			for _, l := range letters {
				if l.DecisionID == "bad" {
					return domain.Errorf(domain.Invalid, "not this one")
				}
			}
			return nil
		}, 2, 0, ""},
		{"the store goes away while that is found out", func(letters []domain.DeadLetter) error {
			if len(letters) > 1 {
				return domain.Errorf(domain.Unknown, "no")
			}
			return domain.Errorf(domain.Unavailable, "away")
		}, 0, 2, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := &indexStore{fail: c.fail}
			x, text := newIndex(t, s, nil)
			pauses, err := x.Handle(t.Context(), batch)
			require.Len(t, s.indexed, c.indexed)
			require.Len(t, pauses, c.paused)
			if c.err != "" {
				require.Equal(t, c.err, domain.ClassOf(err))
				return
			}
			require.NoError(t, err)
			for _, h := range pauses {
				require.Contains(t, []int64{5, 9}, h.Offset, "from its first record on")
				require.WithinDuration(t, time.Now().Add(indexWait), h.Until, time.Second)
			}
			if c.indexed == 2 {
				require.Contains(t, text.String(), "dead_letter=docket.dlq:0:6")
				require.NotContains(t, text.String(), `"bad"`, "row contents are not logged")
			}
		})
	}
}

// TestForgottenWhileOpen writes down what no operator dealt with in time.
func TestForgottenWhileOpen(t *testing.T) {
	s := &indexStore{gone: map[domain.DeadState]int64{domain.DeadOpen: 7, domain.DeadStored: 9}}
	x, text := newIndex(
		t,
		s,
		indexLog{
			backlog: []ports.Backlog{
				{Topic: "docket.dlq", Start: 100, End: 200},
				{Topic: "docket.dlq", Partition: 1, Start: 100, End: 200},
				{Topic: "docket.parking.dlq", End: 5},
			},
		},
	)
	require.NoError(t, x.forget(t.Context()))
	require.Len(t, s.audited, 1)
	require.Equal(
		t, "dead-letters.expired docket 7",
		s.audited[0].Action+" "+s.audited[0].Caller+" "+string(rune('0'+s.audited[0].Done)),
	)
	require.Contains(t, text.String(), "dead_letters=7")
}
