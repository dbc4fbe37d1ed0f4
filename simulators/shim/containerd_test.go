package shim_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coco-e2e/coco-e2e/simulators/shim/stubvm"
)

// node is a private containerd whose only runtime of interest is the shim, in front of a stub VM.
type node struct {
	t          *testing.T
	dir        string
	ctr        string
	shim       string
	vm         *stubvm.VM
	log        string
	containerd *exec.Cmd
}

// startNode needs root and the directory of containerd's binaries in COCO_TEST_CONTAINERD_BIN.
func startNode(t *testing.T) *node {
	t.Helper()
	programs := os.Getenv("COCO_TEST_CONTAINERD_BIN")
	if programs == "" {
		t.Skip("set COCO_TEST_CONTAINERD_BIN to the directory of containerd and ctr")
	}
	n := &node{t: t, dir: t.TempDir(), ctr: filepath.Join(programs, "ctr"), vm: stubvm.Start(t)}
	n.log = filepath.Join(n.dir, "containerd.log")
	n.shim = filepath.Join(n.dir, "containerd-shim-coco-sim-v2")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", n.shim, "./cmd")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the shim: %v\n%s", err, out)
	}
	n.write("containerd.toml", `version = 3
root = "`+n.dir+`/root"
state = "`+n.dir+`/state"
disabled_plugins = ["io.containerd.cri.v1.runtime", "io.containerd.cri.v1.images", "io.containerd.grpc.v1.cri"]
[grpc]
address = "`+n.dir+`/containerd.sock"
[ttrpc]
address = "`+n.dir+`/containerd.sock.ttrpc"
`)
	n.write("shim.toml", `[hypervisor.remote]
remote_hypervisor_socket = "`+n.vm.HypervisorSocket+`"
enable_annotations = ["cc_init_data"]
[runtime]
experimental_force_guest_pull = true
disable_guest_seccomp = true
create_container_timeout = 60
`)
	n.start(filepath.Join(programs, "containerd"))
	return n
}

func (n *node) write(name, content string) {
	n.t.Helper()
	if err := os.WriteFile(filepath.Join(n.dir, name), []byte(content), 0o600); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) start(program string) {
	n.t.Helper()
	log, err := os.Create(n.log)
	if err != nil {
		n.t.Fatal(err)
	}
	n.containerd = exec.Command(program, "-c", filepath.Join(n.dir, "containerd.toml"))
	n.containerd.Stdout, n.containerd.Stderr = log, log
	if err := n.containerd.Start(); err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() {
		_ = n.containerd.Process.Signal(syscall.SIGTERM)
		_ = n.containerd.Wait()
		if n.t.Failed() {
			text, _ := os.ReadFile(n.log)
			n.t.Logf("containerd.log:\n%s", text)
		}
	})
	n.eventually("containerd answers", func() bool { _, err := n.run("version"); return err == nil })
}

func (n *node) eventually(what string, condition func() bool) {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(n.t.Context(), 20*time.Second)
	defer cancel()
	for ticker := time.NewTicker(50 * time.Millisecond); !condition(); {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			n.t.Fatalf("never: %s", what)
		}
	}
}

func (n *node) run(arguments ...string) (string, error) {
	command := exec.CommandContext(n.t.Context(), n.ctr, append([]string{"-a", n.dir + "/containerd.sock"}, arguments...)...)
	var out bytes.Buffer
	command.Stdout, command.Stderr = &out, &out
	err := command.Run()
	return out.String(), err
}

// runPod starts a container that is a pod's sandbox.
func (n *node) runPod(id string) (string, error) {
	root := filepath.Join(n.dir, "rootfs")
	if err := os.MkdirAll(root, 0o755); err != nil {
		n.t.Fatal(err)
	}
	return n.run("run", "-d", "--rootfs", "--runtime", n.shim, "--runtime-config-path", filepath.Join(n.dir, "shim.toml"),
		"--annotation", "io.kubernetes.cri.container-type=sandbox", "--annotation", "io.kubernetes.cri.sandbox-id="+id,
		root, id, "/pause")
}

// joins runs a workload container to its end in the shim of its pod.
func (n *node) joins() {
	n.t.Helper()
	if out, err := n.run("run", "-d", "--rootfs", "--runtime", n.shim, "--runtime-config-path", filepath.Join(n.dir, "shim.toml"),
		"--annotation", "io.kubernetes.cri.container-type=container", "--annotation", "io.kubernetes.cri.sandbox-id=pod1",
		"--annotation", "io.kubernetes.cri.image-name=registry.local/busybox:1", "--null-io",
		filepath.Join(n.dir, "rootfs"), "work1", "/bin/true"); err != nil {
		n.t.Fatalf("workload: %v: %s", err, out)
	}
	if pids := n.shims(); len(pids) != 1 {
		n.t.Errorf("shims: %v", pids)
	}
	n.logMemory()
	n.vm.Exit("work1", 3)
	n.eventually("the workload stopped", func() bool { out, _ := n.run("task", "ls"); return strings.Contains(out, "STOPPED") })
	if out, err := n.run("task", "delete", "work1"); err != nil || !strings.Contains(out, "exit code 3") {
		n.t.Errorf("delete of the workload: %v %s", err, out)
	}
}

