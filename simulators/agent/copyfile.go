package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	pb "github.com/coco-e2e/coco-e2e/framework/agentapi/agentpb"
	"github.com/coco-e2e/coco-e2e/framework/policy"
)

// CopyFile implements grpc.AgentService.
func (a *Agent) CopyFile(ctx context.Context, r *pb.CopyFileRequest) (*empty, error) {
	in, err := policy.CopyFileInput(r)
	if err != nil {
		return nil, internal(err)
	}
	return gateInput(ctx, a, "CopyFile", in, r, func(context.Context, *pb.CopyFileRequest) (*empty, error) {
		return &empty{}, internal(copyFile(r))
	})
}

// copyFile works below sharedDir only: the root that it opens there follows no
// link that leads out, whatever was copied before.
func copyFile(r *pb.CopyFileRequest) error { return copyBelow(sharedDir, r) }

func copyBelow(dir string, r *pb.CopyFileRequest) error {
	if !inside(dir, r.Path) {
		return fmt.Errorf("removing %q prefix from %s\n\nCaused by:\n    prefix not found", dir, r.Path)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	return copyInto(root, strings.TrimPrefix(r.Path, dir), r)
}

// inside reports whether path is one below dir, which ends in a slash.
func inside(dir, path string) bool {
	return strings.HasPrefix(path, dir) && path != dir && filepath.Clean(path) == path
}

// copyInto makes a directory, a link or a part of a file, as the bits of the
// mode say that Kata's agent looks at (src/agent/src/rpc.rs, do_copy_file).
func copyInto(root *os.Root, path string, r *pb.CopyFileRequest) error {
	if err := parents(root, path, r); err != nil {
		return err
	}
	if r.FileMode&unix.S_IFDIR == unix.S_IFDIR {
		return makeDirectory(root, path, r)
	}
	if r.Offset == 0 {
		if err := root.RemoveAll(path); err != nil {
			return err
		}
	}
	if r.FileMode&unix.S_IFLNK == unix.S_IFLNK {
		if err := root.Symlink(string(r.Data), path); err != nil {
			return err
		}
		return root.Lchown(path, int(r.Uid), int(r.Gid))
	}
	return writeChunk(root, path, r)
}

// parents makes the directories above the file, and gives the nearest one to
// the file's owner.
func parents(root *os.Root, path string, r *pb.CopyFileRequest) error {
	dir := filepath.Dir(path)
	if dir == "." {
		return nil
	}
	if err := root.MkdirAll(dir, os.FileMode(r.DirMode&0o777)); err != nil {
		return err
	}
	return root.Chown(dir, int(r.Uid), int(r.Gid))
}

// makeDirectory keeps a directory that is there.
func makeDirectory(root *os.Root, path string, r *pb.CopyFileRequest) error {
	if st, err := root.Lstat(path); err == nil && !st.IsDir() {
		if err := root.Remove(path); err != nil {
			return err
		}
	}
	if err := root.MkdirAll(path, os.FileMode(r.FileMode&0o777)); err != nil {
		return err
	}
	// The mode last: a change of the owner takes special bits away.
	if err := root.Chown(path, int(r.Uid), int(r.Gid)); err != nil {
		return err
	}
	return root.Chmod(path, permissions(r.FileMode))
}

// permissions are the permission bits of a Unix mode, with its special ones.
func permissions(mode uint32) os.FileMode {
	m := os.FileMode(mode & 0o777)
	for bit, special := range map[uint32]os.FileMode{unix.S_ISUID: os.ModeSetuid, unix.S_ISGID: os.ModeSetgid, unix.S_ISVTX: os.ModeSticky} {
		if mode&bit != 0 {
			m |= special
		}
	}
	return m
}

// partial is where a file is gathered: beside its place, with another
// extension. A leading dot begins no extension.
func partial(path string) string {
	dir, name := filepath.Split(path)
	if i := strings.LastIndexByte(name, '.'); i > 0 {
		name = name[:i]
	}
	return dir + name + ".tmp"
}

// writeChunk gathers a file and puts it in its place once whole.
func writeChunk(root *os.Root, path string, r *pb.CopyFileRequest) error {
	tmp := partial(path)
	flags := os.O_CREATE | os.O_RDWR | unix.O_NOFOLLOW | unix.O_NONBLOCK
	if r.Offset == 0 {
		flags |= os.O_TRUNC
	}
	f, err := root.OpenFile(tmp, flags, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(r.Data, r.Offset)
	st, statErr := f.Stat()
	if err := errors.Join(err, statErr, f.Close()); err != nil {
		return err
	}
	if st.Size() != r.FileSize {
		return nil // more is to come
	}
	if err := root.Lchown(tmp, int(r.Uid), int(r.Gid)); err != nil {
		return err
	}
	if err := root.Chmod(tmp, permissions(r.FileMode)); err != nil {
		return err
	}
	return root.Rename(tmp, path)
}
