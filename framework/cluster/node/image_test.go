package node

import (
	"os"
	"path/filepath"
	"testing"
)

func TestKeyNamesTheIngredients(t *testing.T) {
	if _, err := os.Stat(debianPrograms[0]); err != nil {
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

func TestCopyWithLibraries(t *testing.T) {
	if _, err := os.Stat(debianPrograms[0]); err != nil {
		t.Skip("runc is not installed: run scripts/prerequisites")
	}
	root := t.TempDir()
	if err := CopyWithLibraries(debianPrograms[0], root); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{debianPrograms[0], "/lib64/ld-linux-x86-64.so.2"} {
		if _, err := os.Stat(filepath.Join(root, f)); err != nil {
			t.Error(err)
		}
	}
}
