package replaypolicy

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/docket-project/docket/internal/adapters/api"
	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/search"
)

const (
	// DefaultDecisions is how many decisions a request has decided again.
	DefaultDecisions = 1_000
	// MaxDecisions is the most that it may ask for.
	MaxDecisions = 20_000
	// MaxPolicy bounds a policy that comes with a request, in bytes.
	MaxPolicy = 8 << 20
	// maxTime is how long a request may take; what was decided by then is the answer.
	maxTime = 30 * time.Second
	// atOnce is how many requests a process answers at once: each may have 1 GiB of memory.
	atOnce = 2
)

// Asked is a search whose decisions are decided again.
type Asked struct {
	search.Request
	// Most is how many of them at most, the newest first.
	Most int
}

// ParseAsked reads the query string of a request: that of a search, with limit up to MaxDecisions.
func ParseAsked(raw string, now time.Time) (out Asked, err error) {
	params, err := url.ParseQuery(raw)
	if err != nil {
		return out, fmt.Errorf("the query string: %w", err)
	}
	out.Most = DefaultDecisions
	limit, err := domain.Once(params, "limit")
	if err == nil && limit != "" {
		out.Most, err = strconv.Atoi(limit)
		if err != nil || out.Most < 1 || out.Most > MaxDecisions {
			err = fmt.Errorf("%q is no number from 1 to %d", limit, MaxDecisions)
		}
	}
	if err != nil {
		return out, fmt.Errorf("limit: %w", err)
	}
	params.Del("limit")
	out.Request, err = search.ParseRequest(params.Encode(), now)
	if err == nil && out.After != nil {
		err = errors.New("cursor: a replay begins with the newest decision; narrow the search by until")
	}
	out.Limit = domain.MaxPage
	return out, err
}

// Service decides again what a process has stored. It is safe for concurrent use.
type Service struct {
	program   Program
	decisions search.Reader
	stopping  <-chan struct{}
	turns     *semaphore.Weighted
}

// NewService makes one; decisions come with their events. What is decided when stopping is closed is the answer.
func NewService(p Program, decisions search.Reader, stopping <-chan struct{}) *Service {
	return &Service{program: p, decisions: decisions, stopping: stopping, turns: semaphore.NewWeighted(atOnce)}
}

// Able reports whether this program can decide by a policy.
func (s *Service) Able() bool { return s.program.Path != "" }

// Replay decides a search's decisions again. The policy is the text of a file of Rego, or a bundle. A FaultError says
// what is wrong with it.
func (s *Service) Replay(ctx context.Context, scope domain.Scope, asked Asked, policy []byte) (*api.Replay, error) {
	if !s.Able() {
		return nil, ErrNoDecider
	}
	wait, cancel := context.WithTimeout(ctx, maxTime)
	defer cancel()
	if err := s.turns.Acquire(wait, 1); err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, domain.Errorf(domain.Unavailable, "other replays go on: try again when they have ended")
	}
	defer s.turns.Release(1)
	whole, cancel := context.WithTimeout(ctx, maxTime)
	defer cancel()
	go func() {
		select {
		case <-s.stopping:
			cancel()
		case <-whole.Done():
		}
	}()
	out := api.NewReplay()
	f := feeder{Service: s, scope: scope, asked: asked}
	err := s.program.Decide(whole, Order{Text: policy}, f.feed, func(a *api.Replayed) error {
		out.Add(a)
		return nil
	})
	out.Sort()
	fault := (*FaultError)(nil)
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case errors.As(err, &fault) && out.Decisions > 0:
		out.Why = api.Text(fmt.Sprintf("%s; %d were decided before", err, out.Decisions))
	case err != nil && whole.Err() != nil && out.Decisions > 0:
		out.Why = api.Text(fmt.Sprintf("there was time for %d; there are more", out.Decisions))
	case err != nil && whole.Err() != nil:
		return nil, domain.Errorf(domain.Unavailable, "there was no time to decide anything: ask for fewer decisions")
	case err != nil:
		return nil, err
	case f.more:
		out.Why = api.Text(fmt.Sprintf("only the newest %d were asked for; there are more", out.Decisions))
	case f.damaged > 0:
		out.Why = api.Text(fmt.Sprintf("%d events are damaged in the store; docket verify names them", f.damaged))
	case out.Decisions < f.fed:
		out.Why = api.Text(fmt.Sprintf("%d were not answered", f.fed-out.Decisions))
	default:
		out.Complete = true
	}
	return out, nil
}

// feeder writes the decisions of a search.
type feeder struct {
	*Service
	scope   domain.Scope
	asked   Asked
	more    bool // than were asked for
	fed     int
	damaged int
}

func (f *feeder) feed(ctx context.Context, to io.Writer) error {
	var b bytes.Buffer
	for left := f.asked.Most; ; {
		page, err := search.Find(ctx, f.decisions, f.scope, f.asked.Request)
		if err != nil {
			return err
		}
		for i := range page.Items {
			d := &page.Items[i]
			if left == 0 {
				f.more = true
				break
			}
			if sha256.Sum256(d.Event) != d.SHA256 {
				f.damaged++
				continue
			}
			api.ExportOf(api.NDJSON{}, &b, *d, false)
			f.fed++
			left--
		}
		if err := Feed(to, b.Bytes()); err != nil {
			return err
		}
		b.Reset()
		if page.Next == nil || f.more {
			return nil
		}
		if left == 0 {
			f.more = true
			return nil
		}
		f.asked.After = page.Next
	}
}
