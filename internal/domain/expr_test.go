package domain

import (
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestParseQueryMakesATree(t *testing.T) {
	for _, c := range []struct {
		query string
		want  Expr
	}{
		{"", Expr{}},
		{"outcome=denied", Equals(FieldOutcome, "denied")},
		{"outcome=denied&outcome=error", AnyOf(Equals(FieldOutcome, "denied"), Equals(FieldOutcome, "error"))},
		{"principal=!alice", Not(Equals(FieldPrincipal, "alice"))},
		{"path=/http/*", HasPrefix(FieldPath, "http/")},
		{"error=*", Present(FieldError)},
		{"error=!*", Not(Present(FieldError))},
		{"path=a*&path=b&path=!*/c&app=x", AllOf(
			Equals("app", "x"), AnyOf(HasPrefix(FieldPath, "a"), Equals(FieldPath, "b")), Not(HasPrefix(FieldPath, "*")),
		)},
	} {
		t.Run(c.query, func(t *testing.T) {
			if c.query == "path=a*&path=b&path=!*/c&app=x" { // a star inside is a star
				c.want.Args[2] = Not(Equals(FieldPath, "*/c"))
			}
			values, err := url.ParseQuery(c.query)
			require.NoError(t, err)
			q, err := ParseQuery(values, time.Now())
			require.NoError(t, err)
			require.Equal(t, c.want, q.Where)
		})
	}
}

func TestParamsCannotSayEveryTree(t *testing.T) {
	a, b := Equals(FieldTenant, "a"), Equals(FieldPath, "b")
	for name, where := range map[string]Expr{
		"or between fields":           AnyOf(a, b),
		"and of one field":            AllOf(a, Equals(FieldTenant, "c")),
		"not of a tree":               Not(AnyOf(a, b)),
		"and below or":                AnyOf(AllOf(a, b), a),
		"two alternatives of a field": AllOf(AnyOf(a, Equals(FieldTenant, "c")), a),
		"nothing":                     AnyOf(),
	} {
		t.Run(name, func(t *testing.T) {
			_, ok := Filter{Where: where}.Params()
			require.False(t, ok)
		})
	}
}

func TestConjuncts(t *testing.T) {
	state, class, path := Equals(FieldState, "open"), Equals(FieldClass, "invalid"), Equals(FieldPath, "a")
	all := AllOf(state, Not(class), path)
	require.Equal(t, []Expr{state, Not(class), path}, all.Conjuncts())
	require.Equal(t, all, AllOf(AllOf(state, Not(class)), Expr{}, path), "it is flat, and everything says nothing")
	require.Equal(t, AllOf(Not(class), path), all.Without(FieldState))
	require.Equal(t, AllOf(state, Not(class)), all.About(FieldState, FieldClass))
	require.Equal(t, Expr{}, all.About())
	require.True(t, all.Mentions(FieldClass))
	require.False(t, all.Mentions(FieldTenant))
	mixed := AnyOf(state, path)
	require.Equal(t, Expr{}, AllOf(mixed).About(FieldState), "a half of a condition says something else")
	require.True(t, Filter{Where: state}.Countable())
	require.False(t, Filter{Where: state, Since: time.Now()}.Countable())
	require.False(t, Filter{Where: Equals("id", "x")}.Countable())
}

// TestCausesAreTotal keeps a new cause from counting as a decision by accident.
func TestCausesAreTotal(t *testing.T) {
	require.Len(t, subjects, len(Causes))
	for _, c := range Causes {
		require.Contains(t, subjects, c)
	}
	for _, c := range BodyCauses {
		require.Equal(t, ofBody, subjects[c])
	}
	require.True(t, Cause("").OfDecision(), "a record without a reason")
	require.False(t, Cause("from elsewhere").OfDecision())
}

// TestFieldsHaveTheirPlace checks the tables that searches, stores and the API share.
func TestFieldsHaveTheirPlace(t *testing.T) {
	for name, table := range map[string][]FieldInfo{"decisions": DecisionFields, "dead letters": DeadLetterFields} {
		seen := map[Field]bool{}
		for _, f := range table {
			require.NotEmpty(t, f.Name, name)
			require.False(t, seen[f.Name], "%s has %s twice", name, f.Name)
			seen[f.Name] = true
			got, ok := FieldOf(table, f.Name)
			require.True(t, ok)
			require.Equal(t, f.Name, got.Name)
			require.Equal(t, f.Kind == Enum, len(f.Values) > 0, "%s.%s", name, f.Name)
		}
	}
	for _, f := range CountedFields {
		_, ok := FieldOf(DeadLetterFields, f)
		require.True(t, ok, f)
	}
	_, ok := FieldOf(DecisionFields, "colour")
	require.False(t, ok)
}
