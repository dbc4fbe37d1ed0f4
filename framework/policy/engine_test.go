package policy

import (
	"context"
	"strings"
	"testing"

	pb "github.com/coco-e2e/coco-e2e/framework/agentapi/agentpb"
	"github.com/coco-e2e/coco-e2e/manifests"
)

func article(t testing.TB) string {
	t.Helper()
	b, err := manifests.Fill("walkthrough/policy.rego", map[string]any{
		"Image": "docker.io/library/nginx@sha256:e56797eab4a5300158cc015296229e13a390f82bfc88803f45b08912fd5e3348", "Commands": []string{"whoami", "false"},
	})
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func execRequest(args ...string) []byte {
	return Input(&pb.ExecProcessRequest{ContainerId: "c", Process: &pb.Process{Args: args}})
}

func TestDecisions(t *testing.T) {
	ctx := context.Background()
	storage := func(source string) []byte {
		return Input(&pb.CreateContainerRequest{Storages: []*pb.Storage{{Source: source}}})
	}
	for _, c := range []struct {
		name, policy, endpoint string
		input                  []byte
		outcome                Outcome
		message                string
	}{
		{"listed command", article(t), "ExecProcessRequest", execRequest("whoami"), Allowed, ""},
		{"unlisted command", article(t), "ExecProcessRequest", execRequest("ls"), Denied, `"ExecProcessRequest is blocked by policy: "`},
		{"listed image", article(t), "CreateContainerRequest", storage("docker.io/library/nginx@sha256:e56797eab4a5300158cc015296229e13a390f82bfc88803f45b08912fd5e3348"), Allowed, ""},
		{"pause", article(t), "CreateContainerRequest", storage("pause"), Allowed, ""},
		{"unlisted image", article(t), "CreateContainerRequest", storage("docker.io/library/nginx:1"), Denied, `"CreateContainerRequest is blocked by policy: "`},
		{"no rule", article(t), "SetPolicyRequest", []byte("{}"), Error, `"SetPolicyRequest: internal error policy check: unexpected eval_query result len QueryResults { result: [] }"`},
		{"failing policy is allowed where it says so", "package agent_policy\ndefault AllowRequestsFailingPolicy := true\n", "ExecProcessRequest", execRequest("ls"), Allowed, ""},
		{"print", "package agent_policy\nExecProcessRequest if { print(\"no\", input.container_id); false }\ndefault ExecProcessRequest := false\n", "ExecProcessRequest", execRequest("ls"), Denied, `"ExecProcessRequest is blocked by policy: agent_policy:2: no c"`},
		{"object", "package agent_policy\nExecProcessRequest := {\"allowed\": false}\n", "ExecProcessRequest", execRequest("ls"), Denied, `"ExecProcessRequest is blocked by policy: "`},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := New()
			if err := e.SetPolicy(ctx, c.policy); err != nil {
				t.Fatal(err)
			}
			if d := e.Eval(ctx, c.endpoint, c.input); d.Outcome != c.outcome || d.Message != c.message {
				t.Errorf("got %v %s\nwant %v %s", d.Outcome, d.Message, c.outcome, c.message)
			}
		})
	}
}

