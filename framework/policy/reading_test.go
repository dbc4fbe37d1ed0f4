package policy

import (
	"strings"
	"testing"
)

// What a policy read is told by the names that it has there, with where that came from.
func TestExplainReads(t *testing.T) {
	const head = "package agent_policy\n\ndefault ExecProcessRequest := false\n\n"
	long := strings.Repeat("a", 400)
	for name, c := range map[string]struct {
		policy, input string
		want          string
	}{
		"a field of a large variable": {
			"ExecProcessRequest if {\n\ti := input.process\n\tfits(i)\n}\n\nfits(i) if i.Cwd == \"/\"\n",
			`{"process":{"Args":["` + long + `"],"Cwd":"/WRONG"}}`,
			`line 7 is not true: fits(i)
  line 10 is not true: i.Cwd == "/"   (in fits)
    i.Cwd = "/WRONG"   (input.process.Cwd)`,
		},
		"nothing that is not in the expression": {
			"ExecProcessRequest if {\n\tunrelated := input.unrelated\n\tunrelated == 1\n\tcount(input.storages) == 0\n\targs := input.process.Args\n\targs[0] == \"sh\"\n}\n",
			`{"unrelated":1,"storages":[],"process":{"Args":["ls"]}}`,
			`line 10 is not true: args[0] == "sh"
  args[0] = "ls"   (input.process.Args[0])`,
		},
		"a count": {
			"ExecProcessRequest if count(input.storages) == 0\n", `{"storages":[1]}`,
			`line 5 is not true: count(input.storages) == 0
  count(input.storages) = 1
  input.storages = [1]`,
		},
		"a list of the policy": {
			"ExecProcessRequest if input.process.Args[0] in allowed_cmds\n\nallowed_cmds := [\"id\", \"whoami\"]\n", `{"process":{"Args":["ls"]}}`,
			`line 5 is not true: input.process.Args[0] in allowed_cmds
  input.process.Args[0] = "ls"
  allowed_cmds = ["id","whoami"]`,
		},
		"an element of the policy's data": {
			"ExecProcessRequest if {\n\tsome i\n\tinput.process.Args[0] == policy_data.cmds[i]\n}\n\npolicy_data := {\"cmds\": [\"id\", \"whoami\"]}\n", `{"process":{"Args":["ls"]}}`,
			`line 7 is not true: input.process.Args[0] == policy_data.cmds[i]
  input.process.Args[0] = "ls"
  policy_data.cmds = ["id","whoami"]`,
		},
		"each element of the policy's data": {
			"ExecProcessRequest if {\n\tsome cmd in policy_data.cmds\n\tinput.process.Args[0] == cmd\n}\n\npolicy_data := {\"cmds\": [\"id\", \"whoami\"]}\n", `{"process":{"Args":["ls"]}}`,
			`line 7 is not true: input.process.Args[0] == cmd   (tried 2 times)
  input.process.Args[0] = "ls"
  cmd = one of "id", "whoami"   (policy_data.cmds[_])`,
		},
		"a not of a rule": {
			"ExecProcessRequest if not bad_env\n\nbad_env if {\n\tsome e in input.process.Env\n\te == \"MODE=evil\"\n}\n", `{"process":{"Env":["A=1","MODE=evil"]}}`,
			`line 5 is not true: not bad_env
  line 9 is true: e == "MODE=evil"   (in bad_env)
    e = "MODE=evil"   (input.process.Env[1])`,
		},
		"a not of a rule that was asked before": {
			"ExecProcessRequest if bad == false\n\nExecProcessRequest if {\n\tbad\n\tinput.a == 2\n}\n\nExecProcessRequest if not bad\n\nbad if input.a == 1\n", `{"a":1}`,
			`line 12 is not true: not bad
  line 14 is true: input.a == 1   (in bad)
    input.a = 1`,
		},
		"a not of an expression": {
			"ExecProcessRequest if not input.a == 1\n", `{"a":1}`,
			`line 5 is not true: not input.a == 1
  input.a = 1`,
		},
		"an every": {
			"ExecProcessRequest if {\n\ti := input.process\n\tevery e in i.Args {\n\t\tstartswith(e, \"-\")\n\t}\n}\n", `{"process":{"Args":["-a","b"]}}`,
			`line 7 is not true: every e in i.Args { startswith(e, "-") }
  line 8 is not true: startswith(e, "-")
    e = "b"   (input.process.Args[1])`,
		},
		"an every of nothing": {
			"ExecProcessRequest if {\n\tevery e in input.process.Args {\n\t\te != \"\"\n\t}\n}\n", `{"process":{"Args":3}}`,
			`line 6 is not true: every e in input.process.Args { e != "" }
  input.process.Args = 3`,
		},
		"a rule that refuses": {
			"ExecProcessRequest := false if {\n\tp := input.process\n\tp.User.UID == 0\n\tforbidden(p.Cwd)\n}\n\nforbidden(dir) if startswith(dir, \"/etc\")\n",
			`{"process":{"User":{"UID":0},"Cwd":"/etc/x"}}`,
			`✓ line 5: ExecProcessRequest := false if
  line 7 is true: p.User.UID == 0
    p.User.UID = 0   (input.process.User.UID)
  line 8 is true: forbidden(p.Cwd)
  line 11 is true: startswith(dir, "/etc")   (in forbidden)
    dir = "/etc/x"   (input.process.Cwd)`,
		},
		"something computed": {
			"ExecProcessRequest if {\n\tline := concat(\" \", input.process.Args)\n\tline == \"ls\"\n}\n", `{"process":{"Args":["ls","-l"]}}`,
			`line 7 is not true: line == "ls"
  line = "ls -l"
  input.process.Args = ["ls","-l"]`,
		},
		"something missing in a function": {
			"ExecProcessRequest if fits(input.process)\n\nfits(p) if p.User.UID == 0\n", `{"process":{"User":{}}}`,
			`line 7 is not true: p.User.UID == 0   (in fits)
    input.process.User.UID is not there`,
		},
		"a comprehension": {
			"ExecProcessRequest if {\n\tbad := [e | some e in input.process.Env; e == \"X=1\"]\n\tcount(bad) == 0\n}\n", `{"process":{"Env":["X=1"]}}`,
			`line 7 is not true: count(bad) == 0
  count(bad) = 1
  bad = ["X=1"]
  input.process.Env = ["X=1"]`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			x := explained(t, head+c.policy, "ExecProcessRequest", c.input)
			if got := x.String(); x.Outcome != "denied" || !strings.Contains(unindented(got), unindented(c.want)) {
				t.Errorf("want\n%s\ngot\n%s", c.want, got)
			}
		})
	}
}

