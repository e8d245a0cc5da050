package operate

import (
	"context"
	"strings"

	"github.com/docket-project/docket/internal/domain"
)

// EraseOrdered: an erasure is in force from now on. Args: subjects.
const EraseOrdered = "erase_ordered"

// erasure makes the order of a job that erases, of its filter: principals, and the tenants in which they are erased. The
// job's own tenants become these.
func (req JobRequest) erasure(caller domain.Caller, j *domain.Job) error {
	if req.Max != nil || req.MaxReplays != nil || req.StopRatio != nil || req.Rate != nil {
		return refuse(Mistaken, ErasureBounded, nil)
	}
	for name, values := range req.Filter {
		if name != string(domain.FieldPrincipal) && name != string(domain.FieldTenant) {
			return refuse(Mistaken, ErasureFilter, domain.Args{"name": name})
		}
		for _, v := range values {
			if v == "" || strings.HasPrefix(v, "!") || strings.HasSuffix(v, "*") {
				return refuse(Mistaken, ErasureFilter, domain.Args{"name": name})
			}
		}
	}
	if len(req.Filter[string(domain.FieldPrincipal)]) == 0 {
		return refuse(Mistaken, ErasureFilter, domain.Args{"name": ""})
	}
	if names := req.Filter[string(domain.FieldTenant)]; len(names) > 0 {
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
