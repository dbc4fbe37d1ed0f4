package image

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	whiteoutPrefix = ".wh."
	whiteoutOpaque = ".wh..wh..opq"
	xattrPrefix    = "SCHILY.xattr."
)

// layer is one layer being applied.
type layer struct {
	*tree
	unpacked map[string]struct{} // cleaned names of this layer's entries, which its own opaque whiteouts spare
	// times of directories are set at the end, since unpacking into them changes them.
	times  []directoryTime
	buffer []byte
}

type directoryTime struct {
	name     string
	modified time.Time
}

// applyLayer applies a layer's tar archive to the tree by the rules of the OCI image specification (layer.md), and reads
// the archive to its end.
func (t *tree) applyLayer(archive io.Reader) error {
	layer := &layer{tree: t, unpacked: map[string]struct{}{}, buffer: make([]byte, chunkSize)}
	reader := tar.NewReader(archive)
	for {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("archive: %w", err)
		}
		if err := layer.apply(header, reader); err != nil {
			return fmt.Errorf("%q: %w", header.Name, err)
		}
	}
	// Digests are checked at the very end, which padding precedes.
	if _, err := io.Copy(io.Discard, archive); err != nil {
		return fmt.Errorf("archive: %w", err)
	}
	return layer.setTimes()
}

func (l *layer) apply(header *tar.Header, content io.Reader) error {
	if header.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	name, err := cleanName(header.Name)
	if err != nil {
		return err
	}
	if name == "." {
		return l.rootEntry(header)
	}
	directory, base, err := l.parent(name, true)
	if err != nil {
		return err
	}
	if strings.HasPrefix(base, whiteoutPrefix) {
		return l.whiteout(directory, name, base)
	}
	if err := l.makeRoom(directory, base, header.Typeflag == tar.TypeDir); err != nil {
		return err
	}
	l.unpacked[name] = struct{}{}
	switch header.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse:
		return l.file(directory, base, header, content)
	case tar.TypeDir:
		return l.makeEntryDirectory(directory, base, name, header)
	case tar.TypeSymlink:
		if err := unix.Symlinkat(header.Linkname, directory, base); err != nil {
			return fmt.Errorf("symlink: %w", err)
		}
		return l.setByName(directory, base, header)
	case tar.TypeLink:
		return l.hardlink(name, header)
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		return l.node(directory, base, header)
	default:
		return fmt.Errorf("entry of type %q: not known", header.Typeflag)
	}
}

// rootEntry applies the entry of the root directory itself, which is there already.
func (l *layer) rootEntry(header *tar.Header) error {
	if header.Typeflag != tar.TypeDir {
		return errors.New("the root is a directory")
	}
	root, err := unix.Openat(l.root, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("root: %w", err)
	}
	defer func() { _ = unix.Close(root) }()
	l.times = append(l.times, directoryTime{".", header.ModTime})
	return setAttributes(root, header)
}

// whiteout removes what lower layers have: one entry, or all of a directory's.
func (l *layer) whiteout(directory int, name, base string) error {
	if base == whiteoutOpaque {
		return l.opaque(path.Dir(name))
	}
	target := strings.TrimPrefix(base, whiteoutPrefix)
	if strings.HasPrefix(target, whiteoutPrefix) {
		return nil // metadata of AUFS, not an entry
	}
	if target == "" || target == "." || target == ".." {
		return &PathError{name, "whiteout of nothing"}
	}
	if err := l.remove(directory, target, nil); err != nil {
		return fmt.Errorf("whiteout: %w", err)
	}
	return nil
}

func (l *layer) opaque(name string) error {
	l.forget()
	directory, err := l.directory(name)
	if err != nil {
		return fmt.Errorf("opaque whiteout: %w", err)
	}
	defer func() { _ = unix.Close(directory) }()
	readable, err := unix.Openat(directory, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("opaque whiteout: %w", err)
	}
	defer func() { _ = unix.Close(readable) }()
	entries, err := entryNames(readable)
	if err != nil {
		return fmt.Errorf("opaque whiteout: %w", err)
	}
	keep := func(below string) bool {
		_, ok := l.unpacked[path.Join(name, below)]
		return ok
	}
	for _, entry := range entries {
		if err := l.remove(readable, entry, keep); err != nil {
			return fmt.Errorf("opaque whiteout: %w", err)
		}
	}
	return nil
}

