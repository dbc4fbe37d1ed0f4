package policy

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"google.golang.org/protobuf/reflect/protoreflect"

	pb "github.com/coco-e2e/coco-e2e/framework/agentapi/agentpb"
)

// Reproduction is the command with which OPA evaluates the same, on the files
// policy.rego, input.json and state.json, which holds {"pstate": …}.
func Reproduction(endpoint string) string {
	return ReproductionOf("policy.rego", "state.json", "input.json", endpoint)
}

// ReproductionOf is Reproduction with other files; state may be "", for a policy
// that has none yet.
func ReproductionOf(policy, state, input, endpoint string) string {
	command := "opa eval --format pretty --data " + quoted(policy)
	if state != "" {
		command += " --data " + quoted(state)
	}
	return command + " --input " + quoted(input) + " " + quoted("data."+label+"."+endpoint)
}

// quoted is a word for a shell, quoted where it has to be; the query always is.
func quoted(word string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("/._-+:@%", r)
	}
	if word != "" && !strings.HasPrefix(word, "data.") && strings.IndexFunc(word, func(r rune) bool { return !plain(r) }) < 0 {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

// Compare asks the policy about a request and a state without values, which
// RedactJSON made, and notes in x in what the decision differs then: the policy
// may look at what was taken out.
func (e *Engine) Compare(ctx context.Context, x *Explanation, input, state []byte) {
	var doc map[string]any
	if json.Unmarshal(state, &doc) != nil || doc["pstate"] == nil {
		x.Differs = "the state is not what it was"
		return
	}
	e.mu.Lock()
	trial := &Engine{
		source: e.source, compiler: e.compiler, standIns: e.standIns, broken: e.broken, queries: map[string]ast.Body{}, allowFailures: e.allowFailures,
		db: inmem.NewFromObject(doc),
	}
	e.mu.Unlock()
	again := trial.Explain(ctx, x.Endpoint, input)
	switch was, is := x.decisive(), again.decisive(); {
	case again.Outcome != x.Outcome:
		x.Differs = "the policy decides " + again.Outcome
	case !slices.Equal(was, is):
		x.Differs = "another expression decides"
		if len(is) > 0 {
			x.Differs += fmt.Sprintf(": line %d, %s", is[0].Line, is[0].Text)
		}
	}
}

// decisive are the expressions that decided, of each rule the last.
func (x *Explanation) decisive() []Place {
	var out []Place
	for _, r := range x.Rules {
		for _, chain := range [][]Expression{r.Failed, r.Because} {
			if len(chain) > 0 {
				out = append(out, chain[len(chain)-1].Place)
			}
		}
	}
	return out
}

// Text is the policy in force, as it was set.
func (e *Engine) Text() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.source.text
}

// Rules are the names of the policy's rules that an agent may ask, those that are
// no functions, ordered; pkg is the policy's package. An engine without a policy has none.
func (e *Engine) Rules() (rules []string, pkg string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.rules()
}

func (e *Engine) rules() (rules []string, pkg string) {
	if e.compiler == nil {
		return nil, ""
	}
	for _, m := range e.compiler.Modules {
		pkg = strings.TrimPrefix(m.Package.Path.String(), "data.")
		for _, r := range m.Rules {
			if name := r.Head.Name.String(); len(r.Head.Args) == 0 && !slices.Contains(rules, name) {
				rules = append(rules, name)
			}
		}
	}
	slices.Sort(rules)
	return rules, pkg
}

// Endpoints are the requests that an input may be, by its fields: those of the
// agent's protocol that have all of them, and if some have no others, only those.
func Endpoints(input []byte) []string {
	var doc map[string]json.RawMessage
	if json.Unmarshal(input, &doc) != nil || len(doc) == 0 {
		return nil
	}
	var all, exact []string
	messages := pb.File_framework_agentapi_agentpb_agent_proto.Messages()
	for i := range messages.Len() {
		m := messages.Get(i)
		name := string(m.Name())
		fields := fieldsOf(m)
		if !strings.HasSuffix(name, "Request") || !containsAll(fields, doc) {
			continue
		}
		all = append(all, name)
		if len(fields) == len(doc) {
			exact = append(exact, name)
		}
	}
	if len(exact) > 0 {
		all = exact
	}
	slices.Sort(all)
	return all
}

func fieldsOf(m protoreflect.MessageDescriptor) map[string]bool {
	out := map[string]bool{}
	for i := range m.Fields().Len() {
		out[jsonName(m.Fields().Get(i).Name())] = true
	}
	return out
}

func containsAll(fields map[string]bool, doc map[string]json.RawMessage) bool {
	for key := range doc {
		if !fields[key] {
			return false
		}
	}
	return true
}
