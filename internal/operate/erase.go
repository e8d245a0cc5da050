package operate

import (
	"context"

	"github.com/docket-project/docket/internal/domain"
)

// EraseOrdered is that an erasure is in force from now on. Args: subjects.
const EraseOrdered = "erase_ordered"

// erasure checks the filter of a job that erases: principals, and the tenants in which they are erased, which the job's
// own become.
func (req JobRequest) erasure(caller domain.Caller, j *domain.Job) error {
	if req.Max != nil || req.MaxReplays != nil || req.StopRatio != nil || req.Rate != nil {
		return refuse(Mistaken, ErasureBounded, nil)
	}
	for name := range req.Filter {
		if name != string(domain.FieldPrincipal) && name != string(domain.FieldTenant) {
			return refuse(Mistaken, ErasureFilter, domain.Args{"name": name})
		}
	}
	if field, whole := namesWhole(j.Filter.Where); !whole {
		return refuse(Mistaken, ErasureFilter, domain.Args{"name": string(field)})
	}
	if len(req.Filter[string(domain.FieldPrincipal)]) == 0 {
		return refuse(Mistaken, ErasureFilter, domain.Args{"name": ""})
	}
	if names := tenantsIn(j.Filter.Where); len(names) > 0 {
		for _, name := range names {
			if !caller.Tenants.Includes(name) {
				return refuse(NotAllowed, ErasureOfOthers, domain.Args{"tenant": name})
			}
		}
		j.Tenants = domain.Tenants(names...)
		j.Filter.Where = j.Filter.Where.Without(domain.FieldTenant)
	}
	return nil
}

// namesWhole reports a filter that names what it is about, each whole; field is one that it does not.
func namesWhole(e domain.Expr) (field domain.Field, whole bool) {
	switch e.Op {
	case domain.OpEqual, "":
		return "", true
	case domain.OpAnd, domain.OpOr:
		for _, arg := range e.Args {
			if field, whole := namesWhole(arg); !whole {
				return field, false
			}
		}
		return "", true
	}
	for field = e.Field; field == "" && len(e.Args) > 0; {
		e = e.Args[0]
		field = e.Field
	}
	return field, false
}

// tenantsIn are the tenants that a filter names.
func tenantsIn(e domain.Expr) (out []string) {
	if e.Op == domain.OpEqual && e.Field == domain.FieldTenant {
		return []string{e.Value}
	}
	for _, arg := range e.Args {
		out = append(out, tenantsIn(arg)...)
	}
	return out
}

// order hashes whom an erasure is about.
func (s *Service) order(ctx context.Context, j *domain.Job) error {
	key, err := s.store.ErasureKey(ctx)
	if err != nil {
		return err
	}
	j.Erasure = &domain.Erasure{Job: j.ID, Tenants: j.Tenants, At: j.CreatedAt}
	for _, principal := range j.Principals() {
		j.Erasure.Subjects = append(j.Erasure.Subjects, domain.SubjectOf(key, principal))
	}
	return nil
}
