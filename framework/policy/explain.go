package policy

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/topdown"
	"github.com/open-policy-agent/opa/v1/util"
)

// Explanation is why a policy decided on a request as it did.
type Explanation struct {
	Endpoint string `json:"endpoint"`
	// Outcome is allowed, denied or error; Message is what the agent answers.
	Outcome string `json:"outcome"`
	Message string `json:"message,omitempty"`
	// Summary is the reason in one sentence.
	Summary string `json:"summary"`
	// Rules are the policy's rules of this endpoint, in the order of the policy.
	Rules []RuleTried `json:"rules,omitempty"`
	// Default is where the value stands that holds when no rule does, and which.
	Default *Place `json:"default,omitempty"`
	// Prints are what the policy printed.
	Prints []string `json:"prints,omitempty"`

	// Differs says in what the decision differs when the policy is asked about the
	// request without the values that are shown to nobody; "" when in nothing.
	Differs string `json:"differs,omitempty"`
	// Reproduce is a command that asks OPA the same.
	Reproduce string `json:"reproduce,omitempty"`

	// value is the whole of the value that the summary shows the beginning of.
	value  string
	hidden *hidden
	// others says which rules there are instead.
	others string
}

// Place is a piece of the policy.
type Place struct {
	// Line and Column count from 1.
	Line   int    `json:"line"`
	Column int    `json:"column"`
	Text   string `json:"text"`
}

// RuleTried is a rule, and how far it came.
type RuleTried struct {
	Place
	// Held says that its body was true; Value is its value then.
	Held  bool `json:"held"`
	Value any  `json:"value,omitempty"`
	// Skipped says that it was not tried: another has decided before.
	Skipped bool `json:"skipped,omitempty"`
	// Failed leads from the first expression of the rule that was not true into
	// the functions that it calls, to the one that decided.
	Failed []Expression `json:"failed,omitempty"`
	// Because are the expressions for which a rule held that read something.
	Because []Expression `json:"because,omitempty"`
}

// Expression is one that was not true, or that was: see Holds.
type Expression struct {
	Place
	// Holds says that it was true, and ought not to be: below a not, or in a rule that refuses.
	Holds bool `json:"holds,omitempty"`
	// Of is the rule or function that it is in, when that is another than the endpoint's.
	Of string `json:"of,omitempty"`
	// Values are what it read: of the request, the state, and the policy's variables.
	Values []Value `json:"values,omitempty"`
	// Tries is how many ways to make it true were tried: candidates of a loop.
	Tries int `json:"tries,omitempty"`
}

// Value is what a name stood for.
type Value struct {
	Name string `json:"name"`
	// From is where it came from, when the name does not tell: input.…, data.…, or a
	// rule of the policy. [_] stands for several places in a list.
	From string `json:"from,omitempty"`
	// Values are those that it had in all tries, each once; at most maxTries.
	Values []any `json:"values"`
	// Missing says that the request has nothing of this name.
	Missing bool `json:"missing,omitempty"`
}

const (
	// maxTries is how many values of a name an explanation tells.
	maxTries = 12
	// maxLine is how much of a value or an expression it shows.
	maxLine = 300
)

// Explain says how the policy decides on a request, and why. Nothing changes:
// neither the state, nor the log.
func (e *Engine) Explain(ctx context.Context, endpoint string, input []byte) Explanation {
	e.mu.Lock()
	defer e.mu.Unlock()
	x := Explanation{Endpoint: endpoint}
	trial := &Engine{
		source: e.source, compiler: e.compiler, standIns: e.standIns, broken: e.broken, queries: e.queries, db: e.db, allowFailures: e.allowFailures,
	}
	t := NewTrace(map[string]any{"pstate": nil})
	t.builtins = e.standIns
	prints := &printed{}
	value, err := trial.traced(ctx, endpoint, input, prints, t)
	x.Prints = prints.lines
	d := trial.judge(endpoint, value, err, prints)
	x.Outcome, x.Message = d.Outcome.String(), d.Message
	var request any
	_ = util.UnmarshalJSON(input, &request)
	x.hidden = hide(request, e.compiler)
	if value != nil {
		x.value = value.String()
	}
	if e.compiler != nil && e.broken == nil {
		x.Rules, x.Default = t.Rules(e.compiler, ast.Ref{ast.DefaultRootDocument, ast.StringTerm(label), ast.StringTerm(endpoint)}, request)
	}
	x.others = trial.others()
	if d.Outcome == Allowed {
		for i := range x.Rules {
			x.Rules[i].Because = nil // nobody asks why what is allowed is
		}
	}
	x.Summary = x.summarize(d, value, err)
	return x
}

