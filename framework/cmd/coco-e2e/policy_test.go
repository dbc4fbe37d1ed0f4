package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/coco-e2e/coco-e2e/framework/initdata"
)

const examplePolicy = `package agent_policy

default ExecProcessRequest := false
default CreateContainerRequest := false

ExecProcessRequest if {
	input.process.Args[0] == "whoami"
	data.pstate.made
}

CreateContainerRequest := {"allowed": true, "ops": [{"op": "add", "path": "/pstate/made", "value": true}]}
`

func TestPolicyExplain(t *testing.T) {
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	document := "version = \"0.1.0\"\nalgorithm = \"sha256\"\n[data]\n\"policy.rego\" = '''\n" + examplePolicy + "'''\n"
	value, err := initdata.EncodeAnnotation([]byte(document))
	if err != nil {
		t.Fatal(err)
	}
	rego, doc, annotation := file("policy.rego", examplePolicy), file("initdata.toml", document), file("annotation", value+"\n")
	empty := file("empty.toml", "version = \"0.1.0\"\nalgorithm = \"sha256\"\n[data]\n\"aa.toml\" = ''\n")
	broken := file("broken.rego", "package agent_policy\nExecProcessRequest if {")
	ls, whoami := file("ls.json", `{"process":{"Args":["ls"],"Env":["A=secret"]}}`), file("whoami.json", `{"process":{"Args":["whoami"]}}`)
	log := file("policy.jsonl", `{"kind":"ExecProcessRequest","request":{"process":{"Args":["whoami"]}}}
{"kind":"CreateContainerRequest","request":{"container_id":"c"}}
{"kind":"CreateContainerRequest","request":{"allowed":true,"ops":[{"op":"add","path":"/pstate/made","value":true}]}}
{"kind":"ExecProcessRequest","request":{"process":{"Args":["whoami"]}}}
`)
	state, notState := file("state.json", `{"pstate":{"made":true}}`), file("notstate.json", `{"made":true}`)
	noJSON, other := file("x.json", "{"), file("other.json", `{"a":1}`)
	several := file("several.json", `{"container_id":"c","exec_id":"e"}`)
	if err := os.Mkdir(filepath.Join(dir, "pod-denial-01-CreateContainerRequest"), 0o700); err != nil {
		t.Fatal(err)
	}
	kept := file("pod-denial-01-CreateContainerRequest/input.json", `{"a":1}`)
	agentLog := file("agent.jsonl", `{"method":"ExecProcess","endpoint":"ExecProcessRequest","decision":"allowed"}
{"method":"ExecProcess","endpoint":"ExecProcessRequest","decision":"denied","input":{"process":{"Args":["whoami"]}},"state":{"pstate":{"made":true}}}
`)
	outDir := filepath.Join(dir, "out")
	for name, c := range map[string]struct {
		args []string
		want []string
		fail string
	}{
		"refused":                               {[]string{"--policy", rego, "--request", ls, "--endpoint", "ExecProcessRequest"}, []string{"ExecProcessRequest: denied", `input.process.Args[0] = "ls"`}, errNotAllowed.Error()},
		"by init-data":                          {[]string{"--init-data", doc, "--request", ls, "--endpoint", "ExecProcessRequest"}, []string{"denied"}, errNotAllowed.Error()},
		"by annotation":                         {[]string{"--annotation", annotation, "--request", ls, "--endpoint", "ExecProcessRequest"}, []string{"denied"}, errNotAllowed.Error()},
		"with the state":                        {[]string{"--policy", rego, "--state", state, "--request", whoami, "--endpoint", "ExecProcessRequest"}, []string{"ExecProcessRequest: allowed"}, ""},
		"a log":                                 {[]string{"--policy", rego, "--request", log}, []string{"ExecProcessRequest: denied", "data.pstate.made is not there", "ExecProcessRequest: allowed"}, ""},
		"no endpoint":                           {[]string{"--policy", rego, "--request", ls}, []string{"ExecProcessRequest: denied"}, errNotAllowed.Error()},
		"no endpoint, no request's fields":      {[]string{"--policy", rego, "--request", other}, nil, "other.json: JSON value 1: it does not say which rule it asks: give --endpoint, such as ExecProcessRequest"},
		"no endpoint, several requests' fields": {[]string{"--policy", rego, "--request", several}, nil, "give --endpoint, one of "},
		"kept":                                  {[]string{"--policy", rego, "--request", kept}, []string{"CreateContainerRequest: allowed"}, ""},
		"the agent's log":                       {[]string{"--policy", rego, "--request", agentLog}, []string{"ExecProcessRequest: allowed"}, ""},
		"its own files":                         {[]string{"--policy", rego, "--request", ls}, []string{"reproduce: opa eval --format pretty --data " + rego + " --input " + ls + " 'data.agent_policy.ExecProcessRequest'"}, errNotAllowed.Error()},
		"files":                                 {[]string{"--policy", rego, "--request", log, "--out", outDir}, []string{"--data " + outDir + "/policy.rego --data " + outDir + "/state.json --input " + outDir + "/input.json"}, ""},
		"no files":                              {[]string{"--policy", rego, "--request", log}, []string{"reproduce: give --out DIR"}, ""},
		"another rule":                          {[]string{"--policy", rego, "--request", ls, "--endpoint", "X"}, []string{"it has CreateContainerRequest, ExecProcessRequest"}, errNotAllowed.Error()},
		"no state":                              {[]string{"--policy", rego, "--state", notState, "--request", ls, "--endpoint", "X"}, nil, `notstate.json: state: want {"pstate": {…}}`},
		"no JSON":                               {[]string{"--policy", rego, "--request", noJSON, "--endpoint", "X"}, nil, "x.json: JSON value 1"},
		"no policy in it":                       {[]string{"--init-data", empty, "--request", ls, "--endpoint", "X"}, nil, "it has no policy.rego"},
		"broken policy":                         {[]string{"--policy", broken, "--request", ls, "--endpoint", "X"}, nil, "broken.rego: the agent does not take this policy"},
		"no policy":                             {[]string{"--request", ls}, nil, "give one of --policy, --init-data and --annotation"},
		"another format":                        {[]string{"--policy", rego, "--request", ls, "-o", "xml"}, nil, "--output xml"},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			cmd := policyCommand()
			cmd.SetArgs(append([]string{"explain"}, c.args...))
			cmd.SetOut(&out)
			cmd.SetErr(&out)
			cmd.SilenceUsage, cmd.SilenceErrors = true, true
			err := cmd.ExecuteContext(t.Context())
			if wrong := (misuse{}); errors.As(err, &wrong) != (err != nil && !errors.Is(err, errNotAllowed)) {
				t.Errorf("%v: is it misuse?", err)
			}
			if c.fail == "" && err != nil || c.fail != "" && (err == nil || !strings.Contains(err.Error(), c.fail)) {
				t.Errorf("%v, want %q", err, c.fail)
			}
			for _, want := range c.want {
				if !strings.Contains(out.String(), want) {
					t.Errorf("without %q:\n%s", want, out.String())
				}
			}
			if strings.Contains(out.String(), "secret") {
				t.Errorf("not redacted:\n%s", out.String())
			}
		})
	}
	t.Run("JSON from standard input", func(t *testing.T) {
		var out bytes.Buffer
		cmd := policyCommand()
		cmd.SetArgs([]string{"explain", "--policy", rego, "--request", "-", "--endpoint", "ExecProcessRequest", "-o", "json"})
		cmd.SetIn(strings.NewReader(`{"process":{"Args":["ls"]}}`))
		cmd.SetOut(&out)
		cmd.SilenceUsage, cmd.SilenceErrors = true, true
		if err := cmd.ExecuteContext(t.Context()); !errors.Is(err, errNotAllowed) {
			t.Fatal(err)
		}
		var x struct{ Outcome string }
		if err := json.Unmarshal(out.Bytes(), &x); err != nil || x.Outcome != "denied" {
			t.Errorf("%v: %s", err, out.String())
		}
	})
}

// Policy logs come from guests.
func FuzzQuestions(f *testing.F) {
	f.Add(`{"kind":"ExecProcessRequest","request":{"process":{"Args":["whoami"]}}}`, "")
	f.Add(`{"process":{}}`, "ExecProcessRequest")
	f.Fuzz(func(t *testing.T, text, endpoint string) {
		a := asked{request: "-", endpoint: endpoint}
		got, err := a.questions(strings.NewReader(text))
		if err == nil && len(got) == 0 {
			t.Error("neither a request nor an error")
		}
		for _, q := range got {
			if q.Kind == "" || !json.Valid(q.Request) {
				t.Errorf("%+v", q)
			}
		}
	})
}
