package http.authz

import rego.v1

default allow := false

allow if input.user == input.owner

reasons contains "not the owner" if not allow

decision := {"allow": allow, "reasons": reasons}

undefined_for_guests := true if input.user != "guest"

conflict := 1 if input.user

conflict := 2 if input.user

remote := http.send({"method": "GET", "url": "http://127.0.0.1:1/", "raise_error": false}).status_code
