package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"
)

// File is a configuration file: scalars by their keys. Sections, which have a structure of their own, are decoded into
// their owners' types.
type File struct {
	// Name is the file's.
	Name   string
	values map[string]string
	lines  map[string]int
	// sections are those that stand in it.
	sections map[string]bool
	keys     int
}

// Read reads a YAML file. Nested keys are joined by "_", so parking: {max_attempts: 10} is parking_max_attempts.
// sections points to a struct whose fields, by their yaml tags, are the sections; a key that a section does not know is
// an error. One that reads itself (yaml.Unmarshaler) names the line and column of a mistake.
func Read(name string, sections any) (*File, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	var doc, more yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(b))
	if err := dec.Decode(&doc); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if err := dec.Decode(&more); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s line %d: there is a second document: one is read", name, more.Line)
	}
	f := &File{Name: name, values: map[string]string{}, lines: map[string]int{}, sections: map[string]bool{}}
	if len(doc.Content) == 0 {
		return f, nil
	}
	return f, f.add("", doc.Content[0], sectionsOf(sections))
}

// sectionsOf are the fields of a struct by their yaml tags.
func sectionsOf(sections any) map[string]any {
	out := map[string]any{}
	v := reflect.ValueOf(sections).Elem()
	for i := range v.NumField() {
		key, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("yaml"), ",")
		out[key] = v.Field(i).Addr().Interface()
	}
	return out
}

// maxKeys is far more than there are settings, and maxKey far longer than any is. Aliases of aliases make a large file
// of a small one.
const (
	maxKeys = 10_000
	maxKey  = 1000
)

// Meant is the node that an alias stands for, for sections that read themselves.
func Meant(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

func (f *File) add(prefix string, n *yaml.Node, sections map[string]any) error {
	n = Meant(n)
	if len(prefix) > maxKey {
		return fmt.Errorf("%s line %d: a key is longer than %d bytes; does an alias contain itself?", f.Name, n.Line, maxKey)
	}
	if n.Kind != yaml.MappingNode {
		return fmt.Errorf("%s line %d: want keys and values", f.Name, n.Line)
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := prefix+Meant(n.Content[i]).Value, Meant(n.Content[i+1])
		if f.keys++; f.keys > maxKeys {
			return fmt.Errorf("%s line %d: there are more than %d keys", f.Name, n.Line, maxKeys)
		}
		if line, twice := f.lines[key]; twice {
			return fmt.Errorf("%s line %d: %s is set already, in line %d", f.Name, n.Content[i].Line, key, line)
		}
		f.lines[key] = n.Content[i].Line
		section, isSection := sections[key]
		switch {
		case isSection:
			f.sections[key] = true
			if value.Tag == "!!null" { // as if the key were not there
				continue
			}
			if _, itself := section.(yaml.Unmarshaler); itself {
				if err := value.Decode(section); err != nil {
					return fmt.Errorf("%s %w", f.Name, err)
				}
			} else if err := decodeSection(key, value, section); err != nil {
				return fmt.Errorf("%s %w", f.Name, err)
			}
		case value.Kind == yaml.MappingNode:
			delete(f.lines, key)
			if err := f.add(key+"_", value, sections); err != nil {
				return err
			}
		case value.Kind == yaml.SequenceNode:
			var items []string
			if err := value.Decode(&items); err != nil {
				return fmt.Errorf(
					"%s line %d: %s: want a list of texts; what has keys of its own is a section, and these are %s", f.Name,
					value.Line, key, strings.Join(slices.Sorted(maps.Keys(sections)), ", "),
				)
			}
			f.values[key] = strings.Join(items, ",")
		case value.Tag == "!!null": // as if the key were not there
		default:
			f.values[key] = value.Value
		}
	}
	return nil
}

// Value is what the file says of a key.
func (f *File) Value(key string) (string, bool) {
	v, ok := f.values[key]
	return v, ok
}

// Unknown reports every key that is none of the known ones, by its line.
func (f *File) Unknown(known func(key string) bool) error {
	var errs []error
	for key, line := range f.lines {
		if !f.sections[key] && !known(key) {
			errs = append(
				errs,
				fmt.Errorf("%s line %d: there is no setting %q (docs/configuration.md lists them)", f.Name, line, key),
			)
		}
	}
	slices.SortFunc(errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return errors.Join(errs...)
}
