package uploadapi

import "github.com/docket-project/docket/internal/config"

// Config is what can be set of the upload API.
type Config struct {
	MaxWireBytes     int64 `help:"Longest upload on the wire." env:"DOCKET_MAX_WIRE_BYTES" type:"size"`
	MaxInFlightBytes int64 `help:"All uploads being handled, on the wire and inflated; beyond it uploads are refused with 503." env:"DOCKET_MAX_IN_FLIGHT_BYTES" type:"size"`
}

// Default is 8 MiB on the wire, and 256 MiB in flight.
func Default() Config { return Config{MaxWireBytes: 8 << 20, MaxInFlightBytes: 256 << 20} }

// Validate reports everything that is wrong.
func (c Config) Validate() error {
	return config.Positive("max_wire_bytes", c.MaxWireBytes)
}
