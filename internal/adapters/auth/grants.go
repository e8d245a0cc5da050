package auth

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/docket-project/docket/internal/domain"
)

// ErrNotGranted is a credential that is good, and that nothing is granted to here.
var ErrNotGranted = errors.New("the credential is good, but docket's configuration grants it nothing")

// UploadGrant is what a credential may upload: for one tenant, which the configuration or a claim of a token names.
type UploadGrant struct {
	Tenant string `yaml:"tenant,omitempty"`
	// TenantClaim is a JSON pointer to the claim. Where there are Tenants, its value is a key of them, and any other
	// value is refused; otherwise it is the tenant itself.
	TenantClaim string            `yaml:"tenant_claim,omitempty"`
	Tenants     map[string]string `yaml:"tenants,omitempty"`
	// Partitions and OPAs are as in domain.Caller.
	Partitions []string `yaml:"partitions,omitempty"`
	OPAs       []string `yaml:"opas,omitempty"`
}

// ConsoleGrant is what a credential may do on the console listener.
type ConsoleGrant struct {
	Role string `yaml:"role,omitempty"`
	// RoleClaim is a JSON pointer to the claim: a text or an array of texts, which are keys of Roles. The most that any of
	// them grants counts.
	RoleClaim string            `yaml:"role_claim,omitempty"`
	Roles     map[string]string `yaml:"roles,omitempty"`
	// Tenants are those that it sees, or TenantsClaim leads to them: a text or an array of texts. Without either it sees
	// all.
	Tenants      []string `yaml:"tenants,omitempty"`
	TenantsClaim string   `yaml:"tenants_claim,omitempty"`
}

// validate reports what is wrong; claims says whether there are any.
func (g *UploadGrant) validate(claims bool) error {
	if g == nil {
		return nil
	}
	errs := []error{
		checkClaim("upload.tenant_claim", g.TenantClaim, claims), checkPartitions("upload: partitions", g.Partitions...),
		checkNames("upload: opas", g.OPAs...), checkUploadTenants("upload: tenant", given(g.Tenant)...),
		checkUploadTenants("upload: tenants", slices.Collect(maps.Values(g.Tenants))...),
	}
	if (g.Tenant == "") == (g.TenantClaim == "") {
		errs = append(errs, errors.New("upload: set either tenant or tenant_claim"))
	}
	if g.Tenants != nil && g.TenantClaim == "" {
		errs = append(errs, errors.New("upload: tenants says what values of tenant_claim mean, which is not set"))
	}
	return errors.Join(errs...)
}

// given is a name alone, or nothing where it is not set.
func given(name string) []string {
	if name == "" {
		return nil
	}
	return []string{name}
}

// checkNames reports names that nothing can have: they would be changed, and be another's then.
func checkNames(key string, names ...string) error {
	for _, name := range names {
		if name == "" || name != domain.Name(name) || strings.TrimSpace(name) != name {
			return fmt.Errorf("%s: %q is no name", key, name)
		}
	}
	return nil
}

// checkPartitions is checkNames of partitions.
func checkPartitions(key string, names ...string) error {
	for _, name := range names {
		if strings.Contains(name, "*") {
			return fmt.Errorf("%s: %q is no partition: they are names and no patterns", key, name)
		}
	}
	return checkNames(key, names...)
}

// checkUploadTenants is checkNames of tenants that somebody uploads for.
func checkUploadTenants(key string, names ...string) error {
	if slices.Contains(names, domain.SystemTenant) {
		return fmt.Errorf("%s: %s has docket's own decisions, and nobody uploads for it", key, domain.SystemTenant)
	}
	return checkNames(key, names...)
}

// checkTenants is checkNames of tenants that a caller sees.
func checkTenants(key string, names ...string) error {
	for _, name := range names {
		if strings.Contains(name, "*") {
			return fmt.Errorf("%s: %q is no tenant, and no pattern: leave tenants out for all of them", key, name)
		}
	}
	return checkNames(key, names...)
}

func (g *ConsoleGrant) validate(claims bool) error {
	if g == nil {
		return nil
	}
	errs := []error{
		checkClaim("console.role_claim", g.RoleClaim, claims), checkClaim("console.tenants_claim", g.TenantsClaim, claims),
		checkTenants("console: tenants", g.Tenants...),
	}
	if (g.Role == "") == (g.RoleClaim == "") {
		errs = append(errs, errors.New("console: set either role or role_claim"))
	}
	if g.Role != "" {
		_, err := roleOf(g.Role)
		errs = append(errs, err)
	}
	if (len(g.Roles) > 0) != (g.RoleClaim != "") {
		errs = append(errs, errors.New("console: role_claim and roles, which says what its values mean, go together"))
	}
	for _, value := range slices.Sorted(maps.Keys(g.Roles)) {
		if _, err := roleOf(g.Roles[value]); err != nil {
			errs = append(errs, fmt.Errorf("console: roles: %q: %w", value, err))
		}
	}
	if g.Tenants != nil && g.TenantsClaim != "" {
		errs = append(errs, errors.New("console: set tenants or tenants_claim, not both"))
	}
	if g.Tenants != nil && len(g.Tenants) == 0 {
		errs = append(errs, errors.New("console: tenants is empty: leave it out for all of them"))
	}
	return errors.Join(errs...)
}

