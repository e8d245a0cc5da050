package search

import (
	"context"
	"crypto/sha256"
	"time"

	"github.com/docket-project/docket/internal/domain"
)

// Looker is the store as Lookup sees it.
type Looker interface {
	Decisions(ctx context.Context, scope domain.Scope, id string) ([]domain.Decision, error)
	StoredEvents(ctx context.Context, scope domain.Scope, q domain.Query) (domain.Page, error)
}

// Lookup finds the decisions with an id, the newest first, or those of a timestamp where at is not zero. The first has
// its event. It is Misconfigured where an event is not the one that was stored.
func Lookup(
	ctx context.Context, in Looker, scope domain.Scope, id string, at time.Time,
) ([]domain.Decision, error) {
	if at.IsZero() {
		return in.Decisions(ctx, scope, id)
	}
	at = at.Truncate(time.Microsecond)
	page, err := in.StoredEvents(ctx, scope, domain.Query{
		Filter: domain.Filter{
			Since: at, Until: at.Add(time.Microsecond), Where: domain.Equals(domain.FieldDecisionID, id),
		},
		Limit: domain.DefaultPage,
	})
	if err != nil {
		return nil, err
	}
	for _, d := range page.Items {
		if sha256.Sum256(d.Event) != d.SHA256 {
			return nil, domain.Errorf(
				domain.Misconfigured, "decision %s is damaged in the store: restore it from a backup", id,
			)
		}
	}
	return page.Items, nil
}
