package rbac_policy

default decision := {"result": "DENY"}

decision := {"result": "ALLOW"} if input.permission.name == "catalog.entity.read"

decision := {
	"result": "CONDITIONAL", "pluginId": "catalog", "resourceType": "catalog-entity",
	"conditions": {"anyOf": [{"resourceType": "catalog-entity", "rule": "IS_ENTITY_OWNER", "params": {"claims": input.identity.claims}}]},
} if input.permission.name == "catalog.entity.delete"
