package agent

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/coco-e2e/coco-e2e/framework/agentapi"
	pb "github.com/coco-e2e/coco-e2e/framework/agentapi/agentpb"
	"github.com/coco-e2e/coco-e2e/simulators/guest/guestpb"
	"github.com/coco-e2e/coco-e2e/simulators/podvm/stage"
)

// A guest of the test is made of this program: it is the stage, the agent, and
// stands in for the guest's components, each by the name that it is started by.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == stage.Command {
		os.Exit(stage.Main())
	}
	switch filepath.Base(os.Args[0]) {
	case "kata-agent":
		os.Exit(agentMain())
	case "attestation-agent":
		os.Exit(serveOn(aaSocket))
	case "confidential-data-hub":
		os.Exit(serveOn(cdhSocket))
	case "api-server-rest":
		select {}
	}
	os.Exit(m.Run())
}

func agentMain() int {
	syscall.CloseOnExec(stage.ReadyFD)
	boot := os.NewFile(stage.ReadyFD, "boot")
	if err := Run(context.Background(), func() { fmt.Fprintln(boot, "READY"); boot.Close() }); err != nil {
		fmt.Fprintln(boot, "ERROR", err)
		return 1
	}
	return 0
}

func serveOn(socket string) int {
	l, err := net.Listen("unix", socket)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	s, err := ttrpc.NewServer()
	if err != nil {
		return 1
	}
	guestpb.RegisterImagePullServiceService(s, hub{})
	_ = s.Serve(context.Background(), l)
	return 0
}

// hub has one image: busybox.
type hub struct{}

func (hub) PullImage(_ context.Context, r *guestpb.ImagePullRequest) (*guestpb.ImagePullResponse, error) {
	b, err := os.ReadFile("/pause_bundle/rootfs/busybox")
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Join(r.BundlePath, "rootfs"), 0o755); err != nil {
		return nil, err
	}
	return &guestpb.ImagePullResponse{}, os.WriteFile(filepath.Join(r.BundlePath, "rootfs/busybox"), b, 0o755)
}

const sandbox, workload = "sandbox-1", "workload-1"

// guest is one that runs, and a client of its agent.
type guest struct {
	*agentapi.Client
	t      *testing.T
	cgroup string
	pid    int // of the agent, on the machine
	ended  chan error
}

// guestImage fills dir with a guest's root.
func guestImage(t *testing.T, dir, policy string) {
	t.Helper()
	put := func(source, target string) {
		t.Helper()
		b, err := os.ReadFile(source)
		if err != nil {
			t.Skipf("needs %s: %v", source, err)
		}
		path := filepath.Join(dir, target)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	runc, err := exec.LookPath("runc")
	if err != nil {
		t.Skip("needs runc: apt-get install runc")
	}
	put("/bin/busybox", "pause_bundle/rootfs/busybox")
	put("/proc/self/exe", stage.Agent)
	put(runc, "usr/sbin/runc")
	for _, program := range []string{runc, "/proc/self/exe"} {
		out, err := exec.Command("ldd", program).Output()
		if err != nil {
			continue // a static program
		}
		for _, f := range strings.Fields(string(out)) {
			if strings.HasPrefix(f, "/") {
				put(f, f)
			}
		}
	}
	for _, name := range []string{"attestation-agent", "confidential-data-hub", "api-server-rest"} {
		path := filepath.Join(dir, "usr/local/bin", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Link(filepath.Join(dir, stage.Agent), path); err != nil {
			t.Fatal(err)
		}
	}
	for path, text := range map[string]string{
		"pause_bundle/config.json": `{"ociVersion":"1.0.2","process":{"args":["/busybox","sleep","1000000"],"cwd":"/","env":["PATH=/"]}}`,
		defaultPolicy:              policy,
	} {
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// startGuest starts one and connects to it. All of it is gone when the test ends.
func startGuest(t *testing.T, policy string, edits ...func(image string)) *guest {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: namespaces, mounts and cgroups")
	}
	dir := t.TempDir()
	at := func(name string) string {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(path, 0o755); err != nil {
			t.Fatal(err)
		}
		return path
	}
	g := &guest{t: t, cgroup: fmt.Sprintf("/coco-agent-test-%d", os.Getpid()), ended: make(chan error, 1)}
	spec := stage.Spec{Rootfs: at("image"), Mountpoint: at("root"), AgentDir: at("agent"), LogDir: at("log"), Env: []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "KATA_AGENT_SERVER_ADDR=unix:///run/agent-channel/agent.sock",
		"KATA_AGENT_CGROUP_PARENT=" + g.cgroup, "KATA_AGENT_RPC_LOG=/var/log/guest/agent.jsonl", "KATA_AGENT_LOG=debug",
	}}
	guestImage(t, spec.Rootfs, policy)
	for _, edit := range edits {
		edit(spec.Rootfs)
	}
	text, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	ready, child, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer ready.Close()
	var console strings.Builder
	cmd := exec.Command("/proc/self/exe", stage.Command)
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = strings.NewReader(string(text)), &console, &console, []*os.File{child}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL,
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	g.pid = cmd.Process.Pid
	child.Close()
	go func() { g.ended <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		g.ended <- <-g.ended
		g.removeCgroups()
		if t.Failed() {
			t.Logf("console:\n%s", console.String())
		}
	})
	line, err := bufio.NewReader(ready).ReadString('\n')
	if err != nil || line != "READY\n" {
		t.Fatalf("the agent said %q (%v)", line, err)
	}
	if g.Client, err = agentapi.Dial(t.Context(), "unix://"+filepath.Join(spec.AgentDir, "agent.sock")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.Close() })
	return g
}