// traced is query with a tracer, that sees every rule.
func (e *Engine) traced(ctx context.Context, endpoint string, input []byte, prints *printed, t *Trace) (ast.Value, error) {
	if e.broken != nil || e.compiler == nil {
		return e.query(ctx, endpoint, input, prints)
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
	t.data["pstate"], _ = storage.ReadOne(ctx, e.db, storage.Path{"pstate"})
	cancel := topdown.NewCancel()
	defer context.AfterFunc(ctx, cancel.Cancel)()
	var out ast.Value
	err = topdown.NewQuery(e.body(endpoint)).WithCompiler(e.compiler).WithStore(e.db).WithTransaction(txn).
		WithCancel(cancel).WithBuiltins(e.standIns).WithInput(ast.NewTerm(value)).WithPrintHook(prints).
		WithIndexing(false).WithQueryTracer(t).
		Iter(ctx, func(r topdown.QueryResult) error {
			out = r[result].Value
			return nil
		})
	return out, e.source.explain(err)
}

// judge is the decision that follows from a value, without changing the state.
func (e *Engine) judge(endpoint string, value ast.Value, err error, prints *printed) Decision {
	switch {
	case err != nil:
		return failed(endpoint, err)
	case value == nil && e.allowFailures:
		return Decision{Overruled: true}
	case value == nil:
		return failed(endpoint, errUndefined)
	}
	allowed := false
	switch v := value.(type) {
	case ast.Boolean:
		allowed = bool(v)
	case ast.Object:
		doc, err := objectOf(v)
		if err != nil {
			return failed(endpoint, err)
		}
		a, err := parseAnswer(doc)
		if err != nil {
			return failed(endpoint, err)
		}
		allowed = a.allowed
		if allowed && len(a.ops) > 0 {
			if err := e.wouldApply(a.ops); err != nil {
				return failed(endpoint, err)
			}
		}
	default:
		return failed(endpoint, unexpectedType(value))
	}
	switch {
	case allowed:
		return Decision{}
	case e.allowFailures:
		return Decision{Overruled: true}
	}
	return denied(endpoint, prints.lines)
}

// wouldApply applies operations and takes them back.
func (e *Engine) wouldApply(ops []operation) error {
	ctx := context.Background()
	var done []change
	for i, o := range ops {
		if err := e.operate(ctx, o, &done); err != nil {
			return cmp.Or(e.undo(ctx, done), fmt.Errorf("operation '/%d' failed at path '%s': %w", i, o.path, err))
		}
	}
	return e.undo(ctx, done)
}

func place(l *ast.Location) Place {
	if l == nil {
		return Place{}
	}
	return Place{l.Row, l.Col, oneLine(string(l.Text))}
}

var blanks = regexp.MustCompile(`\s+`)

// oneLine is the beginning of a text, on one line.
func oneLine(s string) string {
	s = blanks.ReplaceAllString(strings.TrimSpace(s), " ")
	if len(s) > maxLine {
		s = strings.ToValidUTF8(s[:maxLine], "") + "…"
	}
	return s
}

// others tells which rules the policy has, for who asked another.
func (e *Engine) others() string {
	switch rules, pkg := e.rules(); {
	case pkg == "":
		return ""
	case pkg != label:
		return fmt.Sprintf(": its package is %s, and agents ask package %s", pkg, label)
	case len(rules) == 0:
		return ": it has no rules"
	default:
		return ": it has " + strings.Join(rules, ", ")
	}
}

// summarize is the reason in a sentence.
func (x *Explanation) summarize(d Decision, value ast.Value, err error) string {
	held := slices.IndexFunc(x.Rules, func(r RuleTried) bool { return r.Held })
	switch {
	case d.Overruled:
		return "allowed, because AllowRequestsFailingPolicy allows what the policy does not"
	case err != nil:
		return "the policy could not be evaluated: " + err.Error()
	case value == nil && len(x.Rules) == 0 && x.Default == nil:
		return fmt.Sprintf("the policy has no rule %s, and no default", x.Endpoint) + x.others
	case value == nil:
		return fmt.Sprintf("no rule %s is true, and there is no default", x.Endpoint)
	case d.Outcome == Error:
		return "the rule's value is no decision: " + oneLine(x.value)
	case held >= 0 && d.Outcome == Allowed:
		return fmt.Sprintf("the rule at line %d allows it", x.Rules[held].Line)
	case held >= 0:
		return fmt.Sprintf("the rule at line %d holds, and refuses it: %s", x.Rules[held].Line, oneLine(x.value))
	case d.Outcome == Allowed && x.Default != nil:
		return fmt.Sprintf("no rule is true, and the default at line %d allows it", x.Default.Line)
	case x.Default != nil && len(x.Rules) == 0:
		return fmt.Sprintf("there is no rule but the default at line %d, which refuses it", x.Default.Line)
	case x.Default != nil:
		return fmt.Sprintf("no rule is true, and the default at line %d refuses it", x.Default.Line)
	}
	return "it is " + d.Outcome.String()
}

// String is the explanation for people.
func (x Explanation) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s\n  %s\n", x.Endpoint, x.Outcome, x.Summary)
	if x.Message != "" {
		fmt.Fprintf(&b, "  the agent answers %s\n", oneLine(x.Message))
	}
	b.WriteString(RulesText(x.Rules, x.Default))
	for _, p := range x.Prints {
		fmt.Fprintf(&b, "  printed: %s\n", oneLine(p))
	}
	if x.Differs != "" {
		fmt.Fprintf(&b, "  the policy looks at values that were taken out of the files: on them %s (policy explain --show-values keeps them)\n", x.Differs)
	}
	if x.Reproduce != "" {
		fmt.Fprintf(&b, "\n  reproduce: %s\n", x.Reproduce)
	}
	return b.String()
}

