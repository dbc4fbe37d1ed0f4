package sandbox

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/coco-e2e/coco-e2e/framework/agentapi/agentpb"
	"github.com/coco-e2e/coco-e2e/simulators/shim/stubvm"
)

// container is one in a sandbox whose agent is a stub.
func container(t *testing.T, mounts ...specs.Mount) (*Container, *stubvm.VM) {
	t.Helper()
	vm := stubvm.Start(t)
	agent, err := dialAgent(t.Context(), vm.AgentSocket, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { agent.client.Close() })
	s := &Sandbox{agent: agent, stopped: make(chan struct{}), options: Options{ID: "pod", Config: testConfig()}}
	s.options.Config.KubeletRootDir = filepath.Join(t.TempDir(), "kubelet")
	return &Container{sandbox: s, options: ContainerOptions{ID: "c", Spec: &specs.Spec{Mounts: mounts}}}, vm
}

// copies are the CopyFile requests in short: path below the shared directory without the random part, mode, size,
// offset and length of data.
func copies(vm *stubvm.VM) (out []string) {
	for _, call := range vm.Calls() {
		if r, ok := call.Message.(*agentpb.CopyFileRequest); ok {
			name := strings.TrimPrefix(r.Path, guestSharedDir+"/c-")
			name = name[strings.Index(name, "-")+1:]
			out = append(out, fmt.Sprintf("%s %o %d+%d/%d", name, r.FileMode, r.Offset, len(r.Data), r.FileSize))
		}
	}
	return out
}

func write(t *testing.T, name string, content []byte, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, content, mode); err != nil {
		t.Fatal(err)
	}
}

func bind(source, destination string) specs.Mount {
	return specs.Mount{Source: source, Destination: destination, Type: "bind", Options: []string{"rbind"}}
}

// TestCopiedVolumes: a directory before its contents in order, links as links, large files in chunks of 1 MiB
// (recorded: 2.5 MiB in 3 requests), nothing of sockets and devices.
func TestCopiedVolumes(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "conf/b"), nil, 0o440)
	write(t, filepath.Join(dir, "conf/a/deep"), []byte("x"), 0o644)
	write(t, filepath.Join(dir, "big"), bytes.Repeat([]byte{1}, 5<<19), 0o600)
	if err := os.Symlink("a/deep", filepath.Join(dir, "conf/link")); err != nil {
		t.Fatal(err)
	}
	socket, err := net.Listen("unix", filepath.Join(dir, "conf/socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	c, vm := container(
		t, bind(filepath.Join(dir, "conf"), "/etc/conf.d"), bind(filepath.Join(dir, "big"), "/big"),
		bind("/dev/null", "/dev/nothing"), bind(filepath.Join(dir, "conf/socket"), "/socket"), bind("/proc/self", "/p"),
	)
	storages, _, err := c.volumes(t.Context())
	if err != nil || len(storages) != 0 {
		t.Fatalf("%v, storages %v", err, storages)
	}
	want := []string{
		"conf.d 40755 0+0/0", "conf.d/a 40755 0+0/0", "conf.d/a/deep 100644 0+1/1", "conf.d/b 100440 0+0/0",
		"conf.d/link 120777 0+6/0", "big 100600 0+1048576/2621440", "big 100600 1048576+1048576/2621440",
		"big 100600 2097152+524288/2621440",
	}
	if got := copies(vm); !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	mounts := c.options.Spec.Mounts
	if !strings.HasPrefix(mounts[0].Source, guestSharedDir+"/c-") || !strings.HasSuffix(mounts[0].Source, "-conf.d") {
		t.Errorf("mount %v", mounts[0])
	}
	for i, source := range map[int]string{2: "/dev/null", 3: filepath.Join(dir, "conf/socket"), 4: "/proc/self"} {
		if mounts[i].Source != source {
			t.Errorf("mount %v, want source %s", mounts[i], source)
		}
	}
}

func TestBlockDevices(t *testing.T) {
	for kind, refused := range map[string]bool{"b": true, "c": false} {
		c, vm := container(t)
		c.options.Spec.Linux = &specs.Linux{Devices: []specs.LinuxDevice{{Path: "/dev/xvda", Type: kind, Major: 202}}}
		_, _, err := c.volumes(t.Context())
		if (err != nil) != refused || refused && !strings.Contains(err.Error(), "block device /dev/xvda of container c: ") {
			t.Errorf("type %s: got %v, want refused %t", kind, err, refused)
		}
		if n := len(vm.Calls()); n > 0 {
			t.Errorf("type %s: %d calls to the agent", kind, n)
		}
	}
}

