package policy

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/open-policy-agent/opa/v1/rego"
	"google.golang.org/protobuf/proto"

	pb "github.com/coco-e2e/coco-e2e/framework/agentapi/agentpb"
)

func TestReproduction(t *testing.T) {
	for _, c := range []struct{ policy, state, input, want string }{
		{"policy.rego", "state.json", "input.json", "opa eval --format pretty --data policy.rego --data state.json --input input.json 'data.agent_policy.ExecProcessRequest'"},
		{"/a b/it's.rego", "", "in.json", `opa eval --format pretty --data '/a b/it'\''s.rego' --input in.json 'data.agent_policy.ExecProcessRequest'`},
	} {
		if got := ReproductionOf(c.policy, c.state, c.input, "ExecProcessRequest"); got != c.want {
			t.Errorf("%s, want %s", got, c.want)
		}
	}
}

const environmental = `package agent_policy

default CreateContainerRequest := false
default ExecProcessRequest := false

CreateContainerRequest if not bad_env

bad_env if {
	some e in input.OCI.Process.Env
	e == "MODE=evil"
}

ExecProcessRequest if {
	some e in input.process.Env
	[name, value] := split(e, "=")
	name == "MODE"
	value in ["good", "fine"]
	count(value) == 4
}

StartContainerRequest := {"allowed": true, "ops": [{"op": "add", "path": "/pstate/started", "value": input.container_id}]} if {
	not data.pstate.started
}

default StartContainerRequest := false

SignalProcessRequest if {
	count(input.process.Env[0]) > 10
}
default SignalProcessRequest := false
`

// The files that are kept of a refusal, evaluated by OPA itself, give the decision
// that was made; where what was taken out of them decided, that is said.
func TestReproduce(t *testing.T) {
	for name, c := range map[string]struct {
		endpoint, input string
		before          string // a request of the same rule, for the state
		want            any
		differs         string
	}{
		"a literal of the policy":      {"CreateContainerRequest", `{"OCI":{"Process":{"Env":["A=secret","MODE=evil"]}}}`, "", false, ""},
		"what is none":                 {"CreateContainerRequest", `{"OCI":{"Process":{"Env":["A=secret","MODE=good"]}}}`, "", true, ""},
		"part of a literal":            {"ExecProcessRequest", `{"process":{"Env":["A=secret","MODE=good"]}}`, "", true, ""},
		"a value that is not expected": {"ExecProcessRequest", `{"process":{"Env":["MODE=evil"]}}`, "", false, ""},
		"the state":                    {"StartContainerRequest", `{"container_id":"c"}`, `{"container_id":"c"}`, false, ""},
		"a value that decides": {
			"SignalProcessRequest", `{"process":{"Env":["A=secret"]}}`, "", true, "the policy decides allowed",
		},
	} {
		t.Run(name, func(t *testing.T) {
			e, ctx := New(), t.Context()
			if err := e.SetPolicy(ctx, environmental); err != nil {
				t.Fatal(err)
			}
			if c.before != "" && e.Eval(ctx, c.endpoint, []byte(c.before)).Outcome != Allowed {
				t.Fatal("what ought to make the state was refused")
			}
			x := e.Explain(ctx, c.endpoint, []byte(c.input))
			state, err := e.State(ctx)
			if err != nil {
				t.Fatal(err)
			}
			x.Redact()
			input := x.RedactJSON([]byte(c.input))
			state = x.RedactJSON(state)
			e.Compare(ctx, &x, input, state)
			if x.Differs != c.differs || (x.Differs != "") != strings.Contains(x.String(), "--show-values") {
				t.Errorf("differs %q, want %q:\n%s", x.Differs, c.differs, x)
			}
			if strings.Contains(string(input), "secret") {
				t.Errorf("not redacted: %s", input)
			}
			dir := t.TempDir()
			for file, text := range map[string][]byte{"policy.rego": []byte(environmental), "state.json": state} {
				if err := os.WriteFile(filepath.Join(dir, file), text, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			// The query of the command, on its files.
			command := Reproduction(c.endpoint)
			query := strings.Trim(command[strings.LastIndexByte(command, ' ')+1:], "'")
			prepared, err := rego.New(rego.Query(query), rego.Load([]string{filepath.Join(dir, "policy.rego"), filepath.Join(dir, "state.json")}, nil)).PrepareForEval(ctx)
			if err != nil {
				t.Fatal(err)
			}
			var doc any
			if err := json.Unmarshal(input, &doc); err != nil {
				t.Fatal(err)
			}
			got, err := prepared.Eval(ctx, rego.EvalInput(doc))
			if err != nil || len(got) != 1 {
				t.Fatal(got, err)
			}
			if got[0].Expressions[0].Value != c.want {
				t.Errorf("OPA says %v, want %v; the decision was %s", got[0].Expressions[0].Value, c.want, x.Outcome)
			}
			if allowed := x.Outcome == "allowed"; allowed != (c.want == true) && c.differs == "" {
				t.Errorf("the decision was %s, and it is not said that OPA's is %v", x.Outcome, c.want)
			}
		})
	}
}

func TestOthers(t *testing.T) {
	for text, want := range map[string]string{
		"package agent_policy\nExecProcessRequest := true\nhelp(x) if x\n": "the policy has no rule NoRequest, and no default: it has ExecProcessRequest",
		"package other\nNoRequest := true\n":                               "the policy has no rule NoRequest, and no default: its package is other, and agents ask package agent_policy",
		"package agent_policy\n":                                           "the policy has no rule NoRequest, and no default: it has no rules",
	} {
		if got := explained(t, text, "NoRequest", "{}").Summary; got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestEndpoints(t *testing.T) {
	for input, want := range map[string][]string{
		string(Input(proto.Message(&pb.ExecProcessRequest{}))):     {"ExecProcessRequest"},
		string(Input(proto.Message(&pb.CreateContainerRequest{}))): {"CreateContainerRequest"},
		`{"process":{}}`: {"ExecProcessRequest"},
		`{"nothing":1}`:  nil,
		`{}`:             nil,
		`[`:              nil,
	} {
		if got := Endpoints([]byte(input)); !slices.Equal(got, want) {
			t.Errorf("%.40s: %q, want %q", input, got, want)
		}
	}
	if got := Endpoints([]byte(`{"container_id":"c"}`)); len(got) < 2 {
		t.Errorf("what may be several is %q", got)
	}
}
