package policy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/topdown"
	"github.com/open-policy-agent/opa/v1/topdown/print"
)

// Limits of the real engine (Kata set_policy_length_config): bytes of a
// policy, its lines, and characters of a line.
const (
	maxPolicyBytes = 16 << 20
	maxLines       = 200000
	maxColumn      = 65536
)

// label is the name that the agent gives a policy from init-data or SetPolicy;
// its prints and errors begin with it.
const label = "agent_policy"

// Engine evaluates one policy for one guest. Evaluations are serialised, as in
// the agent. The zero value is not usable; see New.
type Engine struct {
	mu     sync.Mutex
	source source
	// compiler is nil without a policy: every rule is undefined then. broken is
	// why one that parses cannot be evaluated.
	compiler *ast.Compiler
	standIns map[string]*topdown.Builtin
	broken   error
	queries  map[string]ast.Body
	db       storage.Store
	log      io.Writer

	allowFailures bool
}

// New returns an engine without a policy: every rule is undefined.
func New() *Engine {
	e := &Engine{}
	e.reset()
	return e
}

func (e *Engine) reset() {
	e.source, e.compiler, e.standIns, e.broken, e.queries = source{}, nil, nil, nil, map[string]ast.Body{}
	e.db = inmem.NewFromObjectWithOpts(map[string]any{"pstate": map[string]any{}}, inmem.OptRoundTripOnWrite(false))
}

// LogTo makes the engine write what it evaluates to w, in the lines of the
// agent's /tmp/policy.jsonl (Kata src/agent/policy/src/policy.rs,
// log_eval_input). Errors of w are nobody's: a log does not decide.
func (e *Engine) LogTo(w io.Writer) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.log = w
}

// SetPolicy replaces the policy, as the agent does with one from init-data or
// the SetPolicy request, and forgets all state. When text does not parse, the
// old policy is gone all the same: every rule is undefined from then on.
//
// Parsing is all that is asked of a policy here. One that parses and still
// cannot be evaluated, for a variable that nothing binds or a function that
// the agent's engine lacks, is taken, and fails the requests that it is asked
// about (INTERNAL).
func (e *Engine) SetPolicy(ctx context.Context, text string) error {
	return e.set(ctx, label, text)
}

// Initialize is SetPolicy for the policy of the guest image: file is its path,
// which its prints and errors begin with.
func (e *Engine) Initialize(ctx context.Context, file, text string) error {
	return e.set(ctx, file, text)
}

func (e *Engine) set(ctx context.Context, name, text string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.reset()
	if err := checkLength(text); err != nil {
		return err
	}
	m, err := ast.ParseModuleWithOpts(name, text, ast.ParserOptions{RegoVersion: ast.RegoV1, Capabilities: capabilities()})
	if err != nil {
		return source{name, text}.refuse(err)
	}
	if err := (source{name, text}).checkImports(m.Imports); err != nil {
		return err
	}
	in := standIn(m, source{name, text})
	c := newCompiler(in.capabilities())
	c.Compile(map[string]*ast.Module{name: m})
	if err := shadows(c.Errors); err != nil {
		return source{name, text}.refuse(err)
	}
	if c.Failed() {
		e.broken = c.Errors
	}
	e.source, e.compiler, e.standIns = source{name, text}, c, in.functions
	// Once on, this switch stays on until the guest ends: it is evaluated
	// through the very gate that it opens.
	d := e.eval(ctx, "AllowRequestsFailingPolicy", []byte("{}"))
	e.allowFailures = d.Outcome == Allowed
	return nil
}

// newCompiler leaves out what the agent's engine does not do before it
// evaluates: it has no types, and looks functions up when they are called.
func newCompiler(has *ast.Capabilities) *ast.Compiler {
	return ast.NewCompiler().WithEnablePrintStatements(true).WithCapabilities(has).WithDefaultRegoVersion(ast.RegoV1).
		WithSkipStages(ast.StageCheckUndefinedFuncs, ast.StageCheckTypes, ast.StageCheckUnsafeBuiltins, ast.StageCheckDeprecatedBuiltins)
}

