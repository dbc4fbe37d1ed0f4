// Package node builds the node image: a root file system that kubeadm can turn
// into a Kubernetes node, made of Go modules (pinned in programs/go.mod) and
// Debian's packages, without a container engine or an image registry.
//
// The local provider runs it with runc, kind as a node image. This package
// must not know either of them, nor anything of confidential computing.
package node

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/coco-e2e/coco-e2e/framework/progress"
	"github.com/coco-e2e/coco-e2e/manifests"
)

// KubernetesVersion is the version of every Kubernetes program in the image.
const KubernetesVersion = "v1.37.2"

// builderVersion changes when the layout of the image does.
const builderVersion = "3"

// Names and tags under which kubeadm of KubernetesVersion asks for images
// (`kubeadm config images list`); etcd's and CoreDNS's programs are those of
// programs/go.mod.
const (
	etcdImage    = "registry.k8s.io/etcd:3.7.0-0"
	pauseImage   = "registry.k8s.io/pause:3.10.2"
	corednsImage = "registry.k8s.io/coredns/coredns:v1.14.6"
)

// nft is taken from the machine with the libraries that it loads, and so is runc.
const nft = "/usr/sbin/nft"

// Runc finds the machine's runc: Debian's package has it in /usr/sbin, Docker's
// containerd.io in /usr/bin.
func Runc() (string, error) {
	path, err := exec.LookPath("runc")
	if err != nil {
		return "", fmt.Errorf("no runc in PATH: run scripts/prerequisites, or apt-get install runc: %w", err)
	}
	return filepath.Abs(path)
}

// CopyRunc copies the machine's runc with its libraries into root, as /usr/sbin/runc.
func CopyRunc(root string) error {
	path, err := Runc()
	if err != nil {
		return err
	}
	if err := CopyWithLibraries(path, root); err != nil {
		return err
	}
	to := filepath.Join(root, "usr/sbin/runc")
	if from := filepath.Join(root, path); from != to {
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		return os.Rename(from, to)
	}
	return nil
}

// Busybox is Debian's static build (package busybox-static).
const Busybox = "/bin/busybox"

// Image is a built node image.
type Image struct {
	// Rootfs is the directory that becomes a node's root. It is shared by
	// all nodes of all runs and must be mounted read-only.
	Rootfs string
	// Bin holds the programs of the image as files of this machine.
	Bin string
	// Key names the image by what it was made of.
	Key string
}

// Builder builds the image into a cache, once per set of ingredients.
type Builder struct {
	// Source is the directory framework/cluster/node/programs of a checkout.
	Source string
	// Cache is the directory that keeps built images, one folder per Key.
	Cache string
	// Progress is told what goes on; nil is silent.
	Progress *progress.Log
}

// Build returns the image, from the cache when it is there. The first build
// compiles Kubernetes, which takes several minutes.
func (b *Builder) Build(ctx context.Context) (*Image, error) {
	for _, p := range []string{Busybox, nft} {
		if _, err := os.Stat(p); err != nil {
			return nil, fmt.Errorf("node image: %s is missing: run scripts/prerequisites, or apt-get install nftables busybox-static", p)
		}
	}
	key, err := b.key()
	if err != nil {
		return nil, fmt.Errorf("node image: %w", err)
	}
	if err := os.MkdirAll(b.Cache, 0o755); err != nil {
		return nil, err
	}
	// runc takes no root that is behind a symbolic link.
	cache, err := filepath.EvalSymlinks(b.Cache)
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(cache, key)
	img := &Image{Rootfs: filepath.Join(dir, "rootfs"), Bin: filepath.Join(dir, "bin"), Key: key}
	if _, err := os.Stat(filepath.Join(dir, "complete")); err == nil {
		return img, nil
	}
	unlock, err := lock(filepath.Join(cache, "lock"))
	if err != nil {
		return nil, err
	}
	defer unlock()
	if _, err := os.Stat(filepath.Join(dir, "complete")); err == nil {
		return img, nil // another run built it meanwhile
	}
	if err := os.RemoveAll(dir); err != nil {
		return nil, err
	}
	if err := b.build(ctx, img); err != nil {
		return nil, fmt.Errorf("node image: %w", err)
	}
	return img, os.WriteFile(filepath.Join(dir, "complete"), []byte(key+"\n"), 0o644)
}

