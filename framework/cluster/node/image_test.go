package node

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestKeyNamesTheIngredients(t *testing.T) {
	if _, err := Runc(); err != nil {
		t.Skip("runc is not installed: run scripts/prerequisites")
	}
	source := t.TempDir()
	file := filepath.Join(source, "go.mod")
	b := &Builder{Source: source}
	key := func(text string) string {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		k, err := b.key()
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	one, two, again := key("module a"), key("module b"), key("module a")
	if one == two || one != again {
		t.Errorf("keys %s %s %s: want the same for the same ingredients only", one, two, again)
	}
}

// runc is found where PATH has it, and is where guests and nodes look for it.
func TestCopyRunc(t *testing.T) {
	if _, err := Runc(); err != nil {
		t.Skip("runc is not installed: run scripts/prerequisites")
	}
	real, err := Runc()
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := t.TempDir()
	if err := os.Symlink(real, filepath.Join(elsewhere, "runc")); err != nil {
		t.Fatal(err)
	}
	for name, path := range map[string]string{"the machine's": os.Getenv("PATH"), "elsewhere": elsewhere + ":" + os.Getenv("PATH")} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("PATH", path)
			root := t.TempDir()
			if err := CopyRunc(root); err != nil {
				t.Fatal(err)
			}
			for _, f := range []string{"/usr/sbin/runc", "/lib64/ld-linux-x86-64.so.2"} {
				if info, err := os.Lstat(filepath.Join(root, f)); err != nil || !info.Mode().IsRegular() {
					t.Errorf("%s: %v, %v", f, info, err)
				}
			}
			if left, _ := filepath.Glob(filepath.Join(root, elsewhere, "*")); len(left) > 0 {
				t.Errorf("left %s", left)
			}
		})
	}
	t.Setenv("PATH", t.TempDir())
	if _, err := Runc(); err == nil || !strings.Contains(err.Error(), "scripts/prerequisites") {
		t.Errorf("without runc: %v", err)
	}
}