func TestRefusedPolicies(t *testing.T) {
	for name, text := range map[string]string{
		"Rego v0":           "package agent_policy\nExecProcessRequest { true }\n",
		"Rego v2":           "package agent_policy\nimport rego.v2\ndefault ExecProcessRequest := true\n",
		"a template string": "package agent_policy\nExecProcessRequest if $\"a{input.x}\" == \"ab\"\n",
		"input shadowed":    "package agent_policy\nimport data.x as input\ndefault ExecProcessRequest := true\n",
		"no sense":          "package agent_policy\ndefault ExecProcessRequest := \n",
		"a long line":       "package agent_policy\n# " + strings.Repeat("x", maxColumn) + "\n",
	} {
		if err := New().SetPolicy(context.Background(), text); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// What an import brings it brings once, also the keywords that rego.v1 brings
// (regorus src/parser.rs); a policy in Rego v1 may import them all the same.
func TestImports(t *testing.T) {
	for _, c := range []struct{ imports, message string }{
		{"import rego.v1", ""},
		{"import future.keywords", ""},
		{"import future.keywords.in\nimport future.keywords.if\nimport future.keywords.every", ""},
		{"import data.a as x\nimport data.a as y", ""},
		{
			"import rego.v1\nimport future.keywords.in",
			"\n--> agent_policy:3:24\n  |\n3 | import future.keywords.in\n  |                        ^\nerror: this import shadows previous import of `in` defined at:" +
				"\n--> agent_policy:2:1\n  |\n2 | import rego.v1\n  | ^\n: this import is shadowed.",
		},
		{
			"import future.keywords.in\nimport rego.v1",
			"\n--> agent_policy:3:1\n  |\n3 | import rego.v1\n  | ^\nerror: this import shadows previous import of `in` defined at:" +
				"\n--> agent_policy:2:24\n  |\n2 | import future.keywords.in\n  |                        ^\n: this import is shadowed.",
		},
		{
			"import rego.v1\nimport rego.v1",
			"\n--> agent_policy:3:1\n  |\n3 | import rego.v1\n  | ^\nerror: this import shadows previous import of `contains` defined at:" +
				"\n--> agent_policy:2:1\n  |\n2 | import rego.v1\n  | ^\n: this import is shadowed.",
		},
		{
			"import future.keywords.in\nimport future.keywords.in",
			"\n--> agent_policy:3:24\n  |\n3 | import future.keywords.in\n  |                        ^\nerror: this import shadows previous import of `in` defined at:" +
				"\n--> agent_policy:2:24\n  |\n2 | import future.keywords.in\n  |                        ^\n: this import is shadowed.",
		},
		{
			"import future.keywords\nimport future.keywords.if",
			"\n--> agent_policy:3:24\n  |\n3 | import future.keywords.if\n  |                        ^\nerror: this import shadows previous import of `if` defined at:" +
				"\n--> agent_policy:2:15\n  |\n2 | import future.keywords\n  |               ^\n: this import is shadowed.",
		},
		{
			"import data.a\nimport data.a",
			"\n--> agent_policy:3:1\n  |\n3 | import data.a\n  | ^\nerror: import shadows following import defined earlier:" +
				"\n--> agent_policy:2:1\n  |\n2 | import data.a\n  | ^\n: this import is shadowed",
		},
		{
			"import data.a as x\nimport data.b as x",
			"\n--> agent_policy:3:1\n  |\n3 | import data.b as x\n  | ^\nerror: import shadows following import defined earlier:" +
				"\n--> agent_policy:2:1\n  |\n2 | import data.a as x\n  | ^\n: this import is shadowed",
		},
	} {
		got := ""
		if err := New().SetPolicy(t.Context(), "package agent_policy\n"+c.imports+"\ndefault ExecProcessRequest := true\n"); err != nil {
			got = err.Error()
		}
		if got != c.message {
			t.Errorf("%s: got %s\nwant %s", c.imports, got, c.message)
		}
	}
}

// A rule keeps state by operations on pstate (RFC 6902).
func TestState(t *testing.T) {
	const rego = `package agent_policy
CreateContainerRequest := {"allowed": true, "ops": [{"op": "add", "path": sprintf("/pstate/%s", [input.container_id]), "value": 1}]} if not data.pstate[input.container_id]
default CreateContainerRequest := false
RemoveContainerRequest := {"allowed": true, "ops": [{"op": "remove", "path": sprintf("/pstate/%s", [input.container_id])}]}
`
	e, ctx := New(), context.Background()
	if err := e.SetPolicy(ctx, rego); err != nil {
		t.Fatal(err)
	}
	create := Input(&pb.CreateContainerRequest{ContainerId: "c"})
	remove := Input(&pb.RemoveContainerRequest{ContainerId: "c"})
	for i, want := range []struct {
		endpoint string
		input    []byte
		outcome  Outcome
	}{
		{"CreateContainerRequest", create, Allowed},
		{"CreateContainerRequest", create, Denied},
		{"RemoveContainerRequest", remove, Allowed},
		{"RemoveContainerRequest", remove, Error},
		{"CreateContainerRequest", create, Allowed},
	} {
		if d := e.Eval(ctx, want.endpoint, want.input); d.Outcome != want.outcome {
			t.Errorf("step %d, %s: %v %s, want %v", i, want.endpoint, d.Outcome, d.Message, want.outcome)
		}
	}
}

// The agent's JSON, from the agent's own test data (Kata genpolicy,
// state/execprocess) and the rules of its serialiser.
func TestInput(t *testing.T) {
	got := string(Input(&pb.ExecProcessRequest{ContainerId: "c1", ExecId: "e1", Process: &pb.Process{
		User: &pb.User{AdditionalGids: []uint32{0, 10}}, Args: []string{"test1"}, Env: []string{"PATH=/bin"}, Cwd: "/",
	}}))
	const want = `{"container_id":"c1","exec_id":"e1","string_user":null,"process":{"Terminal":false,"ConsoleSize":null,"User":{"UID":0,"GID":0,"AdditionalGids":[0,10],"Username":""},"Args":["test1"],"Env":["PATH=/bin"],"Cwd":"/","Capabilities":null,"Rlimits":[],"NoNewPrivileges":false,"ApparmorProfile":"","OOMScoreAdj":0,"SelinuxLabel":""},"stdin_port":0,"stdout_port":0,"stderr_port":0}`
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got, want := string(Input(&pb.WriteStreamRequest{Data: []byte("hi")})), `{"container_id":"","exec_id":"","data":[104,105]}`; got != want {
		t.Errorf("bytes: got %s, want %s", got, want)
	}
	if got, want := string(Input(&pb.Mount{Type: "bind"})), `{"destination":"","source":"","type_":"bind","options":[]}`; got != want {
		t.Errorf("type: got %s, want %s", got, want)
	}
	if got, want := string(Input(&pb.LinuxSyscall{ErrnoRet: &pb.LinuxSyscall_Errnoret{Errnoret: 1}})), `{"Names":[],"Action":"","Args":[],"ErrnoRet":{"errnoret":1}}`; got != want {
		t.Errorf("oneof: got %s, want %s", got, want)
	}
	if got, want := string(Input(&pb.MemAgentMemcgConfig{})), `{"disabled":null,"swap":null,"swappiness_max":null,"period_secs":null,"period_psi_percent_limit":null,"eviction_psi_percent_limit":null,"eviction_run_aging_count_min":null}`; got != want {
		t.Errorf("optional: got %s, want %s", got, want)
	}
}