// shadows are the errors that are the compiler's here and the parser's in the
// agent's engine.
func shadows(errs ast.Errors) error {
	for _, err := range errs {
		if strings.Contains(err.Message, "must not shadow") {
			return ast.Errors{err}
		}
	}
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

// errUndefined is what the agent says of a rule without a value.
var errUndefined = errors.New("policy check: unexpected eval_query result len QueryResults { result: [] }")

// Eval asks the policy's rule endpoint about input, the agent's JSON.
func (e *Engine) Eval(ctx context.Context, endpoint string, input []byte) Decision {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.eval(ctx, endpoint, input)
}

func (e *Engine) eval(ctx context.Context, endpoint string, input []byte) Decision {
	e.logLine(endpoint, input)
	prints := &printed{}
	value, err := e.query(ctx, endpoint, input, prints)
	switch {
	case err != nil:
		return failed(endpoint, err)
	case value == nil && e.allowFailures:
		return Decision{Overruled: true}
	case value == nil:
		return failed(endpoint, errUndefined)
	}
	allowed, err := e.apply(ctx, endpoint, value)
	switch {
	case err != nil:
		return failed(endpoint, err)
	case allowed:
		return Decision{}
	case e.allowFailures:
		return Decision{Overruled: true}
	}
	return denied(endpoint, prints.lines)
}

// query returns the value of a rule, or nil when it is undefined.
func (e *Engine) query(ctx context.Context, endpoint string, input []byte, prints *printed) (ast.Value, error) {
	if e.broken != nil {
		return nil, e.source.explain(e.broken)
	}
	if e.compiler == nil {
		return nil, nil
	}
	value, err := document(input)
	if err != nil {
		return nil, fmt.Errorf("input: %w", err)
	}
	txn, err := e.db.NewTransaction(ctx)
	if err != nil {
		return nil, err
	}
	defer e.db.Abort(ctx, txn)
	cancel := topdown.NewCancel()
	defer context.AfterFunc(ctx, cancel.Cancel)()
	var out ast.Value
	err = topdown.NewQuery(e.body(endpoint)).WithCompiler(e.compiler).WithStore(e.db).WithTransaction(txn).
		WithCancel(cancel).WithBuiltins(e.standIns).WithInput(ast.NewTerm(value)).WithPrintHook(prints).
		Iter(ctx, func(r topdown.QueryResult) error {
			out = r[result].Value
			return nil
		})
	return out, e.source.explain(err)
}

// result is the variable that a rule's value is bound to.
const result = ast.Var("result")

// body is the query for a rule's value, as a compiler leaves it.
func (e *Engine) body(endpoint string) ast.Body {
	b := e.queries[endpoint]
	if b == nil {
		rule := ast.RefTerm(ast.DefaultRootDocument, ast.StringTerm(label), ast.StringTerm(endpoint))
		b = ast.NewBody(ast.Equality.Expr(rule, ast.NewTerm(result)))
		e.queries[endpoint] = b
	}
	return b
}

// printed gathers what a policy prints, as "module:line: text".
type printed struct{ lines []string }

// Print implements OPA's print hook.
func (p *printed) Print(c print.Context, text string) error {
	p.lines = append(p.lines, fmt.Sprintf("%s:%d: %s", c.Location.File, c.Location.Row, text))
	return nil
}

// unlogged are the requests that the agent keeps out of its policy log: two
// come too often, and a policy is too long.
var unlogged = map[string]bool{"StatsContainerRequest": true, "ReadStreamRequest": true, "SetPolicyRequest": true}

func (e *Engine) logs(endpoint string) bool { return e.log != nil && !unlogged[endpoint] }

func (e *Engine) logLine(endpoint string, request []byte) {
	if !e.logs(endpoint) {
		return
	}
	_, _ = fmt.Fprintf(e.log, "{\"kind\":%q,\"request\":%s}\n", endpoint, request)
}
