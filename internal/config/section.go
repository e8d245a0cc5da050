package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"
)

// decodeSection decodes a section. What stands in it has to be known, of the right kind, and not empty: a list that
// somebody emptied must not mean everything.
func decodeSection(name string, n *yaml.Node, into any) error {
	if err := checkNode(name, n, reflect.TypeOf(into).Elem()); err != nil {
		return err
	}
	if err := n.Decode(into); err != nil {
		return fmt.Errorf("line %d: %s: %w", n.Line, name, err)
	}
	return nil
}

// checkNode reports the first mistake in what a type is read from.
func checkNode(name string, n *yaml.Node, t reflect.Type) error {
	n = Meant(n)
	mistake := func(what string) error { return fmt.Errorf("line %d: %s: %s", n.Line, name, what) }
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	scalar := n.Kind == yaml.ScalarNode
	if n.Tag == "!!null" || scalar && n.Value == "" || !scalar && len(n.Content) == 0 {
		return mistake("there is nothing in it: give it a value, or leave it out")
	}
	switch t.Kind() {
	case reflect.Struct:
		if n.Kind != yaml.MappingNode {
			return mistake("want keys and values")
		}
		return checkFields(name, n, t)
	case reflect.Map:
		if n.Kind != yaml.MappingNode {
			return mistake("want keys and values, such as {key: value}")
		}
		for i := 1; i < len(n.Content); i += 2 {
			if err := checkNode(name+"."+Meant(n.Content[i-1]).Value, n.Content[i], t.Elem()); err != nil {
				return err
			}
		}
	case reflect.Slice:
		if n.Kind != yaml.SequenceNode {
			return mistake("want a list, such as [a, b]")
		}
		for i, item := range n.Content {
			if err := checkNode(fmt.Sprintf("%s[%d]", name, i+1), item, t.Elem()); err != nil {
				return err
			}
		}
	default:
		if !scalar {
			return mistake("want text")
		}
	}
	return nil
}

// checkFields reports a key that a struct does not have, or has twice, and what is wrong with the others.
func checkFields(name string, n *yaml.Node, t reflect.Type) error {
	fields, seen := fieldsOf(t), map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := Meant(n.Content[i])
		field, known := fields[key.Value]
		switch {
		case !known:
			var names []string
			for name := range fields {
				names = append(names, name)
			}
			slices.Sort(names)
			return fmt.Errorf(
				"line %d: %s: there is no key %q: known are %s", key.Line, name, key.Value, strings.Join(names, ", "),
			)
		case seen[key.Value]:
			return fmt.Errorf("line %d: %s: %s is set twice", key.Line, name, key.Value)
		}
		seen[key.Value] = true
		if err := checkNode(name+"."+key.Value, n.Content[i+1], field); err != nil {
			return err
		}
	}
	return nil
}

// fieldsOf are the types of a struct's fields by their keys, those of inlined structs among them.
func fieldsOf(t reflect.Type) map[string]reflect.Type {
	out := map[string]reflect.Type{}
	for i := range t.NumField() {
		field := t.Field(i)
		key, options, _ := strings.Cut(field.Tag.Get("yaml"), ",")
		if options == "inline" {
			for name, inner := range fieldsOf(field.Type) {
				out[name] = inner
			}
			continue
		}
		out[key] = field.Type
	}
	return out
}
