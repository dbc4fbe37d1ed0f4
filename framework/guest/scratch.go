package guest

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

const (
	scratchPrefix = "coco-guest-"
	scratchLock   = "lock"
	// settleTime is how long a directory may take from being made to being locked.
	settleTime = time.Minute
)

// Scratch is a temporary directory. What a process leaves that is killed, the
// next one removes that makes a Scratch: the directory, and the control groups
// of its name.
type Scratch struct {
	// Path is short enough for unix sockets below it.
	Path string
	lock *os.File
}

// NewScratch makes a directory, and removes those whose makers are dead.
func NewScratch() (*Scratch, error) {
	removeDead()
	dir, err := os.MkdirTemp("", scratchPrefix)
	if err != nil {
		return nil, err
	}
	lock, err := os.Create(filepath.Join(dir, scratchLock))
	if err == nil {
		err = unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return &Scratch{Path: dir, lock: lock}, nil
}

// Remove removes the directory with all that is in it.
func (s *Scratch) Remove() error { return errors.Join(os.RemoveAll(s.Path), s.lock.Close()) }

// removeDead removes what killed processes left. It is nobody's failure when
// that cannot be: what stays is tried again.
func removeDead() {
	dirs, err := filepath.Glob(filepath.Join(os.TempDir(), scratchPrefix+"*"))
	if err != nil {
		return // the pattern is well-formed
	}
	for _, dir := range dirs {
		if !abandoned(dir) {
			continue
		}
		for _, pattern := range []string{"/sys/fs/cgroup/", "/sys/fs/cgroup/*/"} {
			groups, _ := filepath.Glob(pattern + filepath.Base(dir))
			for _, g := range groups {
				removeGroup(g)
			}
		}
		_ = os.RemoveAll(dir)
	}
}

// abandoned says whether nobody holds the directory's lock.
func abandoned(dir string) bool {
	lock, err := os.Open(filepath.Join(dir, scratchLock))
	if err != nil {
		return false
	}
	defer lock.Close()
	info, err := lock.Stat()
	if err != nil || time.Since(info.ModTime()) < settleTime {
		return false
	}
	return unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil
}

// removeGroup removes a control group and those below it, from the deepest.
func removeGroup(top string) {
	var dirs []string
	_ = filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return nil
	})
	for _, dir := range slices.Backward(dirs) {
		_ = os.Remove(dir)
	}
}
