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
func copyFile(r *pb.CopyFileRequest) error {
	if !inside(r.Path) {
		return fmt.Errorf("removing %s prefix from %s: prefix not found", sharedDir, r.Path)
	}
	if err := os.MkdirAll(sharedDir, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(sharedDir)
	if err != nil {
		return err
	}
	defer root.Close()
	return copyInto(root, strings.TrimPrefix(r.Path, sharedDir), r)
}

func copyInto(root *os.Root, path string, r *pb.CopyFileRequest) error {
	if err := parents(root, path, r); err != nil {
		return err
	}
	switch r.FileMode & unix.S_IFMT {
	case unix.S_IFDIR:
		if err := root.MkdirAll(path, 0o755); err != nil {
			return err
		}
		if err := root.Chown(path, int(r.Uid), int(r.Gid)); err != nil {
			return err
		}
		return root.Chmod(path, permissions(r.FileMode))
	case unix.S_IFLNK:
		if err := root.RemoveAll(path); err != nil {
			return err
		}
		if err := root.Symlink(string(r.Data), path); err != nil {
			return err
		}
		return root.Lchown(path, int(r.Uid), int(r.Gid))
	}
	return writeChunk(root, path, r)
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

// inside reports whether path is one below the directory of copied files.
func inside(path string) bool {
	return strings.HasPrefix(path, sharedDir) && filepath.Clean(path) == path
}

// parents makes the directories above the file, and gives the nearest one to
// the file's owner.
func parents(root *os.Root, path string, r *pb.CopyFileRequest) error {
	dir := filepath.Dir(path)
	if _, err := root.Stat(dir); err == nil {
		return nil
	}
	if err := root.MkdirAll(dir, os.FileMode(r.DirMode&0o777)); err != nil {
		return err
	}
	return root.Chown(dir, int(r.Uid), int(r.Gid))
}

// writeChunk gathers a file beside its place and puts it there once whole.
func writeChunk(root *os.Root, path string, r *pb.CopyFileRequest) error {
	tmp := strings.TrimSuffix(path, filepath.Ext(path)) + ".tmp"
	if r.Offset == 0 {
		if err := root.RemoveAll(tmp); err != nil {
			return err
		}
	}
	f, err := root.OpenFile(tmp, os.O_CREATE|os.O_WRONLY|unix.O_NOFOLLOW, 0o600)
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
	if err := root.Chown(tmp, int(r.Uid), int(r.Gid)); err != nil {
		return err
	}
	if err := root.Chmod(tmp, permissions(r.FileMode)); err != nil {
		return err
	}
	if st, err := root.Lstat(path); err == nil && st.IsDir() {
		if err := root.RemoveAll(path); err != nil {
			return err
		}
	}
	return root.Rename(tmp, path)
}
