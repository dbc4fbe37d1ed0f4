package podvm

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/ttrpc"

	"github.com/coco-e2e/coco-e2e/framework/agentapi/hypervisorpb"
	"github.com/coco-e2e/coco-e2e/framework/initdata"
	"github.com/coco-e2e/coco-e2e/simulators/podvm/cgroup"
	"github.com/coco-e2e/coco-e2e/simulators/podvm/config"
	"github.com/coco-e2e/coco-e2e/simulators/podvm/stage"
)

// daemonEnv makes the test binary the daemon that TestKilledDaemon kills.
const daemonEnv = "PODVM_TEST_DAEMON"

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == stage.Command {
		os.Exit(stage.Main())
	}
	if path := os.Getenv(daemonEnv); path != "" {
		c, err := config.Load(path)
		if err == nil {
			err = Serve(context.Background(), c, slog.New(slog.NewTextHandler(os.Stderr, nil)))
		}
		fmt.Fprintln(os.Stderr, "daemon:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// testConfig gives a configuration with a guest image of nothing but the fake agent.
func testConfig(t testing.TB) config.Config {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("making namespaces and mounts needs root")
	}
	// t.TempDir's names are too long for unix sockets.
	dir, err := os.MkdirTemp("", "pv")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	root := filepath.Join(dir, "rootfs")
	for _, d := range []string{"usr/bin", "etc", "proc", "sys", "dev", "run", "tmp"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	agent, tee := filepath.Join(root, "usr/bin/kata-agent"), filepath.Join(dir, "tee")
	build := exec.Command("go", "build", "-o", agent, "./testdata/fake")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the fake agent: %v\n%s", err, out)
	}
	if err := os.Link(agent, tee); err != nil {
		t.Fatal(err)
	}
	return config.Config{
		Classes: []config.Class{
			{Socket: filepath.Join(dir, "h.sock"), TEE: "tpm", Pool: 1},
			{Socket: filepath.Join(dir, "snp.sock"), TEE: "snp"},
			{Socket: filepath.Join(dir, "az.sock"), TEE: "az-tdx-vtpm", EventLog: true},
			{Socket: filepath.Join(dir, "sample.sock"), TEE: "sample"},
		},
		StateDir: filepath.Join(dir, "vm"), LogDir: filepath.Join(dir, "log"),
		GuestRootfs: root, TEEProgram: tee, TEERoots: filepath.Join(dir, "roots"), BootTimeout: 20 * time.Second, AgentLog: "debug",
		RegistryMirror: "http://192.0.2.1:5000", CgroupParent: "/" + filepath.Base(dir),
	}
}

func newService(t testing.TB, c config.Config) *Service {
	t.Helper()
	s, err := New(c, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(context.Background()); err != nil {
			t.Errorf("close: %v", err)
		}
		checkNothingLeft(t, c)
	})
	return s
}

// checkNothingLeft looks for everything that a daemon with this configuration may have made.
func checkNothingLeft(t testing.TB, c config.Config) {
	t.Helper()
	base := filepath.Dir(c.StateDir)
	if mounts, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(mounts), base) {
		t.Errorf("mounts below %s are left (%v)", base, err)
	}
	if left := processes(t, base); len(left) > 0 {
		t.Errorf("processes are left: %v", left)
	}
	if _, err := os.Stat(c.StateDir); !os.IsNotExist(err) {
		t.Errorf("the state directory is left: %v", err)
	}
	if _, err := os.Stat(filepath.Join(c.LogDir, ".tees")); !os.IsNotExist(err) {
		t.Errorf("TEE logs are left: %v", err)
	}
	checkNoCgroup(t, c.CgroupParent)
}

func checkNoCgroup(t testing.TB, path string) {
	t.Helper()
	hierarchies, err := cgroup.Hierarchies()
	if err != nil || len(hierarchies) == 0 {
		t.Fatalf("hierarchies: %v %v", hierarchies, err)
	}
	for _, h := range hierarchies {
		if _, err := os.Stat(filepath.Join(h, path)); !os.IsNotExist(err) {
			t.Errorf("cgroup %s is left in %s: %v", path, h, err)
		}
	}
}

