package spacelift

deny contains sprintf("must not delete %v", [change.address]) if {
	some change in input.terraform.resource_changes
	"delete" in change.change.actions
}

warn contains "it is Friday" if input.spacelift.friday

default sample := true
