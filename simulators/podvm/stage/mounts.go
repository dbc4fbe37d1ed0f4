package stage

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// mountRoot builds the guest's whole root at the mount point.
func (s Spec) mountRoot() error {
	// Without this, every mount below would appear on the node, whose root is a shared mount.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := s.overlay(); err != nil {
		return err
	}
	for _, m := range []struct {
		fstype, target string
		flags          uintptr
		options        string
	}{
		{"proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		// A new sysfs shows the network namespace of its mounter, which is the pod's by now.
		{"sysfs", "sys", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_RDONLY, ""},
		{"tmpfs", "dev", unix.MS_NOSUID | unix.MS_STRICTATIME, "mode=755,size=4m"},
		{"devpts", "dev/pts", unix.MS_NOSUID | unix.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620"},
		{"tmpfs", "dev/shm", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, "mode=1777"},
		{"mqueue", "dev/mqueue", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		// Containers' roots are unpacked below /run: it must allow programs, set-user-id ones too.
		{"tmpfs", "run", 0, "mode=755"},
		{"tmpfs", "tmp", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
	} {
		target := filepath.Join(s.Mountpoint, m.target)
		if err := os.MkdirAll(target, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.fstype, target, m.fstype, m.flags, m.options); err != nil {
			return fmt.Errorf("mount %s on /%s: %w", m.fstype, m.target, err)
		}
	}
	if err := s.devices(); err != nil {
		return err
	}
	return s.binds()
}

// overlay mounts the guest image, read-only, below a layer of memory that takes what the guest changes.
func (s Spec) overlay() error {
	// The layer must be reachable while the overlay is being mounted; the overlay then covers it and keeps it.
	if err := unix.Mount("tmpfs", s.Mountpoint, "tmpfs", 0, "mode=700"); err != nil {
		return fmt.Errorf("mount the root's upper layer: %w", err)
	}
	upper, work := filepath.Join(s.Mountpoint, "upper"), filepath.Join(s.Mountpoint, "work")
	for _, dir := range []string{upper, work} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
	}
	options := "lowerdir=" + s.Rootfs + ",upperdir=" + upper + ",workdir=" + work
	if err := unix.Mount("overlay", s.Mountpoint, "overlay", 0, options); err != nil {
		return fmt.Errorf("mount an overlay of guest_rootfs %s (the node's kernel must have overlayfs, and the guest image"+
			" must not lie on an overlay of overlays): %w", s.Rootfs, err)
	}
	return nil
}

// devices fills /dev with what every Linux has.
func (s Spec) devices() error {
	dev := filepath.Join(s.Mountpoint, "dev")
	for _, d := range []struct {
		name  string
		minor uint32
		major uint32
	}{
		{"null", 3, 1}, {"zero", 5, 1}, {"full", 7, 1}, {"random", 8, 1}, {"urandom", 9, 1}, {"tty", 0, 5},
	} {
		path := filepath.Join(dev, d.name)
		err := unix.Mknod(path, unix.S_IFCHR|0o666, int(unix.Mkdev(d.major, d.minor)))
		if errors.Is(err, unix.EPERM) {
			// A container that may not make device nodes still has these, to be shown again.
			err = bind("/dev/"+d.name, path, 0)
		}
		if err != nil {
			return fmt.Errorf("make /dev/%s: %w", d.name, err)
		}
	}
	for name, target := range map[string]string{
		"ptmx": "pts/ptmx", "fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1",
		"stderr": "/proc/self/fd/2", "core": "/proc/kcore", "console": "/proc/1/fd/1",
	} {
		if err := os.Symlink(target, filepath.Join(dev, name)); err != nil {
			return err
		}
	}
	return nil
}

// binds shows the guest the few things of the node that are its own, and the cgroups.
func (s Spec) binds() error {
	for _, b := range []struct {
		source, target string
		flags          uintptr
	}{
		{"/sys/fs/cgroup", "sys/fs/cgroup", unix.MS_REC},
		{s.TEE, "dev/" + s.TEEDevice, 0},
		{s.Metadata, "run/imds.sock", 0},
		{s.InitData, "dev/vda", unix.MS_RDONLY},
		{s.AgentDir, "run/agent-channel", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
		{s.LogDir, "var/log/guest", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
	} {
		if b.source == "" {
			continue
		}
		if err := bind(b.source, filepath.Join(s.Mountpoint, b.target), b.flags); err != nil {
			return fmt.Errorf("show %s to the guest as /%s: %w", b.source, b.target, err)
		}
	}
	return nil
}

// bind shows source at target, which it makes. Flags other than MS_REC need a remount to have an effect.
func bind(source, target string, flags uintptr) error {
	info, err := os.Stat(source)
	if err != nil {
		return err
	}
	if info.IsDir() {
		err = os.MkdirAll(target, 0o755)
	} else {
		err = os.WriteFile(target, nil, 0o600)
	}
	if err != nil {
		return err
	}
	if err := unix.Mount(source, target, "", unix.MS_BIND|flags&unix.MS_REC, ""); err != nil {
		return err
	}
	if flags&^unix.MS_REC == 0 {
		return nil
	}
	return unix.Mount("", target, "", unix.MS_BIND|unix.MS_REMOUNT|flags&^unix.MS_REC, "")
}

// pivot makes the mount point the root and lets go of everything else.
func (s Spec) pivot() error {
	if err := unix.Chdir(s.Mountpoint); err != nil {
		return fmt.Errorf("change to the guest's root: %w", err)
	}
	// The old root is put on top of the new one, where the next call takes it off: no directory is needed for it.
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("leave the node's root: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return fmt.Errorf("change to /: %w", err)
	}
	return nil
}
