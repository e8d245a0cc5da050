package domain

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"
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

// BundleEncoder is EncodeBundles that remembers: the decisions of a batch share a few slices. It is for one goroutine.
type BundleEncoder map[*Bundle]string

// Encode is EncodeBundles.
func (e BundleEncoder) Encode(bundles []Bundle) string {
	if len(bundles) == 0 {
		return ""
	}
	text, known := e[&bundles[0]]
	if !known {
		text = EncodeBundles(bundles)
		e[&bundles[0]] = text
	}
	return text
}

// bundleMemory remembers the bundles of events by their JSON, which changes only with a revision.
type bundleMemory struct {
	mu    sync.RWMutex
	known map[string]remembered
}

type remembered struct {
	bundles []Bundle // nobody writes to them
	altered bool
}

// What is remembered at most: so many values, each of so many bytes.
const (
	maxRemembered      = 1024
	maxRememberedBytes = 2048
)

func (m *bundleMemory) find(raw []byte) (remembered, bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	r, known := m.known[string(raw)]
	return r, known
}

func (m *bundleMemory) keep(raw []byte, r remembered) {
	if len(raw) > maxRememberedBytes {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.known == nil || len(m.known) >= maxRemembered {
		m.known = map[string]remembered{}
	}
	m.known[string(raw)] = r
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
