package image

import (
	"archive/tar"
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// entry is one entry of a layer. The zero type is a regular file.
type entry struct {
	name    string
	kind    byte
	link    string
	content string
	mode    int64
	uid     int
	xattrs  map[string]string
}

var modified = time.Date(2020, 2, 3, 4, 5, 6, 0, time.UTC)

func archive(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var buffer bytes.Buffer
	writer := tar.NewWriter(&buffer)
	for _, e := range entries {
		header := &tar.Header{
			Name: e.name, Typeflag: e.kind, Linkname: e.link, Size: int64(len(e.content)), Mode: e.mode, Uid: e.uid, Gid: e.uid, ModTime: modified,
		}
		if header.Typeflag == 0 {
			header.Typeflag = tar.TypeReg
		}
		if header.Mode == 0 {
			header.Mode = 0o755
		}
		if e.kind == tar.TypeChar {
			header.Devmajor, header.Devminor = 1, 3
		}
		for name, value := range e.xattrs {
			if header.PAXRecords == nil {
				header.PAXRecords = map[string]string{}
			}
			header.PAXRecords["SCHILY.xattr."+name] = value
		}
		if err := writer.WriteHeader(header); err != nil {
			t.Fatal(err)
		}
		if _, err := writer.Write([]byte(e.content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := writer.Close(); err != nil {
		t.Fatal(err)
	}
	return buffer.Bytes()
}

// apply applies layers to a fresh root that has a sentinel beside it, and fails the test if anything outside the root changed.
func apply(t *testing.T, layers ...[]byte) (root string, err error) {
	t.Helper()
	outside := t.TempDir()
	root = filepath.Join(outside, "rootfs")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	sentinel := filepath.Join(outside, "sentinel")
	if err := os.WriteFile(sentinel, []byte("safe"), 0o600); err != nil {
		t.Fatal(err)
	}
	tree, err := openTree(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, layer := range layers {
		if err = tree.applyLayer(bytes.NewReader(layer)); err != nil {
			break
		}
	}
	tree.close()
	content, readErr := os.ReadFile(sentinel)
	info, statErr := os.Lstat(sentinel)
	if readErr != nil || statErr != nil || string(content) != "safe" || info.Mode() != 0o600 || info.Sys().(*syscall.Stat_t).Nlink != 1 {
		t.Errorf("sentinel: %q, %v, %v, %v", content, info, readErr, statErr)
	}
	entries, readErr := os.ReadDir(outside)
	if readErr != nil || len(entries) != 2 {
		t.Errorf("beside the root: %v, %v", entries, readErr)
	}
	return root, err
}

// listing lists a tree: names, with -> target for symlinks, / for directories and =content for files.
func listing(t *testing.T, root string) string {
	t.Helper()
	var lines []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		line := strings.TrimPrefix(path, root+"/")
		switch {
		case d.IsDir():
			line += "/"
		case d.Type()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			line += "->" + target
		case d.Type().IsRegular():
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += "=" + string(content)
		}
		lines = append(lines, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(lines, " ")
}

func TestLayers(t *testing.T) {
	dir := func(name string) entry { return entry{name: name, kind: tar.TypeDir} }
	file := func(name, content string) entry { return entry{name: name, content: content} }
	symlink := func(name, to string) entry { return entry{name: name, kind: tar.TypeSymlink, link: to} }
	hardlink := func(name, to string) entry { return entry{name: name, kind: tar.TypeLink, link: to} }
	for _, test := range []struct {
		name   string
		layers [][]entry
		want   string
	}{
		{"names of all forms", [][]entry{{dir("./"), dir("./a/"), file("/a/b", "1"), file("c/d/e", "2")}}, "a/ a/b=1 c/ c/d/ c/d/e=2"},
		{"a file replaces a file", [][]entry{{file("a", "1")}, {file("a", "2")}}, "a=2"},
		{"a file replaces a directory", [][]entry{{file("a/b", "1")}, {file("a", "2")}}, "a=2"},
		{"a directory replaces a file", [][]entry{{file("a", "1")}, {dir("a"), file("a/b", "2")}}, "a/ a/b=2"},
		{"a directory stays", [][]entry{{file("a/b", "1")}, {dir("a"), file("a/c", "2")}}, "a/ a/b=1 a/c=2"},
		{"a directory replaces a symlink", [][]entry{{dir("x"), symlink("a", "x")}, {dir("a"), file("a/b", "1")}}, "a/ a/b=1 x/"},
		{"through a relative symlink", [][]entry{{dir("usr/lib"), symlink("lib", "usr/lib")}, {file("lib/x", "1")}}, "lib->usr/lib usr/ usr/lib/ usr/lib/x=1"},
		{"through an absolute symlink", [][]entry{{dir("usr/lib"), symlink("lib", "/usr/lib")}, {file("lib/x", "1")}}, "lib->/usr/lib usr/ usr/lib/ usr/lib/x=1"},
		{"whiteout", [][]entry{{file("a/b", "1"), file("a/c", "2")}, {file("a/.wh.b", "")}}, "a/ a/c=2"},
		{"whiteout of a directory", [][]entry{{file("a/b/c", "1"), file("d", "2")}, {file(".wh.a", "")}}, "d=2"},
		{"whiteout of a symlink", [][]entry{{file("a/b", "1"), symlink("l", "a")}, {file(".wh.l", "")}}, "a/ a/b=1"},
		{"whiteout of what is not there", [][]entry{{file("a", "1")}, {file(".wh.b", "")}}, "a=1"},
		{"opaque whiteout", [][]entry{{file("a/b", "1"), file("a/c/d", "2")}, {dir("a"), file("a/.wh..wh..opq", ""), file("a/e", "3")}}, "a/ a/e=3"},
		{"opaque whiteout after its layer's entries", [][]entry{
			{file("a/b", "1"), file("a/c/d", "2"), file("a/c/x", "3")},
			{dir("a"), file("a/c/d", "4"), file("a/e", "5"), file("a/.wh..wh..opq", "")},
		}, "a/ a/c/ a/c/d=4 a/e=5"},
		{"hard link", [][]entry{{file("a/b", "1"), hardlink("c", "a/b")}}, "a/ a/b=1 c=1"},
		{"hard link to a lower layer", [][]entry{{file("a", "1")}, {hardlink("b", "/a")}}, "a=1 b=1"},
		{"hard link to a symlink", [][]entry{{symlink("a", "/etc/shadow"), hardlink("b", "a")}}, "a->/etc/shadow b->/etc/shadow"},
		{"metadata of AUFS", [][]entry{{file("a", "1"), file(".wh..wh.aufs", "")}}, "a=1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var layers [][]byte
			for _, entries := range test.layers {
				layers = append(layers, archive(t, entries...))
			}
			root, err := apply(t, layers...)
			if err != nil {
				t.Fatal(err)
			}
			if got := listing(t, root); got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}

// TestHostileLayers are attempts to get at the sentinel beside the root, which apply guards. Those that the root's own rules
// make harmless need not fail.
func TestHostileLayers(t *testing.T) {
	symlink := func(name, to string) entry { return entry{name: name, kind: tar.TypeSymlink, link: to} }
	hardlink := func(name, to string) entry { return entry{name: name, kind: tar.TypeLink, link: to} }
	evil := func(name string) entry { return entry{name: name, content: "evil"} }
	for _, test := range []struct {
		name    string
		entries []entry
		wantErr string // empty: harmless
		want    string
	}{
		{"climbs", []entry{evil("../sentinel")}, "leads out of the root", ""},
		{"climbs later", []entry{evil("a/../../sentinel")}, "leads out of the root", ""},
		{"climbs from an absolute name", []entry{evil("/../sentinel")}, "leads out of the root", ""},
		{"the root's parent", []entry{{name: "..", kind: tar.TypeDir, mode: 0o777}}, "leads out of the root", ""},
		{"the root as a file", []entry{evil(".")}, "the root is a directory", ""},
		{"symlink to the parent", []entry{symlink("a", ".."), evil("a/sentinel")}, "", "a->.. sentinel=evil"},
		{"symlink far up", []entry{symlink("a", "../../../../../.."), evil("a/sentinel")}, "", "a->../../../../../.. sentinel=evil"},
		{"chain of symlinks", []entry{symlink("a", "b"), symlink("b", "/.."), evil("a/sentinel")}, "", "a->b b->/.. sentinel=evil"},
		{"absolute symlink", []entry{symlink("etc", "/etc"), evil("etc/x")}, "too many levels of symbolic links", ""},
		{"absolute symlink to nothing", []entry{symlink("a", "/nowhere"), evil("a/x")}, `directory "a": file exists`, ""},
		{"through a file", []entry{evil("a"), evil("a/b")}, "not a directory", ""},
		{"write through a symlink to a file", []entry{symlink("a", "../sentinel"), evil("a")}, "", "a=evil"},
		{"magic link", []entry{symlink("a", "/proc/self/cwd"), evil("a/x")}, `directory "a": file exists`, ""},
		{"hard link out", []entry{hardlink("a", "../sentinel"), evil("a")}, "leads out of the root", ""},
		{"hard link out, absolute", []entry{hardlink("a", "/etc/passwd")}, "no such file or directory", ""},
		{"hard link through a symlink", []entry{symlink("up", ".."), hardlink("a", "up/sentinel")}, "no such file or directory", ""},
		{"hard link to a directory", []entry{{name: "d", kind: tar.TypeDir}, hardlink("a", "d")}, "operation not permitted", ""},
		{"whiteout of the parent", []entry{evil("a/.wh...")}, "whiteout of nothing", ""},
		{"whiteout of the directory", []entry{evil("a/.wh..")}, "whiteout of nothing", ""},
		{"whiteout of no name", []entry{evil("a/.wh.")}, "whiteout of nothing", ""},
		{"whiteout through a symlink", []entry{symlink("up", ".."), evil("up/.wh.sentinel")}, "", "up->.."},
		{"opaque whiteout of the parent", []entry{symlink("up", ".."), evil("up/.wh..wh..opq")}, "", ""}, // it empties the root
		{"mode through a symlink", []entry{symlink("a", "../sentinel"), {name: "a", kind: tar.TypeDir, mode: 0o777}}, "", "a/"},
		{"unknown type", []entry{{name: "a", kind: 'Q'}}, "not known", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			root, err := apply(t, archive(t, test.entries...))
			if test.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), test.wantErr) {
					t.Errorf("error %v, want in it %q", err, test.wantErr)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := listing(t, root); got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}

func TestAttributes(t *testing.T) {
	capability := "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" // cap_net_raw+ep
	root, err := apply(t, archive(t,
		entry{name: "d", kind: tar.TypeDir, mode: 0o1777, uid: 5},
		entry{name: "d/su", content: "x", mode: 0o6755, uid: 33},
		entry{name: "ping", content: "x", mode: 0o755, uid: 7, xattrs: map[string]string{"security.capability": capability, "user.note": "hello"}},
		entry{name: "l", kind: tar.TypeSymlink, link: "nowhere", uid: 44},
		entry{name: "null", kind: tar.TypeChar, mode: 0o666, uid: 1},
		entry{name: "pipe", kind: tar.TypeFifo, mode: 0o622, uid: 2},
	))
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name string
		mode uint32
		uid  uint32
	}{
		{"d", unix.S_IFDIR | 0o1777, 5},
		{"d/su", unix.S_IFREG | 0o6755, 33},
		{"ping", unix.S_IFREG | 0o755, 7},
		{"l", unix.S_IFLNK | 0o777, 44},
		{"null", unix.S_IFCHR | 0o666, 1},
		{"pipe", unix.S_IFIFO | 0o622, 2},
	} {
		var stat unix.Stat_t
		if err := unix.Lstat(filepath.Join(root, test.name), &stat); err != nil {
			t.Fatal(err)
		}
		if stat.Mode != test.mode || stat.Uid != test.uid || stat.Gid != test.uid || stat.Mtim.Sec != modified.Unix() {
			t.Errorf("%s: mode %o, owner %d:%d, modified %d", test.name, stat.Mode, stat.Uid, stat.Gid, stat.Mtim.Sec)
		}
		if test.name == "null" && stat.Rdev != unix.Mkdev(1, 3) {
			t.Errorf("null: device %#x", stat.Rdev)
		}
	}
	value := make([]byte, 64)
	n, err := unix.Getxattr(filepath.Join(root, "ping"), "security.capability", value)
	if err != nil || string(value[:n]) != capability {
		t.Errorf("capability %x, %v", value[:max(n, 0)], err)
	}
}

func TestTruncatedArchive(t *testing.T) {
	whole := archive(t, entry{name: "a", content: strings.Repeat("x", 5000)})
	for _, length := range []int{100, 512, 3000} {
		if _, err := apply(t, whole[:length]); err == nil {
			t.Errorf("%d bytes: no error", length)
		}
	}
}

// FuzzCleanName checks that whatever the name, it stays below a root lexically.
func FuzzCleanName(f *testing.F) {
	for _, seed := range []string{"a", "./a/", "/a//b", "..", "a/../..", "a/../b", ".", "", "a\x00b", "//", "../../etc/passwd", ".wh..wh..opq", "a/./../../b"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, name string) {
		cleaned, err := cleanName(name)
		if err != nil {
			return
		}
		joined := filepath.Join("/root", cleaned)
		if joined != "/root" && !strings.HasPrefix(joined, "/root/") {
			t.Errorf("%q leads to %q", name, joined)
		}
		if (cleaned == ".") != (joined == "/root") {
			t.Errorf("%q cleaned to %q leads to %q", name, cleaned, joined)
		}
		if again, err := cleanName(cleaned); again != cleaned || err != nil {
			t.Errorf("%q cleaned to %q cleans to %q, %v", name, cleaned, again, err)
		}
	})
}

// FuzzApplyLayer unpacks archives of three entries with hostile names and links; nothing outside the root may change.
func FuzzApplyLayer(f *testing.F) {
	f.Add("a", "..", byte('2'), "a/sentinel", "", byte('0'), "b", "a/sentinel", byte('1'))
	f.Add("x", "/", byte('2'), "x/../.wh.sentinel", "", byte('0'), "x/.wh..wh..opq", "", byte('0'))
	f.Add("d", "", byte('5'), "d", "../..", byte('2'), "d/sentinel", "", byte('5'))
	f.Fuzz(func(t *testing.T, name1, link1 string, kind1 byte, name2, link2 string, kind2 byte, name3, link3 string, kind3 byte) {
		var buffer bytes.Buffer
		writer := tar.NewWriter(&buffer)
		for _, e := range []entry{{name: name1, link: link1, kind: kind1}, {name: name2, link: link2, kind: kind2}, {name: name3, link: link3, kind: kind3}} {
			switch e.kind {
			case tar.TypeReg, tar.TypeDir, tar.TypeSymlink, tar.TypeLink, tar.TypeFifo:
			default:
				e.kind = '0' + e.kind%3
			}
			_ = writer.WriteHeader(&tar.Header{Name: e.name, Linkname: e.link, Typeflag: e.kind, Mode: 0o666, ModTime: modified})
		}
		_ = writer.Close()
		_, _ = apply(t, buffer.Bytes())
	})
}
