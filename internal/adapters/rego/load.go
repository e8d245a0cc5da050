package rego

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/bundle"
	"github.com/open-policy-agent/opa/v1/loader"

	"github.com/docket-project/docket/internal/adapters/replaypolicy"
)

// named is how a policy without a path is called where it is complained of.
const named = "policy.rego"

// load reads a policy: the text that came with the order, or what stands at its path.
func load(order replaypolicy.Order, version ast.RegoVersion) (*bundle.Bundle, error) {
	if order.Policy == "" {
		return loadText(named, order.Text, version)
	}
	about, err := os.Stat(order.Policy)
	if err != nil {
		return nil, err
	}
	if about.IsDir() {
		return loadDirectory(order.Policy, version)
	}
	text, err := os.ReadFile(order.Policy)
	if err != nil {
		return nil, err
	}
	if !strings.HasSuffix(order.Policy, bundle.RegoExt) && !isGzip(text) {
		return nil, errors.New(
			"it is neither Rego, whose name ends in .rego, nor a directory, nor a bundle as opa build makes it",
		)
	}
	return loadText(order.Policy, text, version)
}

func isGzip(text []byte) bool { return bytes.HasPrefix(text, []byte{0x1f, 0x8b}) }

// loadText reads a bundle, which is gzip, or else Rego.
func loadText(name string, text []byte, version ast.RegoVersion) (*bundle.Bundle, error) {
	if isGzip(text) {
		b, err := bundle.NewReader(bytes.NewReader(text)).WithSkipBundleVerification(true).WithRegoVersion(version).
			WithLazyLoadingMode(false).Read()
		if err != nil {
			return nil, fmt.Errorf("it is no bundle as opa build makes it: %w", err)
		}
		return &b, nil
	}
	module, err := ast.ParseModuleWithOpts(name, string(text), ast.ParserOptions{RegoVersion: version})
	if err != nil {
		return nil, err
	}
	return bundleOf(nil, bundle.ModuleFile{URL: name, Path: name, Raw: text, Parsed: module}), nil
}

// loadDirectory reads one as `opa eval --data` does: every file of Rego, and every one of JSON or YAML as data; or,
// with a .manifest in it, as a bundle. Whatever a manifest says, nobody knows whether somebody has changed a file
// since: such a policy has no revision.
func loadDirectory(path string, version ast.RegoVersion) (*bundle.Bundle, error) {
	files := loader.NewFileLoader().WithSkipBundleVerification(true).WithRegoVersion(version)
	if _, err := os.Stat(filepath.Join(path, bundle.ManifestExt)); !errors.Is(err, fs.ErrNotExist) {
		b, err := files.AsBundle(path)
		if err == nil {
			b.Manifest.Revision = ""
		}
		return b, err
	}
	found, err := files.Filtered([]string{path}, func(_ string, about fs.FileInfo, depth int) bool {
		return depth > 0 && strings.HasPrefix(about.Name(), ".")
	})
	if err != nil {
		return nil, err
	}
	var modules []bundle.ModuleFile
	for name, m := range found.Modules {
		modules = append(modules, bundle.ModuleFile{URL: name, Path: name, Raw: m.Raw, Parsed: m.Parsed})
	}
	slices.SortFunc(modules, func(a, b bundle.ModuleFile) int { return strings.Compare(a.Path, b.Path) })
	return bundleOf(found.Documents, modules...), nil
}

func bundleOf(data map[string]any, modules ...bundle.ModuleFile) *bundle.Bundle {
	if data == nil {
		data = map[string]any{}
	}
	return &bundle.Bundle{Manifest: bundle.Manifest{Roots: &[]string{""}}, Data: data, Modules: modules}
}

// rootOf is what stands in front of the names of a policy's files.
func rootOf(path string) string {
	if about, err := os.Stat(path); err == nil && about.IsDir() {
		return strings.TrimSuffix(path, "/") + "/"
	}
	return path[:strings.LastIndexByte(path, '/')+1]
}

// complaint is what OPA complains of, with the names of files as whoever wrote the policy knows them.
func (d *decider) complaint(err error) string {
	var all ast.Errors
	var text string
	if errors.As(err, &all) {
		lines := make([]string, len(all))
		for i, e := range all {
			lines[i] = e.Message
			if e.Location != nil {
				lines[i] = fmt.Sprintf("%s:%d: %s", d.place(e.Location.File), e.Location.Row, e.Message)
			}
			if e.Details != nil {
				lines[i] = strings.Join(append([]string{lines[i]}, e.Details.Lines()...), "\n  ")
			}
		}
		text = strings.Join(lines, "\n")
	} else {
		text = err.Error()
	}
	if d.root != "" {
		text = strings.ReplaceAll(text, d.root, "")
	}
	text = strings.Map(func(r rune) rune {
		switch {
		case r == '\t':
			return ' '
		case r != '\n' && !unicode.IsPrint(r):
			return unicode.ReplacementChar
		}
		return r
	}, text)
	if len(text) > maxComplaint {
		text = strings.ToValidUTF8(text[:maxComplaint], "") + " …"
	}
	return text
}

// place is where something stands as whoever wrote the policy knows it.
func (d *decider) place(at string) string {
	return strings.TrimPrefix(strings.TrimPrefix(at, d.root), "/")
}
