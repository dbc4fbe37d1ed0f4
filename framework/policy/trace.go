package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// frame is one evaluation of a body: a rule's, a function's, or that of an every.
type frame struct {
	id, parent uint64
	// at is the expression of the parent that led here.
	at *ast.Expr
	// rule is nil for a body within a rule.
	rule *ast.Rule
	// exprs are the body's expressions that were looked at, by their place in it.
	exprs map[int]*ast.Expr
	held  bool
	// last is the expression furthest on that was looked at; fails are the variables of
	// the times that it failed, tries how often that was.
	last  int
	tries int
	fails []*ast.ValueMap
	// now is the expression that is being looked at, with the variables of before it.
	now       *ast.Expr
	nowLocals *ast.ValueMap
	// called are the parent's variables when it came here, exit its own when it held.
	called, exit *ast.ValueMap
	// order is when it was entered.
	order int
}

// Trace gathers, for every body that is evaluated, how far it came. It is OPA's
// tracer of one evaluation, which has to try every rule: without rule indexing.
type Trace struct {
	frames map[uint64]*frame
	// data are the documents below data that are not the policy's own.
	data map[string]any
	// builtins are the functions that the policy calls beside OPA's own.
	builtins map[string]*topdown.Builtin

	// These are for telling what the policy read, once it has been evaluated.
	compiler *ast.Compiler
	pkg      ast.Ref
	input    ast.Value
	store    storage.Store
	known    map[string]ast.Value
}

// maxFails is how many failures of an expression are looked at: a policy may try
// each of its literals on each of a request's.
const maxFails = 200

var _ topdown.QueryTracer = (*Trace)(nil)

// NewTrace is a trace of an evaluation with these documents below data.
func NewTrace(data map[string]any) *Trace {
	if data == nil {
		data = map[string]any{}
	}
	return &Trace{frames: map[uint64]*frame{}, data: data}
}

// Rules says how far each rule of a name came, in the order of the policy, and
// where its default stands. c compiled the policy, input is what it was asked about.
func (t *Trace) Rules(c *ast.Compiler, rule ast.Ref, input any) (rules []RuleTried, byDefault *Place) {
	t.compiler, t.pkg, t.known = c, rule[:len(rule)-1], map[string]ast.Value{}
	var err error
	if t.input, err = ast.InterfaceToValue(input); err != nil {
		t.input = ast.Null{}
	}
	t.store = inmem.NewFromObject(t.data)
	frames := map[*ast.Rule]*frame{}
	for _, f := range t.frames {
		if f.rule != nil && (frames[f.rule] == nil || f.order < frames[f.rule].order) {
			frames[f.rule] = f
		}
	}
	for _, r := range c.GetRulesExact(rule) {
		if r.Default {
			name := strings.Trim(rule[len(rule)-1].Value.String(), `"`)
			byDefault = &Place{r.Location.Row, r.Location.Col, oneLine(fmt.Sprintf("default %s := %v", name, r.Head.Value))}
			continue
		}
		tried := RuleTried{Place: place(r.Location)}
		switch f := frames[r]; {
		case f == nil:
			tried.Held = len(r.Body) == 0
			tried.Skipped = !tried.Held
		case f.held:
			tried.Held = true
			tried.Because = t.holding(f, nil)
		default:
			tried.Failed = t.failure(f, nil)
		}
		rules = append(rules, tried)
	}
	slices.SortStableFunc(rules, func(a, b RuleTried) int { return cmp.Compare(a.Line, b.Line) })
	return rules, byDefault
}

// Enabled is part of OPA's tracer.
func (t *Trace) Enabled() bool { return true }

// Config asks for the values of variables.
func (t *Trace) Config() topdown.TraceConfig { return topdown.TraceConfig{PlugLocalVars: true} }

// TraceEvent is part of OPA's tracer.
func (t *Trace) TraceEvent(e topdown.Event) {
	switch e.Op {
	case topdown.EnterOp:
		f := &frame{id: e.QueryID, parent: e.ParentID, exprs: map[int]*ast.Expr{}, last: -1, order: len(t.frames)}
		if rule, ok := e.Node.(*ast.Rule); ok {
			f.rule = rule
		}
		if parent := t.frames[e.ParentID]; parent != nil {
			f.at, f.called = parent.now, parent.nowLocals
		}
		if known := t.frames[e.QueryID]; known != nil && known.rule != nil && f.rule == nil {
			return
		}
		t.frames[e.QueryID] = f
	case topdown.EvalOp:
		if f, expr := t.frames[e.QueryID], expression(e); f != nil && expr != nil {
			f.now, f.nowLocals = expr, e.Locals
			f.exprs[expr.Index] = expr
			if expr.Index > f.last {
				f.last, f.fails, f.tries = expr.Index, nil, 0
			}
		}
	case topdown.FailOp:
		if f, expr := t.frames[e.QueryID], expression(e); f != nil && expr != nil && expr.Index == f.last {
			f.tries++
			if len(f.fails) < maxFails {
				f.fails = append(f.fails, e.Locals)
			}
		}
	case topdown.ExitOp:
		if f := t.frames[e.QueryID]; f != nil && !f.held {
			f.held, f.exit = true, e.Locals
		}
	}
}

func expression(e topdown.Event) *ast.Expr {
	expr, _ := e.Node.(*ast.Expr)
	return expr
}

// maxDepth is how far an explanation leads into functions.
const maxDepth = 32

