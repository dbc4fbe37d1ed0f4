package task_test

import (
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/fifo"
	"github.com/containerd/typeurl/v2"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/coco-e2e/coco-e2e/simulators/shim/stubvm"
	"github.com/coco-e2e/coco-e2e/simulators/shim/task"
)

// Ids of the recording.
const (
	podID  = "13558793b2deed5694a2a4f0dbe65a657f0ed95f7a3a801f2259e39e283112e6"
	mainID = "f3346222dd7cfde625153e605093ba2b9b41874f5c7e259a97f07b47859172a0"
)

// pod is a service with the recorded pod's files, in front of a stub VM. It plays containerd's part.
type pod struct {
	t       *testing.T
	vm      *stubvm.VM
	service *task.Service
	dir     string // bundles and the node's files
	config  string

	// held are other ends of fifos that are read, until a process has its own.
	held []int

	mu     sync.Mutex
	topics []string
	down   bool
}

func newPod(t *testing.T) *pod {
	t.Helper()
	p := &pod{t: t, vm: stubvm.Start(t), dir: t.TempDir()}
	p.service = task.New(func(topic string, _ any) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.topics = append(p.topics, topic)
	}, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.down = true
	})
	t.Cleanup(func() { p.service.Close(context.Background()) })
	p.writeFiles()
	p.configure("")
	p.writeBundle(podID, "../testdata/simple-pod.pause.config.json", nil)
	p.writeBundle(mainID, "../testdata/simple-pod.main.config.json", nil)
	return p
}

// configure writes the configuration: the recorded one, with more lines for [runtime].
func (p *pod) configure(runtime string) {
	p.t.Helper()
	p.config = filepath.Join(p.dir, "shim.toml")
	p.write("shim.toml", `[hypervisor.remote]
remote_hypervisor_socket = "`+p.vm.HypervisorSocket+`"
remote_hypervisor_timeout = 600
enable_annotations = ["machine_type", "default_memory", "default_vcpus", "image", "default_gpus", "gpu_model", "cc_init_data"]
[agent.kata]
dial_timeout = 1
[runtime]
disable_guest_seccomp = true
experimental_force_guest_pull = true
create_container_timeout = 60
`+runtime, 0o644)
}

func (p *pod) write(name, content string, mode os.FileMode) {
	p.t.Helper()
	path := filepath.Join(p.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		p.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		p.t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		p.t.Fatal(err)
	}
}

// writeFiles lays out the files of the recorded pod: same names, contents, modes and order.
func (p *pod) writeFiles() {
	p.t.Helper()
	const version = "..2026_11_23_07_23_08.3192278731"
	account := "pod/serviceaccount/" + version
	recorded := func(seq int) string { return string(copied(p.t, seq)) }
	p.write("sandbox/resolv.conf", recorded(6), 0o644)
	p.write("pod/hosts", recorded(11), 0o644)
	p.write("pod/termination-log", "", 0o666)
	p.write("pod/hostname", recorded(13), 0o644)
	p.write("pod/resolv.conf", recorded(14), 0o644)
	p.write(account+"/ca.crt", recorded(17), 0o644)
	p.write(account+"/namespace", recorded(18), 0o644)
	p.write(account+"/token", recorded(19), 0o644)
	root := filepath.Join(p.dir, "pod/serviceaccount")
	for name, target := range map[string]string{
		"..data": version, "ca.crt": "..data/ca.crt", "namespace": "..data/namespace", "token": "..data/token",
	} {
		if err := os.Symlink(target, filepath.Join(root, name)); err != nil {
			p.t.Fatal(err)
		}
	}
	if err := os.Chmod(root, 0o777|os.ModeSticky); err != nil {
		p.t.Fatal(err)
	}
}

// writeBundle writes a container's specification as containerd does, changed by edit.
func (p *pod) writeBundle(id, specification string, edit func(spec map[string]any)) {
	p.t.Helper()
	text, err := os.ReadFile(specification)
	if err != nil {
		p.t.Fatal(err)
	}
	text = []byte(strings.ReplaceAll(string(text), "@NODE@", p.dir))
	if edit != nil {
		var spec map[string]any
		if err := json.Unmarshal(text, &spec); err != nil {
			p.t.Fatal(err)
		}
		edit(spec)
		if text, err = json.Marshal(spec); err != nil {
			p.t.Fatal(err)
		}
	}
	p.write(filepath.Join("bundles", id, "config.json"), string(text), 0o600)
}

func (p *pod) annotate(id, specification string, annotations map[string]string) {
	p.t.Helper()
	p.writeBundle(id, specification, func(spec map[string]any) {
		for name, value := range annotations {
			spec["annotations"].(map[string]any)[name] = value
		}
	})
}

func (p *pod) bundle(id string) string { return filepath.Join(p.dir, "bundles", id) }

// answer changes the stub's answer to a method; nil is its own.
func (p *pod) answer(method string, answer stubvm.Answer) { p.vm.Answer(method, answer) }

