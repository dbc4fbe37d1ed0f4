package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	pb "github.com/coco-e2e/coco-e2e/framework/agentapi/agentpb"
)

// copyInput is what the policy sees of a CopyFile, once per chunk (Kata
// src/agent/src/rpc.rs, PolicyCopyFileRequest).
type copyInput struct {
	Path          string  `json:"path"`
	FileType      string  `json:"file_type"`
	SymlinkTarget *string `json:"symlink_target"`
	FileSize      int64   `json:"file_size"`
	FileMode      uint32  `json:"file_mode"`
	DirMode       uint32  `json:"dir_mode"`
	UID           int32   `json:"uid"`
	GID           int32   `json:"gid"`
	Offset        int64   `json:"offset"`
}

func copyFileInput(r *pb.CopyFileRequest) ([]byte, error) {
	in := copyInput{
		Path: r.Path, FileType: "Unknown", FileSize: r.FileSize, FileMode: r.FileMode, DirMode: r.DirMode, UID: r.Uid, GID: r.Gid, Offset: r.Offset,
	}
	switch r.FileMode & unix.S_IFMT {
	case unix.S_IFREG:
		in.FileType = "Regular"
	case unix.S_IFDIR:
		in.FileType = "Directory"
	case unix.S_IFLNK:
		if !utf8.Valid(r.Data) {
			return nil, errors.New("parsing CopyFileRequest for policy: invalid symlink content")
		}
		target := string(r.Data)
		in.FileType, in.SymlinkTarget = "Symlink", &target
	}
	return json.Marshal(in)
}

// CopyFile implements grpc.AgentService.
func (a *Agent) CopyFile(ctx context.Context, r *pb.CopyFileRequest) (*empty, error) {
	in, err := copyFileInput(r)
	if err != nil {
		return nil, internal(err)
	}
	return gateInput(ctx, a, "CopyFile", "CopyFileRequest", in, r, func(context.Context, *pb.CopyFileRequest) (*empty, error) {
		return &empty{}, internal(copyFile(r))
	})
}

func copyFile(r *pb.CopyFileRequest) error {
	if !inside(r.Path) {
		return fmt.Errorf("removing %s prefix from %s: prefix not found", sharedDir, r.Path)
	}
	if err := parents(r); err != nil {
		return err
	}
	mode := os.FileMode(r.FileMode & 0o777)
	switch r.FileMode & unix.S_IFMT {
	case unix.S_IFDIR:
		if err := os.MkdirAll(r.Path, 0o755); err != nil {
			return err
		}
		if err := os.Chown(r.Path, int(r.Uid), int(r.Gid)); err != nil {
			return err
		}
		return unix.Chmod(r.Path, r.FileMode&0o7777)
	case unix.S_IFLNK:
		if err := os.RemoveAll(r.Path); err != nil {
			return err
		}
		if err := os.Symlink(string(r.Data), r.Path); err != nil {
			return err
		}
		return os.Lchown(r.Path, int(r.Uid), int(r.Gid))
	}
	return writeChunk(r, mode)
}

// inside reports whether path is one below the directory of copied files.
func inside(path string) bool {
	return strings.HasPrefix(path, sharedDir) && filepath.Clean(path) == path
}

// parents makes the directories above the file, and gives the nearest one to
// the file's owner.
func parents(r *pb.CopyFileRequest) error {
	dir := filepath.Dir(r.Path)
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	if err := os.MkdirAll(dir, os.FileMode(r.DirMode&0o777)); err != nil {
		return err
	}
	return os.Chown(dir, int(r.Uid), int(r.Gid))
}

// writeChunk gathers a file beside its place and puts it there once whole.
func writeChunk(r *pb.CopyFileRequest, mode os.FileMode) error {
	tmp := strings.TrimSuffix(r.Path, filepath.Ext(r.Path)) + ".tmp"
	if r.Offset == 0 {
		if err := os.RemoveAll(tmp); err != nil {
			return err
		}
	}
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_WRONLY|unix.O_NOFOLLOW, 0o600)
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
	if err := os.Chown(tmp, int(r.Uid), int(r.Gid)); err != nil {
		return err
	}
	if err := os.Chmod(tmp, mode); err != nil {
		return err
	}
	if st, err := os.Lstat(r.Path); err == nil && st.IsDir() {
		if err := os.RemoveAll(r.Path); err != nil {
			return err
		}
	}
	return os.Rename(tmp, r.Path)
}
