package gateways

default kong := {"allow": false, "status": 451, "message": "not in your country"}

kong := {"allow": true} if input.consumer.username == "jo"

default apisix := {"allow": false, "reason": "no such route for you", "headers": {"Location": "https://example.com"}, "status_code": 302}

apisix := {"allow": true} if input.request.method == "GET"
