package main

deny_run_as_root contains msg if {
	input.kind == "Deployment"
	not input.spec.template.spec.securityContext.runAsNonRoot
	msg := sprintf("%v runs as root", [input.metadata.name])
}

violation_no_owner contains {"msg": msg} if {
	not input.metadata.labels.owner
	msg := "nobody owns it"
}
