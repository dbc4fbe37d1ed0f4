package policy

import (
	"context"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	pb "github.com/coco-e2e/coco-e2e/framework/agentapi/agentpb"
)

const undefinedExec = `"ExecProcessRequest: internal error policy check: unexpected eval_query result len QueryResults { result: [] }"`

// engine has the policy of rules in the agent's package.
func engine(t testing.TB, rules string) *Engine {
	t.Helper()
	e := New()
	if err := e.SetPolicy(context.Background(), "package agent_policy\n"+rules); err != nil {
		t.Fatal(err)
	}
	return e
}

// What a policy cannot do is refused with INTERNAL, in the words of the
// agent's engine (regorus src/interpreter.rs, src/lexer.rs).
func TestErrorsAtEvaluation(t *testing.T) {
	for _, c := range []struct{ name, rules, message string }{
		{
			"a function that the engine lacks", "ExecProcessRequest if {\n\ttime.now_ns() > 0\n}",
			`"ExecProcessRequest: internal error \n--> agent_policy:3:5\n  |\n3 | \ttime.now_ns() > 0\n  |     ^\nerror: could not find function time.now_ns"`,
		},
		{
			"a conflict", "ExecProcessRequest := true\nExecProcessRequest := false",
			`"ExecProcessRequest: internal error \n--> agent_policy:3:1\n  |\n3 | ExecProcessRequest := false\n  | ^\nerror: rules must not produce multiple outputs"`,
		},
		{
			"a function's conflict", "f(x) := 1\nf(x) := 2\nExecProcessRequest if f(1) == 1",
			`"ExecProcessRequest: internal error \n--> agent_policy:3:1\n  |\n3 | f(x) := 2\n  | ^\nerror: functions must not produce multiple outputs for same inputs"`,
		},
		{
			"a variable that nothing binds", "ExecProcessRequest if { x == 1 }",
			"\"ExecProcessRequest: internal error \\n--> agent_policy:2:25\\n  |\\n2 | ExecProcessRequest if { x == 1 }\\n  |                         ^\\nerror: use of undefined variable `x` is unsafe\"",
		},
		{
			"too few arguments", "f(a, b) := a + b\nExecProcessRequest if f(1) == 1",
			`"ExecProcessRequest: internal error \n--> agent_policy:3:23\n  |\n3 | ExecProcessRequest if f(1) == 1\n  |                       ^\nerror: mismatch in number of arguments. supplied 1, expected 2"`,
		},
		{"too few for the engine's own", "ExecProcessRequest if count() == 0", undefinedExec},
		{"too many for the engine's own", "ExecProcessRequest if startswith(\"a\", \"a\", true, true)", undefinedExec},
		{
			"a rule that is no function", "r := 1\nExecProcessRequest if r(1)",
			`"ExecProcessRequest: internal error \n--> agent_policy:3:23\n  |\n3 | ExecProcessRequest if r(1)\n  |                       ^\nerror: could not find function r"`,
		},
		{"undefined", "default OtherRequest := true", undefinedExec},
		{"no boolean", `ExecProcessRequest := "yes"`, `"ExecProcessRequest: internal error policy check: unexpected eval_query result type`},
		{"an answer without allowed", `ExecProcessRequest := {"ops": []}`, "\"ExecProcessRequest: internal error missing field `allowed` at line 1 column 10\""},
		{"an answer in other letters", `ExecProcessRequest := {"Allowed": true}`, "\"ExecProcessRequest: internal error missing field `allowed` at line 1 column 16\""},
		{"no boolean that allows", `ExecProcessRequest := {"allowed": "true"}`, `"ExecProcessRequest: internal error invalid type: string \"true\", expected a boolean`},
		{"nothing that allows", `ExecProcessRequest := {"allowed": null}`, `"ExecProcessRequest: internal error invalid type: null, expected a boolean`},
		{
			"a number that allows, in other letters as well", `ExecProcessRequest := {"allowed": 1, "ALLOWED": true}`,
			"\"ExecProcessRequest: internal error invalid type: integer `1`, expected a boolean",
		},
		{"operations that are no list", `ExecProcessRequest := {"allowed": true, "ops": {}}`, `"ExecProcessRequest: internal error invalid type: map, expected a sequence`},
		{"an operation that is none", `ExecProcessRequest := {"allowed": true, "ops": [null]}`, `"ExecProcessRequest: internal error invalid type: null, expected internally tagged enum PatchOperation`},
		{
			"an operation in other letters", `ExecProcessRequest := {"allowed": true, "ops": [{"OP": "remove", "path": "/pstate/x"}]}`,
			"\"ExecProcessRequest: internal error missing field `op`\"",
		},
		{
			"its path in other letters", `ExecProcessRequest := {"allowed": true, "ops": [{"op": "remove", "Path": "/pstate/x"}]}`,
			"\"ExecProcessRequest: internal error missing field `path`\"",
		},
		{
			"its value in other letters", `ExecProcessRequest := {"allowed": true, "ops": [{"op": "add", "path": "/pstate/x", "VALUE": 1}]}`,
			"\"ExecProcessRequest: internal error missing field `value`\"",
		},
		{
			"its origin in other letters", `ExecProcessRequest := {"allowed": true, "ops": [{"op": "copy", "From": "/pstate", "path": "/pstate/x"}]}`,
			"\"ExecProcessRequest: internal error missing field `from`\"",
		},
		{
			"operations that fail", `ExecProcessRequest := {"allowed": true, "ops": [{"op": "remove", "path": "/pstate/x"}]}`,
			`"ExecProcessRequest: internal error operation '/0' failed at path '/pstate/x': path is invalid"`,
		},
		{
			"an unknown operation", `ExecProcessRequest := {"allowed": true, "ops": [{"op": "set", "path": "/pstate/x"}]}`,
			"\"ExecProcessRequest: internal error unknown variant `set`, expected one of",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := engine(t, c.rules).Eval(t.Context(), "ExecProcessRequest", execRequest("ls"))
			if d.Outcome != Error || d.Code != codes.Internal || !strings.HasPrefix(d.Message, c.message) {
				t.Errorf("got %v %v %s\nwant it to begin %s", d.Outcome, d.Code, d.Message, c.message)
			}
		})
	}
}

