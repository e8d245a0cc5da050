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
	"strings"
	"testing"
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
			require.NoError(t, b.open(onConnection(t), "a").charge(1), "a byte each: nobody is refused by steps")
		}
		require.ErrorIs(t, b.open(onConnection(t), "a").charge(1), errBudget)
	})
	t.Run("a request gives back what it held", func(t *testing.T) {
		b := newBudget(1000, upload)
		for range 100 {
			s := b.open(onConnection(t), "a")
			require.NoError(t, s.charge(60))
			require.NoError(t, s.charge(40))
			require.Error(t, s.charge(2000))
			s.release()
		}
		require.Zero(t, b.held)
	})
	t.Run("a connection has one whole upload", func(t *testing.T) {
		b := newBudget(1000, upload)
		one := onConnection(t)
		first, second := b.open(one, "a"), b.open(one, "a")
		require.NoError(t, first.charge(60))
		require.ErrorIs(t, second.charge(60), errConnectionShare)
		require.NoError(t, b.open(onConnection(t), "a").charge(60), "another connection is another one's")
		first.release()
		require.NoError(t, second.charge(60))
	})
	t.Run("or a sixteenth, where that is more", func(t *testing.T) {
		b := newBudget(16_000, upload)
		one := onConnection(t)
		for range 10 {
			require.NoError(t, b.open(one, "a").charge(100))
		}
		require.ErrorIs(t, b.open(one, "a").charge(1), errConnectionShare)
	})
	t.Run("a tenant has all of it while nobody else uploads, and half otherwise", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBudget(1000, upload)
			var flood []*share
			for range 9 {
				s := b.open(onConnection(t), "flood")
				require.NoError(t, s.charge(100))
				flood = append(flood, s)
			}
			other := b.open(onConnection(t), "other")
			require.ErrorIs(t, flood[0].charge(1), errConnectionShare)
			require.ErrorIs(t, b.open(onConnection(t), "flood").charge(1), errTenantShare)
			require.NoError(t, other.charge(100), "there was room for it")
			other.release()
			require.ErrorIs(t, b.open(onConnection(t), "flood").charge(1), errTenantShare, "the other one comes again")
			time.Sleep(waits + time.Millisecond)
			require.NoError(t, b.open(onConnection(t), "flood").charge(1))
		})
	})
	t.Run("invented tenants are forgotten", func(t *testing.T) {
		b := newBudget(1000, upload)
		for n := range 10 * maxTenants {
			b.open(onConnection(t), strings.Repeat("t", n%3000)).release()
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
				s := newBudget(1<<30, 1<<30).open(t.Context(), "a")
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
		_, err := readWire(httptest.NewRecorder(), r, 8<<20, newBudget(1000, 1000).open(t.Context(), "a"))
		require.ErrorIs(t, err, errCutOff)
	})
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("connection reset by peer") }
