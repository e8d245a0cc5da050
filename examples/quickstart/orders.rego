package orders

owners := {"/orders/7": "alice", "/orders/8": "bob"}

decision := {"allow": count(reasons) == 0, "reasons": reasons}

reasons contains sprintf("%s is not the owner of %s", [input.user, input.resource]) if {
	input.action != "read"
	owners[input.resource] != input.user
}

reasons contains "orders are not changed on weekends" if {
	input.action != "read"
	input.weekday in {"Saturday", "Sunday"}
}
