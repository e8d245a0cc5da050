package api

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// Replayed is what a policy says about a stored decision.
type Replayed struct {
	DecisionID string  `json:"decision_id"`
	Tenant     string  `json:"tenant"`
	Time       Instant `json:"time"`
	Path       Text    `json:"path"`
	// Asked is what was asked for, such as data.orders.allow.
	Asked Text `json:"asked"`
	// Was is the outcome that was decided, and Now the policy's; null where it has none, and Error says why.
	Was     string `json:"was"`
	Now     Text   `json:"now"`
	Flipped bool   `json:"flipped"`
	// Same says that the result is the same as well, and Hidden that a mask hides the stored one, or a part of it.
	Same   bool `json:"same"`
	Hidden bool `json:"hidden,omitempty"`
	Reason Text `json:"reason"`
	// Stored is the event's result, and Result the policy's: where they differ, and of the first decision.
	Stored json.RawMessage `json:"stored,omitempty"`
	Result json.RawMessage `json:"result,omitempty"`
	// ResultBytes is how long a result is that is too long to be here.
	ResultBytes int `json:"result_bytes,omitempty"`
	// Exact is false where the answer may be another one than at the time, and Doubts say why. Missing are the builtins
	// whose answers the event does not have, and data that the policy does not have.
	Exact   bool     `json:"exact"`
	Doubts  []string `json:"doubts"`
	Missing []string `json:"missing,omitempty"`
	// Rules are where the rules stand that gave the result, and Failed are conditions that did not hold: of decisions with
	// another result, and of the first one.
	Rules  []string    `json:"rules,omitempty"`
	Failed []Condition `json:"failed,omitempty"`
	Error  Text        `json:"error"`
}

// Condition is one that did not hold, so that its rule did not.
type Condition struct {
	Rule      string `json:"rule"`
	At        string `json:"at"`
	Condition string `json:"condition"`
}

// Replay is what came of deciding a search's decisions again.
type Replay struct {
	Decisions int `json:"decisions"`
	// Same come out as they were, Changed as they were but with another result, Flipped with another outcome. Of the
	// Hidden a mask hides what they were, and the Failed could not be decided.
	Same    int `json:"same"`
	Changed int `json:"changed"`
	Flipped int `json:"flipped"`
	Hidden  int `json:"hidden"`
	Failed  int `json:"failed"`
	// Exact are those that come out as they would have at the time.
	Exact int `json:"exact"`
	// Groups are those that are flipped or failed, and then those that are changed, the largest first.
	Groups []*ReplayGroup `json:"groups"`
	// First is the newest of the decisions; null where there is none.
	First *Replayed `json:"first"`
	// Complete says that every decision of the search was decided, and Why what was left out.
	Complete bool `json:"complete"`
	Why      Text `json:"why"`
}

// ReplayGroup are decisions of one policy path that come out otherwise in one way, by the same rules; with the same
// outcome they have another result.
type ReplayGroup struct {
	Path  Text     `json:"path"`
	Asked Text     `json:"asked"`
	Rules []string `json:"rules"`
	Was   string   `json:"was"`
	Now   Text     `json:"now"`
	Error Text     `json:"error"`
	Count int      `json:"count"`
	Exact int      `json:"exact"`
	// Doubts are why others are not exact, by how many.
	Doubts map[string]int `json:"doubts"`
	// Samples are the newest of them, at most maxSamples.
	Samples []*Replayed `json:"samples"`
}

const (
	maxSamples = 3
	// maxGroups bounds them: a policy may fail in another way for every decision.
	maxGroups = 200
	// others is what the groups beyond are counted as.
	others = "(others)"
)

// NewReplay makes one of no decisions.
func NewReplay() *Replay { return &Replay{Groups: []*ReplayGroup{}} }

