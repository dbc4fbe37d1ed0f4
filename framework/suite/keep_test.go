package suite

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

func TestTail(t *testing.T) {
	file := filepath.Join(t.TempDir(), "x.log")
	if err := os.WriteFile(file, []byte("0123456789"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		from, limit int64
		want        string
	}{{0, 100, "0123456789"}, {4, 100, "456789"}, {4, 3, "789"}, {10, 100, ""}, {11, 100, "0123456789"}} {
		if got, err := tail(file, c.from, c.limit); err != nil || string(got) != c.want {
			t.Errorf("from %d, %d bytes: %q %v, want %q", c.from, c.limit, got, err, c.want)
		}
	}
}

func TestFocused(t *testing.T) {
	for _, text := range []string{"exec ls (really?) [x] a|b $5 ^ {1} \\", "the article's walkthrough 8. the secret"} {
		expression := regexp.MustCompile(focused(text))
		if !expression.MatchString(text) {
			t.Errorf("%s does not match %q", expression, text)
		}
	}
}

func TestKeepTree(t *testing.T) {
	from, to := t.TempDir(), filepath.Join(t.TempDir(), "kept")
	if err := os.MkdirAll(filepath.Join(from, "a"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(from, "a", "b.log"), []byte("Authorization: Bearer abc\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(from, "link")); err != nil {
		t.Fatal(err)
	}
	keepTree(to, from)
	if b, err := os.ReadFile(filepath.Join(to, "a", "b.log")); err != nil || string(b) != "Authorization: [credentials]\n" {
		t.Errorf("%q %v", b, err)
	}
	if _, err := os.Lstat(filepath.Join(to, "link")); !os.IsNotExist(err) {
		t.Error("a link was followed")
	}
}
