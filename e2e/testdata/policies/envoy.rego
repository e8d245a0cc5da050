package envoy.authz

http := input.attributes.request.http

default allow := {"allowed": false, "headers": {"x-ext-auth-reason": "a role is missing"}, "body": "Unauthorized", "http_status": 403}

allow := {"allowed": true, "headers": {"x-role": "reader"}} if {
	http.method == "GET"
	http.headers.role == "reader"
}
