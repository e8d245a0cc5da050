package stack

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/docket-project/docket/internal/testserver"
)

// EndOnInterrupt makes an interrupt end everything that was started: children lead process groups of their own, so that
// a terminal's interrupt reaches only this program.
func EndOnInterrupt() {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		s := <-signals
		fmt.Fprintf(os.Stderr, "docket-bench: %s: ending what was started\n", s)
		testserver.KillAll()
		os.Exit(130)
	}()
}
