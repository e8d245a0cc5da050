package status

import (
	"context"
	"log/slog"
	"time"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/ports"
)

const (
	// beatEvery is how often a process tells of itself; domain.ProcessStale allows for a few that are missed.
	beatEvery = 5 * time.Second
	// beatTimeout bounds one word, and leaveTimeout the last.
	beatTimeout  = 3 * time.Second
	leaveTimeout = time.Second
)

// Heart tells the store of a process, so that others can tell whether it lives. While the store is away nobody hears.
type Heart struct {
	Board  ports.Processes
	Self   domain.Process // Name, Role, Host, Started
	Report func(verbose bool) Report
	Logger *slog.Logger
}

// Run tells until ctx is done, and takes leave then: whoever is gone without that was killed.
func (h *Heart) Run(ctx context.Context) {
	every(ctx, beatEvery, func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, beatTimeout)
		defer cancel()
		if err := h.Board.BeatProcess(ctx, h.now()); err != nil {
			h.Logger.Debug("the store was not told of this process", "error", err)
		}
	})
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveTimeout)
	defer cancel()
	if err := h.Board.LeaveProcess(ctx, h.Self.Name); err != nil {
		h.Logger.Debug("the store was not told that this process ends", "error", err)
	}
}

// now is the process as it is.
func (h *Heart) now() domain.Process {
	p, r := h.Self, h.Report(false)
	p.Seen, p.Ready, p.Trouble = time.Now().UTC(), r.Ready(), map[string][]domain.Message{}
	for role, health := range r.Roles {
		if len(health.Reasons) > 0 {
			p.Trouble[string(role)] = health.Reasons
		}
	}
	return p
}
