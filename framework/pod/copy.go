package pod

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
)

// CopyTo copies all of src into a directory of a container, which it makes, as
// `kubectl cp` does: through tar, which the image must have. Modes are kept,
// owners are whoever the container runs as. Symbolic links need a src that has
// fs.ReadLinkFS, as os.DirFS.
func (c *Client) CopyTo(ctx context.Context, src fs.FS, namespace, name, container, dir string) error {
	r, w := io.Pipe()
	packed := make(chan error, 1)
	go func() {
		t := tar.NewWriter(w)
		err := t.AddFS(src)
		if err == nil {
			err = t.Close()
		}
		w.CloseWithError(err)
		packed <- err
	}()
	command := []string{"sh", "-c", `mkdir -p "$1" && exec tar -xmf - --no-same-owner -C "$1"`, "sh", dir}
	result, err := c.ExecStdin(ctx, r, namespace, name, container, command...)
	r.Close() // nobody reads on, when tar has ended early
	if archive := <-packed; archive != nil {
		err = errors.Join(archive, err)
	}
	return ranWell(result, err, "copy to "+namespace+"/"+name+":"+dir)
}

// CopyFrom copies a file or directory of a container below the local directory
// dst, under its own name, as `kubectl cp` does. What the container sends
// cannot reach outside dst. Only files, directories and symbolic links are
// copied.
func (c *Client) CopyFrom(ctx context.Context, namespace, name, container, src, dst string) error {
	what := "copy from " + namespace + "/" + name + ":" + src
	root, err := os.OpenRoot(dst)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	defer root.Close()
	r, w := io.Pipe()
	unpacked := make(chan error, 1)
	go func() {
		err := unpack(r, root)
		// Not before the end: tar pads what follows the archive's.
		_, rest := io.Copy(io.Discard, r)
		unpacked <- errors.Join(err, rest)
	}()
	var stderr output
	code, err := c.ExecIO(ctx, IO{Stdout: w, Stderr: &stderr}, namespace, name, container,
		"tar", "-cf", "-", "-C", path.Dir(path.Clean(src)), "--", path.Base(path.Clean(src)))
	w.Close()
	archive := <-unpacked
	if err := ranWell(Result{Stderr: stderr.String(), ExitCode: code}, err, what); err != nil {
		return err
	}
	if archive != nil {
		return fmt.Errorf("%s: %w", what, archive)
	}
	return nil
}

// ranWell makes an error of a command that failed.
func ranWell(r Result, err error, what string) error {
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if r.ExitCode != 0 {
		return fmt.Errorf("%s: exit code %d: %s", what, r.ExitCode, strings.TrimSpace(r.Stderr))
	}
	return nil
}

// unpack writes an archive below root.
func unpack(r io.Reader, root *os.Root) error {
	for t := tar.NewReader(r); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		name := path.Clean(h.Name)
		switch h.Typeflag {
		case tar.TypeDir:
			err = root.MkdirAll(name, h.FileInfo().Mode().Perm()|0o700)
		case tar.TypeSymlink:
			err = root.Symlink(h.Linkname, name)
		case tar.TypeReg:
			err = unpackFile(t, root, name, h.FileInfo().Mode().Perm())
		}
		if err != nil {
			return fmt.Errorf("unpack %q: %w", h.Name, err)
		}
	}
}

func unpackFile(r io.Reader, root *os.Root, name string, mode fs.FileMode) error {
	f, err := root.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Close())
}
