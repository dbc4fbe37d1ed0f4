package agent

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/coco-e2e/coco-e2e/framework/agentapi/agentpb"
	"github.com/coco-e2e/coco-e2e/framework/agentapi/agentpb/typespb"
)

// What is zero in a request was not asked for; −1 is no limit.
func TestResources(t *testing.T) {
	const noDevices = `{"devices":[{"allow":false,"access":"rwm"}]`
	for _, c := range []struct {
		name string
		r    *pb.LinuxResources
		want string
	}{
		{"nothing", nil, noDevices + `}`},
		{"zeros", &pb.LinuxResources{Memory: &pb.LinuxMemory{}, CPU: &pb.LinuxCPU{}}, noDevices + `,"cpu":{}}`},
		{"no quota", &pb.LinuxResources{CPU: &pb.LinuxCPU{Quota: -1, Period: 100000, Shares: 2}}, noDevices + `,"cpu":{"shares":2,"quota":-1,"period":100000}}`},
		{"quota", &pb.LinuxResources{CPU: &pb.LinuxCPU{Quota: 50000, Cpus: "0", Mems: "0"}}, noDevices + `,"cpu":{"quota":50000,"cpus":"0","mems":"0"}}`},
		{"as many processes as there may be", &pb.LinuxResources{Pids: &pb.LinuxPids{}}, noDevices + `,"pids":{"limit":-1}}`},
		{"some processes", &pb.LinuxResources{Pids: &pb.LinuxPids{Limit: 7}}, noDevices + `,"pids":{"limit":7}}`},
	} {
		got, err := json.Marshal((&Agent{}).runtimeResources(c.r))
		if err != nil || string(got) != c.want {
			t.Errorf("%s: got %s (%v), want %s", c.name, got, err, c.want)
		}
	}
}

func TestMemoryLimits(t *testing.T) {
	for _, c := range []struct {
		m    *pb.LinuxMemory
		swap bool
		want string
	}{
		{&pb.LinuxMemory{}, true, `null`},
		{&pb.LinuxMemory{Limit: 5, Swap: 5}, true, `{"limit":5,"swap":5}`},
		{&pb.LinuxMemory{Limit: 5, Swap: 5}, false, `{"limit":5}`},
		{&pb.LinuxMemory{Limit: 5}, true, `{"limit":5}`},
		{&pb.LinuxMemory{Swap: 5}, true, `null`},
		{&pb.LinuxMemory{Limit: -1, Swap: 5}, true, `{"limit":-1,"swap":-1}`},
		{&pb.LinuxMemory{Reservation: 3}, true, `{"reservation":3}`},
	} {
		got, err := json.Marshal(memoryLimits(c.m, c.swap))
		if err != nil || string(got) != c.want {
			t.Errorf("%v, swap %t: got %s (%v), want %s", c.m, c.swap, got, err, c.want)
		}
	}
}