// logMemory notes what a shim costs; many of them run on a node.
func (n *node) logMemory() {
	for _, pid := range n.shims() {
		text, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "smaps_rollup"))
		for line := range strings.Lines(string(text)) {
			if strings.HasPrefix(line, "Rss:") || strings.HasPrefix(line, "Anonymous:") {
				n.t.Log("shim ", strings.TrimSpace(line))
			}
		}
	}
}

func (n *node) methods() string { return strings.Join(n.vm.Methods(), " ") }

// TestContainerd drives the shim through a real containerd: start, exec, exit status, kill, delete.
func TestContainerd(t *testing.T) {
	n := startNode(t)
	n.vm.Install("whoami", stubvm.Program{Output: "root\n", Status: 42})
	if out, err := n.runPod("pod1"); err != nil {
		t.Fatalf("run: %v: %s", err, out)
	}
	out, err := n.run("task", "exec", "--exec-id", "e1", "pod1", "whoami")
	if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != 42 || !strings.Contains(out, "root\n") {
		t.Errorf("exec: %v %q", err, out)
	}
	n.vm.Answer("ExecProcess", stubvm.Deny("ExecProcessRequest"))
	out, err = n.run("task", "exec", "--exec-id", "e2", "pod1", "whoami")
	const denied = `cannot enter container pod1, with err rpc error: code = PermissionDenied desc = "ExecProcessRequest is blocked by policy: "`
	if err == nil || !strings.Contains(out, denied) {
		t.Errorf("denied exec: %v %q", err, out)
	}
	n.joins()
	if out, err := n.run("task", "metrics", "pod1"); err != nil {
		t.Errorf("metrics: %v %s", err, out)
	}
	if out, err := n.run("task", "kill", "-s", "SIGKILL", "pod1"); err != nil {
		t.Errorf("kill: %v %s", err, out)
	}
	n.eventually("the task stopped", func() bool { out, _ := n.run("task", "ls"); return strings.Contains(out, "STOPPED") })
	if out, err := n.run("task", "delete", "pod1"); err != nil || !strings.Contains(out, "exit code 137") {
		t.Errorf("delete: %v %s", err, out)
	}
	if !strings.HasSuffix(n.methods(), "RemoveContainer RemoveStaleVirtiofsShareMounts DestroySandbox StopVM") {
		t.Errorf("calls: %s", n.methods())
	}
	n.eventually("the shim ended", func() bool { return len(n.shims()) == 0 })
}

// TestContainerdRefusedSandbox has the agent refuse the sandbox container: the error reaches the user, the VM goes.
func TestContainerdRefusedSandbox(t *testing.T) {
	n := startNode(t)
	n.vm.Answer("CreateContainer", stubvm.Deny("CreateContainerRequest"))
	out, err := n.runPod("pod2")
	if err == nil || !strings.Contains(out, `failed to create shim task: "CreateContainerRequest is blocked by policy: "`) {
		t.Errorf("run: %v %q", err, out)
	}
	if !strings.HasSuffix(n.methods(), "CreateContainer DestroySandbox StopVM") {
		t.Errorf("calls: %s", n.methods())
	}
	n.eventually("the shim ended", func() bool { return len(n.shims()) == 0 })
}

// TestContainerdKilledShim kills the shim: containerd's clean-up stops the VM.
func TestContainerdKilledShim(t *testing.T) {
	n := startNode(t)
	if out, err := n.runPod("pod3"); err != nil {
		t.Fatalf("run: %v: %s", err, out)
	}
	bootstrap, err := os.ReadFile(filepath.Join(n.dir, "state/io.containerd.runtime.v2.task/default/pod3/bootstrap.json"))
	if err != nil {
		t.Fatal(err)
	}
	var result struct{ Address string }
	if err := json.Unmarshal(bootstrap, &result); err != nil {
		t.Fatal(err)
	}
	socket := strings.TrimPrefix(result.Address, "unix://")
	pids := n.shims()
	if len(pids) != 1 {
		t.Fatalf("shims: %v", pids)
	}
	if err := syscall.Kill(pids[0], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	n.eventually("StopVM", func() bool { return slices.Contains(n.vm.Methods(), "StopVM") })
	n.eventually("the shim's socket is removed", func() bool { _, err := os.Stat(socket); return errors.Is(err, os.ErrNotExist) })
}

// shims are the process ids of this test's shim, which has a path of its own.
func (n *node) shims() (pids []int) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		n.t.Fatal(err)
	}
	for _, entry := range entries {
		if target, err := os.Readlink(filepath.Join("/proc", entry.Name(), "exe")); err == nil && target == n.shim {
			if pid, err := strconv.Atoi(entry.Name()); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}
