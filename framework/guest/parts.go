package guest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/coco-e2e/coco-e2e/framework/cluster/node"
)

// ShellImage is the image that a lone guest can pull: busybox with a few of its
// applets' names in /bin.
const ShellImage = "coco-e2e.local/shell:dev"

// busybox is Debian's static build (package busybox-static).
const busybox = "/bin/busybox"

// applets are the names that busybox has in ShellImage.
var applets = []string{"sh", "cat", "echo", "sleep", "ls", "stat", "hostname", "stty", "kill", "find", "tr", "whoami"}

// Parts is what Build built. It may be handed to other processes as JSON.
type Parts struct {
	// Dir has the daemon, the TEE and the guest image; see Compile.
	Dir string
	// Registry is the program that serves images.
	Registry string
	// Layout is the OCI layout with ShellImage.
	Layout string
}

// Build compiles what a lone guest needs from the checkout at root and puts it
// into dir, which the caller removes. cache keeps what the next build can use
// again; builds with the same cache wait for each other.
func Build(ctx context.Context, root, cache, dir string) (Parts, error) {
	p := Parts{Dir: filepath.Join(dir, "opt"), Registry: filepath.Join(dir, "registry"), Layout: filepath.Join(dir, "images")}
	if os.Getuid() != 0 {
		return p, errors.New("a lone guest needs namespaces, mounts and cgroups: run as root")
	}
	if _, err := os.Stat(busybox); err != nil {
		return p, fmt.Errorf("%w: run scripts/prerequisites, or apt-get install busybox-static", err)
	}
	if _, err := node.Runc(); err != nil {
		return p, err
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return p, fmt.Errorf("cache: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(cache, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return p, fmt.Errorf("cache: %w", err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return p, fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	if err := build(ctx, root, cache); err != nil {
		return p, fmt.Errorf("build a lone guest: %w", err)
	}
	if err := Snapshot(filepath.Join(cache, "opt"), p.Dir); err != nil {
		return p, err
	}
	if err := Snapshot(filepath.Join(cache, "bin"), dir); err != nil {
		return p, err
	}
	return p, p.writeImages(ctx)
}

func build(ctx context.Context, root, cache string) error {
	opt, registry, pause := filepath.Join(cache, "opt"), filepath.Join(cache, "bin/registry"), filepath.Join(cache, "pause")
	if err := Compile(ctx, root, opt); err != nil {
		return err
	}
	if err := Static(ctx, root, registry, "./simulators/registry/cmd"); err != nil {
		return err
	}
	// The node's programs are a module of their own; pause needs nothing of it.
	if err := Static(ctx, filepath.Join(root, "framework/cluster/node/programs"), pause, "./pause"); err != nil {
		return err
	}
	return WriteImage(ctx, opt, registry, pause)
}

// writeImages makes the layout: the archive of an image is one, packed.
func (p Parts) writeImages(ctx context.Context) error {
	archive := p.Layout + ".tar"
	args := []string{p.Registry, "archive", "--out", archive, "--reference", ShellImage, "--binary", busybox + ":/bin/busybox", "--entrypoint", "/bin/sh"}
	for _, a := range applets {
		args = append(args, "--link", "/bin/"+a+":busybox")
	}
	if err := run(ctx, args...); err != nil {
		return err
	}
	if err := os.Mkdir(p.Layout, 0o755); err != nil {
		return err
	}
	if err := run(ctx, "tar", "-xf", archive, "-C", p.Layout); err != nil {
		return err
	}
	return os.Remove(archive)
}

// DefaultCache is where builds are kept: below COCO_E2E_CACHE, or the user's cache directory.
func DefaultCache() (string, error) {
	dir := os.Getenv("COCO_E2E_CACHE")
	if dir == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return "", fmt.Errorf("no cache directory: %w; set COCO_E2E_CACHE", err)
		}
		dir = filepath.Join(user, "coco-e2e")
	}
	return filepath.Abs(filepath.Join(dir, "guest"))
}
