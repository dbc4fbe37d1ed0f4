package guest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/coco-e2e/coco-e2e/framework/cluster/node"
	"github.com/coco-e2e/coco-e2e/manifests"
)

// Where Compile and WriteImage put things, below the directory that they are given.
const (
	// Rootfs is the guest image's root.
	Rootfs = "guest/rootfs"
	// VMDaemon serves the remote-hypervisor protocol.
	VMDaemon = "bin/podvm"
	// TEE is the program that is one hardware root of trust.
	TEE = "bin/tee"
)

// OverlayVariable is the environment variable with a file for `go build
// -overlay`, by which programs are built from other sources than the
// checkout's. Unset or empty: from the checkout's.
const OverlayVariable = "COCO_E2E_OVERLAY"

// inGuest names each of the guest's programs and the path below Rootfs where it is put.
var inGuest = map[string]string{
	"./simulators/agent/cmd":                       "usr/bin/kata-agent",
	"./simulators/guest/cmd/attestation-agent":     "usr/local/bin/attestation-agent",
	"./simulators/guest/cmd/confidential-data-hub": "usr/local/bin/confidential-data-hub",
	"./simulators/guest/cmd/api-server-rest":       "usr/local/bin/api-server-rest",
}

// compiledDirs hold nothing but what the compiler put there.
var compiledDirs = []string{"bin", Rootfs + "/usr/bin", Rootfs + "/usr/local/bin"}

// Compile builds the pod VM daemon, the TEE and the guest's programs from the
// checkout at root into dir.
func Compile(ctx context.Context, root, dir string) error {
	if err := Static(ctx, root, filepath.Join(dir, VMDaemon), "./simulators/podvm/cmd"); err != nil {
		return err
	}
	for pkg, to := range inGuest {
		if err := Static(ctx, root, filepath.Join(dir, Rootfs, to), pkg); err != nil {
			return err
		}
	}
	// A TPM is C code; a node has no C library, so it is linked into it.
	return goBuild(ctx, root, "1", filepath.Join(dir, TEE), "./simulators/tee/cmd",
		"-tags", "osusergo,netgo", "-ldflags", `-s -w -linkmode external -extldflags "-static"`)
}

// Static builds the package pkg of the module at root to the program out, which needs no library.
func Static(ctx context.Context, root, out, pkg string) error {
	return goBuild(ctx, root, "0", out, pkg, "-ldflags", "-s -w")
}

func goBuild(ctx context.Context, root, cgo, out, pkg string, flags ...string) error {
	args := append([]string{"build", "-trimpath", "-buildvcs=false", "-o", out}, flags...)
	if overlay := os.Getenv(OverlayVariable); overlay != "" {
		args = append(args, "-overlay", overlay)
	}
	cmd := exec.CommandContext(ctx, "go", append(args, pkg)...)
	cmd.Dir, cmd.Env = root, append(os.Environ(), "GOFLAGS=", "GOWORK=off", "CGO_ENABLED="+cgo)
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build %s: %w\n%s", pkg, err, text)
	}
	return nil
}

// WriteImage lays out the guest's root below dir, beside the programs that
// Compile put there: pause is the sandbox's program, registry the program that
// makes its bundle.
func WriteImage(ctx context.Context, dir, registry, pause string) error {
	root := filepath.Join(dir, Rootfs)
	for _, d := range []string{
		"dev", "etc/kata-opa", "etc/ssl/certs", "proc", "root", "run", "sys", "tmp", "usr/sbin", "var/log/guest", "var/tmp", "lib", "bin", "sbin",
	} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			return err
		}
	}
	for name, text := range map[string]string{
		"etc/passwd":                       "root:x:0:0:root:/root:/bin/false\n",
		"etc/group":                        "root:x:0:\n",
		"etc/hosts":                        "127.0.0.1 localhost\n::1 localhost\n",
		"etc/nsswitch.conf":                "hosts: files dns\n",
		"etc/resolv.conf":                  "",
		"etc/hostname":                     "localhost\n",
		"etc/kata-opa/default-policy.rego": string(manifests.Read("simulator/default-policy.rego")),
	} {
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	if err := node.CopyRunc(root); err != nil {
		return err
	}
	return run(ctx, registry, "pause-bundle", "--pause", pause, "--out", filepath.Join(root, "pause_bundle"))
}

func run(ctx context.Context, argv ...string) error {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	var text bytes.Buffer
	cmd.Stdout, cmd.Stderr = &text, &text
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(argv, " "), err, text.String())
	}
	return nil
}

// Snapshot copies what Compile and WriteImage made below from to below to, so
// that a later build does not change what runs. Programs are hard links where
// the file system allows: the compiler replaces them and never writes into them.
func Snapshot(from, to string) error {
	return filepath.WalkDir(from, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, p)
		if err != nil {
			return err
		}
		target := filepath.Join(to, rel)
		if d.IsDir() {
			return os.MkdirAll(target, 0o755)
		}
		for _, dir := range compiledDirs {
			if filepath.Dir(rel) != dir {
				continue
			}
			if err := os.Link(p, target); !errors.Is(err, unix.EXDEV) {
				return err
			}
		}
		return node.CopyFile(p, target)
	})
}