// RulesText tells how far rules came, for people.
func RulesText(rules []RuleTried, byDefault *Place) string {
	var b strings.Builder
	for _, r := range rules {
		if r.Held {
			fmt.Fprintf(&b, "\n  ✓ line %d: %s\n", r.Line, headOf(r.Text))
			expressionsText(&b, r.Because)
			continue
		}
		if r.Skipped {
			fmt.Fprintf(&b, "\n  · line %d: %s, not tried\n", r.Line, headOf(r.Text))
			continue
		}
		fmt.Fprintf(&b, "\n  ✗ line %d: %s\n", r.Line, headOf(r.Text))
		expressionsText(&b, r.Failed)
	}
	if byDefault != nil {
		fmt.Fprintf(&b, "\n  line %d: %s\n", byDefault.Line, byDefault.Text)
	}
	return b.String()
}

func expressionsText(b *strings.Builder, chain []Expression) {
	for depth, e := range chain {
		indent, is := strings.Repeat("  ", depth+2), "is not true"
		if e.Holds {
			is = "is true"
		}
		if depth > 0 && e.Holds && chain[depth-1].Holds { // one beside the other
			indent = strings.Repeat("  ", 2+slices.IndexFunc(chain, func(e Expression) bool { return e.Holds }))
		}
		fmt.Fprintf(b, "%sline %d %s: %s", indent, e.Line, is, e.Text)
		if e.Of != "" {
			fmt.Fprintf(b, "   (in %s)", shortName(e.Of))
		}
		if e.Tries > 1 {
			fmt.Fprintf(b, "   (tried %d times)", e.Tries)
		}
		b.WriteByte('\n')
		for _, v := range e.Values {
			fmt.Fprintf(b, "%s  %s\n", indent, v)
		}
	}
}

// shortName is a rule's without its package.
func shortName(ref string) string { return ref[strings.LastIndexByte(ref, '.')+1:] }

// headOf is a rule up to its body.
func headOf(text string) string {
	head, _, _ := strings.Cut(text, "{")
	return strings.TrimSpace(head)
}

// String is the name with its values.
func (v Value) String() string {
	if v.Missing {
		return v.Name + " is not there"
	}
	var texts []string
	for _, value := range v.Values {
		text, err := json.Marshal(value)
		if err != nil {
			text = fmt.Append(nil, value)
		}
		texts = append(texts, oneLine(string(text)))
	}
	text := v.Name + " = "
	if len(texts) != 1 {
		text += "one of "
	}
	text += strings.Join(texts, ", ")
	if v.From != "" {
		text += "   (" + v.From + ")"
	}
	return text
}

// State is the policy's state as JSON: {"pstate": {…}}.
func (e *Engine) State(ctx context.Context) ([]byte, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	state, err := storage.ReadOne(ctx, e.db, storage.Path{"pstate"})
	if err != nil {
		return nil, err
	}
	return json.MarshalIndent(map[string]any{"pstate": state}, "", "  ")
}

// SetState replaces the policy's state with one that [Engine.State] gave.
func (e *Engine) SetState(ctx context.Context, state []byte) error {
	var doc map[string]map[string]any
	if err := util.UnmarshalJSON(state, &doc); err != nil {
		return fmt.Errorf(`state: want {"pstate": {…}}: %w`, err)
	}
	if doc["pstate"] == nil {
		return errors.New(`state: want {"pstate": {…}}`)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return storage.WriteOne(ctx, e.db, storage.ReplaceOp, storage.Path{"pstate"}, doc["pstate"])
}
