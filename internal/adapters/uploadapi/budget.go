package uploadapi

import (
	"context"
	"net"
	"sync"
	"time"

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
}

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
	errConnectionShare = domain.Errorf(
		domain.Unavailable, "the uploads of this connection hold as many bytes as one connection may; send it again",
	)
)

func newBudget(limit, upload int64) *budget {
	return &budget{
		limit: limit, connection: max(limit/16, upload), tenant: max(limit/2, upload), tenants: map[string]*tenantShare{},
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
}

// open begins a request.
func (b *budget) open(ctx context.Context, tenant string) *share {
	connection, ok := ctx.Value(connectionKey{}).(*connectionShare)
	if !ok { // no server: a test
		connection = &connectionShare{}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	t := b.tenants[tenant]
	if t == nil {
		b.forget()
		t = &tenantShare{}
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
