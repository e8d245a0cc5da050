package api

import (
	"cmp"
	"strings"

	"github.com/docket-project/docket/internal/domain"
)

// Sentence says in one sentence what was decided about whom and, as far as the decision itself says so, why.
func Sentence(d *domain.Decision) string {
	who := cmp.Or(d.Principal, "Somebody")
	what := "what was asked for"
	switch {
	case d.Action != "" && d.Resource != "":
		what = d.Action + " on " + d.Resource
	case d.Action != "":
		what = d.Action
	case d.Resource != "":
		what = "access to " + d.Resource
	}
	policy := cmp.Or(d.Path, "a policy without a path")
	because := ""
	if d.Reason != "" {
		because = ": " + strings.TrimRight(d.Reason, ".")
	}
	switch d.Outcome {
	case domain.OutcomeDenied:
		return who + " was denied " + what + " by " + policy + because + "."
	case domain.OutcomeAllowed:
		return who + " was allowed " + what + " by " + policy + because + "."
	case domain.OutcomeUndefined:
		return "No rule of " + policy + " gave " + who + " an answer to " + what +
			", which those who ask most often treat as a denial."
	case domain.OutcomeError:
		return policy + " failed when " + who + " asked for " + what + ": " +
			strings.TrimRight(cmp.Or(d.Error, d.Reason, "it does not say why"), ".") + "."
	case domain.OutcomeUnknown:
	}
	return policy + " answered " + who + " about " + what + " with something that docket does not take for a verdict; " +
		"a mapping for this path can say what it means" + because + "."
}
