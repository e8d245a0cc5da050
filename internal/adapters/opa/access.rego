# What callers may do on docket's console listener.
#
# docket allows what has no reason against it, neither one of these nor one of the operator's own policy, the package
# docket.narrow. So that policy can only take away. Which tenants a caller sees is not decided here: no policy widens it.
package docket.access

# The role that each action needs. An action that is not here is refused.
needs := {
	"audit.read": "viewer",
	"credentials.read": "operator",
	"dead_letters.discard": "operator",
	"dead_letters.read": "viewer",
	"dead_letters.reindex": "operator",
	"dead_letters.replay": "operator",
	"decisions.erase": "admin",
	"decisions.export": "viewer",
	"decisions.read": "viewer",
	"decisions.replay_policy": "operator",
	"decisions.reproject": "operator",
	"decisions.search": "viewer",
	"guard.accept": "operator",
	"guard.revoke": "operator",
	"jobs.cancel": "operator",
	"jobs.pause": "operator",
	"jobs.read": "viewer",
	"jobs.resume": "operator",
	"opas.read": "viewer",
	"status.read": "viewer",
}

# Each role may do what the one before may.
rank := {"viewer": 1, "operator": 2, "admin": 3}

# What is missing in the input is undefined, and so is every expression with it. "not" stands before names of rules only:
# a rule that is undefined refuses.
known if needs[input.action]

ranked if rank[input.user.role]

enough if rank[input.user.role] >= rank[needs[input.action]]

reasons contains "docket's policy does not know the action" if not known

reasons contains "the caller has no role" if not ranked

reasons contains reason if {
	known
	ranked
	not enough
	reason := sprintf("it needs the role %s, and the caller has %s", [needs[input.action], input.user.role])
}
