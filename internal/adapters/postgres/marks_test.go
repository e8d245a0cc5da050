package postgres

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/domain"
)

// TestHistory is the same for everybody who asks the same server; one that does not say has none, and takes marks all
// the same.
func TestHistory(t *testing.T) {
	server := postgres(t)
	ask := func(b *bench) string {
		t.Helper()
		_, history, err := b.store.LogMarks(t.Context(), "saver")
		require.NoError(t, err)
		mark := domain.Mark{Group: "saver", Topic: "t", TopicID: "id", Offset: 1}
		advanced, err := b.store.AdvanceLogMarks(t.Context(), []domain.MarkStep{{Mark: mark, History: history}})
		require.NoError(t, err)
		require.True(t, advanced)
		return history
	}
	b := newBench(t, server, nil)
	require.Regexp(t, `^0000000[1-9]/[0-9]+$`, ask(b), "timeline and cluster")
	require.Equal(t, ask(b), ask(newBench(t, server, nil)))

	silent := newBench(t, server, nil)
	silent.exec(t, `REVOKE EXECUTE ON FUNCTION pg_control_system FROM PUBLIC`) // of this database
	require.Empty(t, ask(silent))
}
