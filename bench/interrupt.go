package main

import (
	"fmt"
	"maps"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/docket-project/docket/internal/testserver"
)

// running are the ways to end what this program has started. Children lead process groups of their own, so that a
// terminal's interrupt reaches only us: without this, brokers and databases would stay behind.
var running = struct {
	sync.Mutex
	ends map[any]func()
}{ends: map[any]func(){}}

// onInterrupt ends something if we are interrupted, until forget is called with the same key.
func onInterrupt(key any, end func()) {
	running.Lock()
	defer running.Unlock()
	running.ends[key] = end
}

func forget(key any) {
	running.Lock()
	defer running.Unlock()
	delete(running.ends, key)
}

// endOnInterrupt makes an interrupt end everything that was started.
func endOnInterrupt() {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		s := <-signals
		fmt.Fprintf(os.Stderr, "docket-bench: %s: ending what was started\n", s)
		running.Lock()
		ends := maps.Clone(running.ends)
		running.Unlock()
		for _, end := range ends {
			end()
		}
		testserver.KillAll()
		os.Exit(130)
	}()
}