// makeRoom removes what a new entry replaces. A directory stays for a directory.
func (l *layer) makeRoom(directory int, base string, forDirectory bool) error {
	stat, exists, err := lstat(directory, base)
	if err != nil || !exists || (forDirectory && isDirectory(&stat)) {
		return err
	}
	return l.remove(directory, base, nil)
}

func (l *layer) file(directory int, base string, header *tar.Header, content io.Reader) error {
	file, err := unix.Openat(directory, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("create: %w", err)
	}
	err = l.copy(file, content)
	if err == nil {
		err = setAttributes(file, header)
	}
	if err == nil {
		err = setTime(file, header.ModTime)
	}
	if closed := unix.Close(file); err == nil && closed != nil {
		err = fmt.Errorf("write: %w", closed)
	}
	return err
}

func (l *layer) copy(file int, content io.Reader) error {
	for {
		n, err := content.Read(l.buffer)
		for written := 0; written < n; {
			more, err := unix.Write(file, l.buffer[written:n])
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if err != nil {
				return fmt.Errorf("write: %w", err)
			}
			written += more
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("archive: %w", err)
		}
	}
}

func (l *layer) makeEntryDirectory(directory int, base, name string, header *tar.Header) error {
	if err := unix.Mkdirat(directory, base, 0o700); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("create directory: %w", err)
	}
	made, err := unix.Openat(directory, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("directory: %w", err)
	}
	defer func() { _ = unix.Close(made) }()
	l.times = append(l.times, directoryTime{name, header.ModTime})
	return setAttributes(made, header)
}

// hardlink links to an entry of this layer or a lower one. Its target is a name in the tree, and a symlink there is linked
// itself, not followed.
func (l *layer) hardlink(name string, header *tar.Header) error {
	target, err := cleanName(header.Linkname)
	if err != nil {
		return fmt.Errorf("hard link to %w", err)
	}
	from, fromBase, err := l.parent(target, false)
	if err != nil {
		return fmt.Errorf("hard link to %q: %w", header.Linkname, err)
	}
	// The next resolution may close the tree's descriptor.
	if from, err = unix.FcntlInt(uintptr(from), unix.F_DUPFD_CLOEXEC, 0); err != nil {
		return fmt.Errorf("hard link: %w", err)
	}
	defer func() { _ = unix.Close(from) }()
	directory, base, err := l.parent(name, true)
	if err != nil {
		return err
	}
	if err := unix.Linkat(from, fromBase, directory, base, 0); err != nil {
		return fmt.Errorf("hard link to %q: %w", header.Linkname, err)
	}
	return nil
}

func (l *layer) node(directory int, base string, header *tar.Header) error {
	kind := map[byte]uint32{tar.TypeChar: unix.S_IFCHR, tar.TypeBlock: unix.S_IFBLK, tar.TypeFifo: unix.S_IFIFO}[header.Typeflag]
	device := 0
	if kind != unix.S_IFIFO {
		device = int(unix.Mkdev(uint32(header.Devmajor), uint32(header.Devminor)))
	}
	if err := unix.Mknodat(directory, base, kind|0o600, device); err != nil {
		return fmt.Errorf("create node: %w", err)
	}
	if err := l.setByName(directory, base, header); err != nil {
		return err
	}
	// Not a symlink: this layer has just made it.
	if err := unix.Fchmodat(directory, base, permissions(header), 0); err != nil {
		return fmt.Errorf("mode: %w", err)
	}
	return nil
}

// setTimes sets directories' times, in any order: setting one changes no other.
func (l *layer) setTimes() error {
	for _, directory := range l.times {
		opened, err := l.directory(directory.name)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
			continue // removed or replaced later in the layer
		}
		if err != nil {
			return fmt.Errorf("%q: %w", directory.name, err)
		}
		err = unix.UtimesNanoAt(opened, "", timespecs(directory.modified), unix.AT_EMPTY_PATH)
		_ = unix.Close(opened)
		if err != nil {
			return fmt.Errorf("%q: time: %w", directory.name, err)
		}
	}
	return nil
}