// Add counts a decision. It keeps it.
func (r *Replay) Add(a *Replayed) {
	if r.Decisions == 0 {
		r.First = a
	}
	r.Decisions++
	if a.Exact {
		r.Exact++
	}
	switch {
	case a.Error != "":
		r.Failed++
	case a.Flipped:
		r.Flipped++
	case a.Hidden:
		r.Hidden++
		return
	case !a.Same:
		r.Changed++
	default:
		r.Same++
		return
	}
	g := r.group(a)
	g.Count++
	if a.Exact {
		g.Exact++
	}
	for _, d := range a.Doubts {
		g.Doubts[d]++
	}
	if len(g.Samples) < maxSamples {
		g.Samples = append(g.Samples, a)
	}
}

func (r *Replay) group(a *Replayed) *ReplayGroup {
	find := func(path, asked, e Text, rules []string) *ReplayGroup {
		i := slices.IndexFunc(r.Groups, func(g *ReplayGroup) bool {
			return g.Path == path && g.Asked == asked && g.Was == a.Was && g.Now == a.Now && g.Error == e &&
				slices.Equal(g.Rules, rules)
		})
		if i < 0 {
			return nil
		}
		return r.Groups[i]
	}
	made := ReplayGroup{Path: a.Path, Asked: a.Asked, Rules: a.Rules, Was: a.Was, Now: a.Now, Error: a.Error}
	g := find(made.Path, made.Asked, made.Error, made.Rules)
	if g == nil && len(r.Groups) >= maxGroups {
		made.Path, made.Asked, made.Error, made.Rules = others, "", "", nil
		if a.Error != "" {
			made.Error = others
		}
		g = find(made.Path, made.Asked, made.Error, made.Rules)
	}
	if g == nil {
		made.Doubts = map[string]int{}
		if made.Rules == nil {
			made.Rules = []string{}
		}
		g = &made
		r.Groups = append(r.Groups, g)
	}
	return g
}

// Sort puts those with another outcome first, and of these the largest.
func (r *Replay) Sort() {
	slices.SortStableFunc(r.Groups, func(a, b *ReplayGroup) int {
		switch {
		case a.changed() == b.changed():
			return cmp.Compare(b.Count, a.Count)
		case b.changed():
			return -1
		}
		return 1
	})
}

// changed reports the outcome that it was.
func (g *ReplayGroup) changed() bool { return g.Was == string(g.Now) }

// Sentence says what came of it.
func (r *Replay) Sentence() string {
	text := fmt.Sprintf("%d decisions: %d the same", r.Decisions, r.Same)
	if r.Changed > 0 {
		text += fmt.Sprintf(", %d with another result", r.Changed)
	}
	text += fmt.Sprintf(", %d with another outcome", r.Flipped)
	if r.Hidden > 0 {
		text += fmt.Sprintf(", %d of which a mask hides what they were", r.Hidden)
	}
	if r.Failed > 0 {
		text += fmt.Sprintf(", %d that cannot be decided", r.Failed)
	}
	return text
}

// DoubtText is why an answer is not exact, for people. missing is what the answer says is missing.
func DoubtText(doubt string, missing ...string) string {
	data := slices.DeleteFunc(slices.Clone(missing), func(name string) bool { return !strings.HasPrefix(name, "data.") })
	missing = slices.DeleteFunc(slices.Clone(missing), func(name string) bool { return strings.HasPrefix(name, "data.") })
	switch doubt {
	case "masked":
		return "a mask replaced a part of it"
	case "erased":
		return "a mask took a part of it out"
	case "cache_missing":
		text := "the event does not have what a builtin answered"
		if len(missing) > 0 {
			text += ": " + strings.Join(missing, ", ")
		}
		return text + " (nd_builtin_cache)"
	case "data_missing":
		text := "the policy reads data that it does not have"
		if len(data) > 0 {
			text += ": " + strings.Join(data, ", ")
		}
		return text
	case "other_data":
		return "this revision said something else: it had other data, or what is in no event"
	case "other_revision":
		return "another revision of the policy decided"
	case "no_revision":
		return "nobody knows which revision of the policy decided"
	case "other_mapping":
		return "docket made the outcome by other mappings"
	}
	return doubt
}