// What serde passes over in an answer, and takes: the controls of the refusals
// above.
func TestAnswers(t *testing.T) {
	for _, c := range []struct {
		answer  string
		outcome Outcome
		state   string
	}{
		{`{"allowed": true}`, Allowed, `{}`},
		{`{"allowed": true, "ops": null}`, Allowed, `{}`},
		{`{"allowed": true, "OPS": [{"op": "add", "path": "/pstate/x", "value": 1}]}`, Allowed, `{}`},
		{`{"allowed": true, "ops": [{"op": "add", "path": "/pstate/x", "value": 1, "more": 2}]}`, Allowed, `{"x": 1}`},
		{`{"allowed": true, "ops": [{"op": "add", "path": "/pstate/x", "value": null}]}`, Allowed, `{"x": null}`},
		{`{"allowed": false, "Allowed": true}`, Denied, `{}`},
	} {
		e := engine(t, "ExecProcessRequest := "+c.answer+"\nWaitProcessRequest if data.pstate == "+c.state)
		if d := e.Eval(t.Context(), "ExecProcessRequest", execRequest("ls")); d.Outcome != c.outcome {
			t.Errorf("%s: %v %s, want %v", c.answer, d.Outcome, d.Message, c.outcome)
		}
		if d := e.Eval(t.Context(), "WaitProcessRequest", []byte("{}")); d.Outcome != Allowed {
			t.Errorf("%s: the state is not %s", c.answer, c.state)
		}
	}
}

// Functions that OPA has and the agent's engine has not.
func TestFunctionsThatTheEngineLacks(t *testing.T) {
	for _, call := range []string{
		`json.patch({}, [])`, `strings.split_n("a", "b", 1)`, `array.flatten([])`, `time.now_ns()`, `http.send({})`, `glob.match("a", [], "a")`, `hex.encode("a")`,
		`yaml.is_valid("a")`, `urlquery.encode("a")`, `semver.is_valid("1.0.0")`, `uuid.rfc4122("a")`, `crypto.sha256("a")`, `io.jwt.decode("a")`, `graph.reachable({}, [])`,
		`json.verify_schema({})`, `regex.globs_match("a", "b")`, `opa.runtime()`, `net.cidr_is_valid("a")`, `uri.is_valid("a")`, `no.such("a")`,
	} {
		e := engine(t, "default ExecProcessRequest := false\nExecProcessRequest if x := "+call+"\nWaitProcessRequest := true")
		name, _, _ := strings.Cut(call, "(")
		if d := e.Eval(t.Context(), "ExecProcessRequest", execRequest("ls")); d.Outcome != Error || !strings.HasSuffix(d.Message, `could not find function `+name+`"`) {
			t.Errorf("%s: %v %s", call, d.Outcome, d.Message)
		}
		if d := e.Eval(t.Context(), "WaitProcessRequest", []byte("{}")); d.Outcome != Allowed {
			t.Errorf("%s: a rule that does not call it: %v %s", call, d.Outcome, d.Message)
		}
	}
}

