// Package policy is what the section policies of the file says of uploads: how much a tenant or a credential may send
// (quotas), what of an event is not kept (masks), and which events are not kept at all (drops and samples). It owns
// what they mean. It leaves splitting uploads to ingest, which asks it, and answers to the upload API.
package policy

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/docket-project/docket/internal/config"
	"github.com/docket-project/docket/internal/domain"
)

// Policy is an entry of the section.
type Policy struct {
	// Name stands in messages, and in metrics as a label.
	Name string `yaml:"name"`
	// Tenants are patterns of those that it is for, and Paths of the policy paths; * is any text. Without any, it is for
	// all of them.
	Tenants []string `yaml:"tenants,omitempty"`
	Paths   []string `yaml:"paths,omitempty"`
	// Quota is what each tenant may send, and CredentialQuota what each credential of theirs may.
	Quota           *Quota `yaml:"quota,omitempty"`
	CredentialQuota *Quota `yaml:"credential_quota,omitempty"`
	// Masks are what is not kept of an event.
	Masks []Mask `yaml:"masks,omitempty"`
	// Samples are events of which a part is kept, or none.
	Samples []Sample `yaml:"samples,omitempty"`
}

// Quota bounds uploads. What is 0 is not bounded.
type Quota struct {
	// EventsPerSecond counts the elements of uploads, and BytesPerSecond the bytes that they inflate to.
	EventsPerSecond float64     `yaml:"events_per_second,omitempty"`
	BytesPerSecond  config.Size `yaml:"bytes_per_second,omitempty"`
	// Burst is how long a pause counts: who sent nothing for that long may send so much at once. A minute unless set.
	Burst *config.Duration `yaml:"burst,omitempty"`
	// UploadsAtOnce counts requests, those that are only read yet among them. It is whole.
	UploadsAtOnce float64 `yaml:"uploads_at_once,omitempty"`
}

// Mask takes one thing out of an event. One of Remove, Replace and Hash is set: a JSON pointer whose steps may be *,
// which is any key and any index.
type Mask struct {
	Remove  string `yaml:"remove,omitempty"`
	Replace string `yaml:"replace,omitempty"`
	// With is the text that Replace puts there; DefaultText unless set.
	With string `yaml:"with,omitempty"`
	Hash string `yaml:"hash,omitempty"`
}

// DefaultText stands where a mask replaced something, unless it says what does.
const DefaultText = "***"

// Sample keeps a part of the events that ended so. The same event is kept, or not, however often it is sent.
type Sample struct {
	Outcomes []domain.Outcome `yaml:"outcomes"`
	// Keep is the part that is kept, from 0 for none to less than 1. It has to be there.
	Keep *float64 `yaml:"keep"`
}

