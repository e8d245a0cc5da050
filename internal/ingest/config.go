package ingest

import (
	"errors"
	"fmt"
	"time"

	"github.com/docket-project/docket/internal/config"
	"github.com/docket-project/docket/internal/domain"
)

// Config is what can be set of ingest.
type Config struct {
	MaxInflatedBytes int           `help:"Longest upload when inflated." env:"DOCKET_MAX_INFLATED_BYTES" type:"size"`
	MaxEvents        int           `help:"Most events of an upload." env:"DOCKET_MAX_EVENTS"`
	MaxEventBytes    int           `help:"Longest event." env:"DOCKET_MAX_EVENT_BYTES" type:"size"`
	MaxDepth         int           `help:"Deepest nesting of an event." env:"DOCKET_MAX_DEPTH"`
	PublishTimeout   time.Duration `help:"How long an upload waits for the log before it is refused with 503; at most 7.5s, because OPA waits 10 s for an answer." env:"DOCKET_PUBLISH_TIMEOUT"`
}

// Default is the caps that docket ships, and a second less for the log than the 8 s that an answer may take: OPA itself
// waits 10 s for one.
func Default() Config {
	d := domain.DefaultLimits
	return Config{
		MaxInflatedBytes: d.Inflated, MaxEvents: d.Events, MaxEventBytes: d.Event, MaxDepth: d.Depth,
		PublishTimeout: 7 * time.Second,
	}
}

const (
	// maxPublishTimeout keeps the answer within the 8 s that the upload API promises.
	maxPublishTimeout = 7500 * time.Millisecond
	maxMaxDepth       = 1000
)

// Validate reports everything that is wrong.
func (c Config) Validate() error {
	errs := []error{
		config.Positive("max_inflated_bytes", c.MaxInflatedBytes), config.Positive("max_events", c.MaxEvents),
		config.Positive("max_event_bytes", c.MaxEventBytes), config.Positive("max_depth", c.MaxDepth),
	}
	if c.PublishTimeout <= 0 || c.PublishTimeout > maxPublishTimeout {
		errs = append(errs, fmt.Errorf("publish_timeout %s: more than 0 and at most %s", c.PublishTimeout, maxPublishTimeout))
	}
	if c.MaxDepth > maxMaxDepth {
		errs = append(errs, fmt.Errorf("max_depth %d: at most %d", c.MaxDepth, maxMaxDepth))
	}
	return errors.Join(errs...)
}

// Limits are the caps on an upload's content.
func (c Config) Limits() domain.Limits {
	return domain.Limits{Inflated: c.MaxInflatedBytes, Events: c.MaxEvents, Depth: c.MaxDepth, Event: c.MaxEventBytes}
}
