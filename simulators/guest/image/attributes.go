package image

import (
	"archive/tar"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// permissions are an entry's permission bits, set-user-ID, set-group-ID and sticky bit included.
func permissions(header *tar.Header) uint32 { return uint32(header.Mode) & 0o7777 }

// setAttributes gives an open file or directory its owner, mode and extended attributes, in this order: changing the owner
// clears set-user-ID and file capabilities.
func setAttributes(file int, header *tar.Header) error {
	if err := unix.Fchown(file, header.Uid, header.Gid); err != nil {
		return fmt.Errorf("owner %d:%d: %w", header.Uid, header.Gid, err)
	}
	if err := unix.Fchmod(file, permissions(header)); err != nil {
		return fmt.Errorf("mode: %w", err)
	}
	return eachXattr(header, func(name string, value []byte) error { return unix.Fsetxattr(file, name, value, 0) })
}

// setByName gives a symlink, device or pipe, which cannot be opened, its owner, extended attributes and time.
func (l *layer) setByName(directory int, base string, header *tar.Header) error {
	if err := unix.Fchownat(directory, base, header.Uid, header.Gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("owner %d:%d: %w", header.Uid, header.Gid, err)
	}
	err := eachXattr(header, func(name string, value []byte) error {
		return unix.Lsetxattr(fmt.Sprintf("/proc/self/fd/%d/%s", directory, base), name, value, 0)
	})
	if err != nil {
		return err
	}
	if err := unix.UtimesNanoAt(directory, base, timespecs(header.ModTime), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("time: %w", err)
	}
	return nil
}

// eachXattr sets an entry's extended attributes. A file system that has none (tmpfs has no user.*) is no reason to fail, as
// with containerd, but capabilities matter to what runs.
func eachXattr(header *tar.Header, set func(name string, value []byte) error) error {
	for record, value := range header.PAXRecords {
		name, ok := strings.CutPrefix(record, xattrPrefix)
		if !ok {
			continue
		}
		err := set(name, []byte(value))
		if err == nil || (errors.Is(err, unix.ENOTSUP) && name != "security.capability") {
			continue
		}
		if errors.Is(err, unix.EPERM) && !strings.HasPrefix(name, "security.") {
			continue // user.* on a symlink, trusted.* without privilege
		}
		return fmt.Errorf("extended attribute %q: %w", name, err)
	}
	return nil
}

func setTime(file int, modified time.Time) error {
	if err := unix.UtimesNanoAt(file, "", timespecs(modified), unix.AT_EMPTY_PATH); err != nil {
		return fmt.Errorf("time: %w", err)
	}
	return nil
}

// timespecs are times of access and modification.
func timespecs(modified time.Time) []unix.Timespec {
	if modified.IsZero() {
		modified = time.Unix(0, 0)
	}
	stamp := unix.NsecToTimespec(modified.UnixNano())
	return []unix.Timespec{stamp, stamp}
}
