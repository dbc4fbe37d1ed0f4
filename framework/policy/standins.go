package policy

import (
	"fmt"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
	"github.com/open-policy-agent/opa/v1/types"
)

// standIns take the place of the calls in a policy that cannot succeed. The
// agent's engine finds out when it comes to them, while OPA's compiler has to
// know every function and how many arguments it takes.
type standIns struct {
	source source
	// own are the policy's functions and how many arguments they take; builtin
	// are those of the engine. imports are names of which nothing is known here.
	own, builtin map[string]int
	imports      map[ast.Var]bool
	pkg          string

	functions map[string]*topdown.Builtin
	added     []*ast.Builtin
}

// standIn changes m, and returns what its changed calls call.
func standIn(m *ast.Module, s source) *standIns {
	in := &standIns{
		source: s, own: map[string]int{}, builtin: map[string]int{}, imports: map[ast.Var]bool{}, pkg: m.Package.Path.String() + ".",
		functions: map[string]*topdown.Builtin{},
	}
	for _, b := range capabilities().Builtins {
		in.builtin[b.Name] = b.Decl.Arity()
	}
	for _, r := range m.Rules {
		in.own[r.Head.Ref().String()] = len(r.Head.Args)
	}
	for _, i := range m.Imports {
		in.imports[i.Name()] = true
	}
	ast.WalkNodes(m, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.Expr:
			if n.IsCall() {
				in.check(n.Terms.([]*ast.Term), true)
			}
		case *ast.Term:
			if c, ok := n.Value.(ast.Call); ok {
				in.check(c, false)
			}
		}
		return false
	})
	return in
}

// check changes a call that cannot succeed. One that is an expression may have
// one more argument, which the result is compared with.
func (in *standIns) check(terms []*ast.Term, expression bool) {
	ref, ok := terms[0].Value.(ast.Ref)
	if !ok {
		return
	}
	if head, ok := ref[0].Value.(ast.Var); !ok || in.imports[head] {
		return
	}
	name, n := ref.String(), len(terms)-1
	fits := func(arity int) bool { return n == arity || expression && n == arity+1 }
	arity, own := in.own[strings.TrimPrefix(name, in.pkg)]
	if own && arity > 0 {
		if !fits(arity) {
			in.replace(terms, fmt.Sprintf("mismatch in number of arguments. supplied %d, expected %d", n, arity))
		}
		return
	}
	arity, has := in.builtin[name]
	switch {
	case !has || own:
		in.replace(terms, "could not find function "+name)
	case name != ast.Print.Name && !fits(arity):
		in.replace(terms, "") // not an error there: undefined
	}
}

// replace makes a call fail with text; with none it is undefined.
func (in *standIns) replace(terms []*ast.Term, text string) {
	// A name that no policy can have.
	ref := ast.Ref{ast.VarTerm("$"), ast.StringTerm(fmt.Sprintf("%s %d %s", terms[0].Value, len(terms)-1, text))}
	terms[0].Value = ref
	name := ref.String()
	if in.functions[name] != nil {
		return
	}
	args := make([]types.Type, len(terms)-1)
	for i := range args {
		args[i] = types.A
	}
	b := &ast.Builtin{Name: name, Decl: types.NewFunction(args, types.A)}
	in.added = append(in.added, b)
	in.functions[name] = &topdown.Builtin{Decl: b, Func: func(c topdown.BuiltinContext, _ []*ast.Term, _ func(*ast.Term) error) error {
		if text == "" {
			return nil
		}
		return topdown.Halt{Err: in.source.at(c.Location, text)}
	}}
}

// capabilities are the engine's and the stand-ins.
func (in *standIns) capabilities() *ast.Capabilities {
	c := *capabilities()
	c.Builtins = append(c.Builtins[:len(c.Builtins):len(c.Builtins)], in.added...)
	return &c
}
