package api

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/deadletter"
	"github.com/docket-project/docket/internal/domain"
)

// TestWhatAReplaySaysAgreesWithItsNumbers has dead letters that came back after the job had ended.
func TestWhatAReplaySaysAgreesWithItsNumbers(t *testing.T) {
	ended := domain.Job{
		Kind: domain.Replay, State: domain.JobStopped, Matched: 240, Done: 100, Stored: 38, Failed: 62, StopRatio: 0.1,
		Message: domain.Say(
			deadletter.ReplayStopped, domain.Args{"failed": int64(32), "done": int64(100), "stop_ratio": 0.1},
		),
	}
	j := JobOf(ended, time.Now())
	require.EqualValues(t, 62, j.Failed)
	require.EqualValues(t, 62, j.Args["failed"])
	require.Contains(t, j.Message, "62")
	require.NotContains(t, j.Message, "32")
	require.EqualValues(t, 32, ended.Message.Args["failed"], "the job's own is nobody's to change")
	require.NotContains(t, j.Args, "skipped", "what the message does not say")

	ended.State, ended.Message = domain.JobDone, domain.Say(deadletter.ReplayDone, domain.Args{
		"done": int64(100), "stored": int64(30), "failed": int64(32), "reparsed": int64(0), "on_the_way": int64(38),
		"skipped": int64(0),
	})
	j = JobOf(ended, time.Now())
	require.EqualValues(t, 0, j.OnTheWay)
	require.EqualValues(t, 0, j.Args["on_the_way"])
	require.EqualValues(t, 38, j.Args["stored"])
}
