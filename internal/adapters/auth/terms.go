package auth

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/docket-project/docket/internal/domain"
)

// Grant makes the caller of a line in a file of tokens, whose second field and terms are what it says.
type Grant func(name, second string, t Terms) (domain.Caller, error)

// Terms are what stands behind the token of a line: a key and its values each.
type Terms map[termKey][]string

// termKey is what a term is about.
type termKey string

// The terms of tokens.
const (
	termTenants    termKey = "tenants"
	termPartitions termKey = "partitions"
	termOPAs       termKey = "opas"
	termExpires    termKey = "expires"
)

var termKeys = []termKey{termTenants, termPartitions, termOPAs, termExpires}

// word is a field of a line; listed says that a comma stands in front of it.
type word struct {
	text   string
	listed bool
}

// words splits a line at white space and commas.
func words(line string) (out []word) {
	listed, start := false, -1
	for i, r := range line + " " {
		switch {
		case r != ' ' && r != '\t' && r != '\r' && r != ',':
			if start < 0 {
				start = i
			}
			continue
		case start >= 0:
			out, start, listed = append(out, word{line[start:i], listed}), -1, false
		}
		listed = listed || r == ','
	}
	return out
}

// readTerms reads terms such as tenants=a,b and expires=2027-01-31T00:00:00Z. Its errors do not repeat what is no term:
// it may be a token in the wrong place.
func readTerms(fields []word) (Terms, error) {
	terms, last := Terms{}, termKey("")
	for i, field := range fields {
		name, value, isTerm := strings.Cut(field.text, "=")
		key := termKey(name)
		switch {
		case !isTerm && field.listed && last != "":
			terms[last] = append(terms[last], field.text)
			continue
		case !isTerm, !slices.Contains(termKeys, key):
			return nil, fmt.Errorf(
				"field %d is no term: behind the first three are terms such as %s=…, and known are %s", i+4, termExpires,
				joined(termKeys),
			)
		case terms[key] != nil:
			return nil, fmt.Errorf("%s stands twice: write %s=a,b", key, key)
		case value == "":
			return nil, fmt.Errorf("%s= is empty: a token that may do nothing is one that is taken out", key)
		}
		terms[key], last = []string{value}, key
	}
	return terms, nil
}

// joined names keys for people.
func joined(keys []termKey) string {
	names := make([]string, len(keys))
	for i, key := range keys {
		names[i] = string(key)
	}
	return strings.Join(names, ", ")
}

// expiry is when the token ends, or zero.
func (t Terms) expiry() (time.Time, error) {
	values := t[termExpires]
	if len(values) == 0 {
		return time.Time{}, nil
	}
	at, err := domain.ParseRFC3339(values[0])
	if err != nil || len(values) > 1 {
		return at, fmt.Errorf("%s= is one time as in RFC 3339, such as 2027-01-31T00:00:00Z", termExpires)
	}
	return at, nil
}

// Uploader is the grant of the upload listener's tokens: the second field is the tenant. The terms partitions and opas
// bound what the token may upload; tenants, which console tokens have, may repeat the tenant.
func Uploader(name, tenant string, t Terms) (domain.Caller, error) {
	if err := errors.Join(
		checkUploadTenants("the tenant", tenant), checkPartitions(string(termPartitions), t[termPartitions]...),
		checkNames(string(termOPAs), t[termOPAs]...),
	); err != nil {
		return domain.Caller{}, err
	}
	if tenants := t[termTenants]; len(tenants) > 0 && !slices.Equal(tenants, []string{tenant}) {
		return domain.Caller{}, errors.New("an upload is one tenant's, the second field: make a token for each tenant")
	}
	return domain.Caller{
		Name: name, Tenants: domain.Tenants(tenant), Partitions: t[termPartitions], OPAs: t[termOPAs],
	}, nil
}

// ConsoleUser is the grant of the console listener's tokens: the second field is the role. Its caller has all tenants,
// unless the term tenants names some.
func ConsoleUser(name, role string, t Terms) (domain.Caller, error) {
	for _, key := range []termKey{termPartitions, termOPAs} {
		if t[key] != nil {
			return domain.Caller{}, fmt.Errorf("%s= bounds uploads, and a console token uploads nothing", key)
		}
	}
	r, err := roleOf(role)
	if err != nil {
		return domain.Caller{}, errors.New("the second field is no role: they are viewer, operator and admin")
	}
	tenants := domain.AllTenants()
	if err := checkTenants(string(termTenants), t[termTenants]...); err != nil {
		return domain.Caller{}, err
	}
	if names := t[termTenants]; len(names) > 0 {
		tenants = domain.Tenants(names...)
	}
	return domain.Caller{Name: name, Tenants: tenants, Role: r}, nil
}

// roleOf reads a role.
func roleOf(name string) (domain.Role, error) {
	if role := domain.Role(name); slices.Contains(domain.Roles, role) {
		return role, nil
	}
	return "", fmt.Errorf("%q is no role: they are %s, %s and %s", name, domain.Viewer, domain.Operator, domain.Admin)
}