// processes lists the processes whose program or mounts lie below base, by their mount table.
func processes(t testing.TB, base string) []string {
	t.Helper()
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, dir := range dirs {
		exe, _ := os.Readlink(filepath.Join(dir, "exe")) // fails for kernel threads and the dead
		mounts, _ := os.ReadFile(filepath.Join(dir, "mountinfo"))
		if strings.HasPrefix(exe, base) || strings.Contains(string(mounts), filepath.Base(base)) {
			out = append(out, dir+" "+exe)
		}
	}
	return out
}

func annotations(initData string) map[string]string {
	return map[string]string{annotationNamespace: "ns", annotationName: "pod", annotationInitData: initData}
}

func create(t testing.TB, s *Service, id, netnsPath, initData string) string {
	t.Helper()
	r, err := s.classes[0].CreateVM(t.Context(), &hypervisorpb.CreateVMRequest{Id: id, Annotations: annotations(initData), NetworkNamespacePath: netnsPath})
	if err != nil {
		t.Fatalf("CreateVM: %v", err)
	}
	return r.GetAgentSocketPath()
}

func stop(t testing.TB, s *Service, id string) {
	t.Helper()
	if _, err := s.StopVM(context.Background(), &hypervisorpb.StopVMRequest{Id: id}); err != nil {
		t.Fatalf("StopVM: %v", err)
	}
}

func TestNoInitDataNoNetNS(t *testing.T) {
	s := newService(t, testConfig(t))
	create(t, s, "a", "", "")
	if _, err := s.StartVM(t.Context(), &hypervisorpb.StartVMRequest{Id: "a"}); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(s.config.LogDir, "ns_pod_a/seen.json"))
	if err != nil {
		t.Fatal(err)
	}
	own, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	// A pod with hostNetwork has no namespace, and its guest is not in podvm's for that.
	var g seen
	if err := json.Unmarshal(text, &g); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), `"vda"`) || g.NetNS == "" || g.NetNS == own {
		t.Errorf("want no /dev/vda and a namespace that is not %s, got %s", own, text)
	}
	// Close, in the clean-up, must stop what runs.
}

func TestBootErrors(t *testing.T) {
	c := testConfig(t)
	c.BootTimeout = 3 * time.Second
	s := newService(t, c)
	for i, tc := range []struct{ order, want string }{
		{"error init-data: policy.rego: broken", "guest boot failed: init-data: policy.rego: broken"},
		{"exit last words", "guest boot failed: the guest died before the agent was ready (exit status 7); last line of its console: last words"},
		{"hang here I sit", "guest boot failed: the agent was not ready after 3s; last line of its console: here I sit"},
		{"mumble HELLO", `guest boot failed: the agent said "HELLO" instead of READY or ERROR; last line of its console: fake agent boots`},
	} {
		id := fmt.Sprintf("vm%d", i)
		create(t, s, id, "", tc.order)
		_, err := s.StartVM(t.Context(), &hypervisorpb.StartVMRequest{Id: id})
		if err == nil || err.Error() != tc.want {
			t.Errorf("%s: got %v, want %s", tc.order, err, tc.want)
		}
		if _, err := s.StartVM(t.Context(), &hypervisorpb.StartVMRequest{Id: id}); err == nil || !strings.Contains(err.Error(), "started already") {
			t.Errorf("second StartVM: got %v", err)
		}
		stop(t, s, id)
	}
}

