package node

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// preload writes the control plane's images and imports them into what will
// be the node's content store: the store is only files, so no node has to run.
func (b *Builder) preload(ctx context.Context, img *Image) error {
	work, err := os.MkdirTemp(filepath.Dir(img.Rootfs), "images-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	archive := filepath.Join(work, "images.tar")
	if err := writeImages(img, archive); err != nil {
		return err
	}
	return importImages(ctx, img, work, archive)
}

// writeImages makes one archive of all images. The Kubernetes programs are one
// binary, so their images are one layer that the store keeps once.
func writeImages(img *Image, archive string) error {
	kube, err := layer(img, map[string]string{"kube": "usr/local/bin/kube"},
		map[string]string{"kube-apiserver": "kube", "kube-controller-manager": "kube", "kube-scheduler": "kube", "kube-proxy": "kube"}, "")
	if err != nil {
		return err
	}
	nftRoot := filepath.Join(filepath.Dir(archive), "nft")
	if err := CopyWithLibraries(nft, nftRoot); err != nil {
		return err
	}
	nft, err := layer(img, nil, nil, nftRoot)
	if err != nil {
		return err
	}
	single := func(program, to string) (v1.Layer, error) {
		return layer(img, map[string]string{program: to}, nil, "")
	}
	etcd, err := single("etcd", "usr/local/bin/etcd")
	if err != nil {
		return err
	}
	coredns, err := single("coredns", "coredns")
	if err != nil {
		return err
	}
	pause, err := single("pause", "pause")
	if err != nil {
		return err
	}
	k8s := func(n string) string { return "registry.k8s.io/" + n + ":" + KubernetesVersion }
	images := map[name.Reference]v1.Image{}
	for ref, what := range map[string]struct {
		layers     []v1.Layer
		entrypoint []string
	}{
		k8s("kube-apiserver"):          {[]v1.Layer{kube}, nil},
		k8s("kube-controller-manager"): {[]v1.Layer{kube}, nil},
		k8s("kube-scheduler"):          {[]v1.Layer{kube}, nil},
		k8s("kube-proxy"):              {[]v1.Layer{kube, nft}, nil},
		etcdImage:                      {[]v1.Layer{etcd}, nil},
		corednsImage:                   {[]v1.Layer{coredns}, []string{"/coredns"}},
		pauseImage:                     {[]v1.Layer{pause}, []string{"/pause"}},
	} {
		i, err := mutate.AppendLayers(empty.Image, what.layers...)
		if err != nil {
			return err
		}
		if i, err = mutate.ConfigFile(i, configOf(i, what.entrypoint)); err != nil {
			return err
		}
		tag, err := name.NewTag(ref)
		if err != nil {
			return err
		}
		images[tag] = i
	}
	return tarball.MultiRefWriteToFile(archive, images)
}

func configOf(i v1.Image, entrypoint []string) *v1.ConfigFile {
	c, err := i.ConfigFile()
	if err != nil {
		panic(err) // an image made in memory has a config
	}
	c = c.DeepCopy()
	c.OS, c.Architecture = "linux", "amd64"
	c.Config.Entrypoint = entrypoint
	c.Config.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	return c
}

// layer packs programs of the image, links beside them and a whole tree into
// one layer file next to the archive.
func layer(img *Image, programs, links map[string]string, tree string) (v1.Layer, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	add := func(from, to string) error {
		f, err := os.Open(from)
		if err != nil {
			return err
		}
		defer f.Close()
		st, err := f.Stat()
		if err != nil {
			return err
		}
		if err := w.WriteHeader(&tar.Header{Name: to, Mode: 0o755, Size: st.Size()}); err != nil {
			return err
		}
		_, err = io.Copy(w, f)
		return err
	}
	for program, to := range programs {
		if err := add(filepath.Join(img.Bin, program), to); err != nil {
			return nil, err
		}
	}
	for link, to := range links {
		if err := w.WriteHeader(&tar.Header{Name: "usr/local/bin/" + link, Linkname: to, Typeflag: tar.TypeSymlink, Mode: 0o777}); err != nil {
			return nil, err
		}
	}
	if tree != "" {
		if err := filepath.WalkDir(tree, func(p string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			rel, err := filepath.Rel(tree, p)
			if err != nil {
				return err
			}
			return add(p, rel)
		}); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	content := buf.Bytes()
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil },
		tarball.WithCompressionLevel(1))
}

// importImages runs a containerd of its own whose root is the image's
// /var/lib/containerd, imports and unpacks the archive, and stops it.
func importImages(ctx context.Context, img *Image, work, archive string) error {
	root, state := filepath.Join(img.Rootfs, "var/lib/containerd"), filepath.Join(work, "state")
	config, socket := filepath.Join(work, "config.toml"), filepath.Join(work, "c.sock")
	text := fmt.Sprintf(`version = 3
root = %q
state = %q
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.nri.v1.nri"]
[grpc]
  address = %q
`, root, state, socket)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return err
	}
	logFile, err := os.Create(filepath.Join(work, "containerd.log"))
	if err != nil {
		return err
	}
	defer logFile.Close()
	daemon := exec.Command(filepath.Join(img.Bin, "containerd"), "-c", config)
	daemon.Stdout, daemon.Stderr = logFile, logFile
	daemon.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := daemon.Start(); err != nil {
		return err
	}
	exited := make(chan error, 1)
	go func() { exited <- daemon.Wait() }()
	defer func() {
		_ = daemon.Process.Signal(syscall.SIGTERM)
		select {
		case <-exited:
		case <-time.After(10 * time.Second):
			_ = daemon.Process.Kill()
			<-exited
		}
		removeSockets(root)
	}()
	if err := waitSocket(ctx, socket, exited); err != nil {
		return fmt.Errorf("private containerd: %w", err)
	}
	cmd := exec.CommandContext(ctx, filepath.Join(img.Bin, "ctr"), "-a", socket, "-n", "k8s.io", "images", "import",
		"--label", "io.cri-containerd.pinned=pinned", "--snapshotter", "overlayfs", archive)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("ctr images import: %w: %s", err, tail(string(out), 1000))
	}
	return nil
}

func waitSocket(ctx context.Context, socket string, exited <-chan error) error {
	t := time.NewTicker(20 * time.Millisecond)
	defer t.Stop()
	for {
		if c, err := net.Dial("unix", socket); err == nil {
			return c.Close()
		}
		select {
		case <-t.C:
		case err := <-exited:
			return fmt.Errorf("exited: %v", err)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func removeSockets(root string) {
	_ = filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.Type()&fs.ModeSocket != 0 {
			return os.Remove(p)
		}
		return nil
	})
}

// lock takes an exclusive lock on path and returns what releases it.
func lock(path string) (func(), error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}