// Functions that the agent's engine has: one of each family.
func TestFunctionsThatTheEngineHas(t *testing.T) {
	for _, call := range []string{
		`abs(-1) == 1`, `count([1]) == 1`, `array.slice([1, 2], 0, 1) == [1]`, `union({{1}, {2}}) == {1, 2}`, `object.get({}, "a", 1) == 1`, `json.filter({"a": 1}, ["a"]) == {"a": 1}`,
		`sprintf("%d", [1]) == "1"`, `strings.count("aa", "a") == 2`, `regex.match("^a", "ab")`, `bits.and(3, 1) == 1`, `to_number("1") == 1`, `is_string("a")`, `type_name(1) == "number"`,
		`base64.encode("a") == "YQ=="`, `base64url.encode_no_pad("a") == "YQ"`, `json.unmarshal("1") == 1`, `units.parse_bytes("1KB") == 1000`, `walk([1], [["0"], 1]) == false; true`,
		`startswith("a", "a", true)`, `"a" in ["a"]`, `every x in [1] { x == 1 }`, `trace("a")`,
	} {
		if strings.HasPrefix(call, "walk") {
			call = `walk({"a": 1}, [["a"], v]); v == 1`
		}
		if d := engine(t, "ExecProcessRequest if { "+call+" }").Eval(t.Context(), "ExecProcessRequest", execRequest("ls")); d.Outcome != Allowed {
			t.Errorf("%s: %v %s", call, d.Outcome, d.Message)
		}
	}
}

// The switch is evaluated through the gate that it opens, and so survives
// every later policy, be it one that says false or one that does not parse.
func TestAllowRequestsFailingPolicySticks(t *testing.T) {
	e, ctx := engine(t, "default AllowRequestsFailingPolicy := true\n"), t.Context()
	for _, text := range []string{"package agent_policy\ndefault AllowRequestsFailingPolicy := false\ndefault ExecProcessRequest := false\n", "package agent_policy\n", "no policy"} {
		_ = e.SetPolicy(ctx, text) // the last one fails
		if d := e.Eval(ctx, "ExecProcessRequest", execRequest("ls")); d.Outcome != Allowed || !d.Overruled {
			t.Errorf("after %q: %v %s, want Allowed and Overruled", text, d.Outcome, d.Message)
		}
	}
	// Nor does it help against an error.
	if err := e.SetPolicy(ctx, "package agent_policy\nExecProcessRequest := true\nExecProcessRequest := false\n"); err != nil {
		t.Fatal(err)
	}
	if d := e.Eval(ctx, "ExecProcessRequest", execRequest("ls")); d.Outcome != Error || d.Overruled {
		t.Errorf("a conflict: %v %s, want Error", d.Outcome, d.Message)
	}
	other := engine(t, "default AllowRequestsFailingPolicy := false\ndefault ExecProcessRequest := false\n")
	if d := other.Eval(ctx, "ExecProcessRequest", execRequest("ls")); d.Outcome != Denied || d.Code != codes.PermissionDenied {
		t.Errorf("switched off: %v %v", d.Outcome, d.Code)
	}
}

// A policy that does not parse takes the one in force with it; one that parses
// takes its state with it.
func TestSetPolicyFailures(t *testing.T) {
	e, ctx := engine(t, "ExecProcessRequest if data.pstate.seen\nCopyFileRequest := {\"allowed\": true, \"ops\": [{\"op\": \"add\", \"path\": \"/pstate/seen\", \"value\": true}]}\n"), t.Context()
	ask := func(want Outcome, message string) {
		t.Helper()
		if d := e.Eval(ctx, "ExecProcessRequest", execRequest("ls")); d.Outcome != want || d.Message != message {
			t.Errorf("%v %s, want %v %s", d.Outcome, d.Message, want, message)
		}
	}
	if d := e.Eval(ctx, "CopyFileRequest", []byte("{}")); d.Outcome != Allowed {
		t.Fatal(d.Message)
	}
	ask(Allowed, "")
	if err := e.SetPolicy(ctx, "package agent_policy\nExecProcessRequest if data.pstate.seen\n"); err != nil {
		t.Fatal(err)
	}
	ask(Error, undefinedExec)
	if err := e.SetPolicy(ctx, "package agent_policy\ndefault ExecProcessRequest := true\n"); err != nil {
		t.Fatal(err)
	}
	ask(Allowed, "")
	if err := e.SetPolicy(ctx, "package agent_policy\nExecProcessRequest { true }\n"); err == nil || err.Error() != "\n--> agent_policy:2:1\n  |\n2 | ExecProcessRequest { true }\n  | ^\nerror: `if` keyword is required before rule body" {
		t.Errorf("Rego v0: %v", err)
	}
	ask(Error, undefinedExec)
}