func TestStageErrorsReachTheCaller(t *testing.T) {
	c := testConfig(t)
	s := newService(t, c)
	agent := filepath.Join(c.GuestRootfs, stage.Agent)
	if err := os.Rename(agent, agent+".away"); err != nil {
		t.Fatal(err)
	}
	create(t, s, "vm", "", "")
	_, err := s.StartVM(t.Context(), &hypervisorpb.StartVMRequest{Id: "vm"})
	want := "guest boot failed: guest root: execute /usr/bin/kata-agent of the guest image: no such file or directory"
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestStopDuringBoot(t *testing.T) {
	s := newService(t, testConfig(t))
	create(t, s, "vm", "", "hang on")
	booted := make(chan error, 1)
	go func() {
		_, err := s.StartVM(context.Background(), &hypervisorpb.StartVMRequest{Id: "vm"})
		booted <- err
	}()
	console := filepath.Join(s.config.LogDir, "ns_pod_vm/console.log")
	poll(t, "the guest's start", func() bool { return lastLine(console) == "on" })
	stop(t, s, "vm")
	if err := <-booted; err == nil || !strings.Contains(err.Error(), "was stopped meanwhile") {
		t.Errorf("StartVM: got %v", err)
	}
}

func TestBrokenTEE(t *testing.T) {
	c := testConfig(t)
	mark := filepath.Join(filepath.Dir(c.TEEProgram), "break-tee")
	if err := os.WriteFile(mark, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	s := newService(t, c)
	request := &hypervisorpb.CreateVMRequest{Id: "vm", Annotations: annotations("")}
	if _, err := s.classes[0].CreateVM(t.Context(), request); err == nil || !strings.Contains(err.Error(), "the fake TEE is broken") {
		t.Errorf("got %v, want the TEE's words", err)
	}
	if err := os.Remove(mark); err != nil {
		t.Fatal(err)
	}
	if _, err := s.classes[0].CreateVM(t.Context(), request); err != nil {
		t.Errorf("after the repair: %v", err)
	}
}

func TestRefusedRequests(t *testing.T) {
	s := newService(t, testConfig(t))
	create(t, s, "there", "", "")
	for _, tc := range []struct {
		name, id, netns, pod, want string
	}{
		{"path", "../x", "", "pod", `VM id "../x"`},
		{"dots", "..", "", "pod", `VM id ".."`},
		{"hidden", ".tees", "", "pod", `VM id ".tees"`},
		{"empty", "", "", "pod", `VM id ""`},
		{"long", strings.Repeat("a", 129), "", "pod", "VM id"},
		{"socket path", strings.Repeat("a", 100), "", "pod", "set a shorter state_dir"},
		{"twice", "there", "", "pod", "VM there exists already"},
		{"relative namespace", "x", "netns", "pod", `network namespace "netns": not an absolute path`},
		{"no namespace", "x", "/nonexistent/netns", "pod", "network namespace: open /nonexistent/netns: no such file"},
		{"file for a namespace", "x", "/etc/passwd", "pod", "network namespace /etc/passwd: the file is not one"},
		{"other namespace", "x", "/proc/self/ns/mnt", "pod", "network namespace /proc/self/ns/mnt: the file is not one"},
		{"pod", "x", "", "../../etc", `annotation io.kubernetes.cri.sandbox-name = "../../etc": not a Kubernetes name`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := s.classes[0].CreateVM(t.Context(), &hypervisorpb.CreateVMRequest{
				Id: tc.id, NetworkNamespacePath: tc.netns, Annotations: map[string]string{annotationName: tc.pod},
			})
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %s", err, tc.want)
			}
		})
	}
	if _, err := s.StartVM(t.Context(), &hypervisorpb.StartVMRequest{Id: "absent"}); err == nil || !strings.Contains(err.Error(), `VM "absent" does not exist`) {
		t.Errorf("StartVM of no VM: got %v", err)
	}
	stop(t, s, "absent")
}

