package policy

import (
	"cmp"
	"context"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
	"github.com/open-policy-agent/opa/v1/util"
)

// reading gathers what an expression read: each reference and variable in it by
// the name that the policy gives it, with where in the request, the state or the
// policy it came from; and where it was made of others, those.
type reading struct {
	t      *Trace
	values []Value
}

// known is what a term stood for.
type known struct {
	// path is where it came from: input.…, data.…, or a rule of the policy; "" of
	// what was computed.
	path string
	// value is nil where there is nothing.
	value ast.Value
	// wanted says that there ought to be something: the path ends where it is not.
	wanted bool
	// whole says that the path ends before a key that has no value.
	whole bool
}

// expression adds what one reads with these variables.
func (r *reading) expression(f *frame, locals *ast.ValueMap, expr *ast.Expr) {
	switch terms := expr.Terms.(type) {
	case *ast.Term:
		r.term(f, locals, terms, 0)
	case []*ast.Term:
		for _, term := range terms[1:] { // the first is the operator
			r.term(f, locals, term, 0)
		}
	case *ast.Every:
		r.term(f, locals, terms.Domain, 0)
	}
}

// term adds a term, and what it was computed of.
func (r *reading) term(f *frame, locals *ast.ValueMap, term *ast.Term, depth int) {
	if depth > maxDepth {
		return
	}
	switch v := term.Value.(type) {
	case ast.Var, ast.Ref:
		k := r.t.resolve(f, locals, term, 0)
		name := r.t.name(f, term, 0)
		if k.whole && k.path != "" {
			name = k.path
		}
		if v, isVar := term.Value.(ast.Var); isVar && depth > 0 && k.path == "" && r.t.generated(v) {
			name = "" // what it was made of is told
		}
		if name != "" {
			r.add(name, k)
		}
		if k.path == "" {
			r.made(f, locals, term, depth)
		}
	case *ast.Array:
		v.Foreach(func(x *ast.Term) { r.term(f, locals, x, depth+1) })
	case ast.Object:
		v.Foreach(func(_, x *ast.Term) { r.term(f, locals, x, depth+1) })
	case ast.Set:
		v.Foreach(func(x *ast.Term) { r.term(f, locals, x, depth+1) })
	case *ast.ArrayComprehension:
		r.body(f, locals, v.Body, depth)
	case *ast.SetComprehension:
		r.body(f, locals, v.Body, depth)
	case *ast.ObjectComprehension:
		r.body(f, locals, v.Body, depth)
	}
}

// body adds what a comprehension reads from outside of it.
func (r *reading) body(f *frame, locals *ast.ValueMap, body ast.Body, depth int) {
	for _, expr := range body {
		terms, isCall := expr.Terms.([]*ast.Term)
		if term, ok := expr.Terms.(*ast.Term); ok {
			terms = []*ast.Term{term}
		} else if isCall {
			terms = terms[1:]
		}
		for _, term := range terms {
			if ref, ok := term.Value.(ast.Ref); ok {
				if head, _ := ref[0].Value.(ast.Var); head == "input" || head == "data" || locals.Get(head) != nil {
					r.term(f, locals, term, depth+1)
				}
			}
		}
	}
}

// made adds what a variable was computed of.
func (r *reading) made(f *frame, locals *ast.ValueMap, term *ast.Term, depth int) {
	v, isVar := term.Value.(ast.Var)
	if ref, ok := term.Value.(ast.Ref); ok {
		v, isVar = ref[0].Value.(ast.Var)
	}
	if !isVar {
		return
	}
	for g := f; g != nil; g = g.outer(r.t) {
		by := g.definition(r.t, v)
		if by == nil {
			continue
		}
		for _, operand := range by.Operands() {
			if !mentions(operand, v) {
				r.term(g, locals, operand, depth+1)
			}
		}
		return
	}
}

