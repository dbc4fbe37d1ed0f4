// Package image makes container images whose digest depends on nothing but their content: of file trees in memory, with
// no times, owners or order of this machine's.
//
// It must not know where files come from or who pulls an image.
package image

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Entry is a file, a directory or a symbolic link, owned by root.
type Entry struct {
	// Mode has the type (fs.ModeDir, fs.ModeSymlink or none) and the permissions, with fs.ModeSticky and the like.
	Mode fs.FileMode
	// Content of a file.
	Content []byte
	// Link is a symbolic link's target.
	Link string
}

// Tree is the files of an image by path, without a leading slash: "usr/bin/env". Parents need not be there.
type Tree map[string]Entry

// AddFile puts a file.
func (t Tree) AddFile(name string, content []byte, mode fs.FileMode) {
	t[clean(name)] = Entry{Mode: mode.Perm(), Content: content}
}

// AddText puts a file that everybody may read.
func (t Tree) AddText(name, text string) { t.AddFile(name, []byte(text), 0o644) }

// AddDir puts a directory.
func (t Tree) AddDir(name string, mode fs.FileMode) {
	t[clean(name)] = Entry{Mode: mode | fs.ModeDir}
}

// AddLink puts a symbolic link.
func (t Tree) AddLink(name, target string) {
	t[clean(name)] = Entry{Mode: fs.ModeSymlink | 0o777, Link: target}
}

// AddFrom puts a file of this machine's, executable if it is so here. pair is "/path/here:/path/in/the/image".
func (t Tree) AddFrom(pair string) error {
	from, to, ok := strings.Cut(pair, ":")
	if !ok || from == "" || !path.IsAbs(to) || clean(to) == "" {
		return fmt.Errorf("file %q: write it as /path/here:/path/in/the/image", pair)
	}
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	info, err := os.Stat(from)
	if err != nil {
		return err
	}
	mode := fs.FileMode(0o644)
	if info.Mode()&0o111 != 0 {
		mode = 0o755
	}
	t.AddFile(to, content, mode)
	return nil
}

// AddTree puts all that is below a directory of this machine's: directories, files and symbolic links. pair is
// "/directory/here:/path/in/the/image".
func (t Tree) AddTree(pair string) error {
	from, to, ok := strings.Cut(pair, ":")
	if !ok || from == "" || !path.IsAbs(to) {
		return fmt.Errorf("tree %q: write it as /directory/here:/path/in/the/image", pair)
	}
	return filepath.WalkDir(from, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, p)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		name := path.Join(to, filepath.ToSlash(rel))
		switch {
		case d.IsDir():
			t.AddDir(name, info.Mode().Perm()|info.Mode()&fs.ModeSticky)
		case d.Type()&fs.ModeSymlink != 0:
			target, err := os.Readlink(p)
			if err != nil {
				return err
			}
			t.AddLink(name, target)
		case d.Type().IsRegular():
			content, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			t.AddFile(name, content, info.Mode())
		default:
			return fmt.Errorf("%s: an image cannot have a %s", p, d.Type())
		}
		return nil
	})
}

// AddUsers puts a list of users and groups with root and nobody, which runtimes and the C library look into.
func (t Tree) AddUsers(shell string, more ...string) {
	passwd := "root:x:0:0:root:/root:" + shell + "\n"
	group := "root:x:0:\n"
	for _, u := range append(more, "nobody:65534") {
		name, id, _ := strings.Cut(u, ":")
		passwd += fmt.Sprintf("%s:x:%s:%s:%s:/nonexistent:/usr/sbin/nologin\n", name, id, id, name)
		group += fmt.Sprintf("%s:x:%s:\n", name, id)
	}
	t.AddText("etc/passwd", passwd)
	t.AddText("etc/group", group)
}

func clean(name string) string { return strings.TrimPrefix(path.Clean("/"+name), "/") }

// Archive is the tree as an uncompressed tar archive, in the order of its paths, directories before what is in them.
func (t Tree) Archive() ([]byte, error) {
	all := maps.Clone(t)
	for name := range t {
		for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
			switch e, ok := all[dir]; {
			case !ok:
				all[dir] = Entry{Mode: fs.ModeDir | 0o755}
			case !e.Mode.IsDir():
				return nil, fmt.Errorf("archive: %s lies below %s, which is no directory", name, dir)
			}
		}
	}
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if err := all[name].write(w, name); err != nil {
			return nil, fmt.Errorf("archive: %s: %w", name, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("archive: %w", err)
	}
	return out.Bytes(), nil
}

func (e Entry) write(w *tar.Writer, name string) error {
	h := &tar.Header{
		Name: name, Mode: int64(e.Mode.Perm()), Linkname: e.Link, Size: int64(len(e.Content)), ModTime: epoch, Typeflag: tar.TypeReg,
	}
	for bit, mode := range map[fs.FileMode]int64{fs.ModeSetuid: 0o4000, fs.ModeSetgid: 0o2000, fs.ModeSticky: 0o1000} {
		if e.Mode&bit != 0 {
			h.Mode |= mode
		}
	}
	switch e.Mode.Type() {
	case 0:
	case fs.ModeDir:
		h.Typeflag, h.Name = tar.TypeDir, name+"/"
	case fs.ModeSymlink:
		h.Typeflag = tar.TypeSymlink
	default:
		return fmt.Errorf("an image cannot have a %s here", e.Mode.Type())
	}
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	_, err := w.Write(e.Content)
	return err
}

// epoch is the time of every file and image.
var epoch = time.Unix(0, 0).UTC()
