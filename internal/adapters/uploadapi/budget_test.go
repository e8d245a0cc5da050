package uploadapi

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/domain"
)

func TestBudgetIsShared(t *testing.T) {
	const upload = 100
	onConnection := func(t *testing.T) context.Context { return ConnContext(t.Context(), nil) }
	t.Run("what arrived is charged, and no more", func(t *testing.T) {
		b := newBudget(1000, upload)
		for range 1000 {
			require.NoError(t, b.share(onConnection(t), "a").charge(1), "a byte each: nobody is refused by steps")
		}
		require.ErrorIs(t, b.share(onConnection(t), "a").charge(1), errBudget)
	})
	t.Run("a request gives back what it held", func(t *testing.T) {
		b := newBudget(1000, upload)
		for range 100 {
			s := b.share(onConnection(t), "a")
			require.NoError(t, s.charge(60))
			require.NoError(t, s.charge(40))
			require.Error(t, s.charge(2000))
			s.release()
		}
		require.Zero(t, b.held)
	})
	t.Run("what a request takes before its body is there", func(t *testing.T) {
		b := newBudget(10*requestBytes, upload)
		var open []*share
		for range 10 {
			s, err := b.open(onConnection(t), "a")
			require.NoError(t, err)
			open = append(open, s)
		}
		refused, err := b.open(onConnection(t), "a")
		require.ErrorIs(t, err, errBudget)
		refused.release()
		for _, s := range open {
			s.release()
		}
		require.Zero(t, b.held)
	})
	t.Run("a connection has one whole upload", func(t *testing.T) {
		b := newBudget(1000, upload)
		b.connection = upload // without what requests take
		one := onConnection(t)
		first, second := b.share(one, "a"), b.share(one, "a")
		require.NoError(t, first.charge(60))
		require.ErrorIs(t, second.charge(60), errConnectionShare)
		require.NoError(t, b.share(onConnection(t), "a").charge(60), "another connection is another one's")
		first.release()
		require.NoError(t, second.charge(60))
	})
	t.Run("or a sixteenth, where that is more", func(t *testing.T) {
		b := newBudget(16_000, upload)
		b.connection = 16_000 / 16
		one := onConnection(t)
		for range 10 {
			require.NoError(t, b.share(one, "a").charge(100))
		}
		require.ErrorIs(t, b.share(one, "a").charge(1), errConnectionShare)
	})
	t.Run("a tenant has all of it while nobody else uploads, and half otherwise", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBudget(1000, upload)
			b.connection, b.tenant = upload, 500
			var flood []*share
			for range 9 {
				s := b.share(onConnection(t), "flood")
				require.NoError(t, s.charge(100))
				flood = append(flood, s)
			}
			other := b.share(onConnection(t), "other")
			require.ErrorIs(t, flood[0].charge(1), errConnectionShare)
			require.ErrorIs(t, b.share(onConnection(t), "flood").charge(1), errTenantShare)
			require.NoError(t, other.charge(100), "there was room for it")
			other.release()
			require.ErrorIs(t, b.share(onConnection(t), "flood").charge(1), errTenantShare, "the other one comes again")
			time.Sleep(waits + time.Millisecond)
			require.NoError(t, b.share(onConnection(t), "flood").charge(1))
		})
	})
	t.Run("invented tenants are forgotten", func(t *testing.T) {
		b := newBudget(1000, upload)
		for n := range 10 * maxTenants {
			b.share(onConnection(t), strings.Repeat("t", n%3000)).release()
		}
		require.LessOrEqual(t, len(b.tenants), maxTenants)
	})
}

// dripping is a body of which one byte comes now and then, as a connection with a deadline delivers it.
type dripping struct {
	every    time.Duration
	left     int
	deadline time.Time
}

func (d *dripping) SetReadDeadline(t time.Time) error { d.deadline = t; return nil }

func (d *dripping) Read(b []byte) (int, error) {
	if d.left == 0 {
		return 0, io.EOF
	}
	if due := time.Now().Add(d.every); !d.deadline.IsZero() && due.After(d.deadline) {
		time.Sleep(time.Until(d.deadline))
		return 0, &net.OpError{Op: "read", Err: os.ErrDeadlineExceeded}
	}
	time.Sleep(d.every)
	n := min(len(b), 1<<10, d.left)
	d.left -= n
	return n, nil
}

// recorder has a deadline to set.
type recorder struct {
	*httptest.ResponseRecorder
	*dripping
}