func TestPrintsBearThePolicysName(t *testing.T) {
	const rules = "package agent_policy\ndefault ExecProcessRequest := false\nExecProcessRequest if {\n\tprint(\"asked\", input.process.Args, input.none)\n\tfalse\n}\n"
	e, ctx := New(), t.Context()
	if err := e.Initialize(ctx, "/etc/kata-opa/default-policy.rego", rules); err != nil {
		t.Fatal(err)
	}
	want := `"ExecProcessRequest is blocked by policy: /etc/kata-opa/default-policy.rego:4: asked [\"ls\", \"-l\"] <undefined>"`
	if d := e.Eval(ctx, "ExecProcessRequest", execRequest("ls", "-l")); d.Message != want {
		t.Errorf("got  %s\nwant %s", d.Message, want)
	}
	if err := e.SetPolicy(ctx, rules); err != nil {
		t.Fatal(err)
	}
	want = `"ExecProcessRequest is blocked by policy: agent_policy:4: asked [\"ls\", \"-l\"] <undefined>"`
	if d := e.Eval(ctx, "ExecProcessRequest", execRequest("ls", "-l")); d.Message != want {
		t.Errorf("got  %s\nwant %s", d.Message, want)
	}
}

// The lines of /tmp/policy.jsonl (Kata src/agent/policy/src/policy.rs), in
// which serde_json escapes nothing that JSON lets stand.
func TestPolicyLog(t *testing.T) {
	var b strings.Builder
	e, ctx := New(), t.Context()
	e.LogTo(&b)
	if err := e.SetPolicy(ctx, "package agent_policy\nCloseStdinRequest := {\"ops\": [], \"<&>\": \"\u2028\", \"allowed\": true}\ndefault ReadStreamRequest := true\n"); err != nil {
		t.Fatal(err)
	}
	e.Eval(ctx, "CloseStdinRequest", Input(&pb.CloseStdinRequest{ContainerId: "<c>&\u2028", ExecId: "\"\\/\b\f\n\r\t\x00\x1f\x7fé"}))
	link, err := CopyFileInput(&pb.CopyFileRequest{Path: "/<p>&\u2029", FileMode: 0o120777, Data: []byte("<t>&\u2028")})
	if err != nil {
		t.Fatal(err)
	}
	e.Eval(ctx, "CopyFileRequest", link)
	for _, quiet := range []string{"ReadStreamRequest", "StatsContainerRequest", "SetPolicyRequest"} {
		e.Eval(ctx, quiet, []byte("{}"))
	}
	const want = `{"kind":"AllowRequestsFailingPolicy","request":{}}
{"kind":"CloseStdinRequest","request":{"container_id":"<c>&` + "\u2028" + `","exec_id":"\"\\/\b\f\n\r\t\u0000\u001f` + "\x7f" + `é"}}
{"kind":"CloseStdinRequest","request":{"<&>":"` + "\u2028" + `","allowed":true,"ops":[]}}
{"kind":"CopyFileRequest","request":{"path":"/<p>&` + "\u2029" + `","file_type":"Symlink","symlink_target":"<t>&` + "\u2028" + `","file_size":0,"file_mode":41471,"dir_mode":0,"uid":0,"gid":0,"offset":0}}
`
	if b.String() != want {
		t.Errorf("got\n%swant\n%s", b.String(), want)
	}
}

