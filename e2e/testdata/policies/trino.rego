package trino

default allow := false

allow if input.action.resource.table.schemaName == "public"

batch contains i if {
	some i, r in input.action.filterResources
	r.table.schemaName == "public"
}

rowFilters contains {"expression": "country = 'NL'"} if input.action.resource.table.tableName == "customers"

columnMask := {"expression": "NULL"} if input.action.resource.column.columnName == "iban"