func (b *Builder) build(ctx context.Context, img *Image) error {
	for _, d := range []string{img.Bin, img.Rootfs} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	if err := b.Progress.Do("node image: compiling Kubernetes "+KubernetesVersion+", containerd, etcd and CoreDNS (first run only; about 8 minutes on two cores)", func() error {
		return b.compile(ctx, img.Bin)
	}); err != nil {
		return err
	}
	if err := b.Progress.Do("node image: root file system", func() error { return assemble(img) }); err != nil {
		return err
	}
	return b.Progress.Do("node image: control-plane images", func() error { return b.preload(ctx, img) })
}

// programs maps package to program name, as `go build` names it.
var programs = []string{
	"./kube", "./etcd", "./coredns", "./pause",
	"github.com/containerd/containerd/v2/cmd/containerd",
	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
	"github.com/containerd/containerd/v2/cmd/ctr",
	"github.com/containernetworking/plugins/plugins/ipam/host-local",
	"github.com/containernetworking/plugins/plugins/main/loopback",
	"github.com/containernetworking/plugins/plugins/main/ptp",
	"github.com/containernetworking/plugins/plugins/meta/portmap",
}

func (b *Builder) compile(ctx context.Context, out string) error {
	// Without a version every node reports v0.0.0-master.
	parts := strings.SplitN(strings.TrimPrefix(KubernetesVersion, "v"), ".", 3)
	ld := []string{"-s", "-w"}
	for _, pkg := range []string{"k8s.io/component-base/version", "k8s.io/client-go/pkg/version"} {
		for _, v := range []string{
			"gitVersion=" + KubernetesVersion, "gitMajor=" + parts[0], "gitMinor=" + parts[1], "gitTreeState=clean",
			"gitCommit=" + strings.Repeat("0", 40), "buildDate=2026-01-01T00:00:00Z",
		} {
			ld = append(ld, "-X", pkg+"."+v)
		}
	}
	args := []string{"build", "-trimpath", "-buildvcs=false", "-tags", "no_btrfs,no_devmapper,no_zfs", "-ldflags", strings.Join(ld, " "), "-o", out + "/"}
	cmd := exec.CommandContext(ctx, "go", append(args, programs...)...)
	cmd.Dir = b.Source
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off")
	var stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stderr, &stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("go build in %s: %w\n%s", b.Source, err, tail(stderr.String(), 2000))
	}
	return nil
}