// unindented is a text with each line's blanks at its beginning taken off, but
// for the order of lines nothing is lost that the tests are about.
func unindented(s string) string {
	lines := strings.Split(s, "\n")
	for i := range lines {
		lines[i] = strings.TrimSpace(lines[i])
	}
	return strings.Join(lines, "\n")
}

// likeGenpolicy has the shape of what genpolicy writes: data with several
// containers, and functions that take one of them and the request's.
const likeGenpolicy = `package agent_policy

default CreateContainerRequest := {"allowed": false}

CreateContainerRequest := {"ops": [], "allowed": true} if {
	i_oci := input.OCI
	i_storages := input.storages

	some p_container in policy_data.containers
	print("======== CreateContainerRequest: trying next policy container")
	p_oci := p_container.OCI
	p_oci.Version == i_oci.Version
	allow_process(p_oci.Process, i_oci.Process)
	allow_storages(p_container.storages, i_storages)
}

allow_process(p_process, i_process) if {
	allow_args(p_process, i_process)
	p_process.Cwd == i_process.Cwd
	allow_env(p_process, i_process)
	p_process.NoNewPrivileges == i_process.NoNewPrivileges
}

allow_args(p_process, i_process) if {
	count(p_process.Args) == count(i_process.Args)
	every i, i_arg in i_process.Args {
		p_process.Args[i] == i_arg
	}
}

allow_env(p_process, i_process) if {
	every i_var in i_process.Env {
		allow_var(p_process, i_var)
	}
}

allow_var(p_process, i_var) if {
	some p_var in p_process.Env
	p_var == i_var
}

allow_var(p_process, i_var) if {
	startswith(i_var, "HOSTNAME=")
}

allow_storages(p_storages, i_storages) if {
	count(p_storages) == count(i_storages)
}

policy_data := {"containers": [
	{"OCI": {"Version": "1.1.0", "Process": {"Args": ["/pause"], "Cwd": "/", "Env": ["PATH=/bin"], "NoNewPrivileges": true}}, "storages": []},
	{"OCI": {"Version": "1.1.0", "Process": {"Args": ["nginx", "-g"], "Cwd": "/srv", "Env": ["PATH=/bin", "MODE=good"], "NoNewPrivileges": false}}, "storages": [1]},
	{"OCI": {"Version": "1.2.0", "Process": {"Args": ["nginx", "-g"], "Cwd": "/", "Env": [], "NoNewPrivileges": false}}, "storages": []},
]}
`

