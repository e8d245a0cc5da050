package explain

import (
	"strings"
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/stretchr/testify/require"
)

// FuzzValue reads what OPA's own reader reads, and takes it for the same.
func FuzzValue(f *testing.F) {
	for _, text := range []string{
		`{"a":[1,2.50,1e400,-0,9007199254740993],"b":{"c":null,"d":true,"e":false},"a":"again"}`, `"\ud800"`, `"\u00e4\n"`,
		"\"\xff\"", `[]`, `{}`, `12`, `{"a":`, `[1,]`, ``, `{"1":1,"\u0031":2}`,
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		want, err := ast.ValueFromReader(strings.NewReader(text))
		got, err2 := valueOf([]byte(text))
		if err != nil {
			return // docket keeps more than Go's reader takes
		}
		require.NoError(t, err2, text)
		require.Zero(t, want.Compare(got), "%s: %s is not %s", text, got, want)
	})
}
