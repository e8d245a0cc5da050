package app

import (
	"fmt"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/docket-project/docket/internal/config"
	"github.com/docket-project/docket/internal/domain"
)

// Mappings are the section of that name: which of what policies say means allowed or denied, and where the columns are.
// docs/mappings.md describes it.
type Mappings []domain.Mapping

// Projector makes what projects events by a configuration's mappings.
func Projector(c Config) (*domain.Projector, error) { return domain.NewProjector(c.Sections.Mappings) }

// UnmarshalYAML reads the section. A mistake is told with its line and column.
func (m *Mappings) UnmarshalYAML(n *yaml.Node) error {
	n = config.Meant(n)
	if n.Kind != yaml.SequenceNode {
		return mistake(n, "want a list of mappings, each with a path")
	}
	*m = nil
	for _, item := range n.Content {
		one, err := readMapping(config.Meant(item))
		if err != nil {
			return err
		}
		*m = append(*m, one)
	}
	return nil
}

func readMapping(n *yaml.Node) (m domain.Mapping, err error) {
	var when domain.Condition
	var path *yaml.Node
	var allowed, denied []*yaml.Node
	err = eachKey(n, func(key, value *yaml.Node) error {
		var err error
		switch key.Value {
		case "path":
			path = value
			if m.Path, err = text(value); err != nil {
				return err
			}
			if err := domain.CheckPath(m.Path); err != nil {
				return mistake(value, "%w", err)
			}
		case "allowed":
			allowed = listed(value)
		case "denied":
			denied = listed(value)
		case "when":
			when, err = readWhen(value)
		case "undefined":
			m.Undefined = domain.Outcome(value.Value)
			if m.Undefined != domain.OutcomeAllowed && m.Undefined != domain.OutcomeDenied {
				err = mistake(value, "undefined can be allowed or denied, not %q", value.Value)
			}
		case "reason":
			m.Reason, err = pointers(value)
		case "principal":
			m.Principal, err = pointers(value)
		case "action":
			m.Action, err = pointers(value)
		case "resource":
			m.Resource, err = pointers(value)
		default:
			err = unknownKey(key, "path, allowed, denied, when, undefined, reason, principal, action and resource")
		}
		return err
	})
	if err == nil && path == nil {
		err = mistake(n, "a mapping needs a path, such as http/authz/allow or http/*")
	}
	if err != nil {
		return m, err
	}
	if m.Allowed, err = conditions(allowed, when, domain.WhenTrue); err != nil {
		return m, err
	}
	m.Denied, err = conditions(denied, when, domain.WhenFilled)
	return m, err
}

// conditions reads pointers, alone or with what is expected there. when stands beside all of them in the mapping;
// without any, usual is expected.
func conditions(list []*yaml.Node, when domain.Condition, usual domain.When) (out []domain.Condition, err error) {
	if when.When == "" {
		when.When = usual
	}
	for _, n := range list {
		c := when
		if n.Kind != yaml.MappingNode {
			if c.Pointer, err = pointer(n); err != nil {
				return nil, err
			}
			out = append(out, c)
			continue
		}
		err := eachKey(n, func(key, value *yaml.Node) (err error) {
			switch key.Value {
			case "pointer":
				c.Pointer, err = pointer(value)
			case "when":
				var own domain.Condition
				own, err = readWhen(value)
				c.When, c.Equals = own.When, own.Equals
			default:
				err = unknownKey(key, "pointer and when")
			}
			return err
		})
		if err != nil {
			return nil, err
		}
		if c.Pointer == "" {
			return nil, mistake(n, "a condition needs a pointer, such as /result/allow")
		}
		out = append(out, c)
	}
	return out, nil
}