func TestSlowBodies(t *testing.T) {
	for _, c := range []struct {
		name  string
		every time.Duration // 1 KiB
		size  int
		want  error
		after time.Duration
	}{
		{"fast", time.Millisecond, 1 << 20, nil, time.Second + 24*time.Millisecond},
		{"16 KiB a second", time.Second / 16, 256 << 10, nil, 16 * time.Second},
		{"4 KiB a second", time.Second / 4, 256 << 10, errSlow, 10 * time.Second},
		{"nothing at all", time.Hour, 1 << 10, errSlow, 5 * time.Second},
		{"fast enough, and for ever", time.Second / 9, 8 << 20, errSlow, time.Minute},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				body := &dripping{every: c.every, left: c.size}
				r := httptest.NewRequest(http.MethodPost, "/logs", body)
				r.ContentLength = int64(c.size)
				s := newBudget(1<<30, 1<<30).share(t.Context(), "a")
				began := time.Now()
				wire, err := readWire(recorder{httptest.NewRecorder(), body}, r, 8<<20, s)
				require.ErrorIs(t, err, c.want)
				require.InDelta(t, c.after.Seconds(), time.Since(began).Seconds(), 1.1)
				if c.want == nil {
					require.Len(t, wire, c.size)
					require.True(t, body.deadline.IsZero(), "the answer may take its time")
				} else {
					require.Equal(t, domain.Unavailable, domain.ClassOf(err))
				}
			})
		})
	}
	t.Run("a sender who is gone", func(t *testing.T) {
		r := httptest.NewRequest(http.MethodPost, "/logs", io.MultiReader(bytes.NewReader([]byte("[")), broken{}))
		_, err := readWire(httptest.NewRecorder(), r, 8<<20, newBudget(1000, 1000).share(t.Context(), "a"))
		require.ErrorIs(t, err, errCutOff)
	})
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("connection reset by peer") }

func TestReadAll(t *testing.T) {
	for _, c := range []struct {
		name     string
		size     int
		declared int64
		most     int // of what is set aside
	}{
		{"nothing", 0, 0, 1},
		{"as declared", 100_000, 100_000, 100_001},
		{"longer than declared", 100_000, 10, 200_000},
		{"of a length that nobody tells", 100_000, -1, 200_000},
		{"a byte of what was declared", 1, 8 << 20, 4<<10 + 1},
		{"a quarter of what was declared", 2<<20 - 1, 8 << 20, 8 << 20},
	} {
		t.Run(c.name, func(t *testing.T) {
			want := bytes.Repeat([]byte("0123456789"), c.size/10+1)[:c.size]
			for _, as := range []func(io.Reader) io.Reader{
				func(r io.Reader) io.Reader { return r }, iotest.OneByteReader, iotest.DataErrReader,
			} {
				r := as(bytes.NewReader(want))
				got, err := readAll(r, c.declared)
				require.NoError(t, err)
				require.Equal(t, string(want), string(got))
				require.LessOrEqual(t, cap(got), c.most)
			}
		})
	}
}

// TestManySlowBodies: of more bodies of a tenant than there is room for, a slow one goes, and another tenant's stays.
func TestManySlowBodies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBudget(1<<30, 1<<20)
		read := func(tenant string, every time.Duration) <-chan error {
			body := &dripping{every: every, left: 1 << 20}
			r := httptest.NewRequest(http.MethodPost, "/logs", body)
			ended := make(chan error, 1)
			go func() {
				s := b.share(t.Context(), tenant)
				defer s.release()
				_, err := readWire(recorder{httptest.NewRecorder(), body}, r, 8<<20, s)
				ended <- err
			}()
			synctest.Wait()
			return ended
		}
		others := read("others", 3*time.Second)
		fast := read("strangers", time.Second/16)
		var slow []<-chan error
		for range maxBodies {
			slow = append(slow, read("strangers", 3*time.Second))
		}
		time.Sleep(crowdGrace + time.Millisecond)
		synctest.Wait()
		slow = append(slow, read("strangers", 3*time.Second))
		time.Sleep(2 * time.Second) // the reader that is to end comes back from its read
		synctest.Wait()
		require.Empty(t, others)
		require.Empty(t, fast, "it keeps its pace")
		var ended []error
		for _, one := range slow {
			select {
			case err := <-one:
				ended = append(ended, err)
			default:
			}
		}
		require.Equal(t, []error{errSlowOnes}, ended)
		time.Sleep(2 * slowest) // every one of them ends
	})
}

// TestLargeBodiesTakeTurns: while another tenant uploads, a tenant's large bodies have half of the cores.
func TestLargeBodiesTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		half := max(runtime.GOMAXPROCS(0)/2, 1)
		b := newBudget(1<<30, 1<<20)
		large := b.share(t.Context(), "large")
		for range 2 * half {
			done, err := large.large(t.Context())
			require.NoError(t, err, "nobody else uploads")
			done()
		}
		other := b.share(t.Context(), "other")
		var working []func()
		for range half {
			done, err := large.large(t.Context())
			require.NoError(t, err)
			working = append(working, done)
		}
		soon, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := large.large(soon)
		require.ErrorIs(t, err, errTurn)
		done, err := other.large(t.Context())
		require.NoError(t, err, "the other tenant has its own")
		done()
		working[0]()
		done, err = large.large(t.Context())
		require.NoError(t, err)
		done()
	})
}
