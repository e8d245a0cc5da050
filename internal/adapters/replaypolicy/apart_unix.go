//go:build unix

package replaypolicy

import (
	"os/exec"
	"syscall"
)

// apart gives a process a group of its own: it may stand back as a whole, and a terminal's Ctrl-C is not for it.
func apart(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }
