package task_test

import (
	"slices"
	"strings"
	"testing"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"google.golang.org/grpc/codes"

	"github.com/coco-e2e/coco-e2e/simulators/shim/stubvm"
)

// count counts the calls of a method for an exec session, which has a UUID of its own.
func (p *pod) execCalls(method string) (n int) {
	for _, call := range p.vm.Calls() {
		id, _ := stubvm.Fields(call.Message)["exec_id"].(string)
		if call.Method == method && len(id) == 36 {
			n++
		}
	}
	return n
}

func TestExecDenied(t *testing.T) {
	p := newPod(t)
	p.run()
	p.answer("ExecProcess", stubvm.Deny("ExecProcessRequest"))
	p.exec("e", &taskapi.ExecProcessRequest{Stdout: p.fifo("out")})
	before := len(p.vm.Calls())
	check(t, p.start(mainID, "e"), codes.Unknown, "cannot enter container "+mainID+`, with err rpc error: code = PermissionDenied desc = "ExecProcessRequest is blocked by policy: "`)
	// containerd now kills what did not start and deletes it; the agent hears nothing of that.
	p.must(p.kill(mainID, "e", 9))
	p.wait(mainID, "e")
	p.must(p.delete(mainID, "e"))
	if calls := p.vm.Methods()[before:]; len(calls) != 1 {
		t.Errorf("calls: %v", calls)
	}
	p.answer("ExecProcess", stubvm.Fail(errInternal(`"ExecProcessRequest: internal error policy check: unexpected eval_query result len QueryResults { result: [] }"`)))
	p.exec("f", &taskapi.ExecProcessRequest{})
	check(t, p.start(mainID, "f"), codes.Unknown, "cannot enter container "+mainID+`, with err rpc error: code = Internal desc = "ExecProcessRequest: internal error policy check: unexpected eval_query result len QueryResults { result: [] }"`)
}

func TestExecStdin(t *testing.T) {
	p := newPod(t)
	p.run()
	p.vm.Install("cat", stubvm.Program{Echo: true})
	stdout, stdin := p.reader("out"), p.writer("in")
	p.exec("e", &taskapi.ExecProcessRequest{Stdin: p.path("in"), Stdout: p.path("out"), Stderr: p.fifo("err")}, "cat")
	p.must(p.start(mainID, "e"))
	text := strings.Repeat("0123456789", 10_000) // more than a pipe or one call holds
	if _, err := stdin.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	stdin.Close()
	_, err := p.service.CloseIO(t.Context(), &taskapi.CloseIORequest{ID: mainID, ExecID: "e", Stdin: true})
	p.must(err)
	if got := <-stdout; got != text {
		t.Errorf("%d bytes came back, not %d", len(got), len(text))
	}
	if status := p.wait(mainID, "e"); status != 0 {
		t.Errorf("status %d", status)
	}
	if p.execCalls("CloseStdin") != 1 || p.execCalls("WaitProcess") != 1 || p.execCalls("SignalProcess") != 0 {
		t.Errorf("calls: %v", p.vm.Methods())
	}
}

func TestExecTerminal(t *testing.T) {
	p := newPod(t)
	p.run()
	p.vm.Install("sh", stubvm.Program{Output: "$ ", Echo: true})
	stdout := p.reader("out")
	p.exec("e", &taskapi.ExecProcessRequest{Terminal: true, Stdout: p.path("out")}, "sh")
	resize := func(height, width uint32) {
		_, err := p.service.ResizePty(t.Context(), &taskapi.ResizePtyRequest{ID: mainID, ExecID: "e", Height: height, Width: width})
		p.must(err)
	}
	resize(24, 80) // before the start: kept until then
	p.must(p.start(mainID, "e"))
	resize(25, 81)
	p.must(p.kill(mainID, "e", 15))
	if status := p.wait(mainID, "e"); status != 143 {
		t.Errorf("status %d", status)
	}
	if got := <-stdout; got != "$ " {
		t.Errorf("output %q", got)
	}
	if p.execCalls("ReadStderr") != 0 || p.execCalls("TtyWinResize") != 2 || p.execCalls("SignalProcess") != 1 {
		t.Errorf("calls: %v", p.vm.Methods())
	}
	var sizes []string
	for _, call := range p.vm.Calls() {
		fields := stubvm.Fields(call.Message)
		switch {
		case call.Method == "TtyWinResize":
			sizes = append(sizes, p.at(fields, "row")+"x"+p.at(fields, "column"))
		case call.Method == "ExecProcess" && fields["process"].(map[string]any)["Terminal"] != true:
			t.Error("the process has no terminal")
		}
	}
	if !slices.Equal(sizes, []string{"24x80", "25x81"}) {
		t.Errorf("rows and columns %v", sizes)
	}
}