// failure leads from a body that was not true to the expression that decided.
func (t *Trace) failure(f *frame, seen []*frame) []Expression {
	expr := f.exprs[f.last]
	if expr == nil || len(seen) > maxDepth {
		return nil
	}
	out := t.expression(f, expr, f.fails, seen)
	if !expr.IsEvery() { // OPA tells it twice
		out.Tries = f.tries
	}
	var deeper []Expression
	if next := t.inner(f, expr, expr.Negated); next != nil {
		if seen = append(seen, f); next.held {
			deeper = t.holding(next, seen)
		} else {
			deeper = t.failure(next, seen)
		}
	}
	return chain(out, deeper)
}

// chain puts an expression before those that it led to, which tell better what
// decided: of its own values the small ones stay.
func chain(first Expression, deeper []Expression) []Expression {
	if len(deeper) == 0 {
		return []Expression{first}
	}
	if deeper[0].Place == first.Place {
		return deeper
	}
	first.Values = slices.DeleteFunc(first.Values, func(v Value) bool {
		again := func(e Expression) bool {
			return slices.ContainsFunc(e.Values, func(w Value) bool { return cmp.Or(w.From, w.Name) == cmp.Or(v.From, v.Name) })
		}
		return v.Missing || slices.ContainsFunc(deeper, again) || slices.ContainsFunc(v.Values, func(x any) bool {
			switch x.(type) {
			case []any, map[string]any, bool:
				return true
			}
			return false
		})
	})
	return append([]Expression{first}, deeper...)
}

// maxHeld is how many expressions of a body that held are told.
const maxHeld = 8

// holding tells why a body was true: its expressions that read something, and
// where one calls another rule, why that held.
func (t *Trace) holding(f *frame, seen []*frame) []Expression {
	if len(seen) > maxDepth {
		return nil
	}
	seen = append(seen, f)
	var out []Expression
	for i := range f.last + 1 {
		expr := f.exprs[i]
		if expr == nil || f.helps(t, expr) || len(out) >= maxHeld {
			continue
		}
		e := t.expression(f, expr, []*ast.ValueMap{f.exit}, seen)
		e.Holds = true
		var deeper []Expression
		if !expr.Negated && !expr.IsEvery() {
			if next := t.inner(f, expr, true); next != nil {
				deeper = t.holding(next, seen)
			}
		}
		if len(deeper) > 0 || len(e.Values) > 0 {
			out = append(out, chain(e, deeper)...)
		}
	}
	return out[:min(len(out), maxHeld)]
}

// helps says whether an expression only gives a name to what a later one uses.
func (f *frame) helps(t *Trace, expr *ast.Expr) bool {
	for _, v := range t.definitions(expr) {
		for _, later := range f.exprs {
			if later.Index > expr.Index && mentions(later, v) && f.definition(t, v) == expr {
				return true
			}
		}
	}
	return false
}

// expression tells an expression with what it read, by the variables of the times
// that it was looked at. seen are the frames that led to it.
func (t *Trace) expression(f *frame, expr *ast.Expr, locals []*ast.ValueMap, seen []*frame) Expression {
	out := Expression{Place: place(expr.Location)}
	if owner := f.owner(t); owner != nil && len(seen) > 0 && owner != seen[0] {
		out.Of = owner.rule.Head.Ref().String()
	}
	r := reading{t: t}
	for _, l := range locals {
		if l != nil {
			r.expression(f, l, expr)
		}
	}
	out.Values = r.values
	return out
}

// owner is the frame of the rule that a body is in.
func (f *frame) owner(t *Trace) *frame {
	for f != nil && f.rule == nil {
		f = t.frames[f.parent]
	}
	return f
}

// inner is the body that an expression led to, and that made it what it is: of
// those that came as far, the last. held says whether one is looked for that held:
// for a not that is not true, and for what is true. Of an every it is the body of
// the element that failed.
func (t *Trace) inner(f *frame, expr *ast.Expr, held bool) *frame {
	within := map[uint64]bool{f.id: true}
	if expr.Negated || expr.IsEvery() {
		// What belongs to it is below a body of its own.
		within = map[uint64]bool{}
		for _, g := range t.frames {
			if g.parent == f.id && g.id != f.id && g.rule == nil && g.at != nil && g.at.Index == expr.Index {
				within[g.id] = true
			}
		}
	}
	called := calls(expr)
	var here, before *frame
	for _, g := range t.frames {
		if g.id == f.id || g.held != held || g.last < 0 || (g.rule == nil) != expr.IsEvery() {
			continue
		}
		switch {
		case within[g.parent] && (g.rule == nil || !g.rule.Default) && (g.parent != f.id || g.at != nil && g.at.Index == expr.Index):
			if here.less(g) {
				here = g
			}
		case g.rule != nil && !g.rule.Default && len(g.rule.Head.Args) == 0 && slices.ContainsFunc(called, func(r ast.Ref) bool { return r.HasPrefix(g.rule.Ref()) }):
			// It was evaluated for an earlier expression, and its value is remembered.
			if before.less(g) {
				before = g
			}
		}
	}
	return cmp.Or(here, before)
}

func (f *frame) less(g *frame) bool {
	return f == nil || g.last > f.last || g.last == f.last && g.order > f.order
}

// calls are what an expression names.
func calls(expr *ast.Expr) []ast.Ref {
	var out []ast.Ref
	ast.WalkRefs(expr, func(r ast.Ref) bool {
		out = append(out, r)
		return false
	})
	return out
}