// TestRefusedInitData: init-data that cannot be handed over leaves no VM behind, and the same id can be used again.
func TestRefusedInitData(t *testing.T) {
	s := newService(t, testConfig(t))
	encoded, err := initdata.EncodeAnnotation([]byte("version = \"0.1.0\"\n"))
	if err != nil {
		t.Fatal(err)
	}
	for value, want := range map[string]string{
		encoded:                                  "annotation io.katacontainers.config.hypervisor.cc_init_data is base64 of gzip: the shim has to decode it",
		strings.Repeat("\n", initdata.MaxSize+1): "annotation io.katacontainers.config.hypervisor.cc_init_data: write init-data image: init-data is longer than",
	} {
		_, err := s.classes[0].CreateVM(t.Context(), &hypervisorpb.CreateVMRequest{Id: "vm", Annotations: annotations(value)})
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
		if _, err := os.Stat(filepath.Join(s.config.StateDir, "vm")); !os.IsNotExist(err) {
			t.Errorf("the VM's directory is left: %v", err)
		}
	}
	create(t, s, "vm", "", "ready")
	if _, err := s.StartVM(t.Context(), &hypervisorpb.StartVMRequest{Id: "vm"}); err != nil {
		t.Error(err)
	}
}

// TestKilledDaemon kills a daemon with SIGKILL: its guests and TEEs must end with it, and the next must clear the rest.
func TestKilledDaemon(t *testing.T) {
	c := testConfig(t)
	file := filepath.Join(filepath.Dir(c.StateDir), "podvm.toml")
	text := fmt.Sprintf("state_dir=%q\nlog_dir=%q\nguest_rootfs=%q\ntee_program=%q\ncgroup_parent=%q\n[[class]]\nsocket=%q\ntee='tpm'\npool=2\n",
		c.StateDir, c.LogDir, c.GuestRootfs, c.TEEProgram, c.CgroupParent, c.Classes[0].Socket)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	daemon := exec.Command("/proc/self/exe")
	daemon.Env, daemon.Stderr = append(os.Environ(), daemonEnv+"="+file), t.Output()
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = daemon.Process.Kill(); _ = daemon.Wait() })
	client := dial(t, c.Classes[0].Socket)
	if _, err := client.CreateVM(t.Context(), &hypervisorpb.CreateVMRequest{Id: "vm", Annotations: annotations("ready")}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.StartVM(t.Context(), &hypervisorpb.StartVMRequest{Id: "vm"}); err != nil {
		t.Fatal(err)
	}
	if _, err := New(c, slog.Default()); err == nil || !strings.Contains(err.Error(), "in use by another podvm") {
		t.Errorf("second daemon on the same directory: got %v", err)
	}
	base := filepath.Dir(c.StateDir)
	before := processes(t, base)
	if len(before) < 4 {
		t.Fatalf("a guest of two processes and two TEEs or more were expected: %v", before)
	}
	if err := daemon.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = daemon.Wait()
	// The guest has a frozen process on cgroup v1, which dies once the next daemon thaws it.
	s := newService(t, c)
	poll(t, "the end of the killed daemon's processes", func() bool {
		return !slices.ContainsFunc(processes(t, base), func(p string) bool { return slices.Contains(before, p) })
	})
	if _, err := os.Stat(filepath.Join(c.StateDir, "vm")); !os.IsNotExist(err) {
		t.Errorf("the VM's directory is left: %v", err)
	}
	create(t, s, "vm", "", "ready")
}

func dial(t *testing.T, socket string) hypervisorpb.HypervisorService {
	t.Helper()
	var conn net.Conn
	poll(t, "the daemon's socket", func() (ok bool) {
		var err error
		conn, err = net.Dial("unix", socket)
		return err == nil
	})
	client := ttrpc.NewClient(conn)
	t.Cleanup(func() { _ = client.Close() })
	return hypervisorpb.NewHypervisorClient(client)
}

// poll waits until condition holds.
func poll(t *testing.T, what string, condition func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(10 * time.Second); !condition(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not seen in 10 s", what)
		}
	}
}

