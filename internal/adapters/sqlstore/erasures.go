package sqlstore

import (
	"fmt"
	"time"

	"github.com/docket-project/docket/internal/domain"
)

// AddErasure takes in a row of the erasures, which come job by job.
func AddErasure(
	all []domain.Erasure, job string, subject []byte, tenants string, at, until time.Time,
) ([]domain.Erasure, error) {
	if len(subject) != len(domain.Subject{}) {
		return nil, domain.Errorf(domain.Misconfigured, "an erasure of job %s has a subject of %d bytes", job, len(subject))
	}
	if n := len(all); n == 0 || all[n-1].Job != job {
		scope, err := DecodeScope(tenants)
		if err != nil {
			return nil, fmt.Errorf("the erasure of job %s: %w", job, err)
		}
		all = append(all, domain.Erasure{Job: job, Tenants: scope, At: at, Until: until})
	}
	last := &all[len(all)-1]
	last.Subjects = append(last.Subjects, domain.Subject(subject))
	return all, nil
}
