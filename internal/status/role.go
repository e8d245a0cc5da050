// Package status owns what a process knows of itself: samples of the log, the health of each role, and the verdict.
// /readyz, the API, metrics and the CLI render it. It leaves wording to them: what it says are codes with arguments.
package status

// Role is what a process does.
type Role string

// The roles. Serve is all of them.
const (
	Serve   Role = "serve"
	Ingest  Role = "ingest"
	Saver   Role = "saver"
	Parking Role = "parking"
	Console Role = "console"
)

// Roles lists those that a process may have: Serve has all of them.
var Roles = []Role{Ingest, Saver, Parking, Console}

// Is reports whether the process has a role.
func (r Role) Is(other Role) bool { return r == Serve || r == other }
