package main

import (
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/docket-project/docket/bench/events"
)

// flood sends numbered uploads as fast as they are taken, each until it is: what is refused is sent again after a
// pause.
type flood struct {
	addr        string
	run         events.Run
	uploads     int64 // the number behind the last
	connections int
	rate        float64 // uploads a second; 0 is as fast as they are taken

	first    int64
	began    time.Time
	next     atomic.Int64
	taken    atomic.Int64
	refused  atomic.Int64 // answers of 503 and 429
	broken   atomic.Int64 // connections that ended without an answer
	statuses sync.Map     // of every other answer, to *atomic.Int64
}

// guardPause is how long a sender waits before it sends again what was refused, and guardTries how often it does so.
const (
	guardPause = 50 * time.Millisecond
	guardTries = 2000
)

// begin makes the number of the first upload another than 0.
func (f *flood) begin(upload int64) {
	f.first = upload
	f.next.Store(upload)
}

// send returns when every upload is taken.
func (f *flood) send() error {
	f.began = time.Now()
	failures := make(chan error, f.connections)
	var wg sync.WaitGroup
	for range f.connections {
		wg.Go(func() { failures <- f.sender() })
	}
	wg.Wait()
	close(failures)
	var errs []error
	for err := range failures {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (f *flood) sender() error {
	var c *connection
	var wire, body []byte
	defer func() {
		if c != nil {
			_ = c.Close()
		}
	}()
	for {
		upload := f.next.Add(1) - 1
		if upload >= f.uploads {
			return nil
		}
		if f.rate > 0 {
			time.Sleep(time.Until(f.began.Add(time.Duration(float64(upload-f.first) / f.rate * float64(time.Second)))))
		}
		body = f.run.Append(body[:0], upload, time.Now())
		wire = fmt.Appendf(
			wire[:0],
			"POST /logs HTTP/1.1\r\nHost: %s\r\nUser-Agent: Open-Policy-Agent/1.22.2 (linux, amd64)\r\nContent-Type: "+
				"application/json\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n",
			f.addr,
			len(body),
		)
		wire = append(wire, body...)
		for try := 0; ; try++ {
			var status int
			err := error(nil)
			if c == nil {
				c, err = dial(f.addr)
			}
			if err == nil {
				status, err = c.send(wire)
			}
			if err == nil && status == http.StatusOK {
				f.taken.Add(1)
				break
			}
			switch {
			case err != nil:
				f.broken.Add(1)
				if c != nil {
					_ = c.Close()
					c = nil
				}
			case status == http.StatusServiceUnavailable || status == http.StatusTooManyRequests:
				f.refused.Add(1)
			default:
				n, _ := f.statuses.LoadOrStore(status, new(atomic.Int64))
				n.(*atomic.Int64).Add(1)
			}
			if try == guardTries {
				return errors.Join(fmt.Errorf("upload %d was not taken %d times; the last answer: %d", upload, try+1, status), err)
			}
			time.Sleep(guardPause)
		}
	}
}

// unclean is how many answers were neither 200 nor a refusal.
func (f *flood) unclean() (n int64) {
	f.statuses.Range(func(_, v any) bool {
		n += v.(*atomic.Int64).Load()
		return true
	})
	return n
}
