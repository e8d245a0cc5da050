package retention

import (
	"time"

	"github.com/docket-project/docket/internal/config"
	"github.com/docket-project/docket/internal/domain"
)

// Config is what can be set of the retention.
type Config struct {
	Retention config.Duration `help:"How long decisions are kept, by their own timestamp. Takes d for days." env:"DOCKET_RETENTION"`
}

// Default is 90 days.
func Default() Config { return Config{Retention: config.Duration(90 * 24 * time.Hour)} }

// Validate reports what is wrong.
func (c Config) Validate() error { return config.Positive("retention", c.Retention) }

// Window is what the store keeps by timestamp.
func (c Config) Window() domain.Window {
	return domain.Window{Retention: time.Duration(c.Retention), Ahead: domain.DefaultAhead}
}
