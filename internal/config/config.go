// Package config is what configurations are made of: types of values, checks, and the YAML file. It knows no setting:
// each component owns its Config, Default and Validate, and app puts them together. It leaves flags and environment to
// command.
package config

import (
	"fmt"
	"math"
	"strings"
	"time"
)

// Duration is a time.Duration that also reads days.
type Duration time.Duration

// UnmarshalText reads 90d, 36h or 15m.
func (d *Duration) UnmarshalText(b []byte) error {
	text, factor := string(b), int64(1)
	if n, ok := strings.CutSuffix(text, "d"); ok {
		text, factor = n+"h", 24
	}
	v, err := time.ParseDuration(text)
	if err != nil {
		return fmt.Errorf("%q is not a duration such as 90d, 36h or 15m", b)
	}
	if v > math.MaxInt64/time.Duration(factor) || v < math.MinInt64/time.Duration(factor) {
		return fmt.Errorf("%q is more than 292 years", b)
	}
	*d = Duration(v * time.Duration(factor))
	return nil
}

// MarshalText writes whole days as days.
func (d Duration) MarshalText() ([]byte, error) {
	v := time.Duration(d)
	if v >= 24*time.Hour && v%(24*time.Hour) == 0 {
		return fmt.Appendf(nil, "%dd", v/(24*time.Hour)), nil
	}
	return []byte(v.String()), nil
}

// Secret is a text that is never printed.
type Secret string

// String hides the secret.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return "********"
}

// MarshalText hides the secret.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Positive checks that a setting is more than 0.
func Positive[T ~int | ~int64](key string, value T) error {
	if value <= 0 {
		return fmt.Errorf("%s has to be more than 0", key)
	}
	return nil
}

// OneOf checks that a setting is one of a few texts.
func OneOf(key, value string, known ...string) error {
	for _, k := range known {
		if value == k {
			return nil
		}
	}
	return fmt.Errorf("%s %q: it is one of %s", key, value, strings.Join(known, ", "))
}

// Together checks that settings are all set, or none of them.
func Together(keys string, set ...bool) error {
	how := "set all of them or none"
	if len(set) == 2 {
		how = "set both or neither"
	}
	for _, s := range set {
		if s != set[0] {
			return fmt.Errorf("%s go together: %s", keys, how)
		}
	}
	return nil
}
