package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/ttrpc"
	"github.com/moby/sys/mountinfo"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	pb "github.com/coco-e2e/coco-e2e/framework/agentapi/agentpb"
	"github.com/coco-e2e/coco-e2e/simulators/guest/guestpb"
)

const (
	// stateDir is where the agent keeps containers and what is copied to it.
	stateDir = "/run/kata-containers"
	// sharedDir is the only place that CopyFile writes to.
	sharedDir = stateDir + "/shared/containers/"
	// pauseBundle is in the guest image.
	pauseBundle = "/pause_bundle"
	cdhSocket   = "/run/confidential-containers/cdh.sock"
)

// addStorages mounts what a request brings. A mount point that is there
// already is shared: volumes are named anew for each container that uses them.
func (a *Agent) addStorages(ctx context.Context, r []*pb.Storage, containerID string) error {
	for _, s := range r {
		if !confined(s.MountPoint, stateDir) {
			return fmt.Errorf("storage mount point %q is not below %s", s.MountPoint, stateDir)
		}
		if slices.Contains(a.mounts, s.MountPoint) {
			continue
		}
		var err error
		switch s.Driver {
		case "image_guest_pull":
			err = a.pullImage(ctx, s, containerID)
		case "ephemeral":
			err = a.mountEphemeral(s)
		case "local":
			err = makeLocal(s)
		default:
			err = fmt.Errorf("failed to find the storage handler %s", s.Driver)
		}
		if err == nil && s.Driver != "image_guest_pull" {
			err = setOwnership(s)
		}
		if err != nil {
			return fmt.Errorf("storage %s at %s: %w", s.Driver, s.MountPoint, err)
		}
	}
	return nil
}

func confined(path, dir string) bool {
	return filepath.Clean(path) == path && strings.HasPrefix(path, dir+"/")
}

// pullImage fills the container's root: with the guest image's pause for the
// sandbox, else with the image, which the data hub pulls.
func (a *Agent) pullImage(ctx context.Context, s *pb.Storage, containerID string) error {
	sandbox, err := isSandbox(s.DriverOptions)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(s.MountPoint, 0o755); err != nil {
		return err
	}
	if sandbox {
		if err := unix.Mount(filepath.Join(pauseBundle, "rootfs"), s.MountPoint, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("pause bundle: %w", err)
		}
		a.mounts = append(a.mounts, s.MountPoint)
		return nil
	}
	c, err := net.Dial("unix", cdhSocket)
	if err != nil {
		return fmt.Errorf("confidential-data-hub: %w", err)
	}
	client := ttrpc.NewClient(c)
	defer client.Close()
	_, err = guestpb.NewImagePullServiceClient(client).PullImage(ctx, &guestpb.ImagePullRequest{
		ImageUrl: s.Source, BundlePath: filepath.Join(stateDir, containerID),
	})
	return err
}

// isSandbox reads the metadata that comes with a guest pull.
func isSandbox(options []string) (bool, error) {
	const prefix = "image_guest_pull="
	for _, o := range options {
		text, ok := strings.CutPrefix(o, prefix)
		if !ok {
			continue
		}
		// Into maps, because a struct's names would be taken in any letters.
		var v map[string]json.RawMessage
		var metadata map[string]string
		err := json.Unmarshal([]byte(text), &v)
		if raw := v["metadata"]; err == nil && raw != nil {
			err = json.Unmarshal(raw, &metadata)
		}
		if err != nil {
			return false, fmt.Errorf("driver option %s…: %w", prefix, err)
		}
		for _, key := range []string{"io.kubernetes.cri.container-type", "io.kubernetes.cri-o.ContainerType"} {
			if metadata[key] == "sandbox" {
				return true, nil
			}
		}
	}
	return false, nil
}

// pauseProcess is the process of the guest image's pause bundle.
func pauseProcess() (*specs.Process, error) {
	b, err := os.ReadFile(filepath.Join(pauseBundle, "config.json"))
	if err != nil {
		return nil, err
	}
	var s specs.Spec
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, fmt.Errorf("%s/config.json: %w", pauseBundle, err)
	}
	if s.Process == nil {
		return nil, fmt.Errorf("%s/config.json has no process", pauseBundle)
	}
	return s.Process, nil
}