// A volume's group may do with it what a pod's fsGroup says.
func TestOwnership(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: gives files away")
	}
	const gid = 4711
	dir := filepath.Join(t.TempDir(), "volume")
	outside := filepath.Join(t.TempDir(), "outside")
	for path, mode := range map[string]fs.FileMode{filepath.Join(dir, "sub", "file"): 0o600, outside: 0o600} {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(outside, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	check := func(path string, group uint32, mode fs.FileMode) {
		t.Helper()
		st, err := os.Stat(path)
		if err != nil || groupOf(st) != group || st.Mode()&^fs.ModeDir != mode {
			t.Errorf("%s: group %d, mode %v (%v), want %d, %v", path, groupOf(st), st.Mode(), err, group, mode)
		}
	}
	storage := &pb.Storage{MountPoint: dir, FsGroup: &pb.FSGroup{GroupId: gid, GroupChangePolicy: typespb.FSGroupChangePolicy_OnRootMismatch}}
	if err := setOwnership(storage); err != nil {
		t.Fatal(err)
	}
	check(dir, gid, 0o770|fs.ModeSetgid)
	check(filepath.Join(dir, "sub"), gid, 0o770|fs.ModeSetgid)
	check(filepath.Join(dir, "sub", "file"), gid, 0o660)
	check(outside, 0, 0o600)
	// The root is as it would be: what is in it stays as it is, but for Always.
	if err := os.Chmod(filepath.Join(dir, "sub", "file"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := setOwnership(storage); err != nil {
		t.Fatal(err)
	}
	check(filepath.Join(dir, "sub", "file"), gid, 0o600)
	storage.FsGroup.GroupChangePolicy, storage.Options = typespb.FSGroupChangePolicy_Always, []string{"ro"}
	if err := setOwnership(storage); err != nil {
		t.Fatal(err)
	}
	check(filepath.Join(dir, "sub", "file"), gid, 0o640)
	if err := setOwnership(&pb.Storage{MountPoint: "/none"}); err != nil {
		t.Errorf("without a group: %v", err)
	}
}

// A container whose creation fails leaves nothing, and may be created again.
func TestCreationIsRolledBack(t *testing.T) {
	g := startGuest(t, guestPolicy())
	g.sandbox()
	ctx := t.Context()
	volume := stateDir + "/sandbox/ephemeral/volume"
	broken := createRequest(workload, "busybox", "/no/such/program")
	broken.Storages = append(broken.Storages, &pb.Storage{Driver: "ephemeral", Source: "tmpfs", Fstype: "tmpfs", MountPoint: volume})
	_, err := g.Agent.CreateContainer(ctx, broken)
	if s := status.Convert(err); s.Code() != codes.Internal || !strings.Contains(s.Message(), "/no/such/program") {
		t.Errorf("got %v, want Internal and the program's name", err)
	}
	mounts, err := os.ReadFile(fmt.Sprintf("/proc/%d/mounts", g.pid))
	if err != nil || strings.Contains(string(mounts), volume) || strings.Contains(string(mounts), workload) {
		t.Errorf("mounts are left (%v):\n%s", err, mounts)
	}
	root := fmt.Sprintf("/proc/%d/root", g.pid)
	for _, left := range []string{stateDir + "/" + workload, "/run/runc/" + workload} {
		if _, err := os.Stat(root + left); !os.IsNotExist(err) {
			t.Errorf("%s is left: %v", left, err)
		}
	}
	for _, c := range g.cgroups() {
		if filepath.Base(c) == workload {
			t.Errorf("cgroup %s is left", c)
		}
	}
	again := createRequest(workload, "busybox", "/busybox", "sleep", "1000")
	again.OCI.Annotations = map[string]string{"io.kubernetes.container.terminationMessagePath": "/hello"}
	again.OCI.Linux.Devices = []*pb.LinuxDevice{
		{Path: "/dev/nothing", Type: "c", Major: 1, Minor: 3, FileMode: 0o646, UID: 7, GID: 8},
		{Path: "/dev/foreign", Type: "c", Major: 10, Minor: 229, FileMode: 0o666}, // FUSE, which the guest lacks
	}
	if _, err := g.Agent.CreateContainer(ctx, again); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Agent.StartContainer(ctx, &pb.StartContainerRequest{ContainerId: workload}); err != nil {
		t.Fatal(err)
	}
	if err := g.exec("look", false, "/busybox stat -c '%a %u %g %t,%T' /dev/nothing; echo x >/dev/nothing && echo written; /busybox cat /dev/foreign"); err != nil {
		t.Fatal(err)
	}
	if out := g.read("look", g.Agent.ReadStdout); out != "646 7 8 1,3\nwritten\n" {
		t.Errorf("devices: %q", out)
	}
	if out := g.read("look", g.Agent.ReadStderr); !strings.Contains(out, "Operation not permitted") {
		t.Errorf("a device that the guest lacks: %q", out)
	}
	if r, err := g.Agent.GetDiagnosticData(ctx, &pb.GetDiagnosticDataRequest{LogType: "termination_log", ContainerId: workload}); err != nil || r.Data != "hello\n" {
		t.Errorf("termination log: %v (%v)", r, err)
	}
	g.updates(t)
}

// updates: limits change, and may be taken away.
func (g *guest) updates(t *testing.T) {
	update := func(r *pb.LinuxResources) {
		t.Helper()
		if _, err := g.Agent.UpdateContainer(t.Context(), &pb.UpdateContainerRequest{ContainerId: workload, Resources: r}); err != nil {
			t.Fatal(err)
		}
	}
	limit := func(controller, legacy, unified, want string) {
		t.Helper()
		path := "/sys/fs/cgroup/" + controller + g.cgroup + "/kubepods/podx/" + workload + "/" + legacy
		if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
			path = "/sys/fs/cgroup" + g.cgroup + "/kubepods/podx/" + workload + "/" + unified
			want = map[string]string{"-1": "max 100000"}[want]
		}
		if b, err := os.ReadFile(path); err != nil || want != "" && strings.TrimSpace(string(b)) != want {
			t.Errorf("%s: %s (%v), want %s", path, b, err, want)
		}
	}
	update(&pb.LinuxResources{CPU: &pb.LinuxCPU{Quota: 50000, Period: 100000}, Memory: &pb.LinuxMemory{Limit: 128 << 20, Swap: 128 << 20}})
	limit("cpu", "cpu.cfs_quota_us", "cpu.max", "50000")
	limit("memory", "memory.limit_in_bytes", "memory.max", fmt.Sprint(128<<20))
	if (&Agent{cgroupParent: g.cgroup}).limitsSwap() {
		limit("memory", "memory.memsw.limit_in_bytes", "memory.swap.max", fmt.Sprint(128<<20))
	}
	update(&pb.LinuxResources{CPU: &pb.LinuxCPU{Quota: -1, Period: 100000}})
	limit("cpu", "cpu.cfs_quota_us", "cpu.max", "-1")
}

// A guest image without guest components boots; what needs them fails later.
func TestBootWithoutComponents(t *testing.T) {
	g := startGuest(t, guestPolicy(), func(image string) {
		if err := os.Remove(filepath.Join(image, "usr/local/bin/api-server-rest")); err != nil {
			t.Fatal(err)
		}
	})
	g.sandbox()
	_, err := g.Agent.CreateContainer(t.Context(), createRequest(workload, "busybox", "/busybox", "sleep", "1000"))
	if s := status.Convert(err); s.Code() != codes.Internal || !strings.Contains(s.Message(), "confidential-data-hub") {
		t.Errorf("a pull without a data hub: %v", err)
	}
}
