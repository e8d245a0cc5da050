package kafka.authz

default allow := false

allow if {
	input.action.operation == "READ"
	input.requestContext.principal.name == "billing"
}