func TestExitStatus(t *testing.T) {
	p := newPod(t)
	p.run()
	p.vm.Install("false", stubvm.Program{Status: 42})
	p.exec("e", &taskapi.ExecProcessRequest{}, "false")
	p.must(p.start(mainID, "e"))
	if status := p.wait(mainID, "e"); status != 42 {
		t.Errorf("status %d", status)
	}
	state, err := p.service.State(t.Context(), &taskapi.StateRequest{ID: mainID, ExecID: "e"})
	p.must(err)
	if state.Status != tasktypes.Status_STOPPED || state.ExitStatus != 42 {
		t.Errorf("state %v", state)
	}
}

// TestRefusedStreams are the recorded effects of refused streams: none but what is missing.
func TestRefusedStreams(t *testing.T) {
	p := newPod(t)
	p.run()
	p.answer("WriteStdin", stubvm.Deny("WriteStreamRequest"))
	p.answer("ReadStdout", stubvm.Deny("ReadStreamRequest")) // an error is an end, as empty data is
	p.vm.Install("cat", stubvm.Program{Echo: true})
	stdout, stdin := p.reader("out"), p.writer("in")
	p.exec("e", &taskapi.ExecProcessRequest{Stdin: p.path("in"), Stdout: p.path("out")}, "cat")
	p.must(p.start(mainID, "e"))
	if _, err := stdin.Write([]byte(strings.Repeat("x", 200_000))); err != nil {
		t.Fatal(err)
	}
	stdin.Close()
	_, err := p.service.CloseIO(t.Context(), &taskapi.CloseIORequest{ID: mainID, ExecID: "e", Stdin: true})
	p.must(err)
	if status := p.wait(mainID, "e"); status != 0 {
		t.Errorf("status %d", status)
	}
	if got := <-stdout; got != "" {
		t.Errorf("output %q", got)
	}
}

func TestRefusedWait(t *testing.T) {
	p := newPod(t)
	p.run()
	p.answer("WaitProcess", stubvm.Deny("WaitProcessRequest"))
	p.exec("e", &taskapi.ExecProcessRequest{})
	p.must(p.start(mainID, "e"))
	if status := p.wait(mainID, "e"); status != 255 {
		t.Errorf("status %d", status)
	}
}

// TestAgentGone has the connection to the agent break: everything ends with 255 and the VM is stopped.
func TestAgentGone(t *testing.T) {
	p := newPod(t)
	p.run()
	p.vm.Crash()
	for _, id := range []string{mainID, podID} {
		if status := p.wait(id, ""); status != 255 {
			t.Errorf("%s ended with %d", id, status)
		}
		p.must(p.delete(id, ""))
	}
	if methods := p.vm.Methods(); methods[len(methods)-1] != "StopVM" {
		t.Errorf("calls: %v", methods)
	}
}

// TestContainerEnds has the container end by itself: the recorded order, with its exit status.
func TestContainerEnds(t *testing.T) {
	p := newPod(t)
	p.run()
	before := len(p.vm.Calls())
	p.vm.Exit(mainID, 3)
	if status := p.wait(mainID, ""); status != 3 {
		t.Errorf("status %d", status)
	}
	const want = "WaitProcess SignalProcess WaitProcess RemoveContainer RemoveStaleVirtiofsShareMounts"
	if calls := strings.Join(p.vm.Methods()[before:], " "); calls != want {
		t.Errorf("calls %s, want %s", calls, want)
	}
}
