package domain

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
)

// Bundle is a bundle that was active when the decision was made.
type Bundle struct{ Name, Revision string }

// EncodeBundles spells bundles as a JSON object, name to revision, as stores keep them; "" for none.
func EncodeBundles(bundles []Bundle) string {
	if len(bundles) == 0 {
		return ""
	}
	m := make(map[string]string, len(bundles))
	for _, b := range bundles {
		m[b.Name] = b.Revision
	}
	out, err := json.Marshal(m)
	if err != nil {
		panic(err) // strings
	}
	return string(out)
}

// DecodeBundles reads what EncodeBundles wrote, in the order of names.
func DecodeBundles(text string) ([]Bundle, error) {
	if text == "" {
		return nil, nil
	}
	var m map[string]string
	if err := json.Unmarshal([]byte(text), &m); err != nil {
		return nil, fmt.Errorf("read bundles: %w", err)
	}
	out := make([]Bundle, 0, len(m))
	for _, name := range slices.Sorted(maps.Keys(m)) {
		out = append(out, Bundle{Name: name, Revision: m[name]})
	}
	return out, nil
}
