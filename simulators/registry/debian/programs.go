package debian

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"

	"github.com/coco-e2e/coco-e2e/simulators/registry/image"
)

// libraryDirs are where the dynamic loader of Debian on amd64 looks without being told.
var libraryDirs = []string{"usr/lib/x86_64-linux-gnu", "usr/lib64", "usr/lib"}

// Copy puts files, by their absolute paths, into an image, with the links on the way to them and with the libraries that
// programs are linked to.
func (f Files) Copy(to image.Tree, names ...string) error {
	for queue := names; len(queue) > 0; queue = queue[1:] {
		name, err := f.follow(to, queue[0])
		if err != nil {
			return fmt.Errorf("%s: %w", queue[0], err)
		}
		if name == "" {
			continue
		}
		needs, err := f.libraries(f[name].Content)
		if err != nil {
			return fmt.Errorf("%s: %w", queue[0], err)
		}
		queue = append(queue, needs...)
	}
	return nil
}

// follow puts a file, and links on the way to it, and gives its name; "" if it was there.
func (f Files) follow(to image.Tree, name string) (string, error) {
	name = merged(name)
	for range 8 {
		e, ok := f[name]
		switch {
		case !ok:
			return "", fmt.Errorf("/%s is in none of the packages", name)
		case e.Mode.IsDir():
			return "", fmt.Errorf("/%s is a directory", name)
		}
		_, had := to[name]
		to[name] = e
		if e.Mode&fs.ModeSymlink == 0 {
			if had {
				return "", nil
			}
			return name, nil
		}
		if path.IsAbs(e.Link) {
			name = merged(e.Link)
		} else {
			name = merged(path.Join(path.Dir(name), e.Link))
		}
	}
	return "", errors.New("too many links")
}

// libraries lists what an ELF file needs to run: its loader and the libraries it is linked to; nothing for other files.
func (f Files) libraries(content []byte) ([]string, error) {
	if !bytes.HasPrefix(content, []byte(elf.ELFMAG)) {
		return nil, nil
	}
	file, err := elf.NewFile(bytes.NewReader(content))
	if err != nil {
		return nil, err
	}
	var out []string
	for _, p := range file.Progs {
		if p.Type == elf.PT_INTERP {
			loader, err := io.ReadAll(p.Open())
			if err != nil {
				return nil, err
			}
			out = append(out, strings.TrimRight(string(loader), "\x00"))
		}
	}
	names, err := file.ImportedLibraries()
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		found := ""
		for _, dir := range libraryDirs {
			if _, ok := f[dir+"/"+name]; ok {
				found = dir + "/" + name
				break
			}
		}
		if found == "" {
			return nil, fmt.Errorf("library %s is in none of the packages", name)
		}
		out = append(out, found)
	}
	return out, nil
}
