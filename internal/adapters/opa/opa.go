// Package opa decides what callers may do, with OPA's own library: by the policy that docket ships, and by the
// operator's own, which can only take away. It bounds how long a policy may take, and lets it ask nothing of others. It
// leaves remembering answers, and refusing, to access.
package opa

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/loader"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/storage/inmem"

	"github.com/docket-project/docket/internal/access"
	"github.com/docket-project/docket/internal/domain"
)

//go:embed access.rego
var shipped string

const (
	// patience is how long the policies may take for an answer. They get it twice: a machine that is busy is not a policy
	// that is slow.
	patience = 25 * time.Millisecond
	tries    = 2

	shippedFile = "docket's own:access.rego" // no file has this name, as the loader spells them
	// narrow is the operator's package, and deny the rule of it that docket asks for.
	narrow = "data.docket.narrow"
	deny   = "deny"
)

// Load makes the policy that docket ships and, unless path is "", the operator's: a file of Rego, or a directory with
// such files and with data. Its error is Misconfigured.
func Load(ctx context.Context, path string) (access.Policy, error) {
	p, err := load(ctx, path)
	if err != nil {
		return nil, domain.Errorf(domain.Misconfigured, "access_policy %s: %w", path, err)
	}
	return p, nil
}

func load(ctx context.Context, path string) (access.Policy, error) {
	module, err := ast.ParseModule(shippedFile, shipped)
	if err != nil {
		return nil, err
	}
	modules, data := map[string]*ast.Module{shippedFile: module}, map[string]any{}
	query := "reasons = data.docket.access.reasons"
	if path != "" {
		own, err := read(path)
		if err != nil {
			return nil, err
		}
		for name, m := range own.Modules {
			modules[name] = m.Parsed
		}
		data = own.Documents
		query += "; denials = " + narrow + "." + deny
	}
	caps := capabilities()
	compiler := ast.NewCompiler().WithCapabilities(caps)
	if compiler.Compile(modules); compiler.Failed() {
		return nil, compiler.Errors
	}
	prepared, err := rego.New(
		rego.Query(query), rego.Compiler(compiler), rego.Store(inmem.NewFromObject(data)), rego.Capabilities(caps),
		rego.StrictBuiltinErrors(true), // a rule that cannot tell must not be one that does not refuse
	).PrepareForEval(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := decide(ctx, prepared, []byte(`{}`), path != ""); domain.ClassOf(err) == domain.Misconfigured {
		return nil, err // it has no answer at all, whoever asks
	}
	return func(ctx context.Context, input []byte) ([]string, error) {
		return decide(ctx, prepared, input, path != "")
	}, nil
}

// read reads the operator's policy, which has to be the package docket.narrow, or one below it, and nothing else.
func read(path string) (*loader.Result, error) {
	found, err := loader.NewFileLoader().Filtered([]string{path}, func(_ string, about fs.FileInfo, depth int) bool {
		return depth > 0 && strings.HasPrefix(about.Name(), ".") || strings.HasSuffix(about.Name(), "_test.rego")
	})
	if err != nil {
		return nil, err
	}
	denies := false
	for _, name := range slices.Sorted(maps.Keys(found.Modules)) {
		m := found.Modules[name].Parsed
		if p := m.Package.Path.String(); p != narrow && !strings.HasPrefix(p, narrow+".") {
			return nil, fmt.Errorf("%s: it is package %s, and has to be docket.narrow, or one below it", name,
				strings.TrimPrefix(p, "data."))
		}
		for _, r := range m.Rules {
			if r.Head.Ref()[0].Value.Compare(ast.Var(deny)) != 0 {
				continue
			}
			if p := m.Package.Path.String(); p != narrow {
				return nil, fmt.Errorf("%s: docket asks for %s in the package docket.narrow only, and this is in %s", r.Location,
					deny, strings.TrimPrefix(p, "data."))
			}
			if r.Head.RuleKind() != ast.MultiValue || len(r.Head.Ref()) != 1 {
				return nil, fmt.Errorf("%s: %s has to be a set of reasons: deny contains \"…\" if { … }", r.Location, deny)
			}
			denies = true
		}
	}
	if !denies {
		return nil, fmt.Errorf("there is no rule %s in the package docket.narrow: it would refuse nothing", deny)
	}
	if docket, ok := found.Documents["docket"]; ok {
		below, _ := docket.(map[string]any)
		if _, ok := below["access"]; ok || below == nil {
			return nil, errors.New("its data has docket.access, which is docket's own policy")
		}
	}
	return found, nil
}

// capabilities are those of this OPA, but for what asks others, and what answers otherwise each time. The time is
// allowed: who may do what may depend on it.
func capabilities() *ast.Capabilities {
	c := ast.CapabilitiesForThisVersion()
	c.Builtins = slices.DeleteFunc(c.Builtins, func(b *ast.Builtin) bool {
		return b.Nondeterministic && b.Name != ast.NowNanos.Name
	})
	c.AllowNet = []string{}
	return c
}

// decide asks the policies, and reads their answer to the letter: what is none refuses.
func decide(ctx context.Context, p rego.PreparedEvalQuery, input []byte, narrowed bool) ([]string, error) {
	value, err := ast.ValueFromReader(bytes.NewReader(input))
	if err != nil {
		return nil, failed(err)
	}
	var set rego.ResultSet
	for try := 1; ; try++ {
		bounded, cancel := context.WithTimeout(ctx, patience)
		set, err = p.Eval(bounded, rego.EvalParsedInput(value))
		late := bounded.Err() != nil
		cancel()
		if ctx.Err() != nil {
			return nil, domain.Errorf(domain.Canceled, "the policy of access: %w", ctx.Err())
		}
		if err == nil || !late {
			break
		}
		if try == tries {
			return nil, domain.Errorf(
				domain.Unavailable, "the policy of access took longer than %s, twice: nobody is let in by it", patience,
			)
		}
	}
	if err != nil {
		return nil, failed(err)
	}
	if len(set) != 1 {
		return nil, failed(fmt.Errorf("it has %d answers", len(set)))
	}
	reasons, err := texts(set[0].Bindings["reasons"])
	if err != nil || !narrowed {
		return reasons, err
	}
	denials, err := texts(set[0].Bindings["denials"])
	return append(reasons, denials...), err
}

func failed(err error) error {
	return domain.Errorf(domain.Misconfigured, "the policy of access fails, and lets nobody in: %w", err)
}

// texts reads a set of texts.
func texts(v any) ([]string, error) {
	all, ok := v.([]any)
	if !ok {
		return nil, failed(fmt.Errorf("its reasons are %T, and no set", v))
	}
	var out []string
	for _, one := range all {
		text, ok := one.(string)
		if !ok {
			return nil, failed(fmt.Errorf("one of its reasons is %T, and no text", one))
		}
		out = append(out, text)
	}
	return out, nil
}