func TestExplainLikeGenpolicy(t *testing.T) {
	for name, c := range map[string]struct{ process, storages, want string }{
		"another directory": {
			`{"Args":["nginx","-g"],"Cwd":"/WRONG","Env":["PATH=/bin"],"NoNewPrivileges":false}`, `[1]`,
			`line 13 is not true: allow_process(p_oci.Process, i_oci.Process)   (tried 2 times)
line 19 is not true: p_process.Cwd == i_process.Cwd   (in allow_process)
p_process.Cwd = "/srv"   (policy_data.containers[1].OCI.Process.Cwd)
i_process.Cwd = "/WRONG"   (input.OCI.Process.Cwd)`,
		},
		"another argument": {
			`{"Args":["nginx","-x"],"Cwd":"/srv","Env":["PATH=/bin"],"NoNewPrivileges":false}`, `[1]`,
			`line 27 is not true: p_process.Args[i] == i_arg   (in allow_args)
p_process.Args[i] = "-g"   (policy_data.containers[1].OCI.Process.Args[1])
i_arg = "-x"   (input.OCI.Process.Args[1])`,
		},
		"another variable": {
			`{"Args":["nginx","-g"],"Cwd":"/srv","Env":["PATH=/bin","MODE=evil"],"NoNewPrivileges":false}`, `[1]`,
			`line 39 is not true: p_var == i_var   (in allow_var)   (tried 2 times)
p_var = one of "PATH=/bin", "MODE=good"   (policy_data.containers[1].OCI.Process.Env[_])
i_var = "MODE=evil"   (input.OCI.Process.Env[1])`,
		},
		"a storage too few": {
			`{"Args":["nginx","-g"],"Cwd":"/srv","Env":["PATH=/bin"],"NoNewPrivileges":false}`, `[]`,
			`line 14 is not true: allow_storages(p_container.storages, i_storages)
line 47 is not true: count(p_storages) == count(i_storages)   (in allow_storages)
count(p_storages) = 1
p_storages = [1]   (policy_data.containers[1].storages)
count(i_storages) = 0
i_storages = []   (input.storages)`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			x := explained(t, likeGenpolicy, "CreateContainerRequest", `{"OCI":{"Version":"1.1.0","Process":`+c.process+`},"storages":`+c.storages+`}`)
			if got := x.String(); x.Outcome != "denied" || !strings.Contains(unindented(got), c.want) {
				t.Errorf("want\n%s\ngot\n%s", c.want, got)
			}
		})
	}
}
