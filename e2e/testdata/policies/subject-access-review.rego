package kubernetes.authz

default review := {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "status": {"allowed": false, "reason": "no opinion"}}

review := {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "status": {"allowed": false, "denied": true, "reason": "secrets are for robots"}} if {
	input.spec.resourceAttributes.resource == "secrets"
}

review := {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "status": {"allowed": true}} if input.spec.user == "admin"
