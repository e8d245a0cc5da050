package api

import (
	"cmp"
	"encoding/json"
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
	// Same says that the result is the same as well.
	Same   bool `json:"same"`
	Reason Text `json:"reason"`
	// Result is the policy's, where it is another one, and of the first decision.
	Result json.RawMessage `json:"result,omitempty"`
	// ResultBytes is how long a result is that is too long to be here.
	ResultBytes int `json:"result_bytes,omitempty"`
	// Exact is false where the answer may be another one than at the time, and Doubts say why. Missing are the builtins
	// whose answers the event does not have.
	Exact   bool     `json:"exact"`
	Doubts  []string `json:"doubts"`
	Missing []string `json:"missing,omitempty"`
	// Rules are where the rules stand that gave the result, and Failed are conditions that did not hold: of decisions that
	// come out otherwise, and of the first one.
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
	// Same come out as they were, Changed as they were but with another result, Flipped with another outcome; the Failed
	// could not be decided.
	Same    int `json:"same"`
	Changed int `json:"changed"`
	Flipped int `json:"flipped"`
	Failed  int `json:"failed"`
	// Exact are those that come out as they would have at the time.
	Exact int `json:"exact"`
	// Groups are those that come out otherwise or failed, the largest first.
	Groups []*ReplayGroup `json:"groups"`
	// First is the newest of the decisions; null where there is none.
	First *Replayed `json:"first"`
	// Complete says that every decision of the search was decided, and Why what was left out.
	Complete bool `json:"complete"`
	Why      Text `json:"why"`
}

// ReplayGroup are decisions of one policy path that come out otherwise in one way, by the same rules.
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
	case !a.Same:
		r.Changed++
		return
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

// Sort puts the largest groups first.
func (r *Replay) Sort() {
	slices.SortStableFunc(r.Groups, func(a, b *ReplayGroup) int { return cmp.Compare(b.Count, a.Count) })
}

// DoubtText is why an answer is not exact, for people.
func DoubtText(doubt string, missing ...string) string {
	switch doubt {
	case "masked":
		return "a mask replaced a part of the input"
	case "erased":
		return "a mask took a part of the input out"
	case "cache_missing":
		text := "the event does not have what a builtin answered"
		if len(missing) > 0 {
			text += ": " + strings.Join(missing, ", ")
		}
		return text + " (nd_builtin_cache)"
	case "other_revision":
		return "another revision of the policy decided"
	case "no_revision":
		return "nobody knows which revision of the policy decided"
	case "other_mapping":
		return "docket made the outcome by other mappings"
	}
	return doubt
}
