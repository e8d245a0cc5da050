package search

import (
	"testing"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/stretchr/testify/require"
)

func TestScalarText(t *testing.T) {
	for value, want := range map[string]string{
		`"a\u0062"`: "ab", `""`: "", `true`: "true", `false`: "false", `7`: "7", `-7`: "-7", `1.0`: "1", `1e3`: "1000",
		`1.000e3`: "1000", `-0`: "0", `0.0`: "0", `0.10`: "0.1", `12E-1`: "1.2", `1e400`: "1e+400", `1e-400`: "1e-400",
		`-1.50`: "-1.5", `1e999999`: "1e999999", `100000000000000000000000000`: "100000000000000000000000000",
	} {
		got, there := ScalarText(jsontext.Value(value))
		require.True(t, there, value)
		require.Equal(t, want, got, value)
		if v := jsontext.Value(value); v.Kind() == '0' { // whoever asks for it finds it
			again, ok := number(got)
			n, _ := numberOf(v)
			require.Equal(t, n != nil, ok, value)
			require.True(t, !ok || again.Cmp(n) == 0, value)
		}
	}
	for _, value := range []string{`null`, `{}`, `[1]`} {
		_, there := ScalarText(jsontext.Value(value))
		require.False(t, there, value)
	}
}

func TestParseField(t *testing.T) {
	for name, want := range map[string]string{
		"OUTCOME": "outcome", "labels.env": "label.env", `input."a.b/c".d`: `input."a.b/c".d`, "bundles.x.revision": "bundle.x",
		"id": "id", "event.x": "event.x", "input": "input",
	} {
		f, err := ParseField(name)
		require.NoError(t, err, name)
		require.Equal(t, want, FieldName(f))
	}
	for _, name := range []string{"", "usr", "a b", "a:b", `input."a`, "input..x", "-input.x", "input.x\x00", "event", "label", "a>"} {
		_, err := ParseField(name)
		require.Error(t, err, name)
	}
}
