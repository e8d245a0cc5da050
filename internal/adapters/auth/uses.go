package auth

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/ports"
)

const (
	// usesEvery is how often the store is told of credentials that were used, at most.
	usesEvery = 10 * time.Second
	// maxUses bounds those that were used in between: the issuers of tokens say how many names there are.
	maxUses = 10_000
	// maxLines bounds the tenants of one that are told apart.
	maxLines = 100
)

// Uses are the credentials of a process's listeners, and when they were used. The store being away costs nothing but
// freshness; a kill loses what was seen since the last report.
type Uses struct {
	logger *slog.Logger

	mu     sync.Mutex
	seen   map[useKey]*domain.Credential
	listed map[string]*Tokens // by listener
}

type useKey struct{ listener, how, name, id, tenant string }

// NewUses makes an empty Uses.
func NewUses(logger *slog.Logger) *Uses {
	return &Uses{logger: logger, seen: map[useKey]*domain.Credential{}, listed: map[string]*Tokens{}}
}

// List has the tokens of a listener's file reported, used or not; nil is none. It is for before Run.
func (u *Uses) List(listener string, t *Tokens) {
	if t != nil {
		u.listed[listener] = t
	}
}

// saw notes that a caller was known on a listener.
func (u *Uses) saw(listener string, c domain.Caller, r *http.Request) {
	if c.How == domain.ByNothing {
		return
	}
	now := time.Now().UTC()
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		host = r.RemoteAddr
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, used := range linesOf(listener, c) {
		used.First, used.Last, used.Uses, used.Address = now, now, 1, domain.Name(host)
		u.add(used)
	}
}

// linesOf are the credential of a caller, one for each of its tenants.
func linesOf(listener string, c domain.Caller) []domain.Credential {
	line := domain.Credential{Listener: listener, How: c.How, Name: domain.Name(c.Name), ID: c.Credential, Role: c.Role}
	if c.How != domain.ByJWT && c.How != domain.ByLogin { // which are renewed again and again
		line.Expires = c.Expires
	}
	if c.Tenants.All() {
		return []domain.Credential{line}
	}
	var lines []domain.Credential
	names := c.Tenants.Names()
	for _, tenant := range names[:min(len(names), maxLines)] {
		line.Tenant = tenant
		lines = append(lines, line)
	}
	return lines
}

// add merges a line, unless there is no room for it.
func (u *Uses) add(c domain.Credential) {
	key := useKey{c.Listener, c.How, c.Name, c.ID, c.Tenant}
	if known := u.seen[key]; known != nil {
		known.Merge(c)
	} else if len(u.seen) < maxUses {
		u.seen[key] = &c
	}
}

// Run reports until ctx is done, and once more then.
func (u *Uses) Run(ctx context.Context, store ports.CredentialRecorder) {
	tick := time.NewTicker(usesEvery)
	defer tick.Stop()
	var listed time.Time
	for failing := false; ; {
		done := ctx.Err() != nil
		if now := time.Now().UTC(); now.Sub(listed) >= domain.CredentialsListedEvery {
			listed = now
			u.addListed(now)
		}
		report, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
		err := u.report(report, store)
		cancel()
		if err != nil && !failing {
			u.logger.Warn("the list of credentials was not updated; it is tried again every ten seconds", "error", err)
		}
		if failing = err != nil; done {
			return
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

// addListed adds what stands in the files of tokens.
func (u *Uses) addListed(now time.Time) {
	for listener, tokens := range u.listed {
		for _, caller := range tokens.all() {
			for _, line := range linesOf(listener, caller) {
				line.Listed = now
				u.mu.Lock()
				u.add(line)
				u.mu.Unlock()
			}
		}
	}
}

// report tells the store what was seen, and takes it back if the store refuses.
func (u *Uses) report(ctx context.Context, store ports.CredentialRecorder) error {
	u.mu.Lock()
	taken := u.seen
	u.seen = map[useKey]*domain.Credential{}
	u.mu.Unlock()
	if len(taken) == 0 {
		return nil
	}
	credentials := make([]domain.Credential, 0, len(taken))
	for _, c := range taken {
		credentials = append(credentials, *c)
	}
	err := store.RecordCredentials(ctx, credentials)
	if err == nil {
		return nil
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	newer := u.seen
	u.seen = taken
	for _, c := range newer {
		u.add(*c)
	}
	return err
}
