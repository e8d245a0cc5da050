package domain

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRoles(t *testing.T) {
	for _, c := range []struct {
		has, needs Role
		want       bool
	}{
		{Viewer, Viewer, true}, {Viewer, Operator, false}, {Operator, Viewer, true}, {Operator, Operator, true},
		{Operator, Admin, false}, {Admin, Operator, true}, {"", Viewer, false}, {"root", Viewer, false}, {"", "", false},
	} {
		t.Run(string(c.has)+" does what needs "+string(c.needs), func(t *testing.T) {
			require.Equal(t, c.want, c.has.Includes(c.needs))
		})
	}
}

func TestScope(t *testing.T) {
	all, none, one, two := AllTenants(), Tenants(), Tenants("acme"), Tenants("initech", "acme", "acme")
	require.Equal(t, two, Tenants("acme", "initech"), "a set has no order")
	require.Equal(t, []string{"acme", "initech"}, two.Names())
	require.Nil(t, all.Names())
	require.Nil(t, none.Names())
	require.True(t, all.All())
	require.False(t, none.All())
	for name, c := range map[string]struct {
		inner, outer  Scope
		within, meets bool
	}{
		"all of all":     {all, all, true, true},
		"one of all":     {one, all, true, true},
		"all of one":     {all, one, false, true},
		"one of two":     {one, two, true, true},
		"two of one":     {two, one, false, true},
		"none of one":    {none, one, true, false},
		"one of none":    {one, none, false, false},
		"none of all":    {none, all, true, false},
		"another of one": {Tenants("initech"), one, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, c.within, c.inner.Within(c.outer))
			require.Equal(t, c.meets, c.inner.Meets(c.outer))
			require.Equal(t, c.meets, c.outer.Meets(c.inner), "it is symmetric")
		})
	}
	require.True(t, all.Includes("anybody"))
	require.True(t, one.Includes("acme"))
	require.False(t, one.Includes("acm"))
	require.False(t, none.Includes(""))
	require.Equal(t, "all tenants", all.String())
	require.Equal(t, "tenants acme, initech", two.String())
	require.Equal(t, "no tenant", none.String())
	require.Equal(t, Expr{}, all.Expr())
	require.Equal(t, Equals(FieldTenant, "acme"), one.Expr())
	require.Equal(t, Expr{Op: OpOr}, none.Expr(), "which nothing fits")
}

func TestTenantOfAnUploader(t *testing.T) {
	require.Equal(t, "acme", Caller{Tenants: Tenants("acme")}.Tenant())
	require.Equal(t, DefaultTenant, Caller{Tenants: AllTenants()}.Tenant())
}