// The operations of RFC 6902, all or none of a rule's list.
func TestPatch(t *testing.T) {
	for _, c := range []struct{ ops, state, fails string }{
		{`[{"op": "add", "path": "/pstate/a", "value": {"b": 1}}, {"op": "replace", "path": "/pstate/a/b", "value": 2}]`, `{"a": {"b": 2}}`, ""},
		{`[{"op": "add", "path": "/pstate/a~1b~0c", "value": 1}]`, `{"a/b~c": 1}`, ""},
		{`[{"op": "add", "path": "/pstate/l", "value": [1]}, {"op": "add", "path": "/pstate/l/-", "value": 2}, {"op": "add", "path": "/pstate/l/0", "value": 0}]`, `{"l": [0, 1, 2]}`, ""},
		{`[{"op": "add", "path": "/pstate/a", "value": 1}, {"op": "copy", "from": "/pstate/a", "path": "/pstate/b"}, {"op": "move", "from": "/pstate/a", "path": "/pstate/c"}]`, `{"b": 1, "c": 1}`, ""},
		{`[{"op": "add", "path": "/pstate/a", "value": 1}, {"op": "test", "path": "/pstate/a", "value": 1}]`, `{"a": 1}`, ""},
		{`[{"op": "add", "path": "/pstate/a", "value": 1}, {"op": "test", "path": "/pstate/a", "value": 2}]`, `{}`, "operation '/1' failed at path '/pstate/a': value did not match"},
		{`[{"op": "replace", "path": "/pstate/a", "value": 1}]`, `{}`, "operation '/0' failed at path '/pstate/a': path is invalid"},
		{`[{"op": "add", "path": "/pstate/a/b", "value": 1}]`, `{}`, "operation '/0' failed at path '/pstate/a/b': path is invalid"},
		{`[{"op": "copy", "from": "/pstate/a", "path": "/pstate/b"}]`, `{}`, `operation '/0' failed at path '/pstate/b': \"from\" path is invalid`},
		{`[{"op": "add", "path": "pstate", "value": 1}]`, `{}`, "operation '/0' failed at path 'pstate': path is invalid"},
		{`[{"op": "add", "value": 1}]`, `{}`, "missing field `path`"},
		{`[{"op": "add", "path": "/pstate/a"}]`, `{}`, "missing field `value`"},
	} {
		e := engine(t, "CopyFileRequest := {\"allowed\": true, \"ops\": "+c.ops+"}\nWaitProcessRequest if data.pstate == "+c.state)
		d := e.Eval(t.Context(), "CopyFileRequest", []byte("{}"))
		if want := `"CopyFileRequest: internal error ` + c.fails + `"`; (c.fails == "") != (d.Outcome == Allowed) || c.fails != "" && d.Message != want {
			t.Errorf("%s: %v %s, want %s", c.ops, d.Outcome, d.Message, want)
		}
		if d := e.Eval(t.Context(), "WaitProcessRequest", []byte("{}")); d.Outcome != Allowed {
			t.Errorf("%s: the state is not %s", c.ops, c.state)
		}
	}
}

func TestCopyFileInput(t *testing.T) {
	for _, c := range []struct {
		r    *pb.CopyFileRequest
		want string
	}{
		{
			&pb.CopyFileRequest{Path: "/run/kata-containers/shared/containers/x-resolv.conf", FileSize: 46, FileMode: 33188, DirMode: 448},
			`{"path":"/run/kata-containers/shared/containers/x-resolv.conf","file_type":"Regular","symlink_target":null,"file_size":46,"file_mode":33188,"dir_mode":448,"uid":0,"gid":0,"offset":0}`,
		},
		{
			&pb.CopyFileRequest{Path: "/p", FileMode: 0o120777, Data: []byte("..data/x")},
			`{"path":"/p","file_type":"Symlink","symlink_target":"..data/x","file_size":0,"file_mode":41471,"dir_mode":0,"uid":0,"gid":0,"offset":0}`,
		},
		{
			&pb.CopyFileRequest{Path: "/p", FileMode: 0o40755},
			`{"path":"/p","file_type":"Directory","symlink_target":null,"file_size":0,"file_mode":16877,"dir_mode":0,"uid":0,"gid":0,"offset":0}`,
		},
		{
			&pb.CopyFileRequest{Path: "/p"},
			`{"path":"/p","file_type":"Unknown","symlink_target":null,"file_size":0,"file_mode":0,"dir_mode":0,"uid":0,"gid":0,"offset":0}`,
		},
	} {
		got, err := CopyFileInput(c.r)
		if err != nil || string(got) != c.want {
			t.Errorf("got  %s (%v)\nwant %s", got, err, c.want)
		}
	}
	if _, err := CopyFileInput(&pb.CopyFileRequest{FileMode: 0o120777, Data: []byte{0xff}}); err == nil {
		t.Error("a link whose target is no text was accepted")
	}
}

// A string as Rust's Debug prints it (core, char::escape_debug): marks that join
// the sign before them are escaped as well.
func TestDebugString(t *testing.T) {
	for text, want := range map[string]string{
		"a\"b\\c'd":          `"a\"b\\c'd"`,
		"\n\r\t\x00\x1b\x7f": `"\n\r\t\0\u{1b}\u{7f}"`,
		"é世":                 `"é世"`,
		"e\u0301\u20dd":      `"e\u{301}\u{20dd}"`,
		"\u200b\ue000":       `"\u{200b}\u{e000}"`,
	} {
		if got := DebugString(text); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}
