package compare

import (
	"context"
	"slices"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/search"
)

// relaxing are the fields that a decision should have in common with the last one that was allowed, those first that
// are done without first.
var relaxing = []domain.Field{domain.FieldPrincipal, domain.FieldAction, domain.FieldResource, domain.FieldPath}

// Allowed is what was found of the last allowed decision like another one.
type Allowed struct {
	// Decision is nil where none was found.
	Decision *domain.Decision
	// Relaxed are the fields in which it may differ, because no decision has them in common. All of them, and no decision,
	// says that nothing of the tenant was allowed before.
	Relaxed []domain.Field
	// Complete is false where a search ran out of time: there may be one that is closer, or newer.
	Complete bool
}

// LastAllowed finds the last decision of the same tenant that was allowed before this one and has the same principal,
// action, resource and path; where there is none, another principal's, and so on. A field that this one does not have
// is not asked for.
func LastAllowed(
	ctx context.Context, in search.Reader, scope domain.Scope, like *domain.Decision,
) (Allowed, error) {
	out := Allowed{Complete: true}
	wanted := slices.DeleteFunc(slices.Clone(relaxing), func(f domain.Field) bool { return valueOf(like, f) == "" })
	for {
		terms := []domain.Expr{
			domain.Equals(domain.FieldOutcome, string(domain.OutcomeAllowed)),
			domain.Equals(domain.FieldTenant, like.Tenant),
		}
		for _, f := range wanted {
			terms = append(terms, domain.Equals(f, valueOf(like, f)))
		}
		page, err := in.Search(ctx, scope, domain.Query{
			Filter: domain.Filter{Until: like.Time(), Where: domain.AllOf(terms...)}, Limit: 1,
		})
		if err != nil {
			return out, err
		}
		out.Complete = out.Complete && page.Complete
		if len(page.Items) > 0 {
			out.Decision = &page.Items[0]
			return out, nil
		}
		if len(wanted) == 0 {
			return out, nil
		}
		out.Relaxed, wanted = append(out.Relaxed, wanted[0]), wanted[1:]
	}
}

func valueOf(d *domain.Decision, f domain.Field) string {
	return *domain.TextColumnOf(string(f))(d)
}