// cgroups are the guest's own directories, deepest last, in each hierarchy.
func (g *guest) cgroups() []string {
	var all []string
	for _, pattern := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/*"} {
		found, _ := filepath.Glob(pattern + g.cgroup)
		for _, top := range found {
			_ = filepath.WalkDir(top, func(path string, d os.DirEntry, err error) error {
				if err == nil && d.IsDir() {
					all = append(all, path)
				}
				return nil
			})
		}
	}
	return all
}

func (g *guest) removeCgroups() {
	all := g.cgroups()
	for i := len(all) - 1; i >= 0; i-- {
		if err := os.Remove(all[i]); err != nil {
			g.t.Errorf("cgroup is left: %v", err)
		}
	}
}

// create makes and starts a container.
func (g *guest) create(id, image string, args ...string) {
	g.t.Helper()
	ctx := g.t.Context()
	if _, err := g.Agent.CreateContainer(ctx, createRequest(id, image, args...)); err != nil {
		g.t.Fatalf("create %s: %v", id, err)
	}
	if _, err := g.Agent.StartContainer(ctx, &pb.StartContainerRequest{ContainerId: id}); err != nil {
		g.t.Fatalf("start %s: %v", id, err)
	}
}

func createRequest(id, image string, args ...string) *pb.CreateContainerRequest {
	root, kind := stateDir+"/"+id+"/rootfs", "container"
	if image == "pause" {
		kind = "sandbox"
	}
	r := &pb.CreateContainerRequest{
		ContainerId: id, ExecId: id,
		Storages: []*pb.Storage{{
			Driver: "image_guest_pull", Source: image, Fstype: "overlay", MountPoint: root,
			DriverOptions: []string{`image_guest_pull={"metadata":{"io.kubernetes.cri.container-type":"` + kind + `"}}`},
		}},
		OCI: &pb.Spec{
			Version: "1.3.0", Root: &pb.Root{Path: root},
			Process: &pb.Process{Args: args, Env: []string{"PATH=/"}, Cwd: "/", User: &pb.User{}, Capabilities: &pb.LinuxCapabilities{
				Bounding: []string{"CAP_KILL"}, Effective: []string{"CAP_KILL"}, Permitted: []string{"CAP_KILL"},
			}},
			Mounts: []*pb.Mount{
				{Destination: "/proc", Source: "proc", Type: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
				{Destination: "/dev", Source: "tmpfs", Type: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
				{Destination: "/dev/pts", Source: "devpts", Type: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
				{Destination: "/dev/shm", Source: stateDir + "/sandbox/shm", Type: "bind", Options: []string{"rbind"}},
			},
			Linux: &pb.Linux{
				CgroupsPath: "/kubepods/podx/" + id, Namespaces: []*pb.LinuxNamespace{{Type: "ipc"}, {Type: "uts"}, {Type: "mount"}},
				MaskedPaths: []string{"/proc/kcore"}, ReadonlyPaths: []string{"/proc/sys"},
				Resources: &pb.LinuxResources{Memory: &pb.LinuxMemory{Limit: 64 << 20}, CPU: &pb.LinuxCPU{Shares: 2}},
			},
		},
	}
	if image != "pause" {
		r.OCI.Mounts = append(r.OCI.Mounts, &pb.Mount{Destination: "/hello", Source: sharedDir + id + "-hello", Type: "bind", Options: []string{"rbind", "ro"}})
	}
	return r
}

func (g *guest) read(id string, of func(context.Context, *pb.ReadStreamRequest) (*pb.ReadStreamResponse, error)) string {
	g.t.Helper()
	for all := ""; ; {
		r, err := of(g.t.Context(), &pb.ReadStreamRequest{ContainerId: workload, ExecId: id, Len: 32768})
		if err != nil {
			g.t.Fatalf("read %s: %v", id, err)
		}
		if len(r.Data) == 0 {
			return all
		}
		all += string(r.Data)
	}
}

func (g *guest) wait(container, id string) int32 {
	g.t.Helper()
	r, err := g.Agent.WaitProcess(g.t.Context(), &pb.WaitProcessRequest{ContainerId: container, ExecId: id})
	if err != nil {
		g.t.Fatalf("wait for %s: %v", id, err)
	}
	return r.Status
}

func (g *guest) exec(id string, terminal bool, script string) error {
	_, err := g.Agent.ExecProcess(g.t.Context(), &pb.ExecProcessRequest{ContainerId: workload, ExecId: id, Process: &pb.Process{
		Terminal: terminal, Args: []string{"/busybox", "sh", "-c", script}, Env: []string{"PATH=/"}, Cwd: "/", User: &pb.User{},
	}})
	return err
}

// guestPolicy allows everything that the test does but one command.
func guestPolicy() string {
	text := "package agent_policy\n"
	for _, name := range strings.Fields("CopyFile CreateContainer CreateSandbox DestroySandbox GetOOMEvent ReadStream RemoveContainer SignalProcess StartContainer StatsContainer TtyWinResize WaitProcess WriteStream CloseStdin GetIPTables SetIPTables UpdateContainer UpdateEphemeralMounts VolumeStats GetDiagnosticData") {
		text += "default " + name + "Request := true\n"
	}
	return text + "default ExecProcessRequest := false\nExecProcessRequest if not contains(input.process.Args[3], \"forbidden\")\n"
}

// sandbox makes the sandbox and its first container, and the file that the
// workload shows.
func (g *guest) sandbox() {
	g.t.Helper()
	ctx := g.t.Context()
	_, err := g.Agent.CreateSandbox(ctx, &pb.CreateSandboxRequest{
		Hostname: "the-pod", SandboxId: sandbox, Dns: []string{"nameserver 192.0.2.1", ""},
		Storages: []*pb.Storage{{
			Driver: "ephemeral", Source: "shm", Fstype: "tmpfs", MountPoint: stateDir + "/sandbox/shm",
			Options: []string{"noexec", "nosuid", "nodev", "mode=1777", "size=67108864"},
		}},
	})
	if err != nil {
		g.t.Fatal(err)
	}
	g.create(sandbox, "pause", "/ignored")
	if _, err := g.Agent.CopyFile(ctx, &pb.CopyFileRequest{Path: sharedDir + workload + "-hello", FileSize: 6, FileMode: 0o100644, DirMode: 0x800001e8, Data: []byte("hello\n")}); err != nil {
		g.t.Fatal(err)
	}
}

// TestGuest drives a guest from its start to its end as a shim does.
func TestGuest(t *testing.T) {
	g := startGuest(t, guestPolicy())
	ctx := t.Context()
	g.sandbox()
	g.create(workload, "busybox", "/busybox", "sh", "-c", "read x; echo got $x; echo oops >&2; trap 'exit 7' TERM; while :; do /busybox sleep 0.05; done")
	t.Run("exec", g.execs)
	t.Run("refused", func(t *testing.T) {
		err := g.exec("e9", false, "forbidden")
		if s := status.Convert(err); s.Code() != codes.PermissionDenied || s.Message() != `"ExecProcessRequest is blocked by policy: "` {
			t.Errorf("%v", err)
		}
	})
	t.Run("terminal", g.terminal)
	t.Run("stats", func(t *testing.T) {
		s, err := g.Agent.StatsContainer(ctx, &pb.StatsContainerRequest{ContainerId: workload})
		if err != nil || s.CgroupStats.MemoryStats.Usage.Usage == 0 || s.CgroupStats.MemoryStats.Usage.Limit != 64<<20 || s.CgroupStats.PidsStats.Current == 0 {
			t.Errorf("%v, %v", s, err)
		}
	})
	t.Run("iptables", g.iptables)
	t.Run("volumes", g.volumes)
	t.Run("policy log", g.policyLog)
	t.Run("end", g.end)
}

// end stops the containers, and with them the guest.
func (g *guest) end(t *testing.T) {
	ctx := t.Context()
	if _, err := g.Agent.WriteStdin(ctx, &pb.WriteStreamRequest{ContainerId: workload, ExecId: workload, Data: []byte("input\n")}); err != nil {
		t.Fatal(err)
	}
	// The handler of the signal is there once this has been said.
	if r, err := g.Agent.ReadStderr(ctx, &pb.ReadStreamRequest{ContainerId: workload, ExecId: workload, Len: 100}); err != nil || string(r.Data) != "oops\n" {
		t.Fatalf("stderr %v, %v", r, err)
	}
	awaitHandler(t, g)
	if _, err := g.Agent.SignalProcess(ctx, &pb.SignalProcessRequest{ContainerId: workload, Signal: 15}); err != nil {
		t.Fatal(err)
	}
	if got := g.read(workload, g.Agent.ReadStdout); got != "got input\n" {
		t.Errorf("stdout %q", got)
	}
	if got := g.wait(workload, workload); got != 7 {
		t.Errorf("exit code %d, want 7: the handler's", got)
	}
	g.waitedFor(t)
	// The sandbox's process handles no signal: SIGTERM becomes SIGKILL.
	if _, err := g.Agent.SignalProcess(ctx, &pb.SignalProcessRequest{ContainerId: sandbox, Signal: 15}); err != nil {
		t.Fatal(err)
	}
	if got := g.wait(sandbox, sandbox); got != 137 {
		t.Errorf("exit code %d, want 137", got)
	}
	for _, id := range []string{workload, sandbox} {
		if _, err := g.Agent.RemoveContainer(ctx, &pb.RemoveContainerRequest{ContainerId: id}); err != nil {
			t.Error(err)
		}
		if _, err := g.Agent.RemoveContainer(ctx, &pb.RemoveContainerRequest{ContainerId: id}); status.Convert(err).Message() != "Invalid container id" {
			t.Errorf("removed again: %v", err)
		}
	}
	for _, c := range g.cgroups() {
		if base := filepath.Base(c); base == workload || base == sandbox {
			t.Errorf("cgroup %s is left", c)
		}
	}
	if _, err := g.Agent.DestroySandbox(ctx, &pb.DestroySandboxRequest{}); err != nil {
		t.Error(err)
	}
	g.Close()
	select {
	case err := <-g.ended:
		g.ended <- err
		if err != nil {
			t.Errorf("the agent ended with %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("the guest runs on after DestroySandbox")
	}
}

// awaitHandler waits until the workload catches SIGTERM.
func awaitHandler(t *testing.T, g *guest) {
	t.Helper()
	const script = `while :; do while read k v; do [ "$k" = SigCgt: ] && [ $((0x$v & 0x4000)) != 0 ] && exit 0; done </proc/1/status; done`
	if err := g.exec("handler", false, script); err != nil {
		t.Fatal(err)
	}
	if got := g.wait(workload, "handler"); got != 0 {
		t.Fatalf("exit code %d", got)
	}
}

func (g *guest) execs(t *testing.T) {
	for i, c := range []struct {
		script, stdout, stderr string
		code                   int32
	}{
		{"echo out; echo err >&2; exit 42", "out\n", "err\n", 42},
		{"/busybox hostname; /busybox cat /hello", "the-pod\nhello\n", "", 0},
		{"/busybox stat -c %a /dev/shm", "1777\n", "", 0},
		{"/busybox grep CapEff /proc/self/status", "CapEff:\t0000000000000020\n", "", 0},
		{"kill -9 $$", "", "", 137},
	} {
		id := fmt.Sprintf("e%d-id", i)
		if err := g.exec(id, false, c.script); err != nil {
			t.Fatalf("%s: %v", c.script, err)
		}
		if out, err := g.read(id, g.Agent.ReadStdout), g.read(id, g.Agent.ReadStderr); out != c.stdout || err != c.stderr {
			t.Errorf("%s: stdout %q, stderr %q", c.script, out, err)
		}
		if got := g.wait(workload, id); got != c.code {
			t.Errorf("%s: exit code %d, want %d", c.script, got, c.code)
		}
		if _, err := g.Agent.WaitProcess(t.Context(), &pb.WaitProcessRequest{ContainerId: workload, ExecId: id}); status.Code(err) != codes.NotFound {
			t.Errorf("%s: waited for again: %v, want NotFound", c.script, err)
		}
	}
}

func (g *guest) terminal(t *testing.T) {
	ctx := t.Context()
	if err := g.exec("tty-1", true, "read x; /busybox stty size; exit 3"); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Agent.TtyWinResize(ctx, &pb.TtyWinResizeRequest{ContainerId: workload, ExecId: "tty-1", Row: 24, Column: 80}); err != nil {
		t.Error(err)
	}
	if _, err := g.Agent.WriteStdin(ctx, &pb.WriteStreamRequest{ContainerId: workload, ExecId: "tty-1", Data: []byte("x\n")}); err != nil {
		t.Error(err)
	}
	if got := g.read("tty-1", g.Agent.ReadStdout); got != "x\r\n24 80\r\n" {
		t.Errorf("the terminal shows %q", got)
	}
	if got := g.wait(workload, "tty-1"); got != 3 {
		t.Errorf("exit code %d, want 3", got)
	}
	if _, err := g.Agent.TtyWinResize(ctx, &pb.TtyWinResizeRequest{ContainerId: workload, ExecId: workload, Row: 1, Column: 1}); status.Code(err) != codes.Unavailable {
		t.Errorf("resized without a terminal: %v, want Unavailable", err)
	}
}