// readWhen reads what a condition expects: a word, or {equals: VALUE}.
func readWhen(n *yaml.Node) (c domain.Condition, err error) {
	if n.Kind == yaml.MappingNode {
		err := eachKey(n, func(key, value *yaml.Node) error {
			if key.Value != string(domain.WhenEquals) {
				return unknownKey(key, "equals")
			}
			if value.Kind != yaml.ScalarNode || value.Tag == "!!null" {
				return mistake(value, "equals compares with a text, a number or a boolean")
			}
			c.When, c.Equals = domain.WhenEquals, value.Value
			return nil
		})
		if err == nil && c.When == "" {
			err = mistake(n, "when is true, false, non_empty, filled, or {equals: VALUE}")
		}
		return c, err
	}
	c.When = domain.When(n.Value)
	if n.Kind != yaml.ScalarNode || c.When == domain.WhenEquals || !slices.Contains(domain.Whens, c.When) {
		return c, mistake(n, "when is true, false, non_empty, filled, or {equals: VALUE}, not %q", n.Value)
	}
	return c, nil
}

func pointers(n *yaml.Node) (out []string, err error) {
	for _, item := range listed(n) {
		p, err := pointer(item)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

func pointer(n *yaml.Node) (string, error) {
	p, err := text(n)
	if err != nil {
		return "", err
	}
	if err := domain.CheckPointer(p); err != nil {
		return "", mistake(n, "%w", err)
	}
	return p, nil
}

func text(n *yaml.Node) (string, error) {
	if n.Kind != yaml.ScalarNode || n.Tag == "!!null" {
		return "", mistake(n, "want text")
	}
	return n.Value, nil
}

// listed are the items of a list, or the only item.
func listed(n *yaml.Node) []*yaml.Node {
	if n.Kind != yaml.SequenceNode {
		return []*yaml.Node{n}
	}
	out := make([]*yaml.Node, len(n.Content))
	for i, item := range n.Content {
		out[i] = config.Meant(item)
	}
	return out
}

// eachKey visits the keys of a YAML mapping, each once.
func eachKey(n *yaml.Node, visit func(key, value *yaml.Node) error) error {
	if n.Kind != yaml.MappingNode {
		return mistake(n, "want keys and values")
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := config.Meant(n.Content[i]), config.Meant(n.Content[i+1])
		if seen[key.Value] {
			return mistake(key, "%s is set twice", key.Value)
		}
		seen[key.Value] = true
		if err := visit(key, value); err != nil {
			return err
		}
	}
	return nil
}

func unknownKey(key *yaml.Node, known string) error {
	return mistake(key, "there is no key %q: known are %s", key.Value, known)
}

func mistake(n *yaml.Node, format string, args ...any) error {
	return fmt.Errorf("line %d column %d: mappings: "+format, append([]any{n.Line, n.Column}, args...)...)
}

// MarshalYAML spells the section as it can be read.
func (m Mappings) MarshalYAML() (any, error) {
	type condition struct {
		Pointer string
		When    any
	}
	spell := func(list []domain.Condition) (out []condition) {
		for _, c := range list {
			when := any(string(c.When))
			switch c.When {
			case domain.WhenTrue, domain.WhenFalse:
				when = c.When == domain.WhenTrue
			case domain.WhenEquals:
				when = map[string]string{string(domain.WhenEquals): c.Equals}
			default:
			}
			out = append(out, condition{c.Pointer, when})
		}
		return out
	}
	type mapping struct {
		Path      string
		Allowed   []condition `yaml:",omitempty"`
		Denied    []condition `yaml:",omitempty"`
		Undefined string      `yaml:",omitempty"`
		Reason    []string    `yaml:",omitempty,flow"`
		Principal []string    `yaml:",omitempty,flow"`
		Action    []string    `yaml:",omitempty,flow"`
		Resource  []string    `yaml:",omitempty,flow"`
	}
	out := make([]mapping, len(m))
	for i, from := range m {
		out[i] = mapping{
			strings.TrimLeft(from.Path, "/"), spell(from.Allowed), spell(from.Denied), string(from.Undefined), from.Reason,
			from.Principal, from.Action, from.Resource,
		}
	}
	return out, nil
}
