package debian

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/coco-e2e/coco-e2e/simulators/registry/image"
)

// newPackage has dpkg-deb make a package of files; a content "-> X" is a link.
func newPackage(t *testing.T, name string, files map[string]string) string {
	t.Helper()
	if _, err := exec.LookPath("dpkg-deb"); err != nil {
		t.Skip("dpkg-deb is not installed")
	}
	dir := t.TempDir()
	files["DEBIAN/control"] = "Package: " + name + "\nVersion: 1:2.0\nArchitecture: amd64\nMaintainer: nobody <nobody@example.org>\nDescription: test\n"
	for path, content := range files {
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if target, ok := strings.CutPrefix(content, "-> "); ok {
			err = os.Symlink(target, path)
		} else {
			err = os.WriteFile(path, []byte(content), 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	out := filepath.Join(t.TempDir(), name+"_1%3a2.0_amd64.deb")
	if text, err := exec.Command("dpkg-deb", "--root-owner-group", "--build", dir, out).CombinedOutput(); err != nil {
		t.Fatalf("dpkg-deb: %v\n%s", err, text)
	}
	return out
}

func TestReadAndCopy(t *testing.T) {
	old := newPackage(t, "old", map[string]string{
		"bin/tool": "tool", "bin/alias": "-> tool", "lib/x86_64-linux-gnu/libx.so.1": "-> libx.so.1.2",
		"lib/x86_64-linux-gnu/libx.so.1.2": "library", "usr/share/doc/old/README": "documentation",
	})
	merged := newPackage(t, "merged", map[string]string{
		"bin": "-> usr/bin", "usr/bin/other": "-> /bin/alias", "etc/loop": "-> loop", "etc/dangling": "-> nowhere", "usr/lib64/loader": "-> /lib/x86_64-linux-gnu/libx.so.1",
	})
	files, err := Read(t.Context(), []string{old, merged})
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := files["usr/share/doc/old/README"]; ok {
		t.Error("documentation was read")
	}
	tree := image.Tree{}
	if err := files.Copy(tree, "/usr/bin/other", "/lib64/loader"); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"usr/bin/other": "-> /bin/alias", "usr/bin/alias": "-> tool", "usr/bin/tool": "tool",
		"usr/lib64/loader": "-> /lib/x86_64-linux-gnu/libx.so.1", "usr/lib/x86_64-linux-gnu/libx.so.1": "-> libx.so.1.2",
		"usr/lib/x86_64-linux-gnu/libx.so.1.2": "library",
	}
	for name, e := range tree {
		got := string(e.Content)
		if e.Link != "" {
			got = "-> " + e.Link
		}
		if got != want[name] {
			t.Errorf("%s: got %q, want %q", name, got, want[name])
		}
		delete(want, name)
	}
	if len(want) > 0 {
		t.Errorf("missing: %v", want)
	}
	for name, text := range map[string]string{
		"etc/loop": "too many links", "etc/dangling": "/etc/nowhere is in none of the packages", "usr/bin": "/usr/bin is a directory", "absent": "/absent is in none",
	} {
		if err := files.Copy(image.Tree{}, name); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: got %v, want %s", name, err, text)
		}
	}
	if _, err := Read(t.Context(), []string{old, old}); err == nil || !strings.Contains(err.Error(), "is in two packages") {
		t.Errorf("a file of two packages: got %v", err)
	}
	if got := Names([]string{old, merged}); !slices.Equal(got, []string{"merged 1:2.0", "old 1:2.0"}) {
		t.Errorf("names: %v", got)
	}
	broken := filepath.Join(t.TempDir(), "broken_1_amd64.deb")
	if err := os.WriteFile(broken, []byte("not a package"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(t.Context(), []string{broken}); err == nil || !strings.Contains(err.Error(), broken) {
		t.Errorf("broken package: got %v", err)
	}
}

// TestLibraries compares with what the dynamic loader says of this machine's own programs.
func TestLibraries(t *testing.T) {
	content, err := os.ReadFile("/usr/bin/dpkg-deb")
	if err != nil {
		t.Skip("no dpkg-deb on this machine to look at")
	}
	loaded, err := exec.Command("ldd", "/usr/bin/dpkg-deb").Output()
	if err != nil {
		t.Skip("no ldd on this machine to compare with")
	}
	// A machine's files as if they were a package's.
	files := Files{}
	for _, dir := range libraryDirs {
		entries, err := os.ReadDir("/" + dir)
		if err != nil {
			continue
		}
		for _, e := range entries {
			files[dir+"/"+e.Name()] = image.Entry{}
		}
	}
	needs, err := files.libraries(content)
	if err != nil {
		t.Fatal(err)
	}
	if len(needs) < 3 {
		t.Errorf("only %v", needs)
	}
	for _, path := range needs {
		if !strings.Contains(string(loaded), filepath.Base(path)) {
			t.Errorf("%s is not in\n%s", path, loaded)
		}
	}
	if needs, err := files.libraries([]byte("#!/bin/sh")); err != nil || needs != nil {
		t.Errorf("script: %v %v", needs, err)
	}
	if _, err := (Files{}).libraries(content); err == nil || !strings.Contains(err.Error(), "is in none of the packages") {
		t.Errorf("missing library: %v", err)
	}
}

func TestParseURIs(t *testing.T) {
	// As apt 2.6 prints it; security archives come without a digest.
	list := "'http://deb.debian.org/debian/pool/main/d/dash/dash_0.5.12-2_amd64.deb' dash_0.5.12-2_amd64.deb 97384 MD5Sum:4f19daace3f998b7e719575ff5e5b316\n" +
		"'http://deb.debian.org/debian-security/pool/updates/main/a/acl/libacl1_2.3.1-3_amd64.deb' libacl1_1%3a2.3_amd64.deb 31488 \n"
	got, err := parseURIs([]byte(list))
	if err != nil || !slices.Equal(got, []string{"dash_0.5.12-2_amd64.deb", "libacl1_1%3a2.3_amd64.deb"}) {
		t.Errorf("got %v %v", got, err)
	}
	for _, bad := range []string{"", "'http://x/y' ../../etc/passwd 1", "'http://x/y' file 1"} {
		if got, err := parseURIs([]byte(bad)); err == nil {
			t.Errorf("%q: got %v", bad, got)
		}
	}
}

// TestRecall has the choice of an earlier call taken, as long as the files are the same.
func TestRecall(t *testing.T) {
	c := Cache{Dir: t.TempDir()}
	for _, name := range []string{"b_1_all.deb", "a_1_all.deb"} {
		if err := os.WriteFile(filepath.Join(c.Dir, name), []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	record := filepath.Join(c.Dir, "chosen.json")
	files, err := c.remember(record, []string{"b_1_all.deb", "a_1_all.deb"})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{filepath.Join(c.Dir, "a_1_all.deb"), filepath.Join(c.Dir, "b_1_all.deb")}
	again, err := c.recall(record)
	if err != nil || !slices.Equal(files, want) || !slices.Equal(again, want) {
		t.Errorf("got %v and %v, want %v (%v)", files, again, want, err)
	}
	if err := os.WriteFile(want[0], []byte("other"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := c.recall(record); err == nil {
		t.Error("a changed package was taken")
	}
}
