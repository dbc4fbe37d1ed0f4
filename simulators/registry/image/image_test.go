package image

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

func sampleTree() Tree {
	t := Tree{}
	t.AddText("/usr/share/b", "text")
	t.AddFile("usr/bin/program", []byte("#!"), 0o755)
	t.AddLink("bin", "usr/bin")
	t.AddDir("tmp", 0o777|fs.ModeSticky)
	return t
}

// TestArchive has GNU tar list an archive.
func TestArchive(t *testing.T) {
	content, err := sampleTree().Archive()
	if err != nil {
		t.Fatal(err)
	}
	list := exec.Command("tar", "--list", "--verbose", "--numeric-owner", "--utc", "--full-time", "--file", "-")
	list.Stdin = bytes.NewReader(content)
	out, err := list.CombinedOutput()
	if err != nil {
		t.Fatalf("tar: %v\n%s", err, out)
	}
	want := []string{
		"lrwxrwxrwx 0/0 0 1970-01-01 00:00:00 bin -> usr/bin",
		"drwxrwxrwt 0/0 0 1970-01-01 00:00:00 tmp/",
		"drwxr-xr-x 0/0 0 1970-01-01 00:00:00 usr/",
		"drwxr-xr-x 0/0 0 1970-01-01 00:00:00 usr/bin/",
		"-rwxr-xr-x 0/0 2 1970-01-01 00:00:00 usr/bin/program",
		"drwxr-xr-x 0/0 0 1970-01-01 00:00:00 usr/share/",
		"-rw-r--r-- 0/0 4 1970-01-01 00:00:00 usr/share/b",
	}
	var got []string
	for line := range strings.Lines(string(out)) {
		got = append(got, strings.Join(strings.Fields(line), " "))
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestArchiveRefusesFilesBelowFiles(t *testing.T) {
	tree := Tree{}
	tree.AddText("a", "")
	tree.AddText("a/b", "")
	if _, err := tree.Archive(); err == nil || !strings.Contains(err.Error(), "a/b lies below a, which is no directory") {
		t.Errorf("got %v", err)
	}
}

// TestDigest pins a digest: it changes only when what is in images changes.
func TestDigest(t *testing.T) {
	img, err := New(sampleTree(), v1.Config{Cmd: []string{"program"}})
	if err != nil {
		t.Fatal(err)
	}
	// Only the fast check: the full one takes every layer for a compressed one.
	if err := validate.Image(img, validate.Fast); err != nil {
		t.Error(err)
	}
	m, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	if m.MediaType != types.OCIManifestSchema1 || m.Config.MediaType != types.OCIConfigJSON || m.Layers[0].MediaType != types.OCIUncompressedLayer {
		t.Errorf("media types: %s %s %s", m.MediaType, m.Config.MediaType, m.Layers[0].MediaType)
	}
	file, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if file.RootFS.DiffIDs[0] != m.Layers[0].Digest {
		t.Errorf("diff id %s of an uncompressed layer %s", file.RootFS.DiffIDs[0], m.Layers[0].Digest)
	}
	if got := file.Config.Env; !slices.Equal(got, []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}) {
		t.Errorf("environment %v", got)
	}
	again, err := New(sampleTree(), v1.Config{Cmd: []string{"program"}})
	if err != nil {
		t.Fatal(err)
	}
	a, errA := img.Digest()
	b, errB := again.Digest()
	if a != b || errA != nil || errB != nil {
		t.Errorf("digests %s and %s of the same content (%v, %v)", a, b, errA, errB)
	}
}

func TestWriteArchive(t *testing.T) {
	tag, err := name.NewTag("coco-e2e.local/kbs:dev", name.StrictValidation)
	if err != nil {
		t.Fatal(err)
	}
	img, err := New(sampleTree(), v1.Config{Entrypoint: []string{"/usr/bin/program"}})
	if err != nil {
		t.Fatal(err)
	}
	var files [2][]byte
	for i := range files {
		path := filepath.Join(t.TempDir(), "new", "kbs.tar")
		if err := WriteArchive(path, tag, img); err != nil {
			t.Fatal(err)
		}
		if files[i], err = os.ReadFile(path); err != nil {
			t.Fatal(err)
		}
		if _, err := tarball.ImageFromPath(path, &tag); err != nil {
			t.Error(err)
		}
	}
	if !bytes.Equal(files[0], files[1]) {
		t.Error("the same image gives different archives")
	}
	digest, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"oci-layout": `{"imageLayoutVersion":"1.0.0"}`, "manifest.json": `"RepoTags":["coco-e2e.local/kbs:dev"]`,
		"index.json": `"digest":"` + digest.String() + `","annotations":{"io.containerd.image.name":"coco-e2e.local/kbs:dev"}`,
	}
	for r := tar.NewReader(bytes.NewReader(files[0])); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if hex, ok := strings.CutPrefix(h.Name, "blobs/sha256/"); ok {
			if got := fmt.Sprintf("%x", sha256.Sum256(content)); got != hex {
				t.Errorf("blob %s has the digest %s", hex, got)
			}
			continue
		}
		if !strings.Contains(string(content), want[h.Name]) || want[h.Name] == "" {
			t.Errorf("%s: %s, want %q in it", h.Name, content, want[h.Name])
		}
		delete(want, h.Name)
	}
	if len(want) > 0 {
		t.Errorf("missing: %v", want)
	}
}

func TestAddFrom(t *testing.T) {
	dir := t.TempDir()
	program, text := filepath.Join(dir, "program"), filepath.Join(dir, "text")
	for path, mode := range map[string]fs.FileMode{program: 0o700, text: 0o600} {
		if err := os.WriteFile(path, []byte("x"), mode); err != nil {
			t.Fatal(err)
		}
	}
	tree := Tree{}
	for _, pair := range []string{program + ":/usr/local/bin/kbs", text + ":/etc/kbs.toml"} {
		if err := tree.AddFrom(pair); err != nil {
			t.Error(err)
		}
	}
	if tree["usr/local/bin/kbs"].Mode != 0o755 || tree["etc/kbs.toml"].Mode != 0o644 {
		t.Errorf("got %v", tree)
	}
	for _, pair := range []string{"", program, program + ":", program + ":relative", ":/x", program + ":/"} {
		if err := tree.AddFrom(pair); err == nil || !strings.Contains(err.Error(), "write it as /path/here:/path/in/the/image") {
			t.Errorf("%q: got %v", pair, err)
		}
	}
	if err := tree.AddFrom(dir + "/absent:/x"); err == nil || !strings.Contains(err.Error(), "absent") {
		t.Errorf("absent file: got %v", err)
	}
}
