package shop.checkout

default deny := false

deny if input.cart.total > input.limit

default is_member := false

is_member if input.user == "alice"
