package debian

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/coco-e2e/coco-e2e/simulators/registry/image"
)

// Files are the files of packages, in the layout of today's Debian, where /bin, /sbin, /lib and /lib64 are links into /usr.
type Files image.Tree

// mergedDirs are the links of the merged layout.
var mergedDirs = []string{"bin", "lib", "lib64", "sbin"}

// unwanted are directories that an image does without.
var unwanted = []string{
	"usr/share/doc/", "usr/share/info/", "usr/share/lintian/", "usr/share/locale/", "usr/share/man/", "usr/lib/x86_64-linux-gnu/gconv/",
}

// Read reads what the packages would install, but for their documentation.
func Read(ctx context.Context, packages []string) (Files, error) {
	trees := make([]image.Tree, len(packages))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(4)
	for i, file := range packages {
		group.Go(func() (err error) {
			if trees[i], err = readPackage(ctx, file); err != nil {
				return fmt.Errorf("package %s: %w", file, err)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	all := Files{}
	for _, tree := range trees {
		for name, e := range tree {
			if had, ok := all[name]; ok && !(had.Mode.IsDir() && e.Mode.IsDir()) {
				return nil, fmt.Errorf("%s is in two packages", name)
			}
			all[name] = e
		}
	}
	return all, nil
}

// readPackage has dpkg-deb, which knows every compression that packages have had, unpack a package's archive of files.
func readPackage(ctx context.Context, file string) (image.Tree, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends dpkg-deb when the archive is not read to its end
	var text bytes.Buffer
	cmd := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", file)
	cmd.Stderr = &text
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	tree, err := readArchive(out)
	if err != nil {
		cancel()
		return nil, errors.Join(err, cmd.Wait())
	}
	if _, err := io.Copy(io.Discard, out); err != nil {
		return nil, err
	}
	if err := cmd.Wait(); err != nil {
		return nil, fmt.Errorf("dpkg-deb: %w: %s", err, strings.TrimSpace(text.String()))
	}
	return tree, nil
}

func readArchive(r io.Reader) (image.Tree, error) {
	tree := image.Tree{}
	for archive := tar.NewReader(r); ; {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return tree, nil
		}
		if err != nil {
			return nil, err
		}
		// The directories, or links, that the merged layout is about are put by AddMergedDirs.
		if slices.Contains(mergedDirs, path.Clean(h.Name)) {
			continue
		}
		name := merged(h.Name)
		if name == "" || slices.ContainsFunc(unwanted, func(dir string) bool { return strings.HasPrefix(name, dir) }) {
			continue
		}
		switch h.Typeflag {
		case tar.TypeReg:
			content, err := io.ReadAll(archive)
			if err != nil {
				return nil, err
			}
			tree.AddFile(name, content, fs.FileMode(h.Mode))
		case tar.TypeDir:
			tree.AddDir(name, fs.FileMode(h.Mode).Perm())
		case tar.TypeSymlink:
			tree.AddLink(name, h.Linkname)
		case tar.TypeLink:
			tree[name] = tree[merged(h.Linkname)]
		default:
			return nil, fmt.Errorf("%s: entry of type %q", h.Name, h.Typeflag)
		}
	}
}

// merged is a path's place in the merged layout, without a leading slash.
func merged(name string) string {
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	first, _, _ := strings.Cut(name, "/")
	if slices.Contains(mergedDirs, first) {
		return "usr/" + name
	}
	return name
}

// AddMergedDirs puts the merged layout's links.
func AddMergedDirs(t image.Tree) {
	for _, dir := range mergedDirs {
		t.AddDir("usr/"+dir, 0o755)
		t.AddLink(dir, "usr/"+dir)
	}
}

// Names are "name version" of package files, from their names.
func Names(packages []string) []string {
	var out []string
	for _, file := range packages {
		name, rest, _ := strings.Cut(strings.TrimSuffix(filepath.Base(file), ".deb"), "_")
		version, _, _ := strings.Cut(rest, "_")
		out = append(out, name+" "+strings.ReplaceAll(version, "%3a", ":"))
	}
	slices.Sort(out)
	return out
}
