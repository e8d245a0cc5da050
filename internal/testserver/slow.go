package testserver

import (
	"context"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// SlowLogins stands in front of a server and lets every connection wait before anything passes; what follows is as fast
// as ever. It returns its address, and ends with the test.
func SlowLogins(t testing.TB, target string, wait time.Duration) (addr string) {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var open sync.WaitGroup
	t.Cleanup(func() {
		_ = l.Close()
		open.Wait()
	})
	open.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			open.Go(func() {
				defer func() { _ = in.Close() }()
				time.Sleep(wait) // it is what is tested
				out, err := new(net.Dialer).DialContext(context.Background(), "tcp", target)
				if err != nil {
					return
				}
				defer func() { _ = out.Close() }()
				open.Go(func() {
					_, _ = io.Copy(out, in)
					_ = out.(*net.TCPConn).CloseWrite()
				})
				_, _ = io.Copy(in, out)
			})
		}
	})
	return l.Addr().String()
}