// assemble lays out the root file system but for containerd's content store.
func assemble(img *Image) error {
	r := img.Rootfs
	for _, d := range []string{
		"bin", "dev", "etc/cni/net.d", "etc/containerd/conf.d", "etc/containerd/certs.d", "etc/kubernetes/manifests", "etc/coco-sim", "kind",
		"lib/modules", "opt/cni/bin", "opt/coco-sim", "opt/kata", "proc", "root", "run", "sys", "tmp", "usr/bin", "usr/libexec/kubernetes", "usr/local/bin",
		"usr/local/sbin", "usr/sbin", "var/lib/kubelet", "var/log",
	} {
		if err := os.MkdirAll(filepath.Join(r, d), 0o755); err != nil {
			return err
		}
	}
	if err := os.Chmod(filepath.Join(r, "tmp"), 0o1777); err != nil {
		return err
	}
	files := map[string]string{
		"etc/passwd":        "root:x:0:0:root:/root:/bin/sh\n",
		"etc/group":         "root:x:0:\n",
		"etc/hosts":         "127.0.0.1 localhost\n::1 localhost\n",
		"etc/nsswitch.conf": "hosts: files dns\n",
		"etc/os-release":    "PRETTY_NAME=\"coco-e2e node (busybox)\"\nID=busybox\n",
		"etc/resolv.conf":   "",
		"etc/machine-id":    "",
		"kind/version":      KubernetesVersion + "\n",
		"etc/ld.so.conf":    "/lib/x86_64-linux-gnu\n/usr/lib/x86_64-linux-gnu\n",
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(r, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	for name, to := range map[string]string{"containerd.toml": "etc/containerd/config.toml", "10-node.conflist": "etc/cni/10-node.conflist.in"} {
		if err := os.WriteFile(filepath.Join(r, to), manifests.Read("node/"+name), 0o644); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(r, "usr/local/bin/entrypoint"), manifests.Read("node/entrypoint"), 0o755); err != nil {
		return err
	}
	if err := installBusybox(r); err != nil {
		return err
	}
	return installPrograms(img)
}

func installBusybox(r string) error {
	if err := CopyFile(Busybox, filepath.Join(r, "bin/busybox")); err != nil {
		return err
	}
	list, err := exec.Command(Busybox, "--list").Output()
	if err != nil {
		return fmt.Errorf("%s --list: %w", Busybox, err)
	}
	for _, applet := range strings.Fields(string(list)) {
		if applet == "busybox" {
			continue
		}
		if err := os.Symlink("busybox", filepath.Join(r, "bin", applet)); err != nil {
			return err
		}
	}
	return nil
}

// kubePrograms are the names by which the kube program is called.
var kubePrograms = []string{"kubeadm", "kubectl", "kubelet"}

func installPrograms(img *Image) error {
	r := img.Rootfs
	place := map[string]string{
		"kube": "usr/bin/kube", "containerd": "usr/local/bin/containerd", "containerd-shim-runc-v2": "usr/local/bin/containerd-shim-runc-v2",
		"ctr": "usr/local/bin/ctr", "ptp": "opt/cni/bin/ptp", "loopback": "opt/cni/bin/loopback", "host-local": "opt/cni/bin/host-local",
		"portmap": "opt/cni/bin/portmap",
	}
	for name, to := range place {
		if err := os.Link(filepath.Join(img.Bin, name), filepath.Join(r, to)); err != nil {
			return err
		}
	}
	for _, n := range kubePrograms {
		if err := os.Symlink("kube", filepath.Join(r, "usr/bin", n)); err != nil {
			return err
		}
	}
	return errors.Join(CopyRunc(r), CopyWithLibraries(nft, r))
}

// CopyWithLibraries copies the program at path and the shared libraries that
// ldd names for it into root, each under the path it has on this machine.
func CopyWithLibraries(path, root string) error {
	out, err := exec.Command("ldd", path).CombinedOutput()
	if err != nil && !strings.Contains(string(out), "not a dynamic executable") {
		return fmt.Errorf("ldd %s: %w: %s", path, err, out)
	}
	files := []string{path}
	for _, f := range strings.Fields(string(out)) {
		if strings.HasPrefix(f, "/") {
			files = append(files, strings.TrimSuffix(f, ":"))
		}
	}
	for _, f := range files {
		to := filepath.Join(root, f)
		if _, err := os.Stat(to); err == nil {
			continue
		}
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		if err := CopyFile(f, to); err != nil {
			return err
		}
	}
	return nil
}

// CopyFile copies a regular file with its permissions.
func CopyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	st, err := in.Stat()
	if err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, st.Mode().Perm())
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}

// key digests everything that the image is made of.
func (b *Builder) key() (string, error) {
	h := sha256.New()
	fmt.Fprintf(h, "builder %s\n%s %s\n", builderVersion, runtime.Version(), runtime.GOARCH)
	err := filepath.WalkDir(b.Source, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		return hashFile(h, b.Source, p)
	})
	if err != nil {
		return "", fmt.Errorf("sources %s: %w", b.Source, err)
	}
	for _, f := range []string{"node/entrypoint", "node/containerd.toml", "node/10-node.conflist"} {
		fmt.Fprintf(h, "%s %x\n", f, sha256.Sum256(manifests.Read(f)))
	}
	runc, err := Runc()
	if err != nil {
		return "", err
	}
	for _, p := range []string{Busybox, runc, nft} {
		if err := hashFile(h, "/", p); err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(h.Sum(nil))[:16], nil
}

func hashFile(h io.Writer, root, p string) error {
	f, err := os.Open(p)
	if err != nil {
		return err
	}
	defer f.Close()
	rel, err := filepath.Rel(root, p)
	if err != nil {
		return err
	}
	s := sha256.New()
	if _, err := io.Copy(s, f); err != nil {
		return err
	}
	_, err = fmt.Fprintf(h, "%s %x\n", rel, s.Sum(nil))
	return err
}

func tail(s string, n int) string {
	if len(s) > n {
		return "…" + s[len(s)-n:]
	}
	return s
}
