package web

import (
	"container/list"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"
)

// Connections is a listener that has so many connections open at most, so that nobody can take the file descriptors
// that the log, the store and the other listeners need. One more than that takes the place of one on which nothing is
// asked; where every one is at work, the new one is closed. Of those that do not ask it keeps fewer: they take memory
// that uploads need.
type Connections struct {
	net.Listener
	limit   int
	name    string
	logger  *slog.Logger
	fails   prometheus.Counter
	refused prometheus.Counter
	gauge   prometheus.Gauge
	say     rate.Sometimes

	mu   sync.Mutex
	open int
	// silent have not asked for anything yet, or have sent a part of a header, and idle have not since their last answer;
	// both begin with the oldest.
	silent, idle list.List
}

const (
	// silence is how long a connection may say nothing before it goes ahead of those that have proved to be somebody's.
	silence = time.Second
	// maxSilent is how many connections may be silent for longer. A header comes in one piece, from everybody who does not
	// mean to hold what a connection takes.
	maxSilent = 1024
)

// Limit bounds the connections of a listener. Its server has to report their states to State.
func Limit(l net.Listener, name string, limit int, m *Metrics, logger *slog.Logger) *Connections {
	return &Connections{
		Listener: l, limit: limit, name: name, logger: logger, fails: m.acceptFails.WithLabelValues(name),
		refused: m.refused.WithLabelValues(name), gauge: m.open.WithLabelValues(name),
		say: rate.Sometimes{First: 1, Interval: time.Minute},
	}
}

// connection is one of them.
type connection struct {
	net.Conn
	owner *Connections
	// since it is open, where it stands in one of the owner's lists, and in which; the owner's lock guards them.
	since  time.Time
	in     *list.List
	at     *list.Element
	closed bool
}

// Accept returns the next connection that may stay.
func (l *Connections) Accept() (net.Conn, error) {
	for {
		accepted, err := l.Listener.Accept()
		if err != nil {
			if !errors.Is(err, net.ErrClosed) {
				l.fails.Inc()
				l.say.Do(func() {
					l.logger.Error(
						"a listener gets no connections from the system; docket goes on trying. Where too many files are open, raise "+
							"the limit (ulimit -n, LimitNOFILE)", "listener", l.name, "error", err,
					)
				})
			}
			return nil, err
		}
		c := &connection{Conn: accepted, owner: l, since: time.Now()}
		if l.admit(c) {
			return c, nil
		}
		// Counted before the other side can know of it: who was closed finds it in the metrics.
		l.refused.Inc()
		l.say.Do(func() {
			l.logger.Error(
				"a listener has as many connections as it may have and all are at work: new ones are closed. Raise the limit of "+
					"open files (ulimit -n, LimitNOFILE), or find out who opens so many", "listener", l.name, "connections", l.limit,
			)
		})
		_ = accepted.Close()
	}
}

// admit makes room for a connection, if there is any.
func (l *Connections) admit(c *connection) bool {
	l.mu.Lock()
	var goes *connection
	if l.open >= l.limit {
		if goes = l.dispensable(c.since); goes == nil {
			l.mu.Unlock()
			return false
		}
		l.forget(goes)
	}
	l.open++
	l.gauge.Set(float64(l.open))
	l.move(c, &l.silent)
	if first := l.silent.Front().Value.(*connection); goes == nil && l.silent.Len() > maxSilent &&
		c.since.Sub(first.since) >= silence {
		goes = first
		l.forget(goes)
	}
	l.mu.Unlock()
	if goes != nil {
		_ = goes.Conn.Close() // its server notices
	}
	return true
}

// dispensable is the connection that nobody would miss most: one that has been silent for a while, the one that has
// been idle for longest, or the oldest silent one.
func (l *Connections) dispensable(now time.Time) *connection {
	first := func(in *list.List) *connection {
		if in.Len() == 0 {
			return nil
		}
		return in.Front().Value.(*connection)
	}
	silent, idle := first(&l.silent), first(&l.idle)
	if silent != nil && (idle == nil || now.Sub(silent.since) >= silence) {
		return silent
	}
	return idle
}

// move puts a connection into a list, or into none.
func (l *Connections) move(c *connection, to *list.List) {
	if c.in != nil {
		c.in.Remove(c.at)
	}
	c.in, c.at = to, nil
	if to != nil {
		c.at = to.PushBack(c)
	}
}

// forget gives a connection's place away, once.
func (l *Connections) forget(c *connection) {
	if c.closed {
		return
	}
	c.closed = true
	l.move(c, nil)
	l.open--
	l.gauge.Set(float64(l.open))
}

// State is for http.Server.ConnState.
func (l *Connections) State(nc net.Conn, state http.ConnState) {
	if inner, ok := nc.(*tls.Conn); ok {
		nc = inner.NetConn()
	}
	c, ok := nc.(*connection)
	if !ok {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case c.closed, state == http.StateNew:
	case state == http.StateIdle:
		l.move(c, &l.idle)
	case state == http.StateActive:
		l.move(c, nil)
	case state == http.StateClosed, state == http.StateHijacked: // Close tells
	}
}

// Close ends the connection and gives its place away.
func (c *connection) Close() error {
	c.owner.mu.Lock()
	c.owner.forget(c)
	c.owner.mu.Unlock()
	return c.Conn.Close()
}
