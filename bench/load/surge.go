package load

import (
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/docket-project/docket/bench/events"
)

// Surge sends numbered uploads as fast as they are taken, each until it is: what is refused is sent again after a
// pause.
type Surge struct {
	Addr          string
	EmbeddedSuite events.Run
	Uploads       int64 // the number behind the last
	Connections   int
	Rate          float64 // uploads a second; 0 is as fast as they are taken

	first    int64
	began    time.Time
	next     atomic.Int64
	Taken    atomic.Int64
	Refused  atomic.Int64 // answers of 503 and 429
	Broken   atomic.Int64 // connections that ended without an answer
	statuses sync.Map     // of every other answer, to *atomic.Int64
}

// RetryPause is how long a sender waits before it sends again what was refused, and guardTries how often it does so.
const (
	RetryPause = 50 * time.Millisecond
	retryTries = 2000
)

// Begin makes the number of the first upload another than 0.
func (f *Surge) Begin(upload int64) {
	f.first = upload
	f.next.Store(upload)
}

// Send returns when every upload is taken.
func (f *Surge) Send() error {
	f.began = time.Now()
	failures := make(chan error, f.Connections)
	var wg sync.WaitGroup
	for range f.Connections {
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

func (f *Surge) sender() error {
	var c *connection
	var wire, body []byte
	defer func() {
		if c != nil {
			_ = c.Close()
		}
	}()
	for {
		upload := f.next.Add(1) - 1
		if upload >= f.Uploads {
			return nil
		}
		if f.Rate > 0 {
			time.Sleep(time.Until(f.began.Add(time.Duration(float64(upload-f.first) / f.Rate * float64(time.Second)))))
		}
		body = f.EmbeddedSuite.Append(body[:0], upload, time.Now())
		wire = appendRequest(wire[:0], f.Addr, "", body)
		for try := 0; ; try++ {
			var status int
			err := error(nil)
			if c == nil {
				c, err = Dial(f.Addr)
			}
			if err == nil {
				status, err = c.send(wire)
			}
			if err == nil && status == http.StatusOK {
				f.Taken.Add(1)
				break
			}
			switch {
			case err != nil:
				f.Broken.Add(1)
				if c != nil {
					_ = c.Close()
					c = nil
				}
			case status == http.StatusServiceUnavailable || status == http.StatusTooManyRequests:
				f.Refused.Add(1)
			default:
				n, _ := f.statuses.LoadOrStore(status, new(atomic.Int64))
				n.(*atomic.Int64).Add(1)
			}
			if try == retryTries {
				return errors.Join(fmt.Errorf("upload %d was not taken %d times; the last answer: %d", upload, try+1, status), err)
			}
			time.Sleep(RetryPause)
		}
	}
}

// Unclean is how many answers were neither 200 nor a refusal.
func (f *Surge) Unclean() (n int64) {
	f.statuses.Range(func(_, v any) bool {
		n += v.(*atomic.Int64).Load()
		return true
	})
	return n
}
