package policy

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/domain"
)

func TestReadKey(t *testing.T) {
	good, other := strings.Repeat("ab", minKey), strings.Repeat("cd", minKey)
	for _, c := range []struct{ name, file, version, says string }{
		{"one", "v1 " + good, "v1", ""},
		{"the last one counts", "# old\nv1 " + good + "\n\nv2   " + other + "  \n", "v2", ""},
		{"none", "# nothing\n", "", "there is no key"},
		{"empty", "", "", "there is no key"},
		{"no version", good, "", "line 1: want"},
		{"too short", "v1 " + good + "\nv2 abcd", "", "line 2: want"},
		{"no hexadecimal", "v1 " + strings.Repeat("xy", minKey), "", "line 1: want"},
		{"a version twice", "v1 " + good + "\nv1 " + other, "", "line 2: there is a key with the version v1 in line 1"},
		{"a version that would end a hash early", "v:1 " + good, "", "line 1: want"},
	} {
		t.Run(c.name, func(t *testing.T) {
			key, err := ReadKey([]byte(c.file))
			if c.says == "" {
				require.NoError(t, err)
				require.Equal(t, c.version, key.Version)
				require.Len(t, key.secret, minKey)
				return
			}
			require.ErrorContains(t, err, c.says)
			require.NotContains(t, err.Error(), good, "no key in a message")
		})
	}
}

func TestValidate(t *testing.T) {
	half, one := 0.5, 1.0
	denied := []domain.Outcome{domain.OutcomeDenied}
	for _, c := range []struct {
		name string
		p    Policy
		says string
	}{
		{"nothing", Policy{Name: "a"}, "it says nothing"},
		{"a name that is no label", Policy{Name: "A b", Masks: []Mask{{Remove: "/input"}}}, "small letters"},
		{"an empty quota", Policy{Name: "a", Quota: &Quota{}}, "quota bounds nothing"},
		{"a burst of nothing", Policy{Name: "a", Quota: &Quota{UploadsAtOnce: 1, Burst: burstOf(1)}}, "burst is of a rate"},
		{"no burst", Policy{Name: "a", Quota: &Quota{EventsPerSecond: 1, Burst: burstOf(0)}}, "burst: from 1s to 24h0m0s"},
		{"half an upload", Policy{Name: "a", Quota: &Quota{UploadsAtOnce: 1.5}}, "a whole number"},
		{"a path with a slash in front", Policy{Name: "a", Paths: []string{"/x"}, Masks: []Mask{{Remove: "/input"}}},
			"neither begins nor ends with a slash"},
		{"less than nothing", Policy{Name: "a", Quota: &Quota{EventsPerSecond: -1}}, "events_per_second: more than 0"},
		{"a quota of paths", Policy{Name: "a", Paths: []string{"x"}, Quota: &Quota{UploadsAtOnce: 1}}, "do not go together"},
		{"two masks in one", Policy{Name: "a", Masks: []Mask{{Remove: "/a", Hash: "/b"}}}, "set one of remove"},
		{"a text without replace", Policy{Name: "a", Masks: []Mask{{Remove: "/a", With: "x"}}}, "with is the text"},
		{"any member", Policy{Name: "a", Masks: []Mask{{Remove: "/*/password"}}}, "its first step has to name"},
		{"the event", Policy{Name: "a", Masks: []Mask{{Remove: "/"}}}, "its first step has to name"},
		{"what docket goes by", Policy{Name: "a", Masks: []Mask{{Remove: "/labels/id"}}}, "docket goes by it"},
		{"a hash without a key", Policy{Name: "a", Masks: []Mask{{Hash: "/input/a"}}}, "set DOCKET_MASK_KEYS_FILE"},
		{"a sample of nothing", Policy{Name: "a", Samples: []Sample{{Keep: &half}}}, "say of which"},
		{"a part that is none", Policy{Name: "a", Samples: []Sample{{Outcomes: denied}}}, "say what part"},
		{"everything", Policy{Name: "a", Samples: []Sample{{Outcomes: denied, Keep: &one}}}, "say what part"},
		{"an outcome that is none", Policy{Name: "a", Samples: []Sample{{Outcomes: []domain.Outcome{"deny"}, Keep: &half}}},
			`"deny" is none`},
	} {
		t.Run(c.name, func(t *testing.T) {
			require.ErrorContains(t, Validate([]Policy{c.p}, true), "policies: entry 1 (")
			require.ErrorContains(t, Validate([]Policy{c.p}, true), c.says)
		})
	}
	fine := Policy{Name: "a", Masks: []Mask{{Remove: "/input"}}}
	require.NoError(t, Validate([]Policy{fine}, true))
	require.ErrorContains(t, Validate([]Policy{fine, fine}, true), `entry 2 ("a"): there is another with this name`)
}