var nameOf = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,62}$`)

// Validate reports everything that is wrong with the section; keyless says that there is no key for hashes.
func Validate(policies []Policy, keyless bool) error {
	var errs []error
	names := map[string]bool{}
	for i, p := range policies {
		mistakes := p.validate(keyless)
		if names[p.Name] {
			mistakes = append(mistakes, errors.New("there is another with this name"))
		}
		for _, err := range mistakes {
			if err != nil {
				errs = append(errs, fmt.Errorf("policies: entry %d (%.63q): %w", i+1, p.Name, err))
			}
		}
		names[p.Name] = true
	}
	return errors.Join(errs...)
}

func (p Policy) validate(keyless bool) []error {
	errs := []error{checkPatterns("tenants", p.Tenants), checkPatterns("paths", p.Paths)}
	if !nameOf.MatchString(p.Name) {
		errs = append(errs, errors.New("name: small letters, digits, - and _, at most 63 (it is a label of metrics)"))
	}
	for _, path := range p.Paths {
		if strings.HasPrefix(path, "/") || strings.HasSuffix(path, "/") {
			errs = append(errs, fmt.Errorf("paths: %q: a policy path neither begins nor ends with a slash", path))
		}
	}
	if p.Quota == nil && p.CredentialQuota == nil && len(p.Masks) == 0 && len(p.Samples) == 0 {
		errs = append(errs, errors.New("it says nothing: set quota, credential_quota, masks or samples"))
	}
	if len(p.Paths) > 0 && (p.Quota != nil || p.CredentialQuota != nil) {
		errs = append(errs, errors.New("paths and quotas do not go together: a quota is for whole uploads, of any path"))
	}
	errs = append(append(errs, p.Quota.validate("quota")...), p.CredentialQuota.validate("credential_quota")...)
	if len(p.Masks) > maxMasks {
		errs = append(errs, fmt.Errorf("masks: %d are too many: at most %d", len(p.Masks), maxMasks))
	}
	for i, m := range p.Masks {
		if err := m.validate(keyless); err != nil {
			errs = append(errs, fmt.Errorf("masks[%d]: %w", i+1, err))
		}
	}
	for i, s := range p.Samples {
		if err := s.validate(); err != nil {
			errs = append(errs, fmt.Errorf("samples[%d]: %w", i+1, err))
		}
	}
	return errs
}

func checkPatterns(key string, patterns []string) error {
	for _, p := range patterns {
		if strings.TrimSpace(p) != p || p == "" || p != domain.Name(p) {
			return fmt.Errorf("%s: %q is no pattern", key, p)
		}
	}
	return nil
}

// maxRate is more than anybody sends, and maxBurst longer than anybody pauses.
const (
	maxRate  = 1e12
	minBurst = time.Second
	maxBurst = 24 * time.Hour
)

func (q *Quota) validate(key string) (errs []error) {
	if q == nil {
		return nil
	}
	for _, limit := range []struct {
		name  string
		value float64
	}{
		{"events_per_second", q.EventsPerSecond}, {"bytes_per_second", float64(q.BytesPerSecond)},
		{"uploads_at_once", q.UploadsAtOnce},
	} {
		if !(limit.value >= 0 && limit.value <= maxRate) { // NaN is neither
			errs = append(errs, fmt.Errorf("%s: %s: more than 0 and at most %g", key, limit.name, maxRate))
		}
	}
	rates := q.EventsPerSecond != 0 || q.BytesPerSecond != 0
	switch {
	case q.UploadsAtOnce != math.Trunc(q.UploadsAtOnce):
		errs = append(errs, fmt.Errorf("%s: uploads_at_once is a whole number", key))
	case !rates && q.UploadsAtOnce == 0:
		errs = append(
			errs,
			fmt.Errorf("%s bounds nothing: set events_per_second, bytes_per_second or uploads_at_once to more than 0", key),
		)
	case !rates && q.Burst != nil:
		errs = append(errs, fmt.Errorf("%s: burst is of a rate: set events_per_second or bytes_per_second", key))
	case q.Burst != nil && (time.Duration(*q.Burst) < minBurst || time.Duration(*q.Burst) > maxBurst):
		errs = append(errs, fmt.Errorf("%s: burst: from %s to %s", key, minBurst, maxBurst))
	}
	return errs
}

// reserved are the members of an event that docket itself goes by, and those that tell of masks.
var reserved = []string{"decision_id", "timestamp", "path", "labels", "masked", "erased"}

// pointer is the mask's, whatever it does there.
func (m Mask) pointer() string { return m.Remove + m.Replace + m.Hash }

// Bounds of masks.
const (
	maxMasks   = 200
	maxText    = 256
	maxSteps   = 32
	maxPointer = 512
)

func (m Mask) validate(keyless bool) error {
	set := 0
	for _, pointer := range []string{m.Remove, m.Replace, m.Hash} {
		if pointer != "" {
			set++
		}
	}
	if set != 1 {
		return errors.New("set one of remove, replace and hash: a JSON pointer such as /input/user/email")
	}
	pointer := m.pointer()
	if err := domain.CheckPointer(pointer); err != nil {
		return err
	}
	steps := domain.Steps(pointer)
	switch {
	case steps[0] == "*" || steps[0] == "":
		return fmt.Errorf("%s: its first step has to name a member of the event, such as input", pointer)
	case slices.Contains(reserved, steps[0]):
		return fmt.Errorf("%s: docket goes by it, so it cannot be masked", pointer)
	case len(steps) > maxSteps || len(pointer) > maxPointer:
		return fmt.Errorf("%.100s: it has more than %d steps or %d bytes", pointer, maxSteps, maxPointer)
	case m.With != "" && m.Replace == "":
		return fmt.Errorf("%s: with is the text that replace puts there", pointer)
	case len(m.With) > maxText || m.With != domain.Name(m.With):
		return fmt.Errorf("%s: with is at most %d bytes of text", pointer, maxText)
	case m.Hash != "" && keyless:
		return fmt.Errorf("%s: hash needs a key: set DOCKET_MASK_KEYS_FILE", pointer)
	}
	return nil
}

func (s Sample) validate() error {
	if len(s.Outcomes) == 0 {
		return errors.New("outcomes: say of which, such as [allowed]")
	}
	for _, o := range s.Outcomes {
		if !slices.Contains(domain.Outcomes, o) {
			return fmt.Errorf("outcomes: %q is none: known are allowed, denied, undefined, error and unknown", o)
		}
	}
	if s.Keep == nil || !(*s.Keep >= 0 && *s.Keep < 1) {
		return errors.New("keep: say what part is kept, from 0 for none to less than 1")
	}
	return nil
}

// Masking reports whether any policy masks anything.
func Masking(policies []Policy) bool {
	return slices.ContainsFunc(policies, func(p Policy) bool { return len(p.Masks) > 0 })
}

// compiled is a policy with its patterns.
type compiled struct {
	Policy
	tenants, paths patterns
}

func compile(p Policy) compiled { return compiled{p, patternsOf(p.Tenants), patternsOf(p.Paths)} }

// patterns are texts with * for any text, as literals; none is any text.
type patterns [][]string

func patternsOf(texts []string) (out patterns) {
	for _, text := range texts {
		out = append(out, domain.Literals(text))
	}
	return out
}

func (p patterns) match(text string) bool {
	return len(p) == 0 || slices.ContainsFunc(p, func(literals []string) bool { return domain.Matches(text, literals) })
}
