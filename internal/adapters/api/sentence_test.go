package api

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/domain"
)

func TestSentence(t *testing.T) {
	for _, c := range []struct {
		name string
		d    domain.Decision
		want string
	}{
		{"denied", domain.Decision{
			Outcome: domain.OutcomeDenied, Principal: "bob", Action: "delete", Resource: "/7", Path: "a/b", Reason: "not hers.",
		}, "bob was denied delete on /7 by a/b: not hers."},
		{"allowed, of nobody", domain.Decision{Outcome: domain.OutcomeAllowed, Action: "read"},
			"Somebody was allowed read by a policy without a path."},
		{"undefined", domain.Decision{Outcome: domain.OutcomeUndefined, Principal: "bob", Resource: "/7", Path: "a"},
			"No rule of a gave bob an answer to access to /7, which those who ask most often treat as a denial."},
		{"error", domain.Decision{Outcome: domain.OutcomeError, Path: "a", Error: "conflict"},
			"a failed when Somebody asked for what was asked for: conflict."},
		{"unknown", domain.Decision{Outcome: domain.OutcomeUnknown, Path: "a", Principal: "bob"},
			"a answered bob about what was asked for with something that docket does not take for a verdict; " +
				"a mapping for this path can say what it means."},
		{"a name that turns text around", domain.Decision{Outcome: domain.OutcomeDenied, Principal: "b\u202eo\u2069b"},
			"\u2068b\ufffdo\ufffdb\u2069 was denied what was asked for by a policy without a path."},
		{"Hebrew", domain.Decision{Outcome: domain.OutcomeDenied, Principal: "\u05d0"},
			"\u2068\u05d0\u2069 was denied what was asked for by a policy without a path."},
	} {
		t.Run(c.name, func(t *testing.T) { require.Equal(t, c.want, Sentence(&c.d)) })
	}
}
