package task_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/coco-e2e/coco-e2e/simulators/shim/stubvm"
)

const (
	pauseSpec = "../testdata/simple-pod.pause.config.json"
	mainSpec  = "../testdata/simple-pod.main.config.json"
	initData  = "io.katacontainers.config.hypervisor.cc_init_data"
)

func errInternal(text string) error { return status.Error(codes.Internal, text) }

func packed(t *testing.T, text string) string {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(out.Bytes())
}

// check compares an error with a code and a text that Kata's shim was recorded with.
func check(t *testing.T, err error, code codes.Code, text string) {
	t.Helper()
	got := status.Convert(err)
	if err == nil || got.Code() != code || got.Message() != text {
		t.Errorf("got  %v\nwant code %v text %s", err, code, text)
	}
}

// TestInitDataErrors has first the recorded init-data annotations that Kata's shim refuses, before there is a VM: here
// a remedy follows its words. Then come those that end Kata's shim, which panics or overflows its stack, and those that
// Kata has no rule for.
func TestInitDataErrors(t *testing.T) {
	valid := packed(t, "algorithm = \"sha256\"\nversion = \"0.1.0\"\n[data]\n")
	raw, err := base64.StdEncoding.DecodeString(valid)
	if err != nil {
		t.Fatal(err)
	}
	const remedy = "; annotation io.katacontainers.config.hypervisor.cc_init_data: "
	for name, test := range map[string]struct {
		annotation, value, want string
	}{
		"not base64":    {initData, "!!!! not base64", "initdata create gzip reader error: illegal base64 data at input byte 0" + remedy + "encode with the standard base64 alphabet (no - or _), padded with =, with nothing after it"},
		"not gzip":      {initData, base64.StdEncoding.EncodeToString([]byte("version = \"0.1.0\"")), "initdata create gzip reader error: gzip: invalid header" + remedy + "the base64 is of plain text: compress the document with gzip before base64"},
		"truncated":     {initData, base64.StdEncoding.EncodeToString(raw[:len(raw)-12]), "uncompressing initdata with gzip error: unexpected EOF" + remedy + "the value ends early: copy or encode it again, whole"},
		"broken TOML":   {initData, packed(t, "version = \"0.1.0\"\nalgorithm = sha\n"), `parsing initdata annotation failed: toml: line 2 (last key "algorithm"): expected value but found "sha" instead` + remedy + "correct the TOML and encode it again"},
		"not enabled":   {"io.katacontainers.config.hypervisor.kernel_params", "x", "annotation io.katacontainers.config.hypervisor.kernel_params is not enabled"},
		"md5":           {initData, packed(t, "version = \"0.1.0\"\nalgorithm = \"md5\"\n"), `init-data field algorithm is "md5": use one of ["sha256" "sha384" "sha512"]`},
		"no algorithm":  {initData, packed(t, "version = \"0.1.0\"\n"), `init-data field algorithm is "": use one of ["sha256" "sha384" "sha512"]`},
		"SHA-256":       {initData, packed(t, "algorithm = \"SHA-256\"\n"), `init-data field algorithm is "SHA-256": use one of ["sha256" "sha384" "sha512"]`},
		"empty":         {initData, packed(t, ""), `init-data field algorithm is "": use one of ["sha256" "sha384" "sha512"]`},
		"brackets":      {initData, packed(t, "x = "+strings.Repeat("[", 1_000_000)), "parsing initdata annotation failed: line 1: tables, arrays or dotted keys lie more than 32 deep; init-data is a flat [data] table of strings" + remedy + "make the document flatter"},
		"bomb":          {initData, packed(t, strings.Repeat("\n", 5<<20)), "uncompressing initdata with gzip error: init-data is longer than 4128768 bytes" + remedy + "make the document smaller"},
		"no guest pull": {"io.katacontainers.config.runtime.experimental_force_guest_pull", "false", "images can only be pulled in the guest: set [runtime] experimental_force_guest_pull in the shim's configuration, or annotation io.katacontainers.config.runtime.experimental_force_guest_pull, to true"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPod(t)
			p.annotate(podID, pauseSpec, map[string]string{test.annotation: test.value})
			check(t, p.create(podID), codes.Unknown, test.want)
			if calls := p.vm.Methods(); len(calls) > 0 {
				t.Errorf("there were calls: %v", calls)
			}
		})
	}
}

