package sandbox

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/containerd/log"
	"github.com/moby/sys/mountinfo"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/coco-e2e/coco-e2e/framework/agentapi/agentpb"
)

// emptyDirPlugin is the directory of emptyDir volumes among a pod's volumes.
const emptyDirPlugin = "kubernetes.io~empty-dir"

// updatedPlugins are the kinds of volumes that the kubelet changes while the pod runs.
var updatedPlugins = []string{
	"kubernetes.io~configmap", "kubernetes.io~secret", "kubernetes.io~projected", "kubernetes.io~downward-api",
}

// volumes rewrites the container's mounts from the node's paths to the guest's: bind-mounted files and directories
// are copied into the guest, emptyDir volumes become storages that the agent makes, /dev/shm is the pod's. It returns
// the storages, memory-backed ones first (Kata virtcontainers: container.go mountSharedDirMounts, kata_agent.go
// handleShm, handleEphemeralStorage, handleLocalStorage).
func (c *Container) volumes(ctx context.Context) (storages []*agentpb.Storage, watches []watch, err error) {
	if err := c.refuseBlockDevices(); err != nil {
		return nil, nil, err
	}
	var ephemeral, local []*agentpb.Storage
	mounts := c.options.Spec.Mounts
	for i := range mounts {
		mount := &mounts[i]
		switch {
		case mount.Destination == "/dev/shm":
			mount.Type, mount.Source, mount.Options = "bind", guestShm, []string{"rbind"}
		case mount.Type != "bind" || belongsToHost(mount.Source):
		case filepath.Base(filepath.Dir(mount.Source)) == emptyDirPlugin:
			storage, err := c.emptyDir(mount)
			if err != nil {
				return nil, nil, err
			}
			if storage.Driver == "local" {
				local = append(local, storage)
			} else {
				ephemeral = append(ephemeral, storage)
			}
		default:
			source, version := mount.Source, volumeVersion(mount.Source)
			if err := c.copyMount(ctx, mount); err != nil {
				return nil, nil, err
			}
			if c.updated(source) && mount.Source != source {
				watches = append(watches, watch{source, mount.Source, version})
			}
		}
	}
	return append(ephemeral, local...), watches, nil
}

// refuseBlockDevices refuses volumes of mode Block: they would have to be plugged into the VM, and a remote hypervisor
// has no call for that. Kata's shim goes on as if they had been (virtcontainers/remote.go HotplugAddDevice), with a
// container that fails later or lacks them; here that is an error at once.
func (c *Container) refuseBlockDevices() error {
	if c.options.Spec.Linux == nil {
		return nil
	}
	for _, device := range c.options.Spec.Linux.Devices {
		if device.Type == "b" {
			return fmt.Errorf("block device %s of container %s: a remote hypervisor cannot add devices to a VM; use a volume of mode Filesystem",
				device.Path, c.options.ID)
		}
	}
	return nil
}

// belongsToHost says whether a path only means something on the node: kernel file systems and devices. Such a mount
// is passed on as it is and finds the guest's file of that name.
func belongsToHost(source string) bool {
	if within(source, "/proc") || within(source, "/sys") || source == "/dev" {
		return true
	}
	if !strings.HasPrefix(source, "/dev/") {
		return false
	}
	info, err := os.Stat(source)
	return err == nil && !info.Mode().IsRegular()
}

func within(name, dir string) bool { return name == dir || strings.HasPrefix(name, dir+"/") }

// emptyDir makes the storage of an emptyDir volume, on the guest's disk or in its memory, and mounts it. A group that
// owns the volume (the pod's fsGroup) is passed on; a size limit is not.
func (c *Container) emptyDir(mount *specs.Mount) (*agentpb.Storage, error) {
	var stat unix.Stat_t
	if err := unix.Stat(mount.Source, &stat); err != nil {
		return nil, fmt.Errorf("emptyDir volume %s: %w", mount.Source, err)
	}
	memory, err := isMemory(mount.Source)
	if err != nil {
		return nil, fmt.Errorf("emptyDir volume %s: %w", mount.Source, err)
	}
	name := filepath.Base(mount.Source)
	storage := &agentpb.Storage{
		Driver: "local", Source: "local", Fstype: "local", Options: []string{"mode=0777"},
		MountPoint: path.Join(guestSharedDir, c.sandbox.options.ID, "rootfs", "local", name),
	}
	mount.Type = "local"
	if memory {
		storage = &agentpb.Storage{
			Driver: "ephemeral", Source: "tmpfs", Fstype: "tmpfs",
			MountPoint: path.Join(guestSandboxDir, "ephemeral", name),
		}
		mount.Type = "bind"
	}
	if stat.Gid != 0 {
		storage.Options = append(storage.Options, fmt.Sprintf("fsgid=%d", stat.Gid))
	}
	mount.Source = storage.MountPoint
	return storage, nil
}

// isMemory says whether dir is the mount point of a tmpfs.
func isMemory(dir string) (bool, error) {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return false, err
	}
	mounts, err := mountinfo.GetMounts(mountinfo.SingleEntryFilter(dir))
	if err != nil {
		return false, err
	}
	return len(mounts) > 0 && mounts[len(mounts)-1].FSType == "tmpfs", nil
}

// copyMount copies a mount's source into the guest. What is neither file nor directory, such as a socket, cannot be
// copied; its mount is passed on as it is.
func (c *Container) copyMount(ctx context.Context, mount *specs.Mount) error {
	source, err := filepath.EvalSymlinks(mount.Source)
	if err != nil {
		return fmt.Errorf("volume for %s: %w", mount.Destination, err)
	}
	info, err := os.Stat(source)
	if err != nil {
		return fmt.Errorf("volume for %s: %w", mount.Destination, err)
	}
	if !info.Mode().IsRegular() && !info.IsDir() {
		log.G(ctx).WithField("source", mount.Source).Warn("neither file nor directory: not copied into the guest")
		return nil
	}
	var suffix [8]byte
	_, _ = rand.Read(suffix[:]) // never fails
	guest := path.Join(guestSharedDir, fmt.Sprintf("%s-%s-%s",
		c.options.ID, hex.EncodeToString(suffix[:]), filepath.Base(mount.Destination)))
	if err := c.sandbox.agent.copyTree(ctx, source, guest); err != nil {
		return err
	}
	mount.Source = guest
	return nil
}

// updated says whether the kubelet changes the volume while the pod runs. subPath mounts are not updated, as in
// Kubernetes: they lie elsewhere.
func (c *Container) updated(source string) bool {
	pods := filepath.Join(c.sandbox.options.Config.KubeletRootDir, "pods")
	relative, err := filepath.Rel(pods, source)
	if err != nil {
		return false
	}
	// <uid>/volumes/<plugin>/<volume>
	parts := strings.Split(relative, string(filepath.Separator))
	if len(parts) != 4 || parts[1] != "volumes" {
		return false
	}
	for _, plugin := range updatedPlugins {
		if parts[2] == plugin {
			return true
		}
	}
	return false
}