func (p *pod) createRequest(id string, io ...string) *taskapi.CreateTaskRequest {
	p.t.Helper()
	options, err := typeurl.MarshalAnyToProto(&runtimeoptions.Options{ConfigPath: p.config})
	if err != nil {
		p.t.Fatal(err)
	}
	request := &taskapi.CreateTaskRequest{ID: id, Bundle: p.bundle(id), Options: options}
	for i, to := range []*string{&request.Stdin, &request.Stdout, &request.Stderr} {
		if i < len(io) {
			*to = io[i]
		}
	}
	return request
}

func (p *pod) create(id string, io ...string) error {
	p.t.Helper()
	_, err := p.service.Create(p.t.Context(), p.createRequest(id, io...))
	return err
}

func (p *pod) start(id, exec string) error {
	_, err := p.service.Start(p.t.Context(), &taskapi.StartRequest{ID: id, ExecID: exec})
	for _, fd := range p.held {
		_ = unix.Close(fd)
	}
	p.held = nil
	return err
}

func (p *pod) kill(id, exec string, signal uint32) error {
	_, err := p.service.Kill(p.t.Context(), &taskapi.KillRequest{ID: id, ExecID: exec, Signal: signal})
	return err
}

// wait returns the exit status of a process.
func (p *pod) wait(id, exec string) uint32 {
	p.t.Helper()
	response, err := p.service.Wait(p.t.Context(), &taskapi.WaitRequest{ID: id, ExecID: exec})
	if err != nil {
		p.t.Fatal(err)
	}
	return response.ExitStatus
}

func (p *pod) delete(id, exec string) error {
	_, err := p.service.Delete(p.t.Context(), &taskapi.DeleteRequest{ID: id, ExecID: exec})
	return err
}

func (p *pod) must(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

// run brings the pod to where its workload runs.
func (p *pod) run() {
	p.t.Helper()
	p.must(p.create(podID))
	p.must(p.start(podID, ""))
	p.vm.Await(p.t, "WaitProcess", 1)
	p.vm.Await(p.t, "GetOOMEvent", 1)
	stdout, stderr := p.fifo("main-out"), p.fifo("main-err")
	p.must(p.create(mainID, "", stdout, stderr))
	p.must(p.start(mainID, ""))
	p.vm.Await(p.t, "ReadStdout", 1)
	p.vm.Await(p.t, "ReadStderr", 1)
}

// exec adds an exec session for the recorded process, with other arguments if there are any.
func (p *pod) exec(id string, request *taskapi.ExecProcessRequest, args ...string) {
	p.t.Helper()
	text, err := os.ReadFile("../testdata/simple-pod.exec.json")
	p.must(err)
	if len(args) > 0 {
		var process map[string]any
		p.must(json.Unmarshal(text, &process))
		process["args"] = args
		text, err = json.Marshal(process)
		p.must(err)
	}
	request.ID, request.ExecID, request.Spec = mainID, id, &anypb.Any{Value: text}
	_, err = p.service.Exec(p.t.Context(), request)
	p.must(err)
}

func (p *pod) published() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.topics, " ")
}

func (p *pod) isDown() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.down
}

// eventually polls a condition until the test's end.
func (p *pod) eventually(what string, condition func() bool) {
	p.t.Helper()
	for ticker := time.NewTicker(5 * time.Millisecond); ; <-ticker.C {
		if condition() {
			ticker.Stop()
			return
		}
		if p.t.Context().Err() != nil {
			p.t.Fatal("never: " + what)
		}
	}
}

func (p *pod) path(name string) string { return filepath.Join(p.dir, name) }

func (p *pod) fifo(name string) string {
	p.t.Helper()
	p.must(unix.Mkfifo(p.path(name), 0o600))
	return p.path(name)
}

// reader makes a fifo and reads it to its end, as containerd does.
func (p *pod) reader(name string) <-chan string {
	p.t.Helper()
	file, err := fifo.OpenFifo(p.t.Context(), p.path(name), unix.O_RDONLY|unix.O_CREAT|unix.O_NONBLOCK, 0o600)
	p.must(err)
	text := make(chan string, 1)
	go func() {
		defer file.Close()
		all, _ := io.ReadAll(file)
		text <- string(all)
	}()
	// What a process writes before anybody reads is lost when it ends: the reader,
	// which opens its end in the background, is waited for, and kept from the end
	// of a fifo that has no writer yet.
	p.eventually("the fifo is read", func() bool {
		fd, err := unix.Open(p.path(name), unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err == nil {
			p.held = append(p.held, fd)
		}
		return err == nil
	})
	return text
}

// writer makes a fifo for a process's input.
func (p *pod) writer(name string) io.WriteCloser {
	p.t.Helper()
	file, err := fifo.OpenFifo(p.t.Context(), p.path(name), unix.O_WRONLY|unix.O_CREAT|unix.O_NONBLOCK, 0o600)
	p.must(err)
	return file
}
