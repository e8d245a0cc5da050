//go:build !race

package app

import "github.com/docket-project/docket/internal/domain"

// The caps of the upload contract's test are those that docket ships.
var (
	contractEvents   = domain.DefaultLimits.Events
	contractInflated = domain.DefaultLimits.Inflated
)
