package pod

import (
	"errors"
	"testing"
)

// The texts of the first four cases were recorded from the Kata 4.1 Go shim
// with containerd 2.4 and Kubernetes 1.37; ids are shortened.
func TestParseDenial(t *testing.T) {
	for _, c := range []struct {
		name, text     string
		outcome        Outcome
		endpoint, code string
	}{
		{
			"exec", `Internal error occurred: Internal error occurred: error executing command in container: failed to exec in container: failed to start exec "955a": cannot enter container 8057, with err rpc error: code = PermissionDenied desc = "ExecProcessRequest is blocked by policy: "`,
			Refused, "ExecProcessRequest", "PermissionDenied",
		},
		{
			"create, workload", `Failed: Error: failed to create containerd task: failed to create shim task: "CreateContainerRequest is blocked by policy: "`,
			Refused, "CreateContainerRequest", "",
		},
		{
			"create sandbox", `FailedCreatePodSandBox: Failed to create pod sandbox: rpc error: code = PermissionDenied desc = failed to start sandbox "a": failed to create containerd task: failed to create shim task: "CreateSandboxRequest is blocked by policy: "`,
			Refused, "CreateSandboxRequest", "",
		},
		{
			"undefined rule", `with err rpc error: code = Internal desc = "ExecProcessRequest: internal error policy check: unexpected eval_query result len QueryResults { result: [] }"`,
			Undefined, "ExecProcessRequest", "Internal",
		},
		{"mem-agent's endpoint is no Request", `"MemAgentMemcgConfig is blocked by policy: "`, Refused, "MemAgentMemcgConfig", ""},
		{"container gone", `error: unable to upgrade connection: container not found ("main")`, Inconclusive, "", ""},
		{"a workload that prints the words but no endpoint", `it is blocked by policy`, Inconclusive, "", ""},
		{"timeout", `context deadline exceeded`, Inconclusive, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := ParseDenial(c.text)
			if d.Outcome != c.outcome || d.Endpoint != c.endpoint || d.Code != c.code {
				t.Errorf("got %v %q %q, want %v %q %q", d.Outcome, d.Endpoint, d.Code, c.outcome, c.endpoint, c.code)
			}
		})
	}
}

func TestClassify(t *testing.T) {
	if d := Classify(Result{ExitCode: 1}, nil); d.Outcome != Allowed {
		t.Errorf("a command that ran and failed was not refused: %v", d.Outcome)
	}
	if d := Classify(Result{}, errors.New("connection refused")); d.Outcome != Inconclusive {
		t.Errorf("a transport error is %v, want inconclusive", d.Outcome)
	}
}

func FuzzParseDenial(f *testing.F) {
	f.Add(`code = Internal desc = "ExecProcessRequest is blocked by policy: "`)
	f.Fuzz(func(t *testing.T, text string) {
		if d := ParseDenial(text); (d.Endpoint == "") != (d.Outcome == Inconclusive) {
			t.Errorf("outcome %v with endpoint %q", d.Outcome, d.Endpoint)
		}
	})
}
