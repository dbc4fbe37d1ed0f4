// Package policy evaluates the two policies of Trustee, in Rego (version 1): the attestation policy, which turns verified
// claims into trustworthiness claims, and the resource policy, which says whether a token gets a resource.
//
// It must not know where policies come from, nor how claims were verified.
package policy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/types"

	agentpolicy "github.com/coco-e2e/coco-e2e/framework/policy"
)

const (
	queryReferenceValue = "query_reference_value"

	// evaluationTime bounds one evaluation: whoever may set a policy must not be able to stop the KBS with it.
	evaluationTime = 5 * time.Second
)

// ErrEmptyResult says that an attestation policy set no claim. Its text is Trustee's.
var ErrEmptyResult = errors.New("At least one policy claim must be set.") //nolint:staticcheck // Trustee's text

// outside are builtin functions that reach out of the evaluation; the engine of Trustee has none of them.
var outside = []string{"http.send", "net.lookup_ip_addr", "opa.runtime", "rego.parse_module", "trace"}

func capabilities(extra ...*ast.Builtin) *ast.Capabilities {
	known := ast.CapabilitiesForThisVersion()
	known.Builtins = slices.DeleteFunc(known.Builtins, func(b *ast.Builtin) bool { return slices.Contains(outside, b.Name) })
	known.Builtins = append(known.Builtins, extra...)
	return known
}

func compile(name, source string, known *ast.Capabilities) (*ast.Compiler, error) {
	module, err := ast.ParseModuleWithOpts(name, source, ast.ParserOptions{Capabilities: known, RegoVersion: ast.RegoV1})
	if err != nil {
		return nil, fmt.Errorf("policy %s: %w", name, err)
	}
	compiler := ast.NewCompiler().WithCapabilities(known)
	if compiler.Compile(map[string]*ast.Module{name: module}); compiler.Failed() {
		return nil, fmt.Errorf("policy %s: %w", name, compiler.Errors)
	}
	return compiler, nil
}

// evaluate gives a query's value; ok is false when it is undefined. Errors of builtin functions are errors, not
// undefined, as in Trustee's engine.
func evaluate(ctx context.Context, query string, options ...func(*rego.Rego)) (value any, ok bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, evaluationTime)
	defer cancel()
	options = append(options, rego.Query(query), rego.StrictBuiltinErrors(true), rego.SetRegoVersion(ast.RegoV1))
	results, err := rego.New(options...).Eval(ctx)
	if err != nil {
		return nil, false, err
	}
	if len(results) == 0 || len(results[0].Expressions) == 0 {
		return nil, false, nil
	}
	return results[0].Expressions[0].Value, true, nil
}

// Resource is a resource policy.
type Resource struct{ compiler *ast.Compiler }

// CompileResource reads a resource policy. Its package should be policy and its rule allow; one without them denies.
func CompileResource(source string) (*Resource, error) {
	compiler, err := compile("resource-policy", source, capabilities())
	if err != nil {
		return nil, err
	}
	return &Resource{compiler}, nil
}

// Request is what a resource policy sees as data.
type Request struct {
	Plugin string
	Path   []string // below the plugin
	Query  map[string]string
}

func (r *Request) document() map[string]any {
	path := make([]any, len(r.Path))
	for i, segment := range r.Path {
		path[i] = segment
	}
	query := make(map[string]any, len(r.Query))
	for name, value := range r.Query {
		query[name] = value
	}
	return map[string]any{"plugin": r.Plugin, "resource-path": path, "query": query}
}

// Allow asks data.policy.allow, with a token's claims as input. Undefined and what is no boolean is false.
func (p *Resource) Allow(ctx context.Context, claims any, request Request) (bool, error) {
	value, _, err := evaluate(ctx, "data.policy.allow", rego.Compiler(p.compiler), rego.Input(claims),
		rego.Store(inmem.NewFromObject(request.document())))
	if err != nil {
		return false, fmt.Errorf("evaluate data.policy.allow: %w", err)
	}
	allowed, ok := value.(bool)
	return ok && allowed, nil
}

// Why tells how far the rules of allow came for a request that is not allowed, for people.
func (p *Resource) Why(ctx context.Context, claims any, request Request) string {
	documents := request.document()
	t := agentpolicy.NewTrace(documents)
	_, err := traced(ctx, "data.policy.allow", claims, t, rego.Compiler(p.compiler), rego.Store(inmem.NewFromObject(documents)))
	return why(p.compiler, t, "allow", claims, err)
}

// traced evaluates a query and traces every rule.
func traced(ctx context.Context, query string, input any, t *agentpolicy.Trace, options ...func(*rego.Rego)) (rego.ResultSet, error) {
	ctx, cancel := context.WithTimeout(ctx, evaluationTime)
	defer cancel()
	prepared, err := rego.New(append(options, rego.Query(query), rego.SetRegoVersion(ast.RegoV1))...).PrepareForEval(ctx)
	if err != nil {
		return nil, err
	}
	return prepared.Eval(ctx, rego.EvalInput(input), rego.EvalQueryTracer(t), rego.EvalRuleIndexing(false))
}

