package shop

default allow := false

allow if input.user == "alice"
