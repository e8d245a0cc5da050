package shop

decision := {"allow": allow, "deny": deny, "reason": "as the policy says"}

default allow := false

allow if input.user == "alice"

deny contains "a secret reason" if input.user == "bob"
