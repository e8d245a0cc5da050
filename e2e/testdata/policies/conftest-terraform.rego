package main

deny contains msg if {
	some change in input.resource_changes
	change.type == "aws_security_group_rule"
	"0.0.0.0/0" in change.change.after.cidr_blocks
	msg := sprintf("%v is open to the world", [change.address])
}

warn contains msg if {
	some change in input.resource_changes
	not change.change.after.tags
	msg := sprintf("%v has no tags", [change.address])
}
