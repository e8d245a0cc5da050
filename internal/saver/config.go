package saver

import (
	"errors"
	"fmt"
	"time"

	"github.com/docket-project/docket/internal/config"
)

// Config is what can be set of the saver; the parking role gathers batches of the same size.
type Config struct {
	Concurrency  int           `help:"Most batches that are saved at once; with the embedded log it is one." env:"CONCURRENCY"`
	BatchRecords int           `help:"Most records of one batch to the store." env:"BATCH_RECORDS"`
	BatchBytes   int           `help:"Most bytes of one batch to the store." env:"BATCH_BYTES" type:"size"`
	BatchWait    time.Duration `help:"Longest a record waits for its batch to fill." env:"BATCH_WAIT"`
	Adaptive     bool          `help:"Save fewer batches at once while the store is slow to take them; off, it is always as many as come, up to the most." env:"ADAPTIVE" negatable:""`
}

// Default is four batches at once, of 1,000 records or 4 MiB.
func Default() Config {
	return Config{
		Concurrency: 4, BatchRecords: 1000, BatchBytes: 4 << 20, BatchWait: 100 * time.Millisecond, Adaptive: true,
	}
}

// maxBatchWait and a handler's time are less than what a group waits for a member.
const maxBatchWait = 10 * time.Second

// Validate reports everything that is wrong.
func (c Config) Validate() error {
	errs := []error{
		config.Positive("saver_concurrency", c.Concurrency), config.Positive("saver_batch_records", c.BatchRecords),
		config.Positive("saver_batch_bytes", c.BatchBytes), config.Positive("saver_batch_wait", c.BatchWait),
	}
	if c.BatchWait > maxBatchWait {
		errs = append(errs, fmt.Errorf("saver_batch_wait %s: at most %s, because a consumer group does not wait for longer",
			c.BatchWait, maxBatchWait))
	}
	return errors.Join(errs...)
}
