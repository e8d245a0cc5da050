package http.authz

default allow = false

allow { input.user == input.owner }

reasons["not the owner"] { not allow }

decision = {"allow": allow, "reasons": reasons}
