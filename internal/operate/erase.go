package operate

import (
	"context"
	"slices"

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
	if len(req.Filter[string(domain.FieldPrincipal)]) == 0 {
		return refuse(Mistaken, ErasureFilter, domain.Args{"name": ""})
	}
	if !namesWhole(j.Filter.Where) {
		return refuse(Mistaken, ErasureFilter, domain.Args{"name": "filter"})
	}
	for _, name := range j.Principals() {
		if domain.Name(name) != name {
			return refuse(Mistaken, ErasureName, domain.Args{"most": int64(len(domain.Name(name)))})
		}
	}
	if names := j.Filter.Where.Named(domain.FieldTenant); len(names) > 0 {
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

// namesWhole reports a filter that only names what it is about, each whole.
func namesWhole(e domain.Expr) bool {
	if e.Op == domain.OpAnd || e.Op == domain.OpOr {
		return !slices.ContainsFunc(e.Args, func(arg domain.Expr) bool { return !namesWhole(arg) })
	}
	return e.Op == domain.OpEqual
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
