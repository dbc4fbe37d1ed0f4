package agent

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"syscall"

	pb "github.com/coco-e2e/coco-e2e/framework/agentapi/agentpb"
	"github.com/coco-e2e/coco-e2e/framework/agentapi/agentpb/typespb"
)

// What the group of a volume may do with it (Kata src/agent/src/mount.rs).
const (
	groupWrites = 0o660
	groupReads  = 0o440
	groupEnters = 0o110
)

// setOwnership gives a volume and what is in it to the pod's fsGroup, where the
// storage names one. With the policy OnRootMismatch it is left alone when its
// root is as it would be.
func setOwnership(s *pb.Storage) error {
	group := s.FsGroup
	if group == nil {
		return nil
	}
	mask := fs.FileMode(groupWrites)
	if slices.Contains(s.Options, "ro") {
		mask = groupReads
	}
	root, err := os.OpenRoot(s.MountPoint)
	if err != nil {
		return err
	}
	defer root.Close()
	st, err := root.Stat(".")
	if err != nil {
		return err
	}
	want := mask | groupEnters
	if group.GroupChangePolicy == typespb.FSGroupChangePolicy_OnRootMismatch && groupOf(st) == group.GroupId &&
		st.Mode()&want == want && st.Mode()&fs.ModeSetgid != 0 {
		return nil
	}
	return ownTree(root, int(group.GroupId), mask)
}

func groupOf(st fs.FileInfo) uint32 { return st.Sys().(*syscall.Stat_t).Gid }

// ownTree leaves links alone: what one leads to may be nobody's here.
func ownTree(root *os.Root, gid int, mask fs.FileMode) error {
	return fs.WalkDir(root.FS(), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Type()&fs.ModeSymlink != 0 {
			return err
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		mode := st.Mode()&(fs.ModePerm|fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky) | mask
		if d.IsDir() {
			mode |= groupEnters | fs.ModeSetgid
		}
		// The mode last: a change of the owner takes special bits away.
		return errors.Join(root.Lchown(path, -1, gid), root.Chmod(path, mode))
	})
}
