package policy

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	pb "github.com/coco-e2e/coco-e2e/framework/agentapi/agentpb"
)

// shortArticle is the policy of the article "Policing a Sandbox", shortened.
const shortArticle = `package agent_policy

import future.keywords.in
import future.keywords.if
import future.keywords.every

default GuestDetailsRequest := true
default CreateContainerRequest := false
default ExecProcessRequest := false

CreateContainerRequest if {
	every storage in input.storages {
		some allowed_image in policy_data.allowed_images
		storage.source == allowed_image
	}
}

ExecProcessRequest if {
	input_command = concat(" ", input.process.Args)
	some allowed_command in policy_data.allowed_commands
	input_command == allowed_command
}

policy_data := {
	"allowed_commands": ["whoami", "false"],
	"allowed_images": ["pause", "docker.io/library/nginx"],
}
`

const nested = `package agent_policy

default ExecProcessRequest := false
default SignalProcessRequest := false

ExecProcessRequest if {
	input.container_id == "other"
}

ExecProcessRequest if {
	input.container_id == "c"
	print("looking at", input.process.Args)
	args_fit(input.process)
	not forbidden(input.process)
}

args_fit(p) if {
	p.Args[0] == "sh"
	count(p.Args) == 3
}

forbidden(p) if p.Cwd == "/etc"

SignalProcessRequest := false if input.signal == 9

SignalProcessRequest if {
	input.signal != 9
	data.pstate.running == true
}

WaitProcessRequest if input.exec_id

StartContainerRequest := {"allowed": false}

ReadStreamRequest := "yes"
`

func explained(t *testing.T, text, endpoint, input string) Explanation {
	t.Helper()
	e := New()
	if err := e.SetPolicy(t.Context(), text); err != nil {
		t.Fatal(err)
	}
	x := e.Explain(t.Context(), endpoint, []byte(input))
	if d := e.Eval(t.Context(), endpoint, []byte(input)); d.Outcome.String() != x.Outcome || d.Message != x.Message {
		t.Errorf("explained as %s %s, and decided as %s %s", x.Outcome, x.Message, d.Outcome, d.Message)
	}
	return x
}

func TestExplain(t *testing.T) {
	for name, c := range map[string]struct {
		policy, endpoint, input string
		outcome                 string
		// want are lines of the text, without what is around them.
		want []string
	}{
		"a command that is not listed": {
			shortArticle, "ExecProcessRequest", `{"container_id":"c","process":{"Args":["ls","-l"],"Cwd":"/"}}`, "denied",
			[]string{
				"no rule is true, and the default at line 9 refuses it",
				"✗ line 18: ExecProcessRequest if",
				"line 21 is not true: input_command == allowed_command   (tried 2 times)",
				`input.process.Args = ["ls","-l"]`,
				`input_command = "ls -l"`,
				`allowed_command = one of "whoami", "false"`,
				"line 9: default ExecProcessRequest := false",
			},
		},
		"a command that is": {
			shortArticle, "ExecProcessRequest", `{"process":{"Args":["whoami"]}}`, "allowed",
			[]string{"the rule at line 18 allows it", "✓ line 18: ExecProcessRequest if"},
		},
		"an image that is not listed": {
			shortArticle, "CreateContainerRequest", `{"storages":[{"source":"pause"},{"source":"evil"}]}`, "denied",
			[]string{
				"line 14 is not true: storage.source == allowed_image",
				`allowed_image = one of "pause", "docker.io/library/nginx"`, `storage.source = "evil"   (input.storages[1].source)`,
			},
		},
		"no rule":         {shortArticle, "SetPolicyRequest", `{}`, "error", []string{"the policy has no rule SetPolicyRequest, and no default"}},
		"a default alone": {shortArticle, "GuestDetailsRequest", `{}`, "allowed", []string{"no rule is true, and the default at line 7 allows it"}},
		"a missing field": {shortArticle, "ExecProcessRequest", `{"process":{}}`, "denied", []string{"input.process.Args is not there"}},
		"within a function": {
			nested, "ExecProcessRequest", `{"container_id":"c","process":{"Args":["sh"],"Cwd":"/"}}`, "denied",
			[]string{
				"✗ line 6: ExecProcessRequest if", `input.container_id = "c"`,
				"line 13 is not true: args_fit(input.process)", "line 19 is not true: count(p.Args) == 3   (in args_fit)",
				`printed: agent_policy:12: looking at ["sh"]`,
			},
		},
		"a not": {
			nested, "ExecProcessRequest", `{"container_id":"c","process":{"Args":["sh","-c","x"],"Cwd":"/etc"}}`, "denied",
			[]string{"line 14 is not true: not forbidden(input.process)", `line 22 is true: p.Cwd == "/etc"   (in forbidden)`, `p.Cwd = "/etc"   (input.process.Cwd)`},
		},
		"a rule that refuses": {
			nested, "SignalProcessRequest", `{"signal":9}`, "denied", []string{"the rule at line 24 holds, and refuses it: false"},
		},
		"the state": {
			nested, "SignalProcessRequest", `{"signal":15}`, "denied", []string{"line 28 is not true: data.pstate.running == true", "data.pstate.running is not there"},
		},
		"no default": {
			nested, "WaitProcessRequest", `{"exec_id":false}`, "error", []string{"no rule WaitProcessRequest is true, and there is no default", "input.exec_id = false"},
		},
		"what was not tried": {
			"package agent_policy\nExecProcessRequest if input.a == 1\nExecProcessRequest if input.b == 2\n", "ExecProcessRequest", `{"a":1,"b":2}`, "allowed",
			[]string{"✓ line 2: ExecProcessRequest if", "· line 3: ExecProcessRequest if input.b == 2, not tried"},
		},
		"an object":     {nested, "StartContainerRequest", `{}`, "denied", []string{"holds, and refuses it", `"allowed": false`}},
		"no decision":   {nested, "ReadStreamRequest", `{}`, "error", []string{"the rule's value is no decision"}},
		"everything":    {"package agent_policy\ndefault AllowRequestsFailingPolicy := true\n", "ExecProcessRequest", `{}`, "allowed", []string{"AllowRequestsFailingPolicy allows what the policy does not"}},
		"cannot be run": {"package agent_policy\nExecProcessRequest if nothing(1)\n", "ExecProcessRequest", `{}`, "error", []string{"the policy could not be evaluated: "}},
	} {
		t.Run(name, func(t *testing.T) {
			x := explained(t, c.policy, c.endpoint, c.input)
			if x.Outcome != c.outcome {
				t.Errorf("%s, want %s", x.Outcome, c.outcome)
			}
			for _, want := range c.want {
				if !strings.Contains(x.String(), want) {
					t.Errorf("without %q:\n%s", want, x)
				}
			}
			if b, err := json.Marshal(x); err != nil || !json.Valid(b) {
				t.Errorf("%v: %s", err, b)
			}
		})
	}
}

