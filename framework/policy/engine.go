package policy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	jsonpatch "github.com/evanphx/json-patch/v5"
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/topdown/print"
	"github.com/open-policy-agent/opa/v1/util"
)

// Outcome of an evaluation.
type Outcome int

// What an evaluation can end with.
const (
	Allowed Outcome = iota
	// Denied: the rule was false. The status is PERMISSION_DENIED.
	Denied
	// Error: the rule is undefined, of another type, in conflict, or its
	// operations on the state failed. The status is INTERNAL.
	Error
)

func (o Outcome) String() string { return [...]string{"allowed", "denied", "error"}[o] }

// Decision is what the policy says of a request.
type Decision struct {
	Outcome Outcome
	// Message is the status message that the agent answers, with the quotes
	// that are part of it; "" when allowed.
	Message string
	// Overruled says that AllowRequestsFailingPolicy turned a rejection into
	// an Allowed.
	Overruled bool
}

// Limits of the real engine (Kata set_policy_length_config): bytes of a
// policy, its lines, and characters of a line.
const (
	maxPolicyBytes = 16 << 20
	maxLines       = 200000
	maxColumn      = 65536
)

// module is the name that the agent gives a policy from init-data or SetPolicy.
const module = "agent_policy"

// Engine evaluates one policy for one guest. Evaluations are serialised, as in
// the agent. The zero value is not usable; see New.
type Engine struct {
	mu            sync.Mutex
	compiler      *ast.Compiler
	queries       map[string]*rego.PreparedEvalQuery
	data          map[string]any
	db            storage.Store
	allowFailures bool
}

// New returns an engine without a policy: every rule is undefined.
func New() *Engine {
	e := &Engine{}
	e.reset()
	return e
}

func (e *Engine) reset() {
	e.compiler, e.queries = nil, map[string]*rego.PreparedEvalQuery{}
	e.data = map[string]any{"pstate": map[string]any{}}
	e.db = inmem.NewFromObject(e.data)
}

// SetPolicy replaces the policy and forgets all state. When text does not
// parse, the old policy is gone all the same, as in the agent: every rule is
// undefined from then on.
func (e *Engine) SetPolicy(ctx context.Context, text string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.reset()
	if err := checkLength(text); err != nil {
		return err
	}
	m, err := ast.ParseModuleWithOpts(module, text, ast.ParserOptions{RegoVersion: ast.RegoV1, Capabilities: capabilities()})
	if err != nil {
		return err
	}
	c := ast.NewCompiler().WithEnablePrintStatements(true).WithCapabilities(capabilities()).WithDefaultRegoVersion(ast.RegoV1)
	if c.Compile(map[string]*ast.Module{module: m}); c.Failed() {
		return c.Errors
	}
	e.compiler = c
	// Once on, this switch stays on until the guest ends: it is evaluated
	// through the very gate that it opens.
	d := e.eval(ctx, "AllowRequestsFailingPolicy", []byte("{}"))
	e.allowFailures = d.Outcome == Allowed
	return nil
}

func checkLength(text string) error {
	if len(text) > maxPolicyBytes {
		return fmt.Errorf("policy has %d bytes, at most %d are taken", len(text), maxPolicyBytes)
	}
	lines := 0
	for line := range strings.SplitSeq(text, "\n") {
		if lines++; lines > maxLines {
			return fmt.Errorf("policy has more than %d lines", maxLines)
		}
		if len(line) > maxColumn {
			return fmt.Errorf("line %d of the policy has %d characters, at most %d are taken", lines, len(line), maxColumn)
		}
	}
	return nil
}

// capabilities are the built-in functions that the agent's engine is compiled
// with: a policy that uses another must not work here either.
var capabilities = sync.OnceValue(func() *ast.Capabilities {
	c := ast.CapabilitiesForThisVersion()
	lacks := []string{
		"time.", "net.", "http.", "glob.", "hex.", "yaml.", "urlquery.", "semver.", "uuid.", "crypto.", "io.jwt.", "graph.", "json.match_schema",
		"json.verify_schema", "graphql.", "opa.", "rego.", "providers.", "rand.", "trace", "strings.render_template", "internal.test_case",
		"uri.", "regex.globs_match", "internal.template_string",
	}
	c.Builtins = slices.DeleteFunc(c.Builtins, func(b *ast.Builtin) bool {
		return slices.ContainsFunc(lacks, func(p string) bool { return strings.HasPrefix(b.Name, p) })
	})
	// Of the language, too, only what that engine knows: neither Rego v2 nor
	// template strings, nor keywords that are still to come.
	c.Features = []string{ast.FeatureRegoV1, ast.FeatureKeywordsInRefs}
	c.FutureKeywords = nil
	c.AllowNet = []string{}
	return c
})

