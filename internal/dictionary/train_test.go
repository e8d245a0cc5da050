package dictionary

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/klauspost/compress/s2"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// dense is what events share in these tests.
const dense = `{"labels":{"app":"shop","env":"prod","region":"eu-central-1"},"path":"http/authz/allow","input":{"user":%q,` +
	`"department":%q,"city":%q,"card":"%08d"},"result":{"allow":false,"reasons":["user is not the owner"]}}`

func samplesOf(n int, make func(i int) sample) []sample {
	out := []sample{}
	for i := range n {
		out = append(out, make(i))
	}
	return out
}

func TestADictionaryHoldsWhatIsShared(t *testing.T) {
	samples := samplesOf(400, func(i int) sample {
		user := fmt.Sprintf("user-%d", i%200)
		return sample{fmt.Appendf(nil, dense, user, fmt.Sprintf("department-%d", i%10), fmt.Sprintf("city-%d", i%11), i),
			[]byte(user)}
	})
	b := train(t.Context(), samples)
	text := string(b)
	assert.Contains(t, text, `"region":"eu-central-1"}`)
	assert.Contains(t, text, `user is not the owner`)
	assert.Contains(t, text, `"department-3"`)
	assert.NotContains(t, text, "user-", "each is in two events only")
	assert.NotContains(t, text, "0000", "a card is in one event only")
	d := s2.NewDict(b)
	require.NotNil(t, d)
	event := fmt.Appendf(nil, dense, "stranger", "department-3", "city-4", 77777777)
	assert.Less(t, len(d.Encode(nil, event)), len(event)/3)
}

// Some events that say who asks must not spoil the dictionary of those that do not.
func TestSomeKnownPrincipalsSpoilNothing(t *testing.T) {
	b := train(t.Context(), samplesOf(1000, func(i int) sample {
		if i%15 == 0 {
			return sample{fmt.Appendf(nil, `{"path":"other","n":%d}`, i), fmt.Append(nil, "user-", i)}
		}
		return sample{fmt.Appendf(nil, dense, fmt.Sprint("u", i), "d", "c", i), nil}
	}))
	assert.Contains(t, string(b), "eu-central-1")
	assert.Contains(t, string(b), "user is not the owner")
}

func TestADictionaryIsNobodys(t *testing.T) {
	for name, c := range map[string]struct {
		samples []sample
		not     string
	}{
		"nineteen share it": {samplesOf(400, func(i int) sample {
			city := fmt.Sprintf("city-%d", i)
			if i < shared-1 {
				city = "Atlantis"
			}
			return sample{fmt.Appendf(nil, dense, "u", "d", city, i), nil}
		}), "Atlantis"},
		"an event that says it often counts once": {samplesOf(400, func(i int) sample {
			city := fmt.Sprintf("city-%d", i)
			if i == 7 {
				return sample{[]byte(`{"a":[` + strings.Repeat(`"Atlantis",`, 100) + `"Atlantis"]}`), nil}
			}
			return sample{fmt.Appendf(nil, dense, "u", "d", city, i), nil}
		}), "Atlantis"},
		"who asks, however often": {samplesOf(400, func(i int) sample {
			return sample{fmt.Appendf(nil, dense, "mallory", "d", "c", i), []byte("mallory")}
		}), "mallory"},
		"what one says of itself, who asks often": {samplesOf(900, func(i int) sample {
			user, city := fmt.Sprintf("user-%d", i%50), "Everywhere"
			if i%50 == 7 { // 18 times
				user, city = "often", "Atlantis"
			}
			if i%20 == 3 { // and 45 times
				user, city = "often", "Atlantis"
			}
			return sample{fmt.Appendf(nil, dense, "u", "d", city, i), []byte(user)}
		}), "Atlantis"},
		"somebody whom the mapping does not know": {samplesOf(900, func(i int) sample {
			city := fmt.Sprintf("city-%d", i%20)
			if i%25 == 7 {
				city = "Atlantis"
			}
			return sample{fmt.Appendf(nil, dense, "u", "d", city, i), nil}
		}), "Atlantis"},
		"who asks, behind escapes": {samplesOf(400, func(i int) sample {
			return sample{fmt.Appendf(nil, `{"input":{"user":"R\u0026D <mallory@example.com>"},"n":%d}`, i), []byte("R&D <mallory@example.com>")}
		}), "mallory"},
		"ten people whom the mapping does not know": {samplesOf(1000, func(i int) sample {
			return sample{fmt.Appendf(nil, dense, "u", "d", fmt.Sprintf("person-%d@example.com", i%10), i), nil}
		}), "person-"},
		"eight people behind three services": {samplesOf(1000, func(i int) sample {
			return sample{fmt.Appendf(nil, dense, "u", "d", fmt.Sprintf("person-%d@example.com", i%8), i),
				fmt.Append(nil, "svc-", i%3)}
		}), "person-"},
		"what is shared, but not together": {samplesOf(900, func(i int) sample {
			return sample{fmt.Appendf(nil, dense, "u", fmt.Sprintf("department-%d", i%30), fmt.Sprintf("city-%d", i/30%30), i),
				nil}
		}), `"department-3","city":"city-4"`},
	} {
		t.Run(name, func(t *testing.T) {
			b := train(t.Context(), c.samples)
			require.NotNil(t, b)
			assert.NotContains(t, string(b), c.not)
		})
	}
}

func TestATrainerTakesAnything(t *testing.T) {
	for name, event := range map[string]string{
		"nothing": "", "no JSON": "not JSON at all", "an open object": `{"a":{"b":1,`, "a number": "7", "twice": `{"a":1}{"b":2}`,
		"escapes": `{"\u0000":"\ud800","é":"💥"}`,
	} {
		t.Run(name, func(t *testing.T) {
			b := train(t.Context(), samplesOf(40, func(int) sample { return sample{[]byte(event), nil} }))
			if b != nil {
				require.NotNil(t, s2.NewDict(b))
			}
		})
	}
}

func FuzzTrain(f *testing.F) {
	f.Add([]byte(`{"labels":{"app":"shop"},"input":[1,true,null,"x"]}`), "x")
	f.Add([]byte(`{"a":`), "")
	f.Fuzz(func(t *testing.T, event []byte, principal string) {
		b := train(t.Context(), samplesOf(shared, func(int) sample { return sample{event, []byte(principal)} }))
		if b != nil && s2.NewDict(b) == nil {
			t.Fatal("no dictionary")
		}
	})
}

// TestTrainingIsBounded has events that share all of their many values, and some that are deep.
func TestTrainingIsBounded(t *testing.T) {
	large := `{"a":[` + strings.Repeat(`{"name":"value","other":["x",1,true]},`, 600) + `1]}`
	deep := strings.Repeat(`{"a":[`, 30) + `1` + strings.Repeat(`]}`, 30)
	b := train(t.Context(), samplesOf(3000, func(i int) sample {
		return sample{[]byte([]string{large, deep, large + deep}[i%3]), fmt.Append(nil, i%40)}
	}))
	require.NotNil(t, s2.NewDict(b))
	require.Less(t, len(b), 70_000)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.Nil(t, train(ctx, samplesOf(100, func(int) sample { return sample{[]byte(large), nil} })))
}