func TestInitDataAccepted(t *testing.T) {
	const document = "version = \"9.9.9\"\nalgorithm = \"sha384\"\n"
	value := packed(t, document)
	for name, test := range map[string]struct{ runtime, annotation, value, want string }{
		"other version, no data":  {"", initData, value, document},
		"with newlines":           {"", initData, value[:20] + "\n" + value[20:], document},
		"empty annotation":        {"", initData, "", ""},
		"other key of Kata's":     {"", "io.katacontainers.config.hypervisor_cc_init_data", value, ""},
		"legacy key is ignored":   {"", "io.katacontainers.config.runtime.cc_init_data", base64.StdEncoding.EncodeToString([]byte(document)), ""},
		"legacy key when enabled": {"legacy_initdata_annotation = true", "io.katacontainers.config.runtime.cc_init_data", base64.StdEncoding.EncodeToString([]byte(document)), document},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPod(t)
			p.configure(test.runtime)
			p.writeBundle(podID, pauseSpec, func(spec map[string]any) {
				annotations := spec["annotations"].(map[string]any)
				delete(annotations, initData)
				annotations[test.annotation] = test.value
			})
			p.must(p.create(podID))
			request := stubvm.Fields(p.vm.Calls()[0].Message)
			if got := request["annotations"].(map[string]any)[initData]; got != test.want {
				t.Errorf("CreateVM got init-data %q, want %q", got, test.want)
			}
		})
	}
}

// TestPolicyAnnotation has the old annotation reach the agent as SetPolicy, and nothing else.
func TestPolicyAnnotation(t *testing.T) {
	p := newPod(t)
	policy := "io.katacontainers.config.agent.policy"
	p.annotate(podID, pauseSpec, map[string]string{policy: base64.StdEncoding.EncodeToString([]byte("package agent_policy"))})
	p.must(p.create(podID))
	calls := p.vm.Calls()
	if names := p.vm.Methods(); !slices.Equal(names[:5], []string{"CreateVM", "StartVM", "Check", "SetPolicy", "CreateSandbox"}) {
		t.Fatalf("calls: %v", names)
	}
	if got := stubvm.Fields(calls[3].Message)["policy"]; got != "package agent_policy" {
		t.Errorf("policy %q", got)
	}
	oci := stubvm.Fields(calls[len(calls)-1].Message)["OCI"].(map[string]any)
	if _, ok := oci["Annotations"].(map[string]any)[policy]; ok {
		t.Error("the policy's annotation reached the guest")
	}
}

// TestRefusals are the recorded texts and consequences of refused calls while a sandbox is made.
func TestRefusals(t *testing.T) {
	for name, test := range map[string]struct {
		answers map[string]stubvm.Answer
		code    codes.Code
		text    string
		calls   string // the last ones
	}{
		"CreateVM": {
			map[string]stubvm.Answer{"CreateVM": stubvm.Fail(errors.New("stub: no capacity for instance"))},
			codes.Unknown, "remote hypervisor call failed: rpc error: code = Unknown desc = stub: no capacity for instance", "CreateVM",
		},
		"StartVM": {
			map[string]stubvm.Answer{"StartVM": stubvm.Fail(errors.New("stub: broken"))},
			codes.Unknown, "remote hypervisor call failed: rpc error: code = Unknown desc = stub: broken", "CreateVM StartVM StopVM",
		},
		"CreateSandbox": {
			map[string]stubvm.Answer{"CreateSandbox": stubvm.Deny("CreateSandboxRequest")},
			codes.PermissionDenied, `"CreateSandboxRequest is blocked by policy: "`, "Check CreateSandbox StopVM",
		},
		"GuestDetails": {
			map[string]stubvm.Answer{"GetGuestDetails": stubvm.Deny("GuestDetailsRequest")},
			codes.PermissionDenied, `"GuestDetailsRequest is blocked by policy: "`, "CreateSandbox GetGuestDetails DestroySandbox StopVM",
		},
		"CopyFile": {
			map[string]stubvm.Answer{"CopyFile": stubvm.Deny("CopyFileRequest")},
			codes.Unknown, `Could not send CopyFile request: rpc error: code = PermissionDenied desc = "CopyFileRequest is blocked by policy: "`,
			"GetGuestDetails CopyFile DestroySandbox StopVM",
		},
		"CreateContainer": {
			map[string]stubvm.Answer{"CreateContainer": stubvm.Deny("CreateContainerRequest")},
			codes.PermissionDenied, `"CreateContainerRequest is blocked by policy: "`, "CopyFile CreateContainer DestroySandbox StopVM",
		},
		"rule not defined": {
			map[string]stubvm.Answer{"CreateContainer": stubvm.Fail(errInternal(`"CreateContainerRequest: internal error policy check: unexpected eval_query result len QueryResults { result: [] }"`))},
			codes.Internal, `"CreateContainerRequest: internal error policy check: unexpected eval_query result len QueryResults { result: [] }"`,
			"CreateContainer DestroySandbox StopVM",
		},
		// What refuses the cleaning up changes nothing.
		"DestroySandbox": {
			map[string]stubvm.Answer{"CreateContainer": stubvm.Deny("CreateContainerRequest"), "DestroySandbox": stubvm.Deny("DestroySandboxRequest")},
			codes.PermissionDenied, `"CreateContainerRequest is blocked by policy: "`, "DestroySandbox StopVM",
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPod(t)
			for method, answer := range test.answers {
				p.answer(method, answer)
			}
			check(t, p.create(podID), test.code, test.text)
			if calls := strings.Join(p.vm.Methods(), " "); !strings.HasSuffix(calls, test.calls) {
				t.Errorf("calls %s, want %s at the end", calls, test.calls)
			}
			if _, err := p.service.Shutdown(t.Context(), &taskapi.ShutdownRequest{}); err != nil || !p.isDown() {
				t.Errorf("the shim does not end: %v", err)
			}
		})
	}
}