// TestServe has the daemon stop a VM and remove its socket when it is told to end.
func TestServe(t *testing.T) {
	c := testConfig(t)
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- Serve(ctx, c, slog.New(slog.NewTextHandler(t.Output(), nil))) }()
	client := dial(t, c.Classes[0].Socket)
	if _, err := client.CreateVM(ctx, &hypervisorpb.CreateVMRequest{Id: "vm", Annotations: annotations("error no luck")}); err != nil {
		t.Fatal(err)
	}
	_, err := client.StartVM(ctx, &hypervisorpb.StartVMRequest{Id: "vm"})
	if want := "rpc error: code = Unknown desc = guest boot failed: no luck"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	cancel()
	if err := <-served; err != nil {
		t.Errorf("Serve: %v", err)
	}
	if _, err := os.Lstat(c.Classes[0].Socket); !os.IsNotExist(err) {
		t.Errorf("the socket is left: %v", err)
	}
	checkNothingLeft(t, c)
}

// BenchmarkVM is what a VM costs beside its agent's own boot and its TEE's making, which a pool spares it.
func BenchmarkVM(b *testing.B) {
	c := testConfig(b)
	c.Classes[0].Pool = 8
	s := newService(b, c)
	for i := 0; b.Loop(); i++ {
		id := fmt.Sprintf("vm%d", i)
		create(b, s, id, "", "error done")
		if _, err := s.StartVM(b.Context(), &hypervisorpb.StartVMRequest{Id: id}); err == nil {
			b.Fatal("no error")
		}
		b.StopTimer()
		stop(b, s, id)
		b.StartTimer()
	}
}

// TestClasses checks what each class gives its guests: a device, a measurement at launch, an environment.
func TestClasses(t *testing.T) {
	// printf 'version = "0.1.0"\nalgorithm = "sha256"\n[data]\n' | openssl dgst -sha256
	const document, digest = "version = \"0.1.0\"\nalgorithm = \"sha256\"\n[data]\n", "af398df379eb475aff9f02cd056d0d1f5d496b7a073927cb3ea92407d8ad61a3"
	c := testConfig(t)
	s := newService(t, c)
	for _, tc := range []struct {
		class              int
		initData, tee, env string
	}{
		{0, "", "--kind tpm hello\n", ""},
		{1, document, "--kind snp --roots " + c.TEERoots + " --host-data " + digest + " hello\n", ""},
		{1, "", "--kind snp --roots " + c.TEERoots + " hello\n", ""},
		{2, document, "--kind az-tdx-vtpm --roots " + c.TEERoots + " hello\n", "AA_TPM_AK_HANDLE=0x81000003 COCO_EVENTLOG=15"},
		{3, document, "", "AA_SAMPLE_ATTESTER_TEST=yes"},
	} {
		id := fmt.Sprintf("vm%d-%d", tc.class, len(tc.initData))
		class := s.classes[tc.class]
		if _, err := class.CreateVM(t.Context(), &hypervisorpb.CreateVMRequest{Id: id, Annotations: annotations(tc.initData)}); err != nil {
			t.Fatal(err)
		}
		if _, err := class.StartVM(t.Context(), &hypervisorpb.StartVMRequest{Id: id}); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(filepath.Join(c.LogDir, "ns_pod_"+id, "seen.json"))
		if err != nil {
			t.Fatal(err)
		}
		var g seen
		if err := json.Unmarshal(text, &g); err != nil {
			t.Fatal(err)
		}
		env := slices.DeleteFunc(g.Env, func(v string) bool { return !strings.HasPrefix(v, "AA_") && !strings.HasPrefix(v, "COCO_EV") })
		if g.TEE != tc.tee || strings.Join(env, " ") != tc.env {
			t.Errorf("class %d: TEE %q, environment %v, want %q, %q", tc.class, g.TEE, env, tc.tee, tc.env)
		}
		stop(t, s, id)
	}
	_, err := s.classes[1].CreateVM(t.Context(), &hypervisorpb.CreateVMRequest{Id: "vm", Annotations: annotations("no TOML")})
	if err == nil || !strings.Contains(err.Error(), annotationInitData) {
		t.Errorf("init-data that a host cannot digest: %v", err)
	}
}