func why(c *ast.Compiler, t *agentpolicy.Trace, rule string, input any, err error) string {
	if err != nil {
		return err.Error()
	}
	rules, byDefault := t.Rules(c, ast.Ref{ast.DefaultRootDocument, ast.StringTerm("policy"), ast.StringTerm(rule)}, input)
	if len(rules) == 0 && byDefault == nil {
		return "the policy has no rule data.policy." + rule
	}
	return agentpolicy.RulesText(rules, byDefault)
}

// Attestation is an attestation policy.
type Attestation struct{ compiler *ast.Compiler }

var referenceFunction = types.NewFunction(types.Args(types.S), types.A)

// CompileAttestation reads an attestation policy. Its package should be policy and its rule trust_claims, an object of
// numbers. It may call query_reference_value(name), which is null for a name without value.
func CompileAttestation(id, source string) (*Attestation, error) {
	compiler, err := compile(id, source, capabilities(&ast.Builtin{Name: queryReferenceValue, Decl: referenceFunction}))
	if err != nil {
		return nil, err
	}
	return &Attestation{compiler}, nil
}

// Consultation is one reference value that a policy asked for.
type Consultation struct {
	Name  string
	Value any // nil when there is none
}

// TrustClaims asks data.policy.trust_claims, with a TEE's claims as input, and tells which reference values the policy
// consulted, in the order of asking. A policy without that rule gives nil claims.
func (p *Attestation) TrustClaims(ctx context.Context, claims any, reference func(name string) any) (map[string]any, []Consultation, error) {
	var consulted []Consultation
	value, ok, err := evaluate(ctx, "data.policy.trust_claims", rego.Compiler(p.compiler), rego.Input(claims), references(reference, &consulted))
	if err != nil {
		return nil, consulted, fmt.Errorf("evaluate data.policy.trust_claims: %w", err)
	}
	if !ok {
		return nil, consulted, nil
	}
	set, ok := value.(map[string]any)
	if !ok {
		return nil, consulted, errors.New("Policy result is not an object") //nolint:staticcheck // Trustee's text
	}
	if len(set) == 0 {
		return nil, consulted, ErrEmptyResult
	}
	return set, consulted, nil
}

// Extension is something that an attestation policy has a token say of a TEE, beside the appraisal.
type Extension struct {
	Name  string
	Value any
}

// Extensions asks data.policy.extensions, a list of objects with name, key (a number, of no use in JSON) and value. A
// policy without that rule has none.
func (p *Attestation) Extensions(ctx context.Context, claims any, reference func(name string) any) ([]Extension, error) {
	var consulted []Consultation
	value, ok, err := evaluate(ctx, "data.policy.extensions", rego.Compiler(p.compiler), rego.Input(claims), references(reference, &consulted))
	if err != nil {
		return nil, fmt.Errorf("evaluate data.policy.extensions: %w", err)
	}
	if !ok {
		return nil, nil
	}
	list, ok := value.([]any)
	extensions := make([]Extension, 0, len(list))
	for _, item := range list {
		fields, _ := item.(map[string]any)
		name, named := fields["name"].(string)
		_, numbered := fields["key"].(json.Number)
		content, valued := fields["value"]
		ok = ok && named && numbered && valued
		extensions = append(extensions, Extension{name, content})
	}
	if !ok {
		return nil, errors.New("Illegal extensions rule in policy.") //nolint:staticcheck // Trustee's text
	}
	return extensions, nil
}

// Why tells how far the rules of a trust claim came, for people.
func (p *Attestation) Why(ctx context.Context, claim string, claims any, reference func(name string) any) string {
	var consulted []Consultation
	t := agentpolicy.NewTrace(nil)
	_, err := traced(ctx, "data.policy.trust_claims", claims, t, rego.Compiler(p.compiler), references(reference, &consulted))
	text := why(p.compiler, t, claim, claims, err)
	for _, c := range consulted {
		if c.Value == nil {
			text += fmt.Sprintf("\n  reference value %s is not set", c.Name)
			continue
		}
		text += fmt.Sprintf("\n  reference value %s is %v", c.Name, c.Value)
	}
	return text + "\n"
}

// references is the function by which policies ask for reference values; it notes which.
func references(reference func(name string) any, consulted *[]Consultation) func(*rego.Rego) {
	lookup := func(_ rego.BuiltinContext, operand *ast.Term) (*ast.Term, error) {
		name, ok := operand.Value.(ast.String)
		if !ok {
			return nil, fmt.Errorf("%s: want a string", queryReferenceValue)
		}
		value := reference(string(name))
		if !slices.ContainsFunc(*consulted, func(c Consultation) bool { return c.Name == string(name) }) {
			*consulted = append(*consulted, Consultation{string(name), value})
		}
		converted, err := ast.InterfaceToValue(value)
		if err != nil {
			return nil, fmt.Errorf("reference value %q: %w", string(name), err)
		}
		return ast.NewTerm(converted), nil
	}
	return rego.Function1(&rego.Function{Name: queryReferenceValue, Decl: referenceFunction}, lookup)
}