// Eval asks the policy's rule endpoint about input, the agent's JSON.
func (e *Engine) Eval(ctx context.Context, endpoint string, input []byte) Decision {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.eval(ctx, endpoint, input)
}

func (e *Engine) eval(ctx context.Context, endpoint string, input []byte) Decision {
	prints := &printed{}
	value, defined, err := e.query(ctx, endpoint, input, prints)
	switch {
	case err != nil:
		return rejected(Error, fmt.Sprintf("%s: internal error %v", endpoint, err))
	case !defined && e.allowFailures:
		return Decision{Overruled: true}
	case !defined:
		return rejected(Error, endpoint+": internal error policy check: unexpected eval_query result len QueryResults { result: [] }")
	}
	allowed, err := e.apply(value)
	switch {
	case err != nil:
		return rejected(Error, fmt.Sprintf("%s: internal error %v", endpoint, err))
	case allowed:
		return Decision{}
	case e.allowFailures:
		return Decision{Overruled: true}
	}
	return rejected(Denied, fmt.Sprintf("%s is blocked by policy: %s", endpoint, strings.Join(prints.lines, " ")))
}

// rejected makes the message as the agent prints it: the Debug form of a Rust
// string, quotes and all.
func rejected(o Outcome, text string) Decision {
	return Decision{Outcome: o, Message: DebugString(text)}
}

// DebugString is Rust's Debug form of a string for text that can be printed.
func DebugString(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\r':
			b.WriteString(`\r`)
		case r == '\t':
			b.WriteString(`\t`)
		case r == 0:
			b.WriteString(`\0`)
		case !strconv.IsPrint(r):
			fmt.Fprintf(&b, `\u{%x}`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

func (e *Engine) query(ctx context.Context, endpoint string, input []byte, prints *printed) (value any, defined bool, err error) {
	if e.compiler == nil {
		return nil, false, nil
	}
	q := e.queries[endpoint]
	if q == nil {
		p, err := rego.New(
			rego.Query("data."+module+"."+endpoint), rego.Compiler(e.compiler),
			rego.Store(e.db),
		).PrepareForEval(ctx)
		if err != nil {
			return nil, false, err
		}
		q = &p
		e.queries[endpoint] = q
	}
	var doc any
	if err := util.UnmarshalJSON(input, &doc); err != nil {
		return nil, false, fmt.Errorf("input: %w", err)
	}
	results, err := q.Eval(ctx, rego.EvalInput(doc), rego.EvalPrintHook(prints))
	if err != nil {
		return nil, false, err
	}
	if len(results) != 1 {
		return nil, false, nil
	}
	return results[0].Expressions[0].Value, true, nil
}

// apply reads a rule's value: a boolean, or {allowed, ops} whose operations
// (RFC 6902) change the engine's data when allowed.
func (e *Engine) apply(value any) (bool, error) {
	switch v := value.(type) {
	case bool:
		return v, nil
	case map[string]any:
		allowed, ok := v["allowed"].(bool)
		if !ok {
			return false, errors.New("policy check: missing field `allowed`")
		}
		ops, ok := v["ops"]
		if !allowed || !ok || ops == nil {
			return allowed, nil
		}
		return true, e.patch(ops)
	}
	return false, fmt.Errorf("policy check: unexpected eval_query result type %T", value)
}

func (e *Engine) patch(ops any) error {
	raw, err := json.Marshal(ops)
	if err != nil {
		return err
	}
	p, err := jsonpatch.DecodePatch(raw)
	if err != nil {
		return err
	}
	doc, err := json.Marshal(e.data)
	if err != nil {
		return err
	}
	changed, err := p.Apply(doc)
	if err != nil {
		return err
	}
	data := map[string]any{}
	if err := util.UnmarshalJSON(changed, &data); err != nil {
		return err
	}
	return e.store(data)
}

// store replaces the engine's data under the prepared queries.
func (e *Engine) store(data map[string]any) error {
	ctx := context.Background()
	for k := range e.data {
		if _, kept := data[k]; !kept {
			if err := storage.WriteOne(ctx, e.db, storage.RemoveOp, storage.Path{k}, nil); err != nil {
				return err
			}
		}
	}
	for k, v := range data {
		if err := storage.WriteOne(ctx, e.db, storage.AddOp, storage.Path{k}, v); err != nil {
			return err
		}
	}
	e.data = data
	return nil
}

// printed gathers what a policy prints, as "module:line: text".
type printed struct{ lines []string }

// Print implements OPA's print hook.
func (p *printed) Print(c print.Context, text string) error {
	p.lines = append(p.lines, fmt.Sprintf("%s:%d: %s", module, c.Location.Row, text))
	return nil
}
