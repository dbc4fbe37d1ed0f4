package agent

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	pb "github.com/coco-e2e/coco-e2e/framework/agentapi/agentpb"
)

func TestCopyFileStaysInItsPlace(t *testing.T) {
	for _, p := range []string{"/etc/passwd", "/run/kata-containers/shared/containers/../../x", "/run/kata-containers/shared/containers", "relative", "", sharedDir + "a/../../../x", sharedDir + "a//b"} {
		if err := copyFile(&pb.CopyFileRequest{Path: p, FileMode: 0o100644}); err == nil {
			t.Errorf("wrote to %q", p)
		}
	}
}

func TestCopyFileFollowsNoLinkOut(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	uid, gid := int32(os.Getuid()), int32(os.Getgid())
	for _, r := range []*pb.CopyFileRequest{
		{FileMode: 0o120777, Data: []byte(outside), Uid: uid, Gid: gid},
		{FileMode: 0o120777, Data: []byte("../../../.."), Uid: uid, Gid: gid},
	} {
		if err := copyInto(root, "link", r); err != nil {
			t.Fatal(err)
		}
		file := &pb.CopyFileRequest{FileMode: 0o100644, FileSize: 1, Data: []byte("x"), Uid: uid, Gid: gid}
		if err := copyInto(root, "link/file", file); err == nil {
			t.Errorf("wrote through a link to %q", r.Data)
		}
	}
	if left, err := os.ReadDir(outside); err != nil || len(left) != 0 {
		t.Errorf("outside: %v, %v", left, err)
	}
}

func TestCopyFileInChunks(t *testing.T) {
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	chunk := func(offset int64, data string) {
		t.Helper()
		r := &pb.CopyFileRequest{FileMode: 0o100640, FileSize: 5, Offset: offset, Data: []byte(data), Uid: int32(os.Getuid()), Gid: int32(os.Getgid())}
		if err := copyInto(root, "d/file.txt", r); err != nil {
			t.Fatal(err)
		}
	}
	chunk(0, "abc")
	if _, err := root.Stat("d/file.txt"); err == nil {
		t.Error("half a file is in its place")
	}
	chunk(3, "de")
	b, err := root.ReadFile("d/file.txt")
	if err != nil || string(b) != "abcde" {
		t.Errorf("%q, %v", b, err)
	}
	if st, err := root.Stat("d/file.txt"); err != nil || st.Mode() != 0o640 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
}

// A file that is there goes when its first part comes, a directory stays, and
// special bits do too (Kata src/agent/src/rpc.rs, do_copy_file).
func TestCopyFileReplaces(t *testing.T) {
	dir := t.TempDir() + "/"
	uid, gid := int32(os.Getuid()), int32(os.Getgid())
	put := func(path string, mode uint32, data string) {
		t.Helper()
		r := &pb.CopyFileRequest{Path: dir + path, FileMode: mode, DirMode: 0o40755, FileSize: int64(len(data)), Data: []byte(data), Uid: uid, Gid: gid}
		if err := copyBelow(dir, r); err != nil {
			t.Fatal(err)
		}
	}
	has := func(path string, mode fs.FileMode) {
		t.Helper()
		if st, err := os.Lstat(dir + path); err != nil || st.Mode() != mode {
			t.Errorf("%s: %v (%v), want mode %v", path, st, err, mode)
		}
	}
	put("volume", 0o41777, "")
	has("volume", fs.ModeDir|fs.ModeSticky|0o777)
	put("volume/file", 0o100640, "text")
	put("volume", 0o42750, "")
	has("volume", fs.ModeDir|fs.ModeSetgid|0o750)
	has("volume/file", 0o640)
	put("volume/link", 0o120777, "file")
	has("volume/link", fs.ModeSymlink|0o777)
	put("volume/link", 0o100600, "a file now")
	has("volume/link", 0o600)
	put("volume/link", 0o40700, "")
	has("volume/link", fs.ModeDir|0o700)
	put("volume/link", 0o100600, "a file again")
	has("volume/link", 0o600)
	put(".hidden", 0o100600, "x")
	has(".hidden", 0o600)
}

func TestPartial(t *testing.T) {
	for path, want := range map[string]string{"a": "a.tmp", "a.txt": "a.tmp", "d.d/a": "d.d/a.tmp", ".hidden": ".hidden.tmp", "d/.h.txt": "d/.h.tmp", "a.": "a.tmp"} {
		if got := partial(path); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
}

// FuzzCopyFile copies twice, so that the second may go through what the first
// left: nothing is ever written beside the shared directory.
func FuzzCopyFile(f *testing.F) {
	f.Add("link", uint32(0o120777), []byte("../outside"), "link/file", uint32(0o100644), []byte("x"), int64(0))
	f.Add("d/link", uint32(0o120777), []byte("/"), "d/link", uint32(0o40755), []byte(""), int64(1))
	f.Add("a.tmp", uint32(0o120777), []byte("../../canary"), "a", uint32(0o100644), []byte("x"), int64(1))
	f.Add("../canary", uint32(0o100644), []byte("x"), "./../../canary", uint32(0o100644), []byte("x"), int64(0))
	f.Add("a//b", uint32(0o160000), []byte("x"), "a/../../canary", uint32(0o140000), []byte("x"), int64(3))
	f.Fuzz(func(t *testing.T, first string, firstMode uint32, firstData []byte, second string, mode uint32, data []byte, offset int64) {
		if offset > 1<<16 {
			t.Skip("only sparse files are that long")
		}
		top := t.TempDir()
		canary := filepath.Join(top, "canary")
		if err := os.WriteFile(canary, []byte("sings"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(filepath.Join(top, "outside"), 0o700); err != nil {
			t.Fatal(err)
		}
		dir := filepath.Join(top, "shared") + "/"
		uid, gid := int32(os.Getuid()), int32(os.Getgid())
		for _, r := range []*pb.CopyFileRequest{
			{Path: dir + first, FileMode: firstMode, Data: firstData, FileSize: int64(len(firstData))},
			{Path: dir + second, FileMode: mode, Data: data, Offset: offset, FileSize: offset + int64(len(data))},
			{Path: second, FileMode: mode, Data: data},
		} {
			r.DirMode, r.Uid, r.Gid = 0o40755, uid, gid
			if err := copyBelow(dir, r); err == nil && !inside(dir, r.Path) {
				t.Errorf("%q was taken", r.Path)
			}
		}
		untouched(t, top, canary)
	})
}

// untouched: the canary and an empty directory are all that is beside the
// shared directory.
func untouched(t *testing.T, top, canary string) {
	t.Helper()
	st, err := os.Lstat(canary)
	b, readErr := os.ReadFile(canary)
	if errors.Join(err, readErr) != nil || string(b) != "sings" || st.Mode() != 0o600 {
		t.Errorf("the canary: %q, %v (%v, %v)", b, st, err, readErr)
	}
	names := ""
	for _, dir := range []string{top, filepath.Join(top, "outside")} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			names += e.Name() + " "
		}
	}
	if names = strings.TrimSuffix(names, "shared "); names != "canary outside " {
		t.Errorf("beside the shared directory: %s", names)
	}
}
