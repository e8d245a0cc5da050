package api

import (
	"cmp"
	"strings"
	"unicode"

	"github.com/docket-project/docket/internal/domain"
)

// Sentence says in one sentence what was decided about whom and, as far as the decision itself says so, why.
func Sentence(d *domain.Decision) string {
	who := cmp.Or(apart(d.Principal), "Somebody")
	what := "what was asked for"
	switch {
	case d.Action != "" && d.Resource != "":
		what = apart(d.Action) + " on " + apart(d.Resource)
	case d.Action != "":
		what = apart(d.Action)
	case d.Resource != "":
		what = "access to " + apart(d.Resource)
	}
	policy := cmp.Or(apart(d.Path), "a policy without a path")
	because := ""
	if d.Reason != "" {
		because = ": " + apart(strings.TrimRight(d.Reason, "."))
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
			apart(strings.TrimRight(cmp.Or(d.Error, d.Reason, "it does not say why"), ".")) + "."
	case domain.OutcomeUnknown:
	}
	return policy + " answered " + who + " about " + what + " with something that docket does not take for a verdict; " +
		"a mapping for this path can say what it means" + because + "."
}

// apart keeps what a text says of the direction of writing to itself (Unicode Standard Annex #9): a name could turn the
// rest of the sentence around.
func apart(text string) string {
	turns := func(r rune) bool {
		return unicode.Is(unicode.Bidi_Control, r) || unicode.In(r, unicode.Hebrew, unicode.Arabic, unicode.Syriac,
			unicode.Thaana, unicode.Nko)
	}
	if !strings.ContainsFunc(text, turns) {
		return text
	}
	// What ends an isolation within the text would end this one.
	return "\u2068" + strings.Map(func(r rune) rune {
		if unicode.Is(unicode.Bidi_Control, r) {
			return unicode.ReplacementChar
		}
		return r
	}, text) + "\u2069"
}
