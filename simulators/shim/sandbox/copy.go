package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"github.com/coco-e2e/coco-e2e/framework/agentapi/agentpb"
)

const (
	// copyChunk is the most data in one CopyFile (Kata virtcontainers/kata_agent.go grpcMaxDataSize).
	copyChunk = 1 << 20
	// copyDirMode is what Kata asks of directories made on the way: Go's os.ModeDir|0750, a Go file mode where a
	// POSIX one belongs. Policies see this number.
	copyDirMode = uint32(fs.ModeDir | 0o750)
)

// copyTree copies a file, or a directory with all that is in it, to the guest's path: one CopyFile for each object
// (more for large files), a directory before its contents, in lexical order. What vanishes meanwhile, as the old version
// of a volume does, is left out.
func (a *agent) copyTree(ctx context.Context, source, guest string) error {
	return filepath.WalkDir(source, func(name string, entry fs.DirEntry, err error) error {
		if name != source && errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("copy %s to the guest: %w", source, err)
		}
		relative, err := filepath.Rel(source, name)
		if err != nil {
			return fmt.Errorf("copy %s to the guest: %w", source, err)
		}
		switch entry.Type() {
		case 0, fs.ModeDir, fs.ModeSymlink:
			err := a.copyObject(ctx, name, path.Join(guest, relative))
			if name != source && errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		}
		log.G(ctx).WithField("source", name).Warn("neither file, directory nor symbolic link: not copied into the guest")
		return nil
	})
}

func (a *agent) copyObject(ctx context.Context, source, guest string) error {
	var stat unix.Stat_t
	if err := unix.Lstat(source, &stat); err != nil {
		return fmt.Errorf("copy %s to the guest: %w", source, err)
	}
	request := &agentpb.CopyFileRequest{
		Path: guest, FileMode: stat.Mode, DirMode: copyDirMode, Uid: int32(stat.Uid), Gid: int32(stat.Gid),
	}
	switch stat.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		target, err := os.Readlink(source)
		if err != nil {
			return fmt.Errorf("copy %s to the guest: %w", source, err)
		}
		request.Data = []byte(target)
	case unix.S_IFREG:
		if stat.Size > 0 {
			request.FileSize = stat.Size
			return a.copyContent(ctx, source, request)
		}
	}
	// Only files with content get Kata's prefix to their errors.
	_, err := call(ctx, defaultTimeout, a.service.CopyFile, request)
	return err
}

// copyContent sends a file's bytes, as many as it had when it was looked at.
func (a *agent) copyContent(ctx context.Context, source string, request *agentpb.CopyFileRequest) error {
	file, err := os.Open(source)
	if err != nil {
		return fmt.Errorf("copy %s to the guest: %w", source, err)
	}
	defer file.Close()
	buffer := make([]byte, min(request.FileSize, copyChunk))
	for request.Offset < request.FileSize {
		request.Data = buffer[:min(request.FileSize-request.Offset, copyChunk)]
		if _, err := io.ReadFull(file, request.Data); err != nil {
			return fmt.Errorf("copy %s to the guest: it became shorter meanwhile: %w", source, err)
		}
		if _, err := call(ctx, defaultTimeout, a.service.CopyFile, request); err != nil {
			// %s, not %w: Kata loses the agent's code here, and containerd reports Unknown.
			//lint:ignore ST1005 Kata's text
			return fmt.Errorf("Could not send CopyFile request: %s", err)
		}
		request.Offset += int64(len(request.Data))
	}
	return nil
}