func TestEmptyDir(t *testing.T) {
	source := filepath.Join(t.TempDir(), "volumes/kubernetes.io~empty-dir/scratch")
	if err := os.MkdirAll(source, 0o777); err != nil {
		t.Fatal(err)
	}
	wantLocal := []string{"mode=0777"}
	if os.Chown(source, -1, 2000) == nil { // needs root
		wantLocal = append(wantLocal, "fsgid=2000")
	}
	memory := filepath.Join(t.TempDir(), "volumes/kubernetes.io~empty-dir/ram")
	if err := os.MkdirAll(memory, 0o777); err != nil {
		t.Fatal(err)
	}
	mounted := unix.Mount("tmpfs", memory, "tmpfs", 0, "size=4k,gid=2000") == nil // needs root
	if mounted {
		t.Cleanup(func() { _ = unix.Unmount(memory, 0) })
	}
	c, vm := container(t, bind(source, "/scratch"), bind(memory, "/ram"), specs.Mount{Destination: "/dev/shm", Type: "bind", Source: "/x", Options: []string{"rbind", "ro"}})
	storages, _, err := c.volumes(t.Context())
	if err != nil || len(storages) != 2 || len(vm.Calls()) > 0 {
		t.Fatalf("%v, storages %v, calls %v", err, storages, vm.Methods())
	}
	local := storages[len(storages)-1]
	if !mounted {
		local = storages[0]
	}
	if local.Driver != "local" || local.Source != "local" || local.Fstype != "local" || !slices.Equal(local.Options, wantLocal) ||
		local.MountPoint != "/run/kata-containers/shared/containers/pod/rootfs/local/scratch" {
		t.Errorf("local storage %v", local)
	}
	mounts := c.options.Spec.Mounts
	if mounts[0].Type != "local" || mounts[0].Source != local.MountPoint {
		t.Errorf("mount %v", mounts[0])
	}
	if shm := mounts[2]; shm.Source != "/run/kata-containers/sandbox/shm" || !slices.Equal(shm.Options, []string{"rbind"}) {
		t.Errorf("shm %v", shm)
	}
	if !mounted {
		t.Skip("no right to mount a tmpfs")
	}
	if ram := storages[0]; ram.Driver != "ephemeral" || ram.Source != "tmpfs" || ram.Fstype != "tmpfs" ||
		!slices.Equal(ram.Options, []string{"fsgid=2000"}) || ram.MountPoint != "/run/kata-containers/sandbox/ephemeral/ram" {
		t.Errorf("memory storage %v", ram)
	}
	if mounts[1].Type != "bind" || mounts[1].Source != "/run/kata-containers/sandbox/ephemeral/ram" {
		t.Errorf("mount %v", mounts[1])
	}
}

// TestUpdatedVolume changes a ConfigMap as the kubelet does: new directory, renamed link, link of the new key.
func TestUpdatedVolume(t *testing.T) {
	c, vm := container(t)
	source := filepath.Join(c.sandbox.options.Config.KubeletRootDir, "pods/uid/volumes/kubernetes.io~configmap/cm")
	c.options.Spec.Mounts = []specs.Mount{bind(source, "/etc/cm")}
	link := func(target, name string) {
		t.Helper()
		if err := os.Symlink(target, filepath.Join(source, name)); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(source, "..1/key"), []byte("old"), 0o644)
	link("..1", "..data")
	link("..data/key", "key")
	_, watches, err := c.volumes(t.Context())
	if err != nil || len(watches) != 1 {
		t.Fatalf("%v, watches %v", err, watches)
	}
	// Another container of the pod has the same volume.
	second := watches[0]
	second.guest = guestSharedDir + "/second-0123456789abcdef-cm"
	go c.sandbox.keepCopied([]watch{watches[0], second})
	write(t, filepath.Join(source, "..2/key"), []byte("newer"), 0o644)
	link("..2", "..data_tmp")
	if err := os.Rename(filepath.Join(source, "..data_tmp"), filepath.Join(source, "..data")); err != nil {
		t.Fatal(err)
	}
	link("..data/other", "other")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for ticker := time.NewTicker(5 * time.Millisecond); ; <-ticker.C {
		got := copies(vm)
		news := strings.Contains(strings.Join(got, "\n"), "/second-0123456789abcdef-cm/other 120777 0+12/0")
		if slices.Contains(got, "cm/..2/key 100644 0+5/5") && slices.Contains(got, "cm/..data 120777 0+3/0") && slices.Contains(got, "cm/other 120777 0+12/0") && news {
			break
		}
		if ctx.Err() != nil {
			t.Fatalf("copied:\n%s", strings.Join(got, "\n"))
		}
	}
	close(c.sandbox.stopped)
}

func TestUpdatedVolumeKinds(t *testing.T) {
	c, _ := container(t)
	root := c.sandbox.options.Config.KubeletRootDir
	for path, want := range map[string]bool{
		"pods/u/volumes/kubernetes.io~secret/s":        true,
		"pods/u/volumes/kubernetes.io~projected/p":     true,
		"pods/u/volumes/kubernetes.io~downward-api/d":  true,
		"pods/u/volumes/kubernetes.io~host-path/h":     false,
		"pods/u/volumes/kubernetes.io~configmap/c/sub": false,
		"pods/u/volume-subpaths/c/main/0":              false,
		"elsewhere/volumes/kubernetes.io~secret/s":     false,
	} {
		if got := c.updated(filepath.Join(root, path)); got != want {
			t.Errorf("%s: %v", path, got)
		}
	}
}
