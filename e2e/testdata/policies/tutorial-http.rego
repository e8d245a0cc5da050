package httpapi.authz

default allow := false

allow if {
	input.method == "GET"
	input.path == ["finance", "salary", input.user]
}