func checkClaim(key, pointer string, claims bool) error {
	if pointer == "" {
		return nil
	}
	if !claims {
		return fmt.Errorf("%s: a certificate has no claims", key)
	}
	if err := domain.CheckPointer(pointer); err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	return nil
}

// caller makes the caller of a credential. Its error is ErrNotGranted, with why.
func (g *UploadGrant) caller(name string, claims []byte) (domain.Caller, error) {
	tenant := g.Tenant
	if g.TenantClaim != "" {
		values, whole := texts(claims, g.TenantClaim)
		if len(values) != 1 || !whole {
			return domain.Caller{}, fmt.Errorf("%w: its claim %s has to be one text, the tenant", ErrNotGranted, g.TenantClaim)
		}
		if tenant = values[0]; g.Tenants != nil {
			tenant = g.Tenants[tenant]
		}
		if tenant == "" || tenant == domain.SystemTenant {
			return domain.Caller{}, fmt.Errorf("%w: the value of its claim %s is no tenant here", ErrNotGranted, g.TenantClaim)
		}
	}
	return domain.Caller{
		Name: name, Tenants: domain.Tenants(tenant), Partitions: g.Partitions, OPAs: g.OPAs,
	}, nil
}

func (g *ConsoleGrant) caller(name string, claims []byte) (domain.Caller, error) {
	c := domain.Caller{Name: name, Role: domain.Role(g.Role), Tenants: domain.AllTenants()}
	values, _ := texts(claims, g.RoleClaim) // an odd group grants nothing, and takes nothing
	for _, value := range values {
		if role, err := roleOf(g.Roles[value]); err == nil && role.Includes(c.Role) {
			c.Role = role
		}
	}
	if c.Role == "" && len(values) == 0 {
		return domain.Caller{}, fmt.Errorf(
			"%w: there is no text in its claim %s; does the issuer put it into its tokens (scopes, userinfo)?", ErrNotGranted,
			g.RoleClaim,
		)
	}
	if c.Role == "" {
		return domain.Caller{}, fmt.Errorf("%w: no value of its claim %s is a role here", ErrNotGranted, g.RoleClaim)
	}
	if g.Tenants != nil {
		c.Tenants = domain.Tenants(g.Tenants...)
	}
	if g.TenantsClaim != "" {
		tenants, whole := texts(claims, g.TenantsClaim)
		if len(tenants) == 0 || !whole {
			return domain.Caller{}, fmt.Errorf("%w: its claim %s names no tenant", ErrNotGranted, g.TenantsClaim)
		}
		c.Tenants = domain.Tenants(tenants...)
	}
	return c, nil
}

// texts are the names in a claim, which is one or an array of them; whole says that there is nothing else in it.
func texts(claims []byte, pointer string) (names []string, whole bool) {
	if pointer == "" {
		return nil, false
	}
	whole = true
	domain.Elements(domain.ValueAt(claims, domain.Steps(pointer)), func(v jsontext.Value) bool {
		text, ok := domain.TextOf(v)
		if ok && checkNames("", text) == nil {
			names = append(names, text)
		} else {
			whole = false
		}
		return true
	})
	return names, whole
}

// granted makes the caller of a credential on one listener; its claims are JSON, or nil.
type granted interface {
	caller(name string, claims []byte) (domain.Caller, error)
}

// grants are those of a credential, by listener.
type grants struct {
	Upload  *UploadGrant  `yaml:"upload,omitempty"`
	Console *ConsoleGrant `yaml:"console,omitempty"`
}

// on is the grant on a listener, or nil.
func (g grants) on(listener string) granted {
	switch {
	case listener == UploadListener && g.Upload != nil:
		return g.Upload
	case listener == ConsoleListener && g.Console != nil:
		return g.Console
	}
	return nil
}

// Granted reports whether any of these credentials is granted something on a listener.
func Granted(listener string, issuers []Issuer, certificates []ClientCertificate) bool {
	return slices.ContainsFunc(issuers, func(i Issuer) bool { return i.on(listener) != nil }) ||
		slices.ContainsFunc(certificates, func(c ClientCertificate) bool { return c.on(listener) != nil })
}

func (g grants) validate(claims bool) error {
	if g.Upload == nil && g.Console == nil {
		return errors.New("set upload or console: what is granted there")
	}
	return errors.Join(g.Upload.validate(claims), g.Console.validate(claims))
}

// The listeners that ask who somebody is.
const (
	UploadListener  = "upload"
	ConsoleListener = "console"
)

// sectionErrors reports what is wrong with the entries of a section.
func sectionErrors[T any](section string, entries []T, check func(T) error) error {
	var errs []error
	for i, entry := range entries {
		if err := check(entry); err != nil {
			errs = append(errs, fmt.Errorf("%s: entry %d: %w", section, i+1, err))
		}
	}
	return errors.Join(errs...)
}
