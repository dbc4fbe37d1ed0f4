package pod

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

type entry struct {
	header tar.Header
	body   string
}

func archive(tb testing.TB, entries ...entry) []byte {
	tb.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		e.header.Size = int64(len(e.body))
		if err := w.WriteHeader(&e.header); err != nil {
			tb.Fatal(err)
		}
		if _, err := w.Write([]byte(e.body)); err != nil {
			tb.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

func file(name, body string) entry {
	return entry{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o640}, body}
}

func directory(name string) entry {
	return entry{tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755}, ""}
}

func link(name, target string) entry {
	return entry{tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target}, ""}
}

func TestUnpack(t *testing.T) {
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	data := archive(t, directory("d"), file("d/f", "content"), link("d/l", "f"))
	if err := unpack(bytes.NewReader(data), root); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"d/f", "d/l"} {
		if b, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(b) != "content" {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
	if i, err := os.Stat(filepath.Join(dir, "d/f")); err != nil || i.Mode().Perm() != 0o640 {
		t.Errorf("mode %v, %v", i.Mode(), err)
	}
}

// A container is not trusted with the machine that copies from it.
func TestUnpackStaysInside(t *testing.T) {
	for name, entries := range map[string][]entry{
		"a name that climbs": {file("../evil", "x")},
		"an absolute name":   {file("/evil", "x")},
		"through a link":     {link("out", ".."), file("out/evil", "x")},
		"over a link":        {link("evil", "../evil"), file("evil", "x")},
	} {
		t.Run(name, func(t *testing.T) {
			outside := t.TempDir()
			inside := filepath.Join(outside, "inside")
			if err := os.Mkdir(inside, 0o755); err != nil {
				t.Fatal(err)
			}
			root, err := os.OpenRoot(inside)
			if err != nil {
				t.Fatal(err)
			}
			defer root.Close()
			if err := unpack(bytes.NewReader(archive(t, entries...)), root); err == nil {
				t.Error("it was unpacked")
			}
			if _, err := os.Lstat(filepath.Join(outside, "evil")); err == nil {
				t.Error("it was written outside")
			}
		})
	}
}

func FuzzUnpack(f *testing.F) {
	f.Add(archive(f, directory("d"), file("d/f", "content"), link("d/l", "f")))
	f.Add(archive(f, file("../evil", "x")))
	f.Add(archive(f, link("out", ".."), file("out/evil", "x")))
	f.Fuzz(func(t *testing.T, data []byte) {
		outside := t.TempDir()
		if err := os.Mkdir(filepath.Join(outside, "inside"), 0o755); err != nil {
			t.Fatal(err)
		}
		root, err := os.OpenRoot(filepath.Join(outside, "inside"))
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		_ = unpack(bytes.NewReader(data), root)
		entries, err := os.ReadDir(outside)
		if err != nil || len(entries) != 1 {
			t.Errorf("beside the directory: %v, %v", entries, err)
		}
	})
}
