package local

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/containerd/containerd/v2/pkg/cap"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/coco-e2e/coco-e2e/framework/cluster/node"
)

// layOut fills the state directory: the node's /var and /etc, and the bundle
// that runc starts.
func (c *Cluster) layOut() error {
	for _, d := range []string{"bundle", "var", "etc", "runc"} {
		if err := os.MkdirAll(c.path(d), 0o755); err != nil {
			return err
		}
	}
	rootfs := c.o.Image.Rootfs
	if err := copyTree(filepath.Join(rootfs, "etc"), c.path("etc"), false); err != nil {
		return fmt.Errorf("node's /etc: %w", err)
	}
	if err := copyTree(filepath.Join(rootfs, "var"), c.path("var"), true); err != nil {
		return fmt.Errorf("node's /var: %w", err)
	}
	resolv, err := os.ReadFile("/etc/resolv.conf")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	hosts := fmt.Sprintf("127.0.0.1 localhost\n::1 localhost\n%s %s\n", c.state.NodeIP, c.o.Name)
	for name, text := range map[string]string{"resolv.conf": string(resolv), "hosts": hosts, "hostname": c.o.Name + "\n"} {
		if err := os.WriteFile(c.path("etc", name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	b, err := json.Marshal(c.spec())
	if err != nil {
		return err
	}
	return os.WriteFile(c.path("bundle", "config.json"), b, 0o600)
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

// copyLogs copies regular files that can be read, and goes on past others.
func copyLogs(from, to string) error {
	return filepath.WalkDir(from, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !d.Type().IsRegular() {
			return nil
		}
		rel, err := filepath.Rel(from, p)
		if err != nil {
			return err
		}
		target := filepath.Join(to, rel)
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			return err
		}
		return node.CopyFile(p, target)
	})
}

// spec is the node's OCI runtime specification.
func (c *Cluster) spec() *specs.Spec {
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
		bind(c.path("var"), "/var", "rw"),
		bind(c.path("etc"), "/etc", "rw"),
	}
	if _, err := os.Stat("/lib/modules"); err == nil {
		mounts = append(mounts, bind("/lib/modules", "/lib/modules", "ro"))
	}
	for _, m := range c.o.Mounts {
		mounts = append(mounts, bind(m.Source, m.Target, "ro"))
	}
	return &specs.Spec{
		Version:  "1.0.2",
		Hostname: c.o.Name,
		Root:     &specs.Root{Path: c.o.Image.Rootfs, Readonly: true},
		Process: &specs.Process{
			Args:         []string{"/usr/local/bin/entrypoint"},
			Env:          []string{"PATH=/usr/local/sbin:/usr/local/bin:/opt/coco-sim/bin:/usr/sbin:/usr/bin:/sbin:/bin", "KUBECONFIG=/etc/kubernetes/admin.conf"},
			Cwd:          "/",
			Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps, Inheritable: caps},
		},
		Mounts: mounts,
		Linux: &specs.Linux{
			CgroupsPath: "/" + cgroupName(c.o.Name),
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

func cgroupName(cluster string) string { return "coco-e2e-" + cluster }

// removeCgroups removes what is left of the node's cgroups, deepest first.
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

// interfaceName is this machine's end of the link to the node: at most 15
// bytes, told apart by the cluster's name.
func interfaceName(cluster string) string {
	sum := sha256.Sum256([]byte(cluster))
	return "ccoe2e-" + hex.EncodeToString(sum[:4])
}

// freeSubnet chooses a /30 that no interface or route of this machine touches.
func freeSubnet() (gateway, node string, err error) {
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return "", "", fmt.Errorf("list routes: %w", err)
	}
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		return "", "", fmt.Errorf("list addresses: %w", err)
	}
	for i := range 64 {
		base := net.IPv4(10, 99, 0, byte(i*4)).To4()
		taken := false
		for _, r := range routes {
			if ones := 0; r.Dst != nil {
				ones, _ = r.Dst.Mask.Size()
				taken = taken || ones > 0 && r.Dst.Contains(base)
			}
		}
		for _, a := range addrs {
			taken = taken || a.IPNet != nil && a.Contains(base)
		}
		if !taken {
			return net.IPv4(10, 99, 0, byte(i*4+1)).String(), net.IPv4(10, 99, 0, byte(i*4+2)).String(), nil
		}
	}
	return "", "", errors.New("no free /30 in 10.99.0.0/24 for the link to the node: remove clusters with `make down`, or free that range")
}

// link joins the node's network namespace to this machine with a veth pair.
func (c *Cluster) link() error {
	if err := unlink(c.state.Interface); err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = c.state.Interface
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsPid(c.state.PID)}
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("veth %s: %w", attrs.Name, err)
	}
	host, err := netlink.LinkByName(attrs.Name)
	if err != nil {
		return err
	}
	if err := addressAndUp(&netlink.Handle{}, host, c.state.Gateway); err != nil {
		return err
	}
	ns, err := netns.GetFromPid(c.state.PID)
	if err != nil {
		return err
	}
	defer ns.Close()
	h, err := netlink.NewHandleAt(ns)
	if err != nil {
		return err
	}
	defer h.Close()
	eth0, err := h.LinkByName("eth0")
	if err != nil {
		return err
	}
	if err := addressAndUp(h, eth0, c.state.NodeIP); err != nil {
		return err
	}
	return h.RouteAdd(&netlink.Route{LinkIndex: eth0.Attrs().Index, Gw: net.ParseIP(c.state.Gateway)})
}

func addressAndUp(h *netlink.Handle, l netlink.Link, ip string) error {
	addr, err := netlink.ParseAddr(ip + "/30")
	if err != nil {
		return err
	}
	if err := h.AddrAdd(l, addr); err != nil {
		return fmt.Errorf("address %s on %s: %w", ip, l.Attrs().Name, err)
	}
	return h.LinkSetUp(l)
}

// unlink removes the link; the other end goes with it.
func unlink(name string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		if errors.As(err, &netlink.LinkNotFoundError{}) {
			return nil
		}
		return err
	}
	return netlink.LinkDel(l)
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
