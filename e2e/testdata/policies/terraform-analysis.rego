package terraform.analysis

score := sum([10 | some change in input.resource_changes; "delete" in change.change.actions])

default authz := false

authz if score < 10
