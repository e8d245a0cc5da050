package policy

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/domain"
)

// TestPaths: OPA decides by what a URL means and logs what it says: whoever asks could spell a path past a mask.
func TestPaths(t *testing.T) {
	none := 0.0
	p := Policy{
		Paths: []string{"shop/*"}, Masks: []Mask{{Remove: "/input/a"}},
		Samples: []Sample{{Outcomes: []domain.Outcome{domain.OutcomeDenied}, Keep: &none}},
	}
	for _, c := range []struct {
		path         string
		masked, kept bool
	}{
		{`"path":"shop/pay",`, false, false},
		{`"path":"/shop/pay",`, false, false},
		{`"path":"else/pay",`, false, true},
		{`"path":"%73hop/pay",`, true, true},
		{`"path":"shop%2Fpay",`, true, true},
		{`"path":"/%73hop//pay/",`, true, true},
		{`"path":"else/pay","path":"shop/pay",`, false, false},
		{`"path":"shop/pay","path":null,`, true, true},
		{`"path":5,`, true, true},
		{`"path":{"a":"shop/pay"},`, true, true},
		{``, true, true},
	} {
		t.Run(c.path, func(t *testing.T) {
			u := contentOf(t, p).Upload("t", 1000, false)
			kept, keep := u.Event(eventOf(`{` + c.path + `"input":{"a":1},"result":false}`))
			require.Equal(t, c.kept, keep, "what is left out is what its path says, and nothing else")
			require.Equal(t, c.masked, kept.Masked)
		})
	}
	t.Run("any number of paths takes few plans", func(t *testing.T) {
		c := contentOf(t, p)
		u := c.Upload("t", 1000, false)
		for n := range 5000 {
			u.Event(eventOf(fmt.Sprintf(`{"path":"x%d","input":{}}`, n)))
		}
		require.Len(t, c.rulesOf("t").plans.made, 1)
	})
}

// TestMaskedAgain: what was quarantined is masked, and is not hashed again when it is replayed.
func TestMaskedAgain(t *testing.T) {
	c := contentOf(t, Policy{Masks: []Mask{{Hash: "/input/user"}, {Hash: "/input/new"}}})
	first, keep := c.Upload("t", 100, false).Quarantined([]byte(`{"input":{"user":"alice","x":1}}`))
	require.True(t, keep)
	again, keep := c.Upload("t", 100, true).Event(eventOf(string(first.Raw)))
	require.True(t, keep)
	require.Equal(t, string(first.Raw[:60]), string(again.Raw[:60]))
	forged, _ := c.Upload("t", 100, false).Event(eventOf(string(first.Raw)))
	require.NotEqual(t, string(first.Raw[:60]), string(forged.Raw[:60]), "what an OPA calls a hash is a value")
}

// TestDigest: the digest of an upload must not tell what was in it to those who see what is left.
func TestDigest(t *testing.T) {
	wire := []byte(`[{"input":{"pin":"1234"}}]`)
	plain := (*Content)(nil).Digest("t", wire)
	require.Equal(t, domain.HashID(wire), fmt.Sprintf("sha256:%x", plain))
	p := Policy{Name: "p", Tenants: []string{"t"}, Masks: []Mask{{Remove: "/input/pin"}}}
	c := NewContent([]Policy{p}, testKey, nil, 1<<20, nil)
	require.Equal(t, plain, c.Digest("other", wire))
	require.NotEqual(t, plain, c.Digest("t", wire))
	require.Equal(t, c.Digest("t", wire), NewContent([]Policy{p}, testKey, nil, 1<<20, nil).Digest("t", wire))
	require.NotEqual(
		t, c.Digest("t", wire), NewContent([]Policy{p}, Key{}, nil, 1<<20, nil).Digest("t", wire), "a key of its own",
	)
}
