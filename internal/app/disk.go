package app

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/ports"
	"github.com/docket-project/docket/internal/status"
)

const (
	// diskEvery is how often the file system of the data directory is looked at.
	diskEvery = time.Second
	// diskWarn and diskFull are parts of it that are in use: from the first on people are told, from the second on uploads
	// are refused, while the saver still has room to bring what waits to an end.
	diskWarn = 0.85
	diskFull = 0.95
)

// disk watches the file system that the data directory is on. A log on a disk that is full can neither take nor finish
// anything, and whatever else is on it suffers as well.
type disk struct {
	free   func() (ratio float64, err error)
	health *status.Health
	logger *slog.Logger
	// refuses says that the log is on this disk, so that uploads are refused.
	refuses bool

	used  atomic.Uint64 // as a float64
	level int           // 0 well, 1 warned, 2 full
}

func newDisk(
	free func() (float64, error), refuses bool, health *status.Health, reg prometheus.Registerer, logger *slog.Logger,
) *disk {
	d := &disk{free: free, refuses: refuses, health: health, logger: logger}
	promauto.With(reg).NewGaugeFunc(prometheus.GaugeOpts{
		Name: "docket_disk_free_ratio", Help: "Part of the data directory's file system that is free.",
	}, func() float64 { return 1 - d.inUse() })
	d.look()
	return d
}

// inUse is the part that is in use, from 0 to 1.
func (d *disk) inUse() float64 { return math.Float64frombits(d.used.Load()) }

// run looks until ctx is done.
func (d *disk) run(ctx context.Context) {
	tick := time.NewTicker(diskEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			d.look()
		}
	}
}

// look tells of a level once.
func (d *disk) look() {
	free, err := d.free()
	if err != nil {
		d.logger.Debug("the file system of the data directory does not tell how full it is", "error", err)
		return
	}
	used := 1 - free
	d.used.Store(math.Float64bits(used))
	level := 0
	switch {
	case used >= diskFull:
		level = 2
	case used >= diskWarn:
		level = 1
	}
	was := d.level
	if d.level = level; level == was {
		return
	}
	percent := slog.Int("percent", int(100*used))
	switch {
	case level == 2 && d.refuses:
		d.logger.Error("the disk is full but for 5 %: uploads are refused until there is room again. Make room, or shorten "+
			"the retention (docket retention apply)", percent)
	case level == 2:
		d.logger.Error("the disk of the embedded store is full but for 5 %: what it does not take waits in the log. Make "+
			"room, or shorten the retention (docket retention apply)", percent)
	case level == 1 && d.refuses:
		d.logger.Warn("the disk fills: from 95 % on uploads are refused. Make room, or shorten the retention (docket "+
			"retention apply)", percent)
	case level == 1:
		d.logger.Warn("the disk of the embedded store fills. Make room, or shorten the retention (docket retention apply)",
			percent)
	default:
		d.logger.Info("the disk has room again", percent)
	}
	if level == 0 {
		d.health.Disk(nil)
		return
	}
	m := domain.Say(status.DiskFills, domain.Args{
		"percent": int(100 * used), "refuses": d.refuses, "refusing": d.refuses && level == 2,
	})
	d.health.Disk(&m)
}

// refusal is why nothing new is taken, or nil.
func (d *disk) refusal() error {
	if used := d.inUse(); used >= diskFull && d.refuses {
		return &domain.Error{Class: domain.Unavailable, Code: "DISK_FULL", Text: fmt.Sprintf(
			"%d %% of the data directory's file system are in use; docket takes nothing from %d %% on, until there is room",
			int(100*used), int(100*diskFull),
		)}
	}
	return nil
}

// roomy is a log that takes nothing new while the disk is full. The roles that finish what it has publish to the log
// itself.
type roomy struct {
	ports.Log
	disk *disk
}

// Publish refuses before the disk does.
func (r roomy) Publish(ctx context.Context, records []domain.Record) error {
	if err := r.disk.refusal(); err != nil {
		return err
	}
	return r.Log.Publish(ctx, records)
}

// Ready says that Publish refuses.
func (r roomy) Ready(ctx context.Context) error {
	if err := r.disk.refusal(); err != nil {
		return err
	}
	return r.Log.Ready(ctx)
}