// mountEphemeral mounts memory: /dev/shm of the sandbox, or an emptyDir of
// medium Memory.
func (a *Agent) mountEphemeral(s *pb.Storage) error {
	if err := os.MkdirAll(s.MountPoint, 0o755); err != nil {
		return err
	}
	flags, data, gid, err := mountOptions(s.Options)
	if err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", s.MountPoint, "tmpfs", flags, strings.Join(data, ",")); err != nil {
		return err
	}
	a.mounts = append(a.mounts, s.MountPoint)
	if gid < 0 {
		return nil // the mode is what the options say, or the kernel's 1777
	}
	return groupOwned(s.MountPoint, gid)
}

// mountOptions are flags, what the file system is told, and the group of
// "fsgid=", -1 without.
func mountOptions(options []string) (flags uintptr, data []string, gid int, err error) {
	known := map[string]uintptr{"noexec": unix.MS_NOEXEC, "nosuid": unix.MS_NOSUID, "nodev": unix.MS_NODEV, "ro": unix.MS_RDONLY, "rw": 0}
	gid = -1
	for _, o := range options {
		if flag, ok := known[o]; ok {
			flags |= flag
			continue
		}
		text, ok := strings.CutPrefix(o, "fsgid=")
		if !ok {
			data = append(data, o)
			continue
		}
		if gid, err = strconv.Atoi(text); err != nil {
			return 0, nil, -1, fmt.Errorf("option %s: %w", o, err)
		}
	}
	return flags, data, gid, nil
}

// groupOwned gives dir to a group, to which then also belongs what is made in
// it; the mode is otherwise left as it is.
func groupOwned(dir string, gid int) error {
	if err := os.Chown(dir, -1, gid); err != nil {
		return err
	}
	st, err := os.Stat(dir)
	if err != nil {
		return err
	}
	return os.Chmod(dir, st.Mode()|fs.ModeSetgid)
}

// makeLocal makes an emptyDir: a directory of the guest.
func makeLocal(s *pb.Storage) error {
	mode, gid := fs.FileMode(0o777), -1
	for _, o := range s.Options {
		key, value, _ := strings.Cut(o, "=")
		n, err := strconv.ParseUint(value, map[string]int{"mode": 8, "fsgid": 10}[key], 32)
		switch {
		case err != nil:
			return fmt.Errorf("option %s: %w", o, err)
		case key == "mode":
			mode = fs.FileMode(n) & fs.ModePerm
		case key == "fsgid":
			gid = int(n)
		}
	}
	if err := os.MkdirAll(s.MountPoint, 0o755); err != nil {
		return err
	}
	if err := os.Chmod(s.MountPoint, mode); err != nil {
		return err
	}
	if gid >= 0 {
		return groupOwned(s.MountPoint, gid)
	}
	return nil
}

// removeStorages unmounts what is mounted below dir and removes dir.
func (a *Agent) removeStorages(dir string) error {
	var errs []error
	a.mounts = slices.DeleteFunc(a.mounts, func(m string) bool {
		if m != dir && !strings.HasPrefix(m, dir+"/") {
			return false
		}
		if err := unmount(m); err != nil {
			errs = append(errs, err)
		}
		return true
	})
	return errors.Join(append(errs, os.RemoveAll(dir))...)
}

// wipe removes all that was kept for an earlier sandbox, and what was copied
// before there was one. What cannot be removed stays, as in the agent. A mount
// is taken away first: what is below it may be the guest image's.
func (a *Agent) wipe() {
	a.mounts = nil
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(stateDir))
	for _, m := range slices.Backward(mounts) {
		err = errors.Join(err, unmount(m.Mountpoint))
	}
	if err == nil {
		err = os.RemoveAll(stateDir)
	}
	if err != nil {
		slog.Warn("not all of the sandbox before is removed", "error", err)
	}
}

func unmount(path string) error {
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount %s: %w", path, err)
	}
	return nil
}
