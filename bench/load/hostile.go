package load

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Hostile is what strangers do to an upload listener, all at once, until its Stop.
type Hostile struct {
	stop chan struct{}
	wg   sync.WaitGroup
	addr string

	// Standing is how many slow connections are open, and ShownOut how many docket has ended.
	Standing, ShownOut atomic.Int64
	mu                 sync.Mutex
	answers            map[string]map[string]int // by kind of body and answer
}

// NewHostile begins nothing yet.
func NewHostile(addr string) *Hostile {
	return &Hostile{addr: addr, stop: make(chan struct{}), answers: map[string]map[string]int{}}
}

// Slow keeps so many connections open. Half of them have a token and an upload that gets a byte more every two
// seconds, the others have come as far in a header. Who is shown out comes again, at most perSecond of them a second.
func (h *Hostile) Slow(connections, perSecond int, token string) {
	header := "POST /logs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\nAuthorization: Bearer " + token
	body := header + "\r\n\r\n["
	h.wg.Go(func() {
		var standing sync.WaitGroup
		defer standing.Wait()
		pause := time.NewTicker(time.Second / time.Duration(perSecond))
		defer pause.Stop()
		for n := 0; ; n++ {
			select {
			case <-h.stop:
				return
			case <-pause.C:
			}
			if h.Standing.Load() >= int64(connections) {
				continue
			}
			text := body
			if n%2 == 0 {
				text = header
			}
			h.Standing.Add(1)
			standing.Go(func() {
				defer h.Standing.Add(-1)
				h.trickle(text)
			})
		}
	})
}

// trickle is one slow connection.
func (h *Hostile) trickle(head string) {
	conn, err := net.Dial("tcp", h.addr)
	if err != nil {
		h.ShownOut.Add(1)
		return
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = io.Copy(io.Discard, conn)
	}()
	defer func() {
		_ = conn.Close()
		<-ended
	}()
	again := time.NewTicker(2 * time.Second)
	defer again.Stop()
	for _, err = io.WriteString(conn, head); err == nil; _, err = io.WriteString(conn, " ") {
		select {
		case <-h.stop:
			return
		case <-ended:
			h.ShownOut.Add(1)
			return
		case <-again.C:
		}
	}
	h.ShownOut.Add(1)
}

// Body sends a body again and again: pause after the answer, or at once where pause is 0.
func (h *Hostile) Body(kind, token string, body []byte, pause time.Duration) {
	wire := appendRequest(nil, h.addr, token, body)
	h.wg.Go(func() {
		var c *connection
		var err error
		for {
			select {
			case <-h.stop:
				if c != nil {
					_ = c.Close()
				}
				return
			case <-time.After(pause):
			}
			if c == nil {
				c, err = Dial(h.addr)
			}
			answer := "no connection"
			if err == nil {
				var status int
				if status, err = c.send(wire); err == nil {
					answer = fmt.Sprint(status)
				} else {
					answer = "no answer"
				}
			}
			if err != nil && c != nil {
				_ = c.Close()
				c = nil
			}
			h.mu.Lock()
			if h.answers[kind] == nil {
				h.answers[kind] = map[string]int{}
			}
			h.answers[kind][answer]++
			h.mu.Unlock()
		}
	})
}

// Stop ends all of it and tells the answers, by kind of body.
func (h *Hostile) Stop() map[string]map[string]int {
	close(h.stop)
	h.wg.Wait()
	return h.answers
}

// packed is gzip of what write writes.
func packed(write func(w io.Writer)) []byte {
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		panic(err) // the level is a constant
	}
	write(z)
	_ = z.Close() // to memory
	return b.Bytes()
}

// Bomb is 7 MiB on the wire that inflates to 7 GiB of an array's first string. It is made of many members, which are
// one stream (RFC 1952 section 2.2).
func Bomb() []byte {
	begin := packed(func(w io.Writer) { _, _ = io.WriteString(w, `["`) })
	zeros := packed(func(w io.Writer) { _, _ = w.Write(bytes.Repeat([]byte{'0'}, 64<<20)) })
	return append(begin, bytes.Repeat(zeros, 7<<20/len(zeros))...)
}

// Tiny is so many of the smallest events.
func Tiny(n int) []byte {
	return packed(func(w io.Writer) { _, _ = io.WriteString(w, "["+strings.Repeat("{},", n-1)+"{}]") })
}

// Deep is an event that is so many arrays deep.
func Deep(n int) []byte {
	return packed(func(w io.Writer) {
		_, _ = io.WriteString(w, `[{"input":`+strings.Repeat("[", n)+strings.Repeat("]", n)+"}]")
	})
}
