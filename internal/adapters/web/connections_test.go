package web

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
)

// reading is what a counter or a gauge says.
func reading(t *testing.T, c prometheus.Collector) float64 {
	t.Helper()
	reg := prometheus.NewRegistry()
	require.NoError(t, reg.Register(c))
	families, err := reg.Gather()
	require.NoError(t, err)
	m := families[0].GetMetric()[0]
	return m.GetCounter().GetValue() + m.GetGauge().GetValue()
}

// crowd is a server that has room for a few connections. /hold answers once it is told to.
type crowd struct {
	t      *testing.T
	addr   string
	limit  *Connections
	held   chan struct{}
	letGo  chan struct{}
	closed []net.Conn
}

func newCrowd(t *testing.T, room int) *crowd {
	t.Helper()
	inner, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	c := &crowd{
		t: t, addr: inner.Addr().String(), held: make(chan struct{}), letGo: make(chan struct{}),
		limit: Limit(inner, "test", room, NewMetrics(nil), slog.New(slog.DiscardHandler)),
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") })
	mux.HandleFunc("/hold", func(http.ResponseWriter, *http.Request) {
		c.held <- struct{}{}
		<-c.letGo
	})
	server := &http.Server{Handler: mux, ConnState: c.limit.State, ReadHeaderTimeout: time.Minute}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = server.Serve(c.limit)
	}()
	t.Cleanup(func() {
		for _, conn := range c.closed {
			_ = conn.Close()
		}
		require.NoError(t, server.Close())
		<-ended
	})
	return c
}

func (c *crowd) dial() net.Conn {
	c.t.Helper()
	conn, err := net.Dial("tcp", c.addr)
	require.NoError(c.t, err)
	require.NoError(c.t, conn.SetDeadline(time.Now().Add(20*time.Second)))
	c.closed = append(c.closed, conn)
	return conn
}

func (c *crowd) ask(conn net.Conn, path string) error {
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path); err != nil {
		return err
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return errors.Join(err, resp.Body.Close())
}

// idle waits until as many connections are idle.
func (c *crowd) idle(n int) {
	c.t.Helper()
	require.Eventually(c.t, func() bool {
		c.limit.mu.Lock()
		defer c.limit.mu.Unlock()
		return c.limit.idle.Len() == n
	}, 10*time.Second, time.Millisecond)
}

func TestConnections(t *testing.T) {
	t.Run("the one that was idle for longest goes", func(t *testing.T) {
		c := newCrowd(t, 3)
		var conns []net.Conn
		for n := range 3 {
			conns = append(conns, c.dial())
			require.NoError(t, c.ask(conns[n], "/"))
			c.idle(n + 1)
		}
		require.NoError(t, c.ask(conns[0], "/"), "it is the newest now")
		c.idle(3)
		require.NoError(t, c.ask(c.dial(), "/"))
		require.Error(t, c.ask(conns[1], "/"))
		require.NoError(t, c.ask(conns[0], "/"))
		require.NoError(t, c.ask(conns[2], "/"))
		require.InDelta(t, 3, reading(t, c.limit.gauge), 0)
	})
	t.Run("one that never asked goes first once it is old", func(t *testing.T) {
		c := newCrowd(t, 2)
		known := c.dial()
		require.NoError(t, c.ask(known, "/"))
		c.idle(1)
		silent := c.dial()
		require.Eventually(t, func() bool {
			c.limit.mu.Lock()
			defer c.limit.mu.Unlock()
			return c.limit.silent.Len() == 1 && time.Since(c.limit.silent.Front().Value.(*connection).since) > silence
		}, 10*time.Second, time.Millisecond)
		require.NoError(t, c.ask(c.dial(), "/"))
		_, err := silent.Read(make([]byte, 1))
		require.Error(t, err)
		require.NoError(t, c.ask(known, "/"))
	})
	t.Run("where all are at work, the new one is closed", func(t *testing.T) {
		c := newCrowd(t, 2)
		var said bytes.Buffer
		c.limit.logger = slog.New(slog.NewTextHandler(&said, nil))
		done := make(chan error, 2)
		for range 2 {
			go func(conn net.Conn) { done <- c.ask(conn, "/hold") }(c.dial())
			<-c.held
		}
		for range 5 {
			require.Error(t, c.ask(c.dial(), "/"))
		}
		require.InDelta(t, 5, reading(t, c.limit.refused), 0)
		require.Equal(t, 1, strings.Count(said.String(), "level=ERROR"))
		close(c.letGo)
		require.NoError(t, errors.Join(<-done, <-done))
		require.Eventually(t, func() bool { return c.ask(c.dial(), "/") == nil }, 10*time.Second, time.Millisecond)
	})
}

// failing is a listener that the system gives nothing.
type failing struct {
	net.Listener
	errs chan error
}

func (f failing) Accept() (net.Conn, error) { return nil, <-f.errs }

func TestAcceptErrorsAreTold(t *testing.T) {
	var said bytes.Buffer
	errs := make(chan error, 3)
	l := Limit(failing{errs: errs}, "upload", 1, NewMetrics(nil), slog.New(slog.NewTextHandler(&said, nil)))
	for range 2 {
		errs <- errors.New("too many open files")
		_, err := l.Accept()
		require.Error(t, err)
	}
	errs <- net.ErrClosed
	_, err := l.Accept()
	require.ErrorIs(t, err, net.ErrClosed)
	require.InDelta(t, 2, reading(t, l.fails), 0, "a listener that is closed has not failed")
	require.Equal(t, 1, strings.Count(said.String(), "level=ERROR"))
	require.Contains(t, said.String(), "too many open files")
}

// TestSilentConnections: where many connections have sent nothing, or a part of a header, the oldest goes once it is
// slow. What is being answered stays.
func TestSilentConnections(t *testing.T) {
	c := newCrowd(t, 2*maxSilent)
	atWork, answered := c.dial(), make(chan error, 1)
	go func() { answered <- c.ask(atWork, "/hold") }()
	<-c.held
	silent := func() int {
		c.limit.mu.Lock()
		defer c.limit.mu.Unlock()
		return c.limit.silent.Len()
	}
	var slow []net.Conn
	for range maxSilent + 1 {
		slow = append(slow, c.dial())
		_, err := io.WriteString(slow[len(slow)-1], "GET / HTTP/1.1\r\nHo")
		require.NoError(t, err)
	}
	require.Eventually(t, func() bool { return silent() == maxSilent+1 }, 10*time.Second, time.Millisecond)
	c.limit.mu.Lock()
	for e := c.limit.silent.Front(); e != nil; e = e.Next() {
		e.Value.(*connection).since = time.Now().Add(-silence)
	}
	c.limit.mu.Unlock()
	require.NoError(t, c.ask(c.dial(), "/"))
	require.Equal(t, maxSilent, silent())
	_, err := slow[0].Read(make([]byte, 1))
	require.Error(t, err, "the oldest")
	_, err = io.WriteString(slow[1], "st: x\r\n\r\n")
	require.NoError(t, err)
	resp, err := http.ReadResponse(bufio.NewReader(slow[1]), nil)
	require.NoError(t, err, "the others may go on")
	require.NoError(t, resp.Body.Close())
	close(c.letGo)
	require.NoError(t, <-answered)
}
