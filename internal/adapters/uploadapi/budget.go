package uploadapi

import (
	"container/list"
	"context"
	"net"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/docket-project/docket/internal/domain"
)

// budget bounds the bytes of all requests in flight, wire and inflated together. Bytes are charged as they arrive, so
// that a slow or lying client holds no more than it sent.
type budget struct {
	limit int64
	// connection is what the requests of one connection may hold together: a sixteenth, or one whole upload. A load
	// balancer makes many OPAs one address, so addresses are not told apart. tenant is what those of one tenant may, while
	// another uploads: half, or one whole upload.
	connection, tenant int64

	mu      sync.Mutex
	held    int64
	tenants map[string]*tenantShare
}

// tenantShare is what a tenant's requests hold.
type tenantShare struct {
	held int64
	asks int       // requests that are open
	last time.Time // when the newest ended
	// bodies are those that are being read, the oldest first, but for those that were found to be fast enough.
	bodies list.List
	// cores are half of those that there are: large bodies take turns on them while others wait.
	cores *semaphore.Weighted
}

// requestBytes is what a request takes before a byte of its body is there: what its connection reads into and writes
// from, the first bytes of its body, and its stack. 3,000 bodies that stand still take 23 KiB each.
const requestBytes = 24 << 10

// waits is how long a tenant that has uploaded counts as one that will again.
const waits = time.Second

// maxTenants bounds the tenants that are remembered; those that have nothing open go first.
const maxTenants = 1024

// Why an upload does not get the bytes that it needs. OPA sends it again.
var (
	errBudget = domain.Errorf(
		domain.Unavailable, "too many bytes of uploads are in flight (max_in_flight_bytes); send it again",
	)
	errTenantShare = domain.Errorf(
		domain.Unavailable, "the uploads of this tenant hold half of the bytes that may be in flight, while others upload, "+
			"too; send it again",
	)
	errTurn = domain.Errorf(
		domain.Unavailable, "large uploads of this tenant take turns while others upload, too, and this one's did not come "+
			"in time; send it again",
	)
	errConnectionShare = domain.Errorf(
		domain.Unavailable, "the uploads of this connection hold as many bytes as one connection may; send it again",
	)
)

func newBudget(limit, upload int64) *budget {
	return &budget{
		limit: limit, connection: max(limit/16, upload+requestBytes), tenant: max(limit/2, upload+requestBytes),
		tenants: map[string]*tenantShare{},
	}
}

// connectionShare is what the requests of one connection hold. The budget's lock guards it.
type connectionShare struct{ held int64 }

type connectionKey struct{}

// ConnContext is for http.Server.ConnContext: it gives every connection its share of the budget.
func ConnContext(ctx context.Context, _ net.Conn) context.Context {
	return context.WithValue(ctx, connectionKey{}, &connectionShare{})
}

// share is one request's part of the budget.
type share struct {
	*budget
	tenant     *tenantShare
	connection *connectionShare
	held       int64
	body       *list.Element // of tenant.bodies; nil while none is being read
}

// open begins a request, and charges what it takes anyway. Release it, with an error as well.
func (b *budget) open(ctx context.Context, tenant string) (*share, error) {
	s := b.share(ctx, tenant)
	return s, s.charge(requestBytes)
}

// share begins a request.
func (b *budget) share(ctx context.Context, tenant string) *share {
	connection, ok := ctx.Value(connectionKey{}).(*connectionShare)
	if !ok { // no server: a test
		connection = &connectionShare{}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	t := b.tenants[tenant]
	if t == nil {
		b.forget()
		t = &tenantShare{cores: semaphore.NewWeighted(int64(max(runtime.GOMAXPROCS(0)/2, 1)))}
		b.tenants[tenant] = t
	}
	t.asks++
	return &share{budget: b, tenant: t, connection: connection}
}

// forget drops tenants that have nothing open, where there are too many.
func (b *budget) forget() {
	if len(b.tenants) < maxTenants {
		return
	}
	for name, t := range b.tenants {
		if t.asks == 0 {
			delete(b.tenants, name)
		}
	}
}

// charge takes n more bytes from the budget.
func (s *share) charge(n int) error {
	more := int64(n)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.budget.held+more > s.limit:
		return errBudget
	case s.connection.held+more > s.budget.connection:
		return errConnectionShare
	case s.tenant.held+more > s.budget.tenant && s.othersWait():
		return errTenantShare
	}
	s.budget.held += more
	s.connection.held += more
	s.tenant.held += more
	s.held += more
	return nil
}

// reads begins to read a body. Where the tenant has many on their way, the oldest slow one has to make room: bodies
// that do not come would take what connections weigh, each for seconds.
func (s *share) reads(body *paced) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.body = s.tenant.bodies.PushBack(body)
	for range looks {
		if s.tenant.bodies.Len() <= maxBodies {
			return
		}
		first := s.tenant.bodies.Front()
		if body := first.Value.(*paced); body.slow(time.Now()) {
			s.tenant.bodies.Remove(first)
			body.end() // under the lock: its request is not over before hasRead
			return
		}
		s.tenant.bodies.MoveToBack(first)
	}
}

// looks is how many bodies are asked whether they are slow, by each that begins.
const looks = 16

// hasRead is called once a body was read, or was not.
func (s *share) hasRead() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tenant.bodies.Remove(s.body) // nothing, where reads took it out
}

// large waits until a large body of the tenant may be worked on, so that the small ones of others find a core that is
// free. done is for when the work is over.
func (s *share) large(ctx context.Context) (done func(), err error) {
	s.mu.Lock()
	alone := !s.othersWait()
	s.mu.Unlock()
	if alone {
		return func() {}, nil
	}
	if err := s.tenant.cores.Acquire(ctx, 1); err != nil {
		return nil, errTurn
	}
	return func() { s.tenant.cores.Release(1) }, nil
}

// othersWait reports that another tenant uploads, too.
func (s *share) othersWait() bool {
	now := time.Now()
	for _, t := range s.tenants {
		if t != s.tenant && (t.asks > 0 || now.Sub(t.last) < waits) {
			return true
		}
	}
	return false
}

// release gives everything back.
func (s *share) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.budget.held -= s.held
	s.connection.held -= s.held
	s.tenant.held -= s.held
	s.held = 0
	s.tenant.asks--
	s.tenant.last = time.Now()
}
