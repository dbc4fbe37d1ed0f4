package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
	"github.com/open-policy-agent/opa/v1/util"
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
	// last is the expression furthest on that was looked at, fails what happened there.
	last  int
	now   *ast.Expr
	fails []map[string]ast.Value
	// order is when it was entered.
	order int
}

// Trace gathers, for every body that is evaluated, how far it came. It is OPA's
// tracer of one evaluation, which has to try every rule: without rule indexing.
type Trace struct {
	frames map[uint64]*frame
	// data are the documents below data that are not the policy's own.
	data map[string]any
}

var _ topdown.QueryTracer = (*Trace)(nil)

// NewTrace is a trace of an evaluation with these documents below data.
func NewTrace(data map[string]any) *Trace { return &Trace{frames: map[uint64]*frame{}, data: data} }

// Rules says how far each rule of a name came, in the order of the policy, and
// where its default stands. c compiled the policy, input is what it was asked about.
func (t *Trace) Rules(c *ast.Compiler, rule ast.Ref, input any) (rules []RuleTried, byDefault *Place) {
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
		default:
			tried.Failed = t.failure(f, input, nil)
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
			f.at = parent.now
		}
		if known := t.frames[e.QueryID]; known != nil && known.rule != nil && f.rule == nil {
			return
		}
		t.frames[e.QueryID] = f
	case topdown.EvalOp:
		if f, expr := t.frames[e.QueryID], expression(e); f != nil && expr != nil {
			f.now = expr
			f.exprs[expr.Index] = expr
			if expr.Index > f.last {
				f.last, f.fails = expr.Index, nil
			}
		}
	case topdown.FailOp:
		if f, expr := t.frames[e.QueryID], expression(e); f != nil && expr != nil && expr.Index == f.last {
			f.fails = append(f.fails, locals(e))
		}
	case topdown.ExitOp:
		if f := t.frames[e.QueryID]; f != nil {
			f.held = true
		}
	}
}

func expression(e topdown.Event) *ast.Expr {
	expr, _ := e.Node.(*ast.Expr)
	return expr
}

// locals are the variables of an event by the names that the policy gives them.
func locals(e topdown.Event) map[string]ast.Value {
	values := map[string]ast.Value{}
	if e.Locals == nil {
		return values
	}
	e.Locals.Iter(func(k, v ast.Value) bool {
		if name, ok := k.(ast.Var); ok {
			if meta, ok := e.LocalMetadata[name]; ok {
				values[string(meta.Name)] = v
			} else if !name.IsGenerated() {
				values[string(name)] = v
			}
		}
		return false
	})
	return values
}

// failure leads from a body that was not true to the expression that decided.
func (t *Trace) failure(f *frame, request any, seen []*frame) []Expression {
	expr := f.exprs[f.last]
	if expr == nil || len(seen) > 32 {
		return nil
	}
	out := Expression{Place: place(expr.Location), Tries: len(f.fails)}
	if f.rule != nil && len(seen) > 0 {
		out.Of = f.rule.Head.Ref().String()
	}
	out.Values = append(t.read(f, expr, request), variables(f, expr)...)
	chain := []Expression{out}
	if next := t.inner(f, expr); next != nil {
		deeper := t.failure(next, request, append(seen, f))
		if len(deeper) > 0 && deeper[0].Place == out.Place {
			chain = nil
		}
		chain = append(chain, deeper...)
	}
	return chain
}

// inner is the body that made an expression fail: of those that it led to, the
// one that came furthest; of a not, one that held.
func (t *Trace) inner(f *frame, expr *ast.Expr) *frame {
	var best *frame
	for _, g := range t.frames {
		if g.parent != f.id || g.at == nil || g.at.Index != expr.Index || g.held || g.last < 0 {
			continue
		}
		if best == nil || g.last > best.last || g.last == best.last && g.order > best.order {
			best = g
		}
	}
	return best
}

// read is what the expression reads of the request and of the state, itself or
// through the variables that the body has assigned before.
func (t *Trace) read(f *frame, expr *ast.Expr, request any) []Value {
	var out []Value
	seen := map[string]bool{}
	wanted := map[ast.Var]bool{}
	collect := func(node any) {
		ast.WalkRefs(node, func(r ast.Ref) bool {
			head, _ := r[0].Value.(ast.Var)
			var root any
			switch {
			case head == "input":
				root = request
			case head == "data" && len(r) > 1 && t.has(r[1]):
				root = t.data
			default:
				return false
			}
			name, value, found := follow(r, root)
			if name != "" && !seen[name] {
				seen[name] = true
				v := Value{Name: name, Missing: !found}
				if found {
					v.Values = []any{value}
				}
				out = append(out, v)
			}
			return false
		})
		ast.WalkVars(node, func(v ast.Var) bool { wanted[v] = true; return false })
	}
	collect(expr)
	for i := expr.Index - 1; i >= 0; i-- {
		before := f.exprs[i]
		if before == nil {
			continue
		}
		defines := false
		ast.WalkVars(before, func(v ast.Var) bool {
			defines = defines || wanted[v] && v != "input" && v != "data"
			return false
		})
		if defines {
			collect(before)
		}
	}
	return out
}

// has says whether a key is one of the documents below data.
func (t *Trace) has(key *ast.Term) bool {
	name, ok := key.Value.(ast.String)
	_, there := t.data[string(name)]
	return ok && there
}

// follow is the longest part of a reference that is made of constants, with its
// value.
func follow(r ast.Ref, root any) (name string, value any, found bool) {
	name, value, found = r[:1].String(), root, true
	for _, term := range r[1:] {
		switch key := term.Value.(type) {
		case ast.String:
			object, ok := value.(map[string]any)
			if value, found = object[string(key)]; !ok || !found {
				return name + "." + string(key), nil, false
			}
			name += "." + string(key)
		case ast.Number:
			list, ok := value.([]any)
			i, isInt := key.Int()
			if !ok || !isInt || i < 0 || i >= len(list) {
				return fmt.Sprintf("%s[%s]", name, key), nil, false
			}
			name, value = fmt.Sprintf("%s[%d]", name, i), list[i]
		default:
			return name, value, true
		}
	}
	return name, value, true
}

// variables are those that the expression names, with what they stood for.
func variables(f *frame, expr *ast.Expr) []Value {
	text := string(expr.Location.Text)
	var names []string
	values := map[string][]any{}
	for _, fail := range f.fails {
		for name, v := range fail {
			if !mentions(text, name) {
				continue
			}
			doc, err := ast.JSON(v)
			if err != nil {
				continue
			}
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
			if len(values[name]) < maxTries && !slices.ContainsFunc(values[name], func(have any) bool { return util.Compare(have, doc) == 0 }) {
				values[name] = append(values[name], doc)
			}
		}
	}
	slices.Sort(names)
	var out []Value
	for _, name := range names {
		out = append(out, Value{Name: name, Values: values[name]})
	}
	return out
}

func mentions(text, name string) bool {
	for i := 0; ; {
		j := strings.Index(text[i:], name)
		if j < 0 {
			return false
		}
		start, end := i+j, i+j+len(name)
		word := func(b byte) bool {
			return b == '_' || b >= '0' && b <= '9' || b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z'
		}
		if (start == 0 || !word(text[start-1]) && text[start-1] != '.') && (end == len(text) || !word(text[end])) {
			return true
		}
		i = end
	}
}
