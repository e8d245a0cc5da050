package xacml

default decision := "NotApplicable"

decision := "Permit" if input.subject.role == "doctor"

decision := "Deny" if input.subject.role == "visitor"

default response := {"Decision": "Indeterminate"}

response := {"Decision": "Deny", "Reason": "visitors see nothing"} if input.subject.role == "visitor"
