//go:build !unix

package replaypolicy

import "os/exec"

// apart does nothing: this system has no groups of processes.
func apart(*exec.Cmd) {}
