package parking

import (
	"errors"
	"fmt"
	"time"

	"github.com/docket-project/docket/internal/config"
	"github.com/docket-project/docket/internal/sink"
)

// Config is what can be set of the parking role.
type Config struct {
	Concurrency int           `help:"Most batches that are replayed at once; with the embedded log it is one." env:"CONCURRENCY"`
	Adaptive    bool          `help:"Throttle the backlog while the store is slow or busy with fresh decisions; off, it takes all it may." env:"ADAPTIVE" negatable:""`
	MaxAttempts int           `help:"How often a row is rejected before it is dead-lettered." env:"MAX_ATTEMPTS"`
	BackoffMin  time.Duration `help:"First ceiling of the backoff between such failures; it doubles, and the wait is drawn from zero to it." env:"BACKOFF_MIN"`
	BackoffMax  time.Duration `help:"Last ceiling of that backoff." env:"BACKOFF_MAX"`
}

// Default is ten attempts, with a backoff from a second to a minute.
func Default() Config {
	return Config{Concurrency: 2, Adaptive: true, MaxAttempts: 10, BackoffMin: time.Second, BackoffMax: time.Minute}
}

// Validate reports everything that is wrong.
func (c Config) Validate() error {
	errs := []error{
		config.Positive("parking_concurrency", c.Concurrency), config.Positive("parking_max_attempts", c.MaxAttempts),
		config.Positive("parking_backoff_min", c.BackoffMin),
	}
	if c.BackoffMax < c.BackoffMin {
		errs = append(
			errs,
			fmt.Errorf("parking_backoff_max %s is less than parking_backoff_min %s", c.BackoffMax, c.BackoffMin),
		)
	}
	return errors.Join(errs...)
}

// Retry is how often, and when, a row is tried again that failed of its own fault.
func (c Config) Retry() sink.Retry {
	return sink.Retry{MaxAttempts: c.MaxAttempts, BackoffMin: c.BackoffMin, BackoffMax: c.BackoffMax}
}
