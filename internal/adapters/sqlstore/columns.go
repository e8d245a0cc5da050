package sqlstore

import (
	"strings"

	"github.com/docket-project/docket/internal/domain"
)

// TextColumns names the projected texts, each behind a prefix such as "u.".
func TextColumns(prefix string) string {
	names := make([]string, len(domain.TextColumns))
	for i, c := range domain.TextColumns {
		names[i] = prefix + c.Name
	}
	return strings.Join(names, ", ")
}

// The columns of the other tables, in the order in which both stores write and read them.
const (
	DeadLetterColumns = `id, topic, partition, "offset", state, class, code, cause, error, error_text, fingerprint,
		attempts, tenant, decision_id, path, timestamp, decision, whole, sha256, bytes, upload, origin, received_at,
		first_failed_at, died_at, indexed_at, changed_at, copies, replay, replays`
	JobColumns = `id, kind, lane, dry_run, filter, tenants, rate, max, max_replays, stop_ratio, comment, caller, state,
		message, matched, done, stored, failed, reparsed, skipped, base_done, base_failed, after_topic, after_partition,
		after_offset, report, created_at, started_at, finished_at, owner, lease_until`
	AuditColumns = `at, caller, tenants, action, target, filter, matched, done, failed, comment, outcome`
)

// Columns counts the names in a list.
func Columns(list string) int { return strings.Count(list, ",") + 1 }

// InList spells states for a statement whose partial index names them: they are the program's own, and no parameters.
func InList[T ~string](values []T) string {
	quoted := make([]string, len(values))
	for i, v := range values {
		quoted[i] = "'" + string(v) + "'"
	}
	return "(" + strings.Join(quoted, ", ") + ")"
}
