//go:build unix

package rego

import (
	"os"
	"runtime/debug"
	"syscall"
)

const (
	// maxMemory is all that a policy may have, and busyMemory is when Go's collector begins to work harder, in bytes.
	maxMemory  = 1 << 30
	busyMemory = 768 << 20
	// moreGarbage lets the heap grow to five times of what lives: the process does not live long.
	moreGarbage = 400
	// politeness is how far the process stands back behind the docket that started it (nice).
	politeness = 10
)

// confine bounds what this process may take. Beyond it the process dies, and not the docket beside it: it stands back
// for CPU time, and is the first that the kernel kills where memory is short. What a system does not have is left out.
func confine() {
	debug.SetMemoryLimit(busyMemory)
	debug.SetGCPercent(moreGarbage)
	for what, most := range map[int]uint64{syscall.RLIMIT_DATA: maxMemory, syscall.RLIMIT_CORE: 0} {
		_ = syscall.Setrlimit(what, &syscall.Rlimit{Cur: most, Max: most})
	}
	_ = syscall.Setpriority(syscall.PRIO_PGRP, 0, politeness) // all threads; whoever starts it gives it a group of its own
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("1000"), 0)
}

// seal keeps the process from opening anything from now on: files, which OPA's builtins for JSON schemas read where a
// schema refers to one, and sockets.
func seal() { _ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{}) }
