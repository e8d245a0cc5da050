//go:build race

package replaypolicy_test

// The race detector needs more memory for itself than the process may have: these are tried without it.
var excesses []excess
