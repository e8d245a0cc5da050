package app

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/ports"
	"github.com/docket-project/docket/internal/status"
)

// taking is a log that takes everything.
type taking struct{ ports.Log }

func (taking) Publish(context.Context, []domain.Record) error { return nil }
func (taking) Ready(context.Context) error                    { return nil }

func TestDisk(t *testing.T) {
	var said bytes.Buffer
	free, failure := 0.5, error(nil)
	health := status.NewHealth(status.Serve)
	reg := prometheus.NewRegistry()
	d := newDisk(
		func() (float64, error) { return free, failure }, true, health, reg, slog.New(slog.NewTextHandler(&said, nil)),
	)
	log := roomy{taking{}, d}
	for _, step := range []struct {
		name    string
		free    float64
		failure error
		refuses bool
		says    string
	}{
		{"half empty", 0.5, nil, false, ""},
		{"84 % full", 0.16, nil, false, ""},
		{"85 % full", 0.15, nil, false, "level=WARN"},
		{"90 % full", 0.1, nil, false, ""},
		{"95 % full", 0.05, nil, true, "level=ERROR"},
		{"full", 0, nil, true, ""},
		{"the system does not tell", 0, errors.New("gone"), true, ""},
		{"90 % full again", 0.1, nil, false, "level=WARN"},
		{"empty again", 0.9, nil, false, "room again"},
	} {
		t.Run(step.name, func(t *testing.T) {
			said.Reset()
			free, failure = step.free, step.failure
			d.look()
			d.look()
			require.Equal(t, min(len(step.says), 1), strings.Count(said.String(), "\n"), "said once: %s", said.String())
			require.Contains(t, said.String(), step.says)
			for _, err := range []error{log.Publish(t.Context(), nil), log.Ready(t.Context())} {
				require.Equal(t, step.refuses, err != nil)
				if step.refuses {
					require.Equal(t, domain.Unavailable, domain.ClassOf(err))
				}
			}
			families, err := reg.Gather()
			require.NoError(t, err)
			if step.failure == nil {
				require.InDelta(t, step.free, families[0].GetMetric()[0].GetGauge().GetValue(), 1e-9)
			}
		})
	}
}

// TestDiskOfTheStoreAlone has the log elsewhere: whoever uploads has nothing to do with it.
func TestDiskOfTheStoreAlone(t *testing.T) {
	var said bytes.Buffer
	free := 0.1
	logger := slog.New(slog.NewTextHandler(&said, nil))
	d := newDisk(func() (float64, error) { return free, nil }, false, status.NewHealth(status.Serve), nil, logger)
	require.Contains(t, said.String(), "level=WARN")
	free = 0.01
	d.look()
	require.Contains(t, said.String(), "level=ERROR")
	require.NotContains(t, said.String(), "refused")
	require.NoError(t, roomy{taking{}, d}.Publish(t.Context(), nil))
	require.NoError(t, roomy{taking{}, d}.Ready(t.Context()))
}
