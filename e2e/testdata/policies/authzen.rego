package authzen

granted(subject, resource) if resource.owner == subject.id

default evaluation := {"decision": false, "context": {"reason_user": {"403": "Only owners can do that"}}}

evaluation := {"decision": true} if granted(input.subject, input.resource)

evaluations := {"evaluations": [answer |
	some e in input.evaluations
	answer := {"decision": owner(e), "context": {"reason_admin": {"en": sprintf("owner of %v", [e.resource.id])}}}
]}

default owner(_) := false

owner(e) if granted(input.subject, e.resource)