// add notes what a name stood for, once more.
func (r *reading) add(name string, k known) {
	if k.value == nil && !k.wanted {
		return
	}
	if k.value == nil {
		name = k.path
	}
	from := k.path
	if from == name {
		from = ""
	}
	i := slices.IndexFunc(r.values, func(v Value) bool { return v.Name == name })
	if i < 0 {
		i = len(r.values)
		r.values = append(r.values, Value{Name: name, From: from, Missing: k.value == nil})
	}
	v := &r.values[i]
	if v.From != from {
		v.From = general(v.From, from)
	}
	if k.value == nil {
		return
	}
	doc, err := ast.JSON(k.value)
	if err != nil {
		return
	}
	v.Missing = false
	if len(v.Values) < maxTries && !slices.ContainsFunc(v.Values, func(have any) bool { return util.Compare(have, doc) == 0 }) {
		v.Values = append(v.Values, doc)
	}
}

var index = regexp.MustCompile(`\[(\d+|_)\]`)

// general is what two paths have in common that differ in the places of lists; ""
// of others. A place is [_] where they differ.
func general(a, b string) string {
	if index.ReplaceAllString(a, "") != index.ReplaceAllString(b, "") {
		return ""
	}
	places := index.FindAllString(b, -1)
	return index.ReplaceAllStringFunc(a, func(place string) string {
		other := ""
		if len(places) > 0 {
			other, places = places[0], places[1:]
		}
		if place == other {
			return place
		}
		return "[_]"
	})
}

// resolve says what a term stood for, with the variables of the body.
func (t *Trace) resolve(f *frame, locals *ast.ValueMap, term *ast.Term, depth int) known {
	if f == nil || depth > maxDepth {
		return known{}
	}
	switch v := term.Value.(type) {
	case ast.Var:
		return known{path: t.origin(f, locals, v, depth).path, value: ground(locals.Get(v))}
	case ast.Ref:
		return t.reference(f, locals, v, depth)
	}
	return known{}
}

func ground(v ast.Value) ast.Value {
	if v == nil || !v.IsGround() {
		return nil
	}
	return v
}

// reference follows a reference as far as its keys are known.
func (t *Trace) reference(f *frame, locals *ast.ValueMap, r ast.Ref, depth int) known {
	head, _ := r[0].Value.(ast.Var)
	at, rest := known{wanted: true}, r[1:]
	switch {
	case head == "input":
		at.path, at.value = "input", t.input
	case head == "data" && len(r) > 1 && t.has(r[1]):
		at.path, at.value = "data", nil
		if doc, err := ast.InterfaceToValue(t.data); err == nil {
			at.value = doc
		}
	case head == "data" && r.HasPrefix(t.pkg) && len(r) > len(t.pkg):
		name := r[len(t.pkg)].Value
		s, _ := name.(ast.String)
		at.path, at.value, at.wanted = string(s), t.rule(r[:len(t.pkg)+1]), false
		rest = r[len(t.pkg)+1:]
	case head == "data":
		return known{}
	default:
		of := t.resolve(f, locals, r[0], depth+1)
		if of.value == nil {
			return known{}
		}
		at.path, at.value = of.path, of.value
	}
	for _, term := range rest {
		key := term.Value
		if v, ok := key.(ast.Var); ok {
			if key = ground(locals.Get(v)); key == nil {
				at.whole = true
				return at
			}
		}
		if !key.IsGround() || at.value == nil {
			at.whole = true
			return at
		}
		if at.path != "" {
			at.path += step(key)
		}
		next := child(at.value, key)
		at.value = next
		if next == nil {
			return at
		}
	}
	return at
}

// step is a key as it stands in a reference.
func step(key ast.Value) string {
	if s, ok := key.(ast.String); ok {
		if plain.MatchString(string(s)) {
			return "." + string(s)
		}
	}
	return "[" + key.String() + "]"
}

