package kbs

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/format"
)

// policyPackage is the package that a resource policy has to have (Trustee kbs/docs/resource_policy.md).
const policyPackage = "policy"

// ScopePolicy joins two resource policies, of which a KBS has one at a time: requests for resources of a repository are
// decided by policy, all others by base, each as it would decide alone. Where policy has no rule allow, nothing of the
// repository is released. The error is about Rego that cannot be read.
func ScopePolicy(repository, policy, base string) (string, error) {
	joined := &ast.Module{Package: ast.MustParsePackage("package " + policyPackage)}
	for _, part := range []struct{ name, prefix, text, condition string }{
		{"the policy for " + repository, "scoped_", policy, "scope"},
		{"the policy for other resources", "base_", base, "not scope"},
	} {
		m, err := parseRego(part.text)
		if err != nil {
			return "", fmt.Errorf("%s: %w", part.name, err)
		}
		if !m.Package.Path.Equal(joined.Package.Path) {
			continue // the KBS asks for nothing in it
		}
		if err := addImports(joined, m, part.name); err != nil {
			return "", err
		}
		names := prefixRules(m, part.prefix)
		joined.Rules = append(joined.Rules, m.Rules...)
		if slices.Contains(names, "allow") {
			joined.Rules = append(joined.Rules, ast.MustParseRule("allow := "+part.prefix+"allow if "+part.condition))
		}
	}
	joined.Rules = append(joined.Rules, ast.MustParseRule(`scope if data["resource-path"][0] == `+strconv.Quote(repository)))
	return printed(joined)
}

// printed writes a module with its imports before all rules, where not every engine reads others.
func printed(m *ast.Module) (string, error) {
	var text strings.Builder
	fmt.Fprintf(&text, "%s\n\nimport rego.v1\n", m.Package)
	for _, i := range m.Imports {
		fmt.Fprintln(&text, i)
	}
	for _, r := range m.Rules {
		b, err := format.AstWithOpts(r, format.Opts{RegoVersion: ast.RegoV1})
		if err != nil {
			return "", fmt.Errorf("join resource policies: %w", err)
		}
		fmt.Fprintf(&text, "\n%s\n", strings.TrimSpace(string(b)))
	}
	return text.String(), nil
}

// parseRego reads Rego of either version, as KBSs of several releases do.
func parseRego(text string) (*ast.Module, error) {
	m, err := ast.ParseModuleWithOpts("policy.rego", text, ast.ParserOptions{RegoVersion: ast.RegoV1})
	if err == nil {
		return m, nil
	}
	if m, older := ast.ParseModuleWithOpts("policy.rego", text, ast.ParserOptions{RegoVersion: ast.RegoV0}); older == nil {
		return m, nil
	}
	return nil, err
}

// addImports adds m's imports but those of the language's keywords, which the joined policy has its own way.
func addImports(joined, m *ast.Module, name string) error {
	for _, i := range m.Imports {
		path := i.Path.String()
		if path == "rego.v1" || strings.HasPrefix(path, "future.keywords") {
			continue
		}
		same := slices.IndexFunc(joined.Imports, func(other *ast.Import) bool { return other.Name() == i.Name() })
		switch {
		case same < 0:
			joined.Imports = append(joined.Imports, i)
		case !joined.Imports[same].Path.Equal(i.Path):
			return fmt.Errorf("%s: import %s as %s: the other policy has that name for %s; choose another with `as`", name, path, i.Name(), joined.Imports[same].Path)
		}
	}
	return nil
}

// prefixRules puts prefix before the names of m's rules wherever they stand, and returns what they were. A local
// variable of such a name is renamed with it, and hides it as before.
func prefixRules(m *ast.Module, prefix string) (names []string) {
	for _, r := range m.Rules {
		names = append(names, string(r.Head.Ref()[0].Value.(ast.Var)))
	}
	// References and variables are terms; heads have their own copies.
	seen := map[*ast.Term]bool{}
	rename := func(t *ast.Term) {
		if v, ok := t.Value.(ast.Var); ok && !seen[t] && slices.Contains(names, string(v)) {
			seen[t] = true
			t.Value = ast.Var(prefix + string(v))
		}
	}
	ast.WalkTerms(m, func(t *ast.Term) bool {
		rename(t)
		if ref, ok := t.Value.(ast.Ref); ok && len(ref) > 2 && ref[0].Equal(ast.DefaultRootDocument) && ref[1].Equal(ast.StringTerm(policyPackage)) {
			if name, ok := ref[2].Value.(ast.String); ok && slices.Contains(names, string(name)) {
				ref[2] = ast.StringTerm(prefix + string(name))
			}
		}
		return false
	})
	ast.WalkRules(m, func(r *ast.Rule) bool {
		if slices.Contains(names, string(r.Head.Name)) {
			r.Head.Name = ast.Var(prefix + string(r.Head.Name))
		}
		if len(r.Head.Reference) > 0 {
			rename(r.Head.Reference[0])
		}
		return false
	})
	return names
}
