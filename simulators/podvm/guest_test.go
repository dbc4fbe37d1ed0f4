package podvm

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/coco-e2e/coco-e2e/framework/agentapi/hypervisorpb"
	"github.com/coco-e2e/coco-e2e/simulators/podvm/config"
)

// newNetNS makes a network namespace with an interface and gives its path and its link as /proc shows it.
func newNetNS(t *testing.T) (path, link string) {
	t.Helper()
	holder := exec.Command("unshare", "--net", "cat")
	stdin, err := holder.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = stdin.Close(); _ = holder.Wait() })
	path = fmt.Sprintf("/proc/%d/ns/net", holder.Process.Pid)
	own, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	poll(t, "a new network namespace", func() bool {
		link, err = os.Readlink(path)
		return err == nil && link != own
	})
	ns, err := netns.GetFromPath(path)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	h, err := netlink.NewHandleAt(ns)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if err := h.LinkAdd(&netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: "podvmtest0"}}); err != nil {
		if err := h.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "podvmtest0"}}); err != nil {
			t.Fatal(err)
		}
	}
	return path, link
}

type seen struct {
	PID       int               `json:"pid"`
	Hostname  string            `json:"hostname"`
	Env       []string          `json:"env"`
	NetNS     string            `json:"netns"`
	Mounts    string            `json:"mounts"`
	Root      []string          `json:"/"`
	Dev       []string          `json:"/dev"`
	FDs       map[string]string `json:"fds"`
	Links     []string          `json:"/sys/class/net"`
	Processes int               `json:"processes"`
	TEE       string            `json:"tee"`
	ReadOnly  []string          `json:"read-only"`
}

func TestGuest(t *testing.T) {
	c := testConfig(t)
	s := newService(t, c)
	netnsPath, netnsLink := newNetNS(t)
	// A descriptor that podvm was started with, say by a shell, must not reach the guest.
	leak, err := unix.Dup(2)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(leak)
	id := strings.Repeat("0123456789abcdef", 4)
	socket := create(t, s, id, netnsPath, "ready")
	if want := filepath.Join(c.StateDir, id, "agent/agent.sock"); socket != want {
		t.Errorf("agent socket %s, want %s", socket, want)
	}
	if _, err := s.StartVM(t.Context(), &hypervisorpb.StartVMRequest{Id: id}); err != nil {
		t.Fatalf("StartVM: %v", err)
	}
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatalf("the agent's socket must take connections when StartVM returns: %v", err)
	}
	conn.Close()

	logs := filepath.Join(c.LogDir, "ns_pod_"+id)
	text, err := os.ReadFile(filepath.Join(logs, "seen.json"))
	if err != nil {
		t.Fatal(err)
	}
	var g seen
	if err := json.Unmarshal(text, &g); err != nil {
		t.Fatal(err)
	}
	checkGuest(t, g, c, id, netnsLink)

	stop(t, s, id)
	stop(t, s, id)
	checkNoCgroup(t, filepath.Join(c.CgroupParent, id))
	if _, err := os.Stat(filepath.Join(c.StateDir, id)); !os.IsNotExist(err) {
		t.Errorf("the VM's directory is left: %v", err)
	}
	for name, want := range map[string]string{"console.log": "fake agent boots\n", "tee.log": "tee log\n"} {
		if got, err := os.ReadFile(filepath.Join(logs, name)); err != nil || string(got) != want {
			t.Errorf("%s: got %q %v, want %q", name, got, err, want)
		}
	}
	if _, err := os.Stat(filepath.Join(c.GuestRootfs, "etc/written")); !os.IsNotExist(err) {
		t.Errorf("the guest wrote into its image: %v", err)
	}
}

func checkGuest(t *testing.T, g seen, c config.Config, id, netnsLink string) {
	t.Helper()
	if g.PID != 1 || g.Processes != 1 || g.Hostname != "localhost" || g.TEE != "--kind tpm hello\n" || g.NetNS != netnsLink {
		t.Errorf("PID %d of %d processes, host %s, TEE %q, network namespace %s; want 1, 1, localhost, \"--kind tpm hello\\n\", %s",
			g.PID, g.Processes, g.Hostname, g.TEE, g.NetNS, netnsLink)
	}
	if !slices.Contains(g.Links, "podvmtest0") {
		t.Errorf("interfaces %v, want those of the pod's network namespace", g.Links)
	}
	wantDev := strings.Fields("console core fd full mqueue null ptmx pts random shm stderr stdin stdout tpm0 tty urandom vda zero")
	if !slices.Equal(g.Dev, wantDev) {
		t.Errorf("/dev: got %v, want %v", g.Dev, wantDev)
	}
	if want := strings.Fields("dev etc proc run sys tmp usr var"); !slices.Equal(g.Root, want) {
		t.Errorf("/: got %v, want %v", g.Root, want)
	}
	checkDescriptors(t, g.FDs)
	if want := []string{"/dev/vda", "/sys/kernel/uevent_seqnum"}; !slices.Equal(g.ReadOnly, want) {
		t.Errorf("read-only: got %v, want %v", g.ReadOnly, want)
	}
	wantEnv := []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"KATA_AGENT_SERVER_ADDR=unix:///run/agent-channel/agent.sock",
		"KATA_AGENT_CGROUP_PARENT=" + c.CgroupParent + "/" + id, "KATA_AGENT_LOG=debug",
		"KATA_AGENT_RPC_LOG=/var/log/guest/agent.jsonl", "COCO_REGISTRY_MIRROR=http://192.0.2.1:5000",
	}
	if !slices.Equal(g.Env, wantEnv) {
		t.Errorf("environment: got %v, want %v", g.Env, wantEnv)
	}
	for line := range strings.Lines(g.Mounts) {
		point := strings.Fields(line)[4]
		ok := slices.ContainsFunc([]string{"/proc", "/sys", "/dev", "/run", "/tmp", "/var/log/guest"}, func(p string) bool {
			return point == "/" || point == p || strings.HasPrefix(point, p+"/")
		})
		if !ok {
			t.Errorf("the guest sees a mount of the node's: %s", line)
		}
	}
}

// checkDescriptors allows a guest's agent what it is given and what Go's runtime opens.
func checkDescriptors(t *testing.T, fds map[string]string) {
	t.Helper()
	for fd, target := range fds {
		// An empty target is the directory that the list was read from.
		ok := target == "" || strings.HasPrefix(target, "anon_inode:[event") || strings.HasPrefix(target, "/sys/fs/cgroup/cpu")
		switch fd {
		case "0":
			ok = target == "/dev/null"
		case "1", "2":
			ok = strings.HasSuffix(target, "/console.log")
		case "3":
			ok = strings.HasPrefix(target, "pipe:")
		}
		if !ok {
			t.Errorf("the agent's descriptor %s is %s", fd, target)
		}
	}
}
