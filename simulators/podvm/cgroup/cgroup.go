// Package cgroup finds and removes cgroups that a guest has left, in every hierarchy, of version 1 and 2.
//
// It must not know what ran in them.
package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// Hierarchies lists the mount points of cgroup hierarchies at and below /sys/fs/cgroup.
func Hierarchies() ([]string, error) {
	mounts, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		inside := m.Mountpoint == "/sys/fs/cgroup" || strings.HasPrefix(m.Mountpoint, "/sys/fs/cgroup/")
		return !inside || (m.FSType != "cgroup" && m.FSType != "cgroup2"), false
	})
	if err != nil {
		return nil, fmt.Errorf("list cgroup hierarchies: %w", err)
	}
	var out []string
	for _, m := range mounts {
		if !slices.Contains(out, m.Mountpoint) {
			out = append(out, m.Mountpoint)
		}
	}
	return out, nil
}

// Thaw resumes everything frozen at and below the cgroup path: a frozen process of version 1 does not even die.
func Thaw(hierarchies []string, path string) error {
	return each(hierarchies, path, func(dir string) error {
		return write(filepath.Join(dir, "freezer.state"), "THAWED")
	})
}

// Kill kills every process at and below the cgroup path.
func Kill(hierarchies []string, path string) error {
	if err := Thaw(hierarchies, path); err != nil {
		return err
	}
	return each(hierarchies, path, func(dir string) error {
		text, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if err != nil && !gone(err) {
			return err
		}
		for pid := range strings.FieldsSeq(string(text)) {
			n, err := strconv.Atoi(pid)
			if err != nil {
				return fmt.Errorf("%s/cgroup.procs: %w", dir, err)
			}
			// 0 is a process of a PID namespace that is out of sight.
			if err := unix.Kill(n, unix.SIGKILL); n > 0 && err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("kill process %d of cgroup %s: %w", n, dir, err)
			}
		}
		return nil
	})
}

// Remove removes the cgroup path with all below it from every hierarchy. Its processes must have ended or be ending: the
// kernel counts them for an instant longer than wait shows them, and Remove waits for that until ctx ends.
func Remove(ctx context.Context, hierarchies []string, path string) error {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		err := each(hierarchies, path, func(dir string) error {
			if err := unix.Rmdir(dir); err != nil && !gone(err) {
				return &os.PathError{Op: "remove cgroup", Path: dir, Err: err}
			}
			return nil
		})
		if !errors.Is(err, unix.EBUSY) {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return err
		}
	}
}

// RemoveEmpty removes the cgroup path where nothing is in it or below it.
func RemoveEmpty(hierarchies []string, path string) {
	for _, h := range hierarchies {
		_ = unix.Rmdir(filepath.Join(h, path)) // busy or absent: both are fine
	}
}

// each calls do for the cgroup path and all below it in every hierarchy, innermost first.
func each(hierarchies []string, path string, do func(dir string) error) error {
	var failed []error
	for _, h := range hierarchies {
		var dirs []string
		err := filepath.WalkDir(filepath.Join(h, path), func(dir string, d fs.DirEntry, err error) error {
			switch {
			case gone(err):
				return nil
			case err != nil:
				return err
			case d.IsDir():
				dirs = append(dirs, dir)
			}
			return nil
		})
		if err != nil {
			failed = append(failed, err)
		}
		for _, dir := range slices.Backward(dirs) {
			if err := do(dir); err != nil {
				failed = append(failed, err)
			}
		}
	}
	return errors.Join(failed...)
}

// write changes an existing file: a cgroup without it, or no longer there, is none of a caller's concern.
func write(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if gone(err) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	if gone(err) {
		err = nil
	}
	return errors.Join(err, f.Close())
}

func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV)
}
