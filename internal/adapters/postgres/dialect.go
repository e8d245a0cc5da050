package postgres

import (
	"fmt"
	"time"

	"github.com/docket-project/docket/internal/adapters/sqlstore"
)

// dialect is PostgreSQL's. Every parameter has its type, so that the server is not asked for it first.
var dialect = &sqlstore.Dialect{
	Param:          func(n int, t sqlstore.Type) string { return fmt.Sprintf("$%d::%s", n, t) },
	Instant:        func(t time.Time) any { return t },
	StartsWith:     "starts_with(%s, %s)",
	AnyRevision:    "EXISTS (SELECT 1 FROM jsonb_each_text(bundles) b WHERE %s)",
	RevisionColumn: "b.value",
	Greatest:       "greatest",
	OwnedBy:        "tenants <@ (%s)::jsonb",
}
