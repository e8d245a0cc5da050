package domain

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Role is what a caller may do on the console listener. An uploader has none.
type Role string

// The roles, each of which may do what the one before may.
const (
	// Viewer may read.
	Viewer Role = "viewer"
	// Operator may also create and move jobs, and accept rejections.
	Operator Role = "operator"
	// Admin may do everything.
	Admin Role = "admin"
)

// Roles lists the roles in the order of what they may do.
var Roles = []Role{Viewer, Operator, Admin}

// Includes reports whether a caller with role r may do what a role needed may.
func (r Role) Includes(needed Role) bool {
	return slices.Contains(Roles, r) && slices.Index(Roles, r) >= slices.Index(Roles, needed)
}

// How a caller was known.
const (
	// ByToken is a bearer token of the listener's file.
	ByToken = "token"
	// ByJWT is a JSON web token of an issuer that docket was told of, and ByCertificate a client's certificate.
	ByJWT         = "jwt"
	ByCertificate = "certificate"
	// ByLogin is a person whom an issuer has vouched for (OpenID Connect).
	ByLogin = "login"
	// ByNothing is a listener that asks for no credentials.
	ByNothing = "anonymous"
)

// Caller is who a request comes from, as the listener's Authenticator found out.
type Caller struct {
	// Name is the credential's, or "anonymous". It stands in the audit.
	Name string
	// Tenants are those whose decisions the caller sees, or the one that it uploads for.
	Tenants Scope
	// Role is what the caller may do; "" for one that uploads.
	Role Role
	// How says what the caller was known by, and Credential which of the credentials of its name that was; see Credential.
	How, Credential string
	// Partitions are those of the upload path that it may upload to, and OPAs patterns of the labels.id that its events
	// may have, with * for any text. Without any, every one is fine.
	Partitions, OPAs []string
	// Expires is when the credential ends; zero where it does not.
	Expires time.Time
}

// Same reports whether another caller is the same one and may do the same on the console.
func (c Caller) Same(other Caller) bool {
	return c.Name == other.Name && c.How == other.How && c.Tenants == other.Tenants && c.Role == other.Role
}

// UploadsTo reports whether the caller may upload to a partition; "" is the path without one.
func (c Caller) UploadsTo(partition string) bool {
	return len(c.Partitions) == 0 || slices.Contains(c.Partitions, partition)
}

// UploadsOf makes what reports whether the caller may upload what the OPA of an id decided; "" is one without a name.
// It is nil where every one is fine.
func (c Caller) UploadsOf() func(opa string) bool {
	if len(c.OPAs) == 0 {
		return nil
	}
	patterns := make([][]string, len(c.OPAs))
	for i, pattern := range c.OPAs {
		patterns[i] = Literals(pattern)
	}
	return func(opa string) bool {
		return slices.ContainsFunc(patterns, func(literals []string) bool { return Matches(opa, literals) })
	}
}

// Tenant is the tenant that the caller uploads for: its only one, and DefaultTenant for a caller that has all.
func (c Caller) Tenant() string {
	if name := c.Tenants.names; name != "" && !c.Tenants.all && !strings.Contains(name, "\x00") {
		return name // it is asked for at every upload
	}
	return DefaultTenant
}

// Scope is a set of tenants: all of them, or those that it names. The zero Scope is empty: it sees nothing.
type Scope struct {
	all   bool
	names string // sorted, joined by NUL, so that a Scope is comparable
}

// AllTenants is the scope of a caller that may see everything.
func AllTenants() Scope { return Scope{all: true} }

// Tenants is the scope of some tenants.
func Tenants(names ...string) Scope {
	sorted := slices.Compact(slices.Sorted(slices.Values(names)))
	return Scope{names: strings.Join(sorted, "\x00")}
}

// All reports that the scope has no bound.
func (s Scope) All() bool { return s.all }

// Names lists the tenants in order; nil for all of them, and for none.
func (s Scope) Names() []string {
	if s.all || s.names == "" {
		return nil
	}
	return strings.Split(s.names, "\x00")
}

// Includes reports whether a tenant is in the scope.
func (s Scope) Includes(tenant string) bool { return s.all || slices.Contains(s.Names(), tenant) }

// Within reports whether every tenant of s is in outer.
func (s Scope) Within(outer Scope) bool {
	if s.all || outer.all {
		return outer.all
	}
	return !slices.ContainsFunc(s.Names(), func(name string) bool { return !outer.Includes(name) })
}

// Expr is the scope as a filter.
func (s Scope) Expr() Expr {
	if s.all {
		return Expr{}
	}
	var tenants []Expr
	for _, name := range s.Names() {
		tenants = append(tenants, Equals(FieldTenant, name))
	}
	return AnyOf(tenants...)
}

// String names the tenants for people.
func (s Scope) String() string {
	switch {
	case s.all:
		return "all tenants"
	case s.names == "":
		return "no tenant"
	default:
		return fmt.Sprintf("tenants %s", strings.Join(s.Names(), ", "))
	}
}

// Meets reports whether the scopes have a tenant in common.
func (s Scope) Meets(other Scope) bool {
	switch {
	case s.all:
		return other.all || other.names != ""
	case other.all:
		return s.names != ""
	default:
		return slices.ContainsFunc(s.Names(), other.Includes)
	}
}
