package system.log

import rego.v1

mask contains "/input/password" if input.input.password

mask contains {"op": "upsert", "path": "/input/card", "value": "****"} if input.input.card
