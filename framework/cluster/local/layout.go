package local

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/containerd/containerd/v2/pkg/cap"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/coco-e2e/coco-e2e/framework/cluster/node"
)

// layOut fills the node's directory: its /var and /etc, and the bundle that
// runc starts.
func (m *machine) layOut() error {
	for _, d := range []string{"bundle", "var", "etc"} {
		if err := os.MkdirAll(m.path(d), 0o755); err != nil {
			return err
		}
	}
	rootfs := m.c.o.Image.Rootfs
	if err := copyTree(filepath.Join(rootfs, "etc"), m.path("etc"), false); err != nil {
		return fmt.Errorf("node's /etc: %w", err)
	}
	if err := copyTree(filepath.Join(rootfs, "var"), m.path("var"), true); err != nil {
		return fmt.Errorf("node's /var: %w", err)
	}
	resolv, err := os.ReadFile("/etc/resolv.conf")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	hosts := "127.0.0.1 localhost\n::1 localhost\n"
	for _, other := range m.c.machines {
		hosts += fmt.Sprintf("%s %s\n", other.ip(), other.state.Name)
	}
	for name, text := range map[string]string{
		"resolv.conf": string(resolv), "hosts": hosts, "hostname": m.state.Name + "\n",
	} {
		if err := os.WriteFile(m.path("etc", name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	b, err := json.Marshal(m.spec())
	if err != nil {
		return err
	}
	return os.WriteFile(m.path("bundle", "config.json"), b, 0o600)
}

// copyTree copies from into to. With share, a file whose content never changes
// once it is in the image (blobs and unpacked layers) is a hard link instead.
func copyTree(from, to string, share bool) error {
	return filepath.WalkDir(from, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, p)
		if err != nil {
			return err
		}
		target := filepath.Join(to, rel)
		info, err := d.Info()
		if err != nil {
			return err
		}
		switch {
		case d.IsDir():
			if err := os.MkdirAll(target, 0o755); err != nil {
				return err
			}
			return os.Chmod(target, info.Mode().Perm())
		case d.Type()&fs.ModeSymlink != 0:
			l, err := os.Readlink(p)
			if err != nil {
				return err
			}
			return os.Symlink(l, target)
		case !d.Type().IsRegular():
			return nil
		case share && !strings.HasSuffix(p, ".db"):
			if err := os.Link(p, target); !errors.Is(err, syscall.EXDEV) {
				return err
			}
		}
		return node.CopyFile(p, target)
	})
}

// spec is the node's OCI runtime specification.
func (m *machine) spec() *specs.Spec {
	caps, err := cap.Current()
	if err != nil {
		caps = nil
	}
	bind := func(from, to string, opts ...string) specs.Mount {
		return specs.Mount{Type: "bind", Source: from, Destination: to, Options: append([]string{"rbind"}, opts...)}
	}
	tmpfs := func(to string, opts ...string) specs.Mount {
		return specs.Mount{Type: "tmpfs", Source: "tmpfs", Destination: to, Options: opts}
	}
	mounts := []specs.Mount{
		{Type: "proc", Source: "proc", Destination: "/proc"},
		tmpfs("/dev", "nosuid", "mode=755"),
		{Type: "devpts", Source: "devpts", Destination: "/dev/pts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		tmpfs("/dev/shm", "nosuid", "nodev", "mode=1777"),
		{Type: "mqueue", Source: "mqueue", Destination: "/dev/mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Type: "sysfs", Source: "sysfs", Destination: "/sys", Options: []string{"nosuid", "noexec", "nodev"}},
		{Type: "cgroup", Source: "cgroup", Destination: "/sys/fs/cgroup", Options: []string{"nosuid", "noexec", "nodev", "rw"}},
		tmpfs("/run", "nosuid", "mode=755"),
		tmpfs("/tmp", "nosuid", "nodev", "mode=1777"),
		tmpfs("/root", "nosuid", "mode=700"),
		tmpfs("/usr/libexec", "nosuid", "mode=755"),
		bind(m.path("var"), "/var", "rw"),
		bind(m.path("etc"), "/etc", "rw"),
	}
	if _, err := os.Stat("/lib/modules"); err == nil {
		mounts = append(mounts, bind("/lib/modules", "/lib/modules", "ro"))
	}
	for _, shown := range m.c.o.Mounts {
		mounts = append(mounts, bind(shown.Source, shown.Target, "ro"))
	}
	return &specs.Spec{
		Version:  "1.0.2",
		Hostname: m.state.Name,
		Root:     &specs.Root{Path: m.c.o.Image.Rootfs, Readonly: true},
		Process: &specs.Process{
			Args:         []string{"/usr/local/bin/entrypoint"},
			Env:          []string{"PATH=/usr/local/sbin:/usr/local/bin:/opt/coco-sim/bin:/usr/sbin:/usr/bin:/sbin:/bin", "KUBECONFIG=/etc/kubernetes/admin.conf", fmt.Sprintf("NODE_INDEX=%d", m.index)},
			Cwd:          "/",
			Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps, Inheritable: caps},
		},
		Mounts: mounts,
		Linux: &specs.Linux{
			CgroupsPath: "/" + cgroupName(m.c.o.Name) + "/" + m.state.Name,
			// The node's first process makes its mounts shared among pods;
			// none may reach this machine.
			RootfsPropagation: "rprivate",
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace},
				{Type: specs.MountNamespace},
				{Type: specs.IPCNamespace},
				{Type: specs.UTSNamespace},
				{Type: specs.NetworkNamespace},
				{Type: specs.CgroupNamespace},
			},
			Devices:   hostDevices(),
			Resources: &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}},
		},
	}
}

// hostDevices are the devices a node needs beyond those that runc makes: the
// kubelet refuses to start without /dev/kmsg.
func hostDevices() []specs.LinuxDevice {
	var out []specs.LinuxDevice
	for _, p := range []string{"/dev/kmsg", "/dev/fuse"} {
		st, err := os.Stat(p)
		if err != nil {
			continue
		}
		rdev := uint64(st.Sys().(*syscall.Stat_t).Rdev)
		out = append(out, specs.LinuxDevice{Path: p, Type: "c", Major: int64(rdev >> 8 & 0xfff), Minor: int64(rdev & 0xff)})
	}
	return out
}

// cgroupName is the cgroup below which every node of a cluster has one.
func cgroupName(cluster string) string { return "coco-e2e-" + cluster }

// removeCgroups removes what is left of the nodes' cgroups, deepest first.
func removeCgroups(name string) error {
	roots, err := filepath.Glob("/sys/fs/cgroup/*/" + name)
	if err != nil {
		return err
	}
	roots = append(roots, "/sys/fs/cgroup/"+name)
	for _, root := range roots {
		var dirs []string
		_ = filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, p)
			}
			return nil
		})
		for i := len(dirs) - 1; i >= 0; i-- {
			if err := syscall.Rmdir(dirs[i]); err != nil && !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("remove cgroup %s: %w", dirs[i], err)
			}
		}
	}
	return nil
}

func readPID(path string) (int, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(b)))
}

// lastOf returns the end of a log for an error text.
func lastOf(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	if len(b) > 1000 {
		b = b[len(b)-1000:]
	}
	return strings.TrimSpace(string(b))
}
