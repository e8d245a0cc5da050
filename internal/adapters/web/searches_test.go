package web

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/adapters/api"
	"github.com/docket-project/docket/internal/domain"
)

func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := NewTurns(2, "searches")
		ann, bob := domain.Caller{Name: "ann"}, domain.Caller{Name: "bob"}
		take := func(c domain.Caller) func() {
			t.Helper()
			release, err := turns.Take(t.Context(), c)
			require.NoError(t, err)
			return release
		}
		first, second := take(ann), take(ann)
		began := time.Now()
		_, err := turns.Take(t.Context(), ann)
		var refused *api.Problem
		require.True(t, errors.As(err, &refused), "%v", err)
		require.Equal(t, http.StatusTooManyRequests, refused.Status)
		require.Contains(t, refused.Detail, "ann has 2 searches")
		require.Equal(t, waitForTurn, time.Since(began))
		began = time.Now()
		take(bob)()
		require.Zero(t, time.Since(began), "others do not wait for her")
		time.AfterFunc(time.Second, first)
		third := take(ann)
		require.Equal(t, time.Second, time.Since(began), "she waits for her own")
		gone, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		_, err = turns.Take(gone, ann)
		require.ErrorIs(t, err, context.Canceled)
		second()
		third()
		require.Empty(t, turns.callers, "nobody is remembered")
	})
}
