package podvm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/coco-e2e/coco-e2e/simulators/podvm/cgroup"
)

// lockName is the file whose lock says that a daemon owns the state directory.
const lockName = ".lock"

// takeStateDir makes sure that no other daemon uses the state directory: clearing it would end the other's guests.
func takeStateDir(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("state_dir: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("state_dir: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("state_dir %s is in use by another podvm: stop that one, or give this one a directory of its own", dir)
	}
	return f, nil
}

// releaseStateDir removes the directory, when nothing is in it, while it is still locked.
func releaseStateDir(dir string, lock *os.File) error {
	err := os.Remove(lock.Name())
	if removed := os.Remove(dir); removed != nil && !errors.Is(removed, unix.ENOTEMPTY) && !errors.Is(removed, unix.EBUSY) {
		err = errors.Join(err, removed)
	}
	return errors.Join(err, lock.Close())
}

// clearLeftovers removes what a daemon that was killed has left. Its processes ended with it, but for what somebody
// moved out of reach; all of that is in its cgroups.
func (s *Service) clearLeftovers() error {
	if err := s.clearCgroups(); err != nil {
		return fmt.Errorf("clear an earlier podvm's cgroups below %s: %w", s.config.CgroupParent, err)
	}
	if err := s.clearStateDir(); err != nil {
		return fmt.Errorf("clear an earlier podvm's state_dir: %w", err)
	}
	if err := os.RemoveAll(filepath.Join(s.config.LogDir, ".tees")); err != nil {
		return fmt.Errorf("clear an earlier podvm's log_dir: %w", err)
	}
	return nil
}

func (s *Service) clearCgroups() error {
	if err := cgroup.Kill(s.hierarchies, s.config.CgroupParent); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), removeTimeout)
	defer cancel()
	return cgroup.Remove(ctx, s.hierarchies, s.config.CgroupParent)
}

func (s *Service) clearStateDir() error {
	// Guests mount in namespaces of their own. Whatever is mounted here all the same must not be deleted into.
	mounts, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		return !strings.HasPrefix(m.Mountpoint, s.config.StateDir+"/"), false
	})
	if err != nil {
		return err
	}
	for _, m := range slices.Backward(mounts) {
		if err := unix.Unmount(m.Mountpoint, unix.MNT_DETACH); err != nil {
			return &fs.PathError{Op: "unmount", Path: m.Mountpoint, Err: err}
		}
	}
	entries, err := os.ReadDir(s.config.StateDir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() == lockName {
			continue
		}
		s.log.Info("removing what an earlier podvm left", "path", filepath.Join(s.config.StateDir, e.Name()))
		if err := os.RemoveAll(filepath.Join(s.config.StateDir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}
