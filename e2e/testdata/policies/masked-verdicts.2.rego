package system.log

mask contains "/result/deny/0" if input.input.hide == "element"

mask contains "/result/deny" if input.input.hide == "deny"

mask contains {"op": "upsert", "path": "/result/allow", "value": true} if input.input.hide == "allow"

mask contains {"op": "upsert", "path": "/input/user", "value": "***"} if input.input.hide == "user"

mask contains "/result" if input.input.hide == "all"