func TestNoHypervisor(t *testing.T) {
	p := newPod(t)
	p.vm.HypervisorSocket = p.path("absent.sock")
	p.configure("")
	check(t, p.create(podID), codes.Unknown, "failed to connect to remote hypervisor socket: dial unix "+p.path("absent.sock")+": connect: no such file or directory")
}

func TestNoAgent(t *testing.T) {
	p := newPod(t)
	p.vm.AgentSocket = p.path("absent.sock")
	check(t, p.create(podID), codes.Unknown, "Failed to Check if grpc server is working: rpc error: code = DeadlineExceeded desc = timed out connecting to remote sock: "+p.path("absent.sock"))
	if calls := strings.Join(p.vm.Methods(), " "); calls != "CreateVM StartVM StopVM" {
		t.Errorf("calls %s", calls)
	}
}

// TestSilentAgent has the agent not answer: the caller's patience ends here before the shim's 30 s.
func TestSilentAgent(t *testing.T) {
	p := newPod(t)
	silent := make(chan struct{})
	t.Cleanup(func() { close(silent) })
	p.answer("Check", func(context.Context, proto.Message) (proto.Message, error, bool) { <-silent; return nil, nil, true })
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err := p.service.Create(ctx, p.createRequest(podID))
	check(t, err, codes.DeadlineExceeded, "CheckRequest timed out: context deadline exceeded")
	p.vm.Await(t, "StopVM", 1)
}

func TestWorkloadRefusals(t *testing.T) {
	p := newPod(t)
	p.run()
	const second = "5555555555555555555555555555555555555555555555555555555555555555"
	p.writeBundle(second, mainSpec, nil)
	before := len(p.vm.Calls())
	p.answer("CreateContainer", stubvm.Deny("CreateContainerRequest"))
	check(t, p.create(second), codes.PermissionDenied, `"CreateContainerRequest is blocked by policy: "`)
	p.answer("CreateContainer", nil)
	p.answer("CopyFile", stubvm.Deny("CopyFileRequest"))
	check(t, p.create(second), codes.Unknown, `Could not send CopyFile request: rpc error: code = PermissionDenied desc = "CopyFileRequest is blocked by policy: "`)
	if slices.Contains(p.vm.Methods()[before:], "RemoveContainer") {
		t.Error("a container that the agent refused was removed")
	}
	p.answer("CopyFile", nil)
	p.answer("StartContainer", stubvm.Deny("StartContainerRequest"))
	p.must(p.create(second))
	check(t, p.start(second, ""), codes.PermissionDenied, `"StartContainerRequest is blocked by policy: "`)
	// Unlike Kata, where the pod hangs until the shim is killed.
	p.must(p.kill(second, "", 9))
	if status := p.wait(second, ""); status != 137 {
		t.Errorf("status %d", status)
	}
	p.must(p.delete(second, ""))
	p.answer("SignalProcess", stubvm.Deny("SignalProcessRequest"))
	check(t, p.kill(mainID, "", 15), codes.PermissionDenied, `"SignalProcessRequest is blocked by policy: "`)
	p.answer("SignalProcess", nil)
	p.must(p.kill(mainID, "", 15))
	if status := p.wait(mainID, ""); status != 143 {
		t.Errorf("status %d", status)
	}
}

func TestUnknownContainer(t *testing.T) {
	p := newPod(t)
	if err := p.start("nobody", ""); status.Code(err) != codes.NotFound {
		t.Errorf("start: %v", err)
	}
	if err := p.create(mainID); status.Code(err) != codes.NotFound {
		t.Errorf("workload without sandbox: %v", err)
	}
}

func TestNoConfiguration(t *testing.T) {
	p := newPod(t)
	p.must(os.Remove(p.config))
	if err := p.create(podID); err == nil || !strings.Contains(err.Error(), p.config) {
		t.Errorf("missing file: %v", err)
	}
	request := p.createRequest(podID)
	request.Options = nil
	if _, err := p.service.Create(t.Context(), request); err == nil || !strings.Contains(err.Error(), "set ConfigPath") {
		t.Errorf("no options: %v", err)
	}
}
