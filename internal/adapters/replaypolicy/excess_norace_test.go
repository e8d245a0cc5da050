//go:build !race

package replaypolicy_test

// excesses take all the memory that the process may have.
var excesses = []excess{
	{"memory", `package orders
allow if bits.lsh(1, 34359738368) > 3`,
		"it takes more memory than a replay has"},
	{"it does not stop", `package orders
big := bits.lsh(1, 400000000)
allow if { x := big * big; x > 3 }`, "it did not stop, 7s after it had to"},
}
