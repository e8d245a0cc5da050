package compare_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/compare"
)

func TestRank(t *testing.T) {
	a := `{"input":{"time":"2026-11-27T10:00:00Z","user":"alice","http":{"headers":{"x-request-id":"a","role":"admin"}},
		"nonce":1,"key":"0a1b2c3d-0000-4000-8000-0123456789ab","support":1},"result":true,
		"bundles":{"authz":{"revision":"0123456789abcdef0123456789abcdef"}}}`
	b := `{"input":{"time":"2026-11-27T11:00:00Z","user":"bob","http":{"headers":{"x-request-id":"b","role":"guest"}},
		"nonce":2,"key":"0a1b2c3d-0000-4000-8000-0123456789ac","support":2},"result":false,
		"bundles":{"authz":{"revision":"1123456789abcdef0123456789abcdef"}}}`
	found, complete := compare.Events([]byte(a), []byte(b))
	require.True(t, complete)
	compare.Rank(found)
	var order []string
	for _, d := range found {
		name := strings.Join(d.Path, ".")
		if d.Noise() {
			name = "~" + name
		}
		order = append(order, name)
	}
	require.Equal(t, []string{
		"input.user", "input.http.headers.role", "input.support", "bundles.authz.revision", "result",
		"~input.time", "~input.http.headers.x-request-id", "~input.nonce", "~input.key",
	}, order)
}
