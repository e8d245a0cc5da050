package policy.ingress

enforce contains {"allowed": false, "message": "the host is taken"} if input.host == "a.example"

enforce contains {"allowed": true, "message": "fine"} if input.user

monitor contains {"allowed": false, "message": "seen"} if input.user
