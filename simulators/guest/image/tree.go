package image

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// maxPath bounds a path in a layer, in bytes, as the kernel does.
const maxPath = 4096

// tree is a directory that names in layers are resolved in. Absolute names, absolute symlinks and ".." stay inside, as
// they do for a process whose root it is: the kernel resolves (openat2 with RESOLVE_IN_ROOT), relative to a descriptor.
type tree struct {
	root int // descriptor

	// The directory of the last name, since archives list a directory's files one after another.
	lastDirectory string // cleaned name, empty when it must be resolved again
	last          int    // descriptor, -1 for none
}

func openTree(directory string) (*tree, error) {
	root, err := unix.Open(directory, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", directory, err)
	}
	return &tree{root: root, last: -1}, nil
}

func (t *tree) close() {
	t.forget()
	_ = unix.Close(t.root)
}

// forget drops the cached directory: what its name leads to may have changed.
func (t *tree) forget() {
	if t.last >= 0 {
		_ = unix.Close(t.last)
	}
	t.last, t.lastDirectory = -1, ""
}

// PathError says that a name in a layer is not one that can be unpacked.
type PathError struct{ Name, Problem string }

func (e *PathError) Error() string { return fmt.Sprintf("name %.256q: %s", e.Name, e.Problem) }

// cleanName gives the name of an entry relative to the root, "." for the root itself. Names that climb out of the root
// lexically are refused: no honest image has them.
func cleanName(name string) (string, error) {
	switch {
	case name == "":
		return "", &PathError{name, "empty"}
	case len(name) > maxPath:
		return "", &PathError{name, "too long"}
	case strings.IndexByte(name, 0) >= 0:
		return "", &PathError{name, "has a zero byte"}
	}
	cleaned := path.Clean(strings.TrimLeft(name, "/"))
	if cleaned == ".." || strings.HasPrefix(cleaned, "../") {
		return "", &PathError{name, "leads out of the root"}
	}
	return cleaned, nil
}

// parent gives a descriptor of the directory that a cleaned name is in, and the name's last element. The descriptor is the
// tree's and good until the next call. Missing directories are made if create says so.
func (t *tree) parent(name string, create bool) (directory int, base string, err error) {
	directoryName, base := path.Split(name)
	directoryName = strings.TrimSuffix(directoryName, "/")
	if directoryName == "" {
		return t.root, base, nil
	}
	if t.last >= 0 && directoryName == t.lastDirectory {
		return t.last, base, nil
	}
	directory, err = t.directory(directoryName)
	if errors.Is(err, unix.ENOENT) && create {
		if err = t.makeDirectory(directoryName); err == nil {
			directory, err = t.directory(directoryName)
		}
	}
	if err != nil {
		return -1, "", fmt.Errorf("directory %q: %w", directoryName, err)
	}
	t.forget()
	t.last, t.lastDirectory = directory, directoryName
	return directory, base, nil
}

// directory opens a directory, following symlinks within the tree.
func (t *tree) directory(name string) (int, error) {
	for {
		directory, err := unix.Openat2(t.root, name, &unix.OpenHow{
			Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
			Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
		})
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
			continue // the kernel could not be sure that .. stayed inside while someone renamed
		}
		return directory, err
	}
}

// makeDirectory makes a directory that no entry described, and those above it.
func (t *tree) makeDirectory(name string) error {
	parent, base, err := t.parent(name, true)
	if err != nil {
		return err
	}
	if err := unix.Mkdirat(parent, base, 0o755); err != nil {
		return err // EEXIST: a symlink that leads nowhere
	}
	return unix.Fchmodat(parent, base, 0o755, 0) // whatever the umask
}

// lstat gives the type and permissions of a directory's entry, which may be missing.
func lstat(directory int, base string) (stat unix.Stat_t, exists bool, err error) {
	err = unix.Fstatat(directory, base, &stat, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return stat, false, nil
	}
	return stat, err == nil, err
}

func isDirectory(stat *unix.Stat_t) bool { return stat.Mode&unix.S_IFMT == unix.S_IFDIR }

// remove removes a directory's entry with everything below it, never following a symlink. keep, if not nil, says of paths
// relative to the entry's directory whether they stay; directories above them stay too.
func (t *tree) remove(directory int, base string, keep func(string) bool) error {
	// The cached directory's name may lead through what is removed. Its descriptor may be the one at work: it stays open.
	t.lastDirectory = ""
	_, err := removeEntry(directory, base, base, keep)
	return err
}

func removeEntry(directory int, base, name string, keep func(string) bool) (kept bool, err error) {
	if keep != nil && keep(name) {
		kept = true
	}
	stat, exists, err := lstat(directory, base)
	if err != nil || !exists {
		return kept, err
	}
	if !isDirectory(&stat) {
		if kept {
			return true, nil
		}
		return false, unix.Unlinkat(directory, base, 0)
	}
	below, err := unix.Openat(directory, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return kept, err
	}
	names, err := entryNames(below)
	for _, entry := range names {
		var entryKept bool
		entryKept, err = removeEntry(below, entry, name+"/"+entry, keep)
		kept = kept || entryKept
		if err != nil {
			break
		}
	}
	_ = unix.Close(below)
	if err != nil || kept {
		return kept, err
	}
	return false, unix.Unlinkat(directory, base, unix.AT_REMOVEDIR)
}

// entryNames lists a directory opened for reading.
func entryNames(directory int) ([]string, error) {
	var names []string
	buffer := make([]byte, 32<<10)
	for {
		n, err := unix.Getdents(directory, buffer)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n <= 0 {
			return names, err
		}
		_, _, names = unix.ParseDirent(buffer[:n], -1, names)
	}
}
