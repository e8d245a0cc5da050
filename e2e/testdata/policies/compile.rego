package filters

# METADATA
# scope: document
# compile:
#   unknowns: [input.fruits]
include if input.user == "admin"

include if {
	input.user == "jo"
	input.fruits.owner == input.user
}