var plain = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]*$`)

func child(v, key ast.Value) ast.Value {
	var found *ast.Term
	switch v := v.(type) {
	case ast.Object:
		found = v.Get(ast.NewTerm(key))
	case *ast.Array:
		found = v.Get(ast.NewTerm(key))
	case ast.Set:
		if v.Contains(ast.NewTerm(key)) {
			return key
		}
	}
	if found == nil {
		return nil
	}
	return found.Value
}

// origin is where a variable's value came from: what it was assigned, the element
// of an every, or the argument that the function was called with.
func (t *Trace) origin(f *frame, locals *ast.ValueMap, v ast.Var, depth int) known {
	for g := f; g != nil; g = g.outer(t) {
		if by := g.definition(t, v); by != nil {
			if !by.IsEquality() && !by.IsAssignment() {
				return known{}
			}
			a, b := by.Operand(0), by.Operand(1)
			switch {
			case a.Value.Compare(v) == 0:
				return t.resolve(g, locals, b, depth+1)
			case b.Value.Compare(v) == 0:
				return t.resolve(g, locals, a, depth+1)
			}
			return known{}
		}
		if g.at != nil && g.rule == nil {
			if every, ok := g.at.Terms.(*ast.Every); ok && every.Value.Value.Compare(v) == 0 {
				of := t.resolve(t.frames[g.parent], locals, every.Domain, depth+1)
				if key, ok := every.Key.Value.(ast.Var); ok && of.path != "" {
					if k := ground(locals.Get(key)); k != nil {
						of.path += step(k)
					}
				}
				return of
			}
		}
		if g.rule == nil {
			continue
		}
		for i, arg := range g.rule.Head.Args {
			if arg.Value.Compare(v) == 0 && g.at != nil && g.called != nil {
				if operand := g.at.Operand(i); operand != nil {
					return t.resolve(t.frames[g.parent], g.called, operand, depth+1)
				}
			}
		}
	}
	return known{}
}

// outer is the body around one that is not a rule's: they have their variables in
// common.
func (f *frame) outer(t *Trace) *frame {
	if f.rule != nil || f.parent == f.id {
		return nil
	}
	return t.frames[f.parent]
}

// definition is the expression of a body that gives a variable its value: the
// first that has it, and not as a key. What is the body's from outside has none.
func (f *frame) definition(t *Trace, v ast.Var) *ast.Expr {
	for g := f; g != nil; g = g.outer(t) {
		if g.takes(v) || g != f && g.first(v) != nil {
			return nil
		}
	}
	if expr := f.first(v); expr != nil && slices.Contains(t.definitions(expr), v) {
		return expr
	}
	return nil
}

// takes says whether a variable is a function's argument, or an every's element.
func (f *frame) takes(v ast.Var) bool {
	if f.rule != nil {
		return slices.ContainsFunc(f.rule.Head.Args, func(arg *ast.Term) bool { return mentions(arg, v) })
	}
	if f.at == nil {
		return false
	}
	every, ok := f.at.Terms.(*ast.Every)
	return ok && (mentions(every.Value, v) || every.Key != nil && mentions(every.Key, v))
}

// first is the first expression of a body that has a variable.
func (f *frame) first(v ast.Var) *ast.Expr {
	for i := range f.last + 1 {
		if expr := f.exprs[i]; expr != nil && mentions(expr, v) {
			return expr
		}
	}
	return nil
}

// definitions are the variables that an expression may give a value.
func (t *Trace) definitions(expr *ast.Expr) []ast.Var {
	var out []ast.Var
	operands := expr.Operands()
	switch {
	case expr.Negated || len(operands) == 0:
		return nil
	case !expr.IsEquality() && !expr.IsAssignment():
		arity := t.compiler.GetArity(expr.Operator())
		if arity < 0 || len(operands) <= arity {
			return nil
		}
		operands = operands[arity:] // where the function's value goes
	}
	var pattern func(*ast.Term)
	pattern = func(t *ast.Term) {
		switch v := t.Value.(type) {
		case ast.Var:
			out = append(out, v)
		case *ast.Array:
			v.Foreach(pattern)
		case ast.Object:
			v.Foreach(func(_, x *ast.Term) { pattern(x) })
		}
	}
	for _, operand := range operands {
		pattern(operand)
	}
	return out
}

// mentions says whether a variable is in an expression or a term.
func mentions(node any, v ast.Var) bool {
	found := false
	ast.WalkVars(node, func(u ast.Var) bool { found = found || u == v; return found })
	return found
}

// generated says whether a variable is the compiler's, not the policy's.
func (t *Trace) generated(v ast.Var) bool {
	return cmp.Or(t.compiler.RewrittenVars[v], v).IsGenerated()
}

// name is what the policy calls a term; "" of what it gives no name.
func (t *Trace) name(f *frame, term *ast.Term, depth int) string {
	if f == nil || depth > maxDepth {
		return ""
	}
	switch v := term.Value.(type) {
	case ast.Var:
		if !t.generated(v) {
			return string(cmp.Or(t.compiler.RewrittenVars[v], v))
		}
		for g := f; g != nil; g = g.outer(t) {
			by := g.definition(t, v)
			switch {
			case by == nil:
				continue
			case by.IsEquality() && by.Operand(0).Value.Compare(term.Value) == 0:
				return t.name(g, by.Operand(1), depth+1)
			case by.IsEquality():
				return ""
			}
			var args []string
			operands := by.Operands()
			for _, arg := range operands[:len(operands)-1] {
				text := t.name(g, arg, depth+1)
				if text == "" {
					return ""
				}
				args = append(args, text)
			}
			return strings.TrimPrefix(by.Operator().String(), t.pkg.String()+".") + "(" + strings.Join(args, ", ") + ")"
		}
	case ast.Ref:
		rest := v[1:]
		out := t.name(f, v[0], depth+1)
		switch head, _ := v[0].Value.(ast.Var); {
		case head == "input" || head == "data" && len(v) > 1 && t.has(v[1]):
			out = string(head)
		case head == "data" && v.HasPrefix(t.pkg) && len(v) > len(t.pkg):
			name, _ := v[len(t.pkg)].Value.(ast.String)
			out, rest = string(name), v[len(t.pkg)+1:]
		}
		if out == "" {
			return ""
		}
		for _, key := range rest {
			if _, ok := key.Value.(ast.Var); ok {
				name := t.name(f, key, depth+1)
				if name == "" {
					name = "_"
				}
				out += "[" + name + "]"
				continue
			}
			out += step(key.Value)
		}
		return out
	default:
		if term.IsGround() {
			return oneLine(term.String())
		}
	}
	return ""
}

// has says whether a key is one of the documents below data.
func (t *Trace) has(key *ast.Term) bool {
	name, ok := key.Value.(ast.String)
	_, there := t.data[string(name)]
	return ok && there
}

// maxAsking is how long a rule may take whose value an explanation shows.
const maxAsking = time.Second

// rule is the value of a rule of the policy; nil of one without, and of functions.
func (t *Trace) rule(r ast.Ref) ast.Value {
	name := r.String()
	if value, ok := t.known[name]; ok {
		return value
	}
	t.known[name] = nil
	if slices.ContainsFunc(t.compiler.GetRulesExact(r), func(r *ast.Rule) bool { return len(r.Head.Args) > 0 }) {
		return nil
	}
	ctx, done := context.WithTimeout(context.Background(), maxAsking)
	defer done()
	txn, err := t.store.NewTransaction(ctx)
	if err != nil {
		return nil
	}
	defer t.store.Abort(ctx, txn)
	cancel := topdown.NewCancel()
	defer context.AfterFunc(ctx, cancel.Cancel)()
	query := ast.NewBody(ast.Equality.Expr(ast.NewTerm(r), ast.NewTerm(result)))
	_ = topdown.NewQuery(query).WithCompiler(t.compiler).WithStore(t.store).WithTransaction(txn).WithCancel(cancel).
		WithBuiltins(t.builtins).WithInput(ast.NewTerm(t.input)).
		Iter(ctx, func(q topdown.QueryResult) error { t.known[name] = ground(q[result].Value); return nil })
	return t.known[name]
}
