package sqlite

import (
	"fmt"
	"time"

	"github.com/docket-project/docket/internal/adapters/sqlstore"
)

// dialect is SQLite's. Times are microseconds since 1970.
var dialect = &sqlstore.Dialect{
	Param:          func(n int, _ sqlstore.Type) string { return fmt.Sprintf("?%d", n) },
	Instant:        func(t time.Time) any { return t.UnixMicro() },
	StartsWith:     "substr(%[1]s, 1, length(%[2]s)) = %[2]s",
	AnyRevision:    "EXISTS (SELECT 1 FROM json_each(bundles) e WHERE %s)",
	RevisionColumn: "e.value",
	Greatest:       "max",
	OwnedBy: "tenants IS NOT NULL AND NOT EXISTS (SELECT 1 FROM json_each(tenants) t " +
		"WHERE t.value NOT IN (SELECT o.value FROM json_each(%s) o))",
}