// A policy as a generator makes it: the explanation is small all the same, and
// it is about the container that came furthest.
func TestExplainGenerated(t *testing.T) {
	e := New()
	if err := e.SetPolicy(t.Context(), generated(5)); err != nil {
		t.Fatal(err)
	}
	input := Input(&pb.CreateContainerRequest{ContainerId: "c", OCI: &pb.Spec{Process: &pb.Process{Args: []string{"/bin/server", "--name", "c3"}, Env: []string{"SECRET=of a user"}}}})
	x := e.Explain(t.Context(), "CreateContainerRequest", input)
	if x.Outcome != "denied" {
		t.Fatal(x)
	}
	text := x.String()
	if !strings.Contains(text, "all_environment_fits") || len(text) > 8<<10 {
		t.Errorf("%d bytes:\n%s", len(text), text)
	}
	if !strings.Contains(text, "of a user") {
		t.Errorf("the value that was refused is not told:\n%s", text)
	}
	x.Redact()
	if text := x.String(); strings.Contains(text, "of a user") || !strings.Contains(text, "SECRET=[redacted]") {
		t.Errorf("not redacted:\n%s", text)
	}
}

// The state that earlier requests made is part of the reason, and explaining
// changes none of it.
func TestExplainState(t *testing.T) {
	e := New()
	if err := e.SetPolicy(t.Context(), stateful); err != nil {
		t.Fatal(err)
	}
	ask := []byte(`{"container_id":"c"}`)
	for range 3 {
		if x := e.Explain(t.Context(), "CreateContainerRequest", ask); x.Outcome != "allowed" {
			t.Fatal(x)
		}
	}
	if d := e.Eval(t.Context(), "CreateContainerRequest", ask); d.Outcome != Allowed {
		t.Fatal(d)
	}
	x := e.Explain(t.Context(), "CreateContainerRequest", ask)
	if x.Outcome != "denied" || !strings.Contains(x.String(), `data.pstate.made = "c"`) {
		t.Errorf("%s", x)
	}
	state, err := e.State(t.Context())
	if err != nil || !strings.Contains(string(state), `"made": "c"`) {
		t.Errorf("%v: %s", err, state)
	}
}

const stateful = `package agent_policy

default CreateContainerRequest := false

CreateContainerRequest := {"allowed": true, "ops": [{"op": "add", "path": "/pstate/made", "value": input.container_id}]} if {
	not data.pstate.made
}
`

// Whatever the request, it is explained as it is decided.
func FuzzExplain(f *testing.F) {
	for _, policy := range []string{shortArticle, nested, stateful, generated(2)} {
		f.Add(policy, "ExecProcessRequest", []byte(`{"container_id":"c","process":{"Args":["ls"],"Cwd":"/"}}`))
		f.Add(policy, "CreateContainerRequest", []byte(`{"container_id":"c","storages":[{"source":"x"}],"OCI":{"Process":{"Args":[],"Env":[]},"Mounts":[]}}`))
	}
	f.Add(shortArticle, "CreateContainerRequest", Input(proto.Message(&pb.CreateContainerRequest{ContainerId: "x"})))
	f.Fuzz(func(t *testing.T, policy, endpoint string, input []byte) {
		e := New()
		if len(policy) > 1<<16 || e.SetPolicy(t.Context(), policy) != nil {
			return
		}
		if slices.ContainsFunc([]string{"rand", "time", "uuid", "opa.runtime", "http"}, func(s string) bool { return strings.Contains(policy, s) }) {
			return // another answer each time
		}
		x := e.Explain(t.Context(), endpoint, input)
		if d := e.Eval(t.Context(), endpoint, input); d.Outcome.String() != x.Outcome {
			t.Fatalf("explained as %s, decided as %s: %s", x.Outcome, d.Outcome, d.Message)
		}
		x.Redact()
		_ = x.String()
	})
}
