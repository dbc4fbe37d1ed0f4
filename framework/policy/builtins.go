package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// functions are those that the agent's engine is compiled with: regorus (at
// the revision that Kata 4.1 pins) registers them in src/builtins without a
// feature, or with base64, base64url, regex or std, which are Kata's. Of later
// ones it has neither array.flatten nor strings.split_n, and json.patch needs a
// feature.
const functions = `
	abs ceil floor numbers.range numbers.range_step rand.intn round
	count max min product sort sum
	array.concat array.reverse array.slice
	intersection union
	json.filter json.remove object.filter object.get object.keys object.remove object.subset object.union object.union_n
	concat contains endswith format_int indexof indexof_n lower replace split sprintf startswith substring
	strings.any_prefix_match strings.any_suffix_match strings.count strings.replace_n strings.reverse
	trim trim_left trim_prefix trim_right trim_space trim_suffix upper
	regex.find_all_string_submatch_n regex.find_n regex.is_valid regex.match regex.replace regex.split regex.template_match
	bits.and bits.lsh bits.negate bits.or bits.rsh bits.xor
	to_number
	is_array is_boolean is_null is_number is_object is_set is_string type_name
	base64.decode base64.encode base64.is_valid base64url.decode base64url.encode base64url.encode_no_pad
	json.is_valid json.marshal json.marshal_with_options json.unmarshal
	units.parse units.parse_bytes
	print trace walk`

// operators are what the language's own signs are compiled to.
const operators = `assign eq equal neq lt lte gt gte plus minus mul div rem and or internal.member_2 internal.member_3 internal.print`

// capabilities are the functions and the language of the agent's engine: a
// policy that uses more must not work here either.
var capabilities = sync.OnceValue(func() *ast.Capabilities {
	c := ast.CapabilitiesForThisVersion()
	has := strings.Fields(functions + " " + operators)
	c.Builtins = slices.DeleteFunc(c.Builtins, func(b *ast.Builtin) bool { return !slices.Contains(has, b.Name) })
	// Of the language, only what that engine knows: neither Rego v2 nor
	// template strings, nor keywords that are still to come.
	c.Features = []string{ast.FeatureRegoV1, ast.FeatureKeywordsInRefs}
	c.FutureKeywords = nil
	c.AllowNet = []string{}
	return c
})

// source is a policy's text, by the name that the agent gives it.
type source struct{ name, text string }

// explain makes of OPA's error that of the agent's engine, with the place in
// the text (regorus src/lexer.rs, Source::message), where the two have the
// same error; another is returned as it is.
func (s source) explain(err error) error {
	var e *topdown.Error
	if !errors.As(err, &e) || e.Location == nil {
		return s.explainCompile(err)
	}
	switch {
	case e.Code == topdown.ConflictErr && strings.HasPrefix(e.Message, "function "):
		return s.at(e.Location, "functions must not produce multiple outputs for same inputs")
	case e.Code == topdown.ConflictErr:
		return s.at(e.Location, "rules must not produce multiple outputs")
	}
	return err
}

func (s source) explainCompile(err error) error {
	var errs ast.Errors
	if !errors.As(err, &errs) || len(errs) == 0 || errs[0].Location == nil {
		return err
	}
	name, unsafe := strings.CutSuffix(errs[0].Message, " is unsafe")
	if name, isVar := strings.CutPrefix(name, "var "); unsafe && isVar {
		return s.at(errs[0].Location, fmt.Sprintf("use of undefined variable `%s` is unsafe", name))
	}
	return err
}

// refuse is the error of a text that does not parse: its first one, with its
// place.
func (s source) refuse(err error) error {
	var errs ast.Errors
	if !errors.As(err, &errs) || len(errs) == 0 || errs[0].Location == nil {
		return err
	}
	return s.at(errs[0].Location, errs[0].Message)
}

// checkImports refuses an import that shadows another: what rego.v1 brings is
// no exception there, as it is in OPA (regorus src/parser.rs,
// set_future_keyword and check_and_add_import).
func (s source) checkImports(imports []*ast.Import) error {
	keywords := map[string]*ast.Location{}
	others := map[string]*ast.Location{}
	for _, i := range imports {
		path := i.Path.Value.(ast.Ref)
		at, brings := i.Location, []string{"contains", "every", "if", "in"}
		switch {
		case path.HasPrefix(regoV1Import):
		case !path.HasPrefix(futureKeywords):
			name := "import " + path.String()
			if i.Alias != "" {
				name = "as " + string(i.Alias)
			}
			if before := others[name]; before != nil {
				return s.at(at, "import shadows following import defined earlier:"+s.message(before, "", "this import is shadowed"))
			}
			others[name] = at
			continue
		case len(path) == 2:
			at = path[1].Location
		default:
			at, brings = path[2].Location, []string{string(path[2].Value.(ast.String))}
		}
		for _, keyword := range brings {
			if before := keywords[keyword]; before != nil {
				return s.at(at, "this import shadows previous import of `"+keyword+"` defined at:"+s.message(before, "", "this import is shadowed."))
			}
			keywords[keyword] = at
		}
	}
	return nil
}

// The imports that bring keywords.
var (
	regoV1Import   = ast.Ref{ast.VarTerm("rego"), ast.StringTerm("v1")}
	futureKeywords = ast.Ref{ast.VarTerm("future"), ast.StringTerm("keywords")}
)

// at is an error that shows its place in the policy.
func (s source) at(l *ast.Location, text string) error {
	return errors.New(s.message(l, "error", text))
}

// message shows a place in the policy. A tab counts as four columns there.
func (s source) message(l *ast.Location, kind, text string) string {
	line := ""
	if lines := strings.Split(s.text, "\n"); l.Row >= 1 && l.Row <= len(lines) {
		line = strings.TrimSuffix(lines[l.Row-1], "\r")
	}
	before := []rune(line)
	before = before[:max(0, min(l.Col-1, len(before)))]
	column := len(before)
	for _, r := range before {
		if r == '\t' {
			column += 3
		}
	}
	margin := strings.Repeat(" ", len(fmt.Sprint(l.Row))+1)
	return fmt.Sprintf("\n--> %s:%d:%d\n%s|\n%d | %s\n%s| %s^\n%s: %s", s.name, l.Row, column+1, margin, l.Row, line, margin, strings.Repeat(" ", column), kind, text)
}
