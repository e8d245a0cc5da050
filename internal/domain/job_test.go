package domain

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestJobStates is the state machine of jobs: every state under every move.
func TestJobStates(t *testing.T) {
	for state, want := range map[JobState]map[JobMove]bool{
		JobPending:  {Cancel: true, Pause: true},
		JobRunning:  {Cancel: true, Pause: true},
		JobPaused:   {Cancel: true, Resume: true},
		JobStopped:  {Cancel: true, Resume: true},
		JobCanceled: {},
		JobFailed:   {},
		JobDone:     {},
	} {
		for _, m := range JobMoves {
			require.Equal(t, want[m], state.Can(m), "%s a job that is %s", m, state)
			require.Equal(t, want[m], slices.Contains(m.From(), state))
		}
		require.False(t, state.Active() && state.Over())
		require.Equal(t, len(want) == 0, state.Over())
		require.Contains(t, JobStates, state)
	}
	for _, m := range JobMoves {
		require.Contains(t, JobStates, m.To())
	}
	require.False(t, JobPending.Can("drop"))
	require.Empty(t, JobMove("drop").To())
}

func TestLanes(t *testing.T) {
	for _, k := range []JobKind{Replay, Discard, Reindex} {
		require.Equal(t, DeadLetterJobs, k.Lane(false))
		require.Equal(t, DryRuns, k.Lane(true))
	}
}

func TestTooManyFail(t *testing.T) {
	for _, c := range []struct {
		name string
		job  Job
		want bool
	}{
		{"nothing yet", Job{}, false},
		{"a handful", Job{Done: 9, Failed: 9}, false},
		{"ten of ten", Job{Done: 10, Failed: 10}, true},
		{"just the share", Job{Done: 100, Failed: 10}, false},
		{"above it", Job{Done: 100, Failed: 11}, true},
		{"resumed since", Job{Done: 150, Failed: 60, BaseDone: 100, BaseFailed: 60}, false},
		{"resumed, and failing again", Job{Done: 150, Failed: 90, BaseDone: 100, BaseFailed: 60}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.job.StopRatio = DefaultStopRatio
			require.Equal(t, c.want, c.job.TooManyFail())
		})
	}
}
