package cluster

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCopyLogs(t *testing.T) {
	from, to := t.TempDir(), filepath.Join(t.TempDir(), "logs")
	if err := os.MkdirAll(filepath.Join(from, "pods"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(from, "pods", "a.log"), []byte("x\nAuthorization: Bearer abc\ny\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := CopyLogs(from, to); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(to, "pods", "a.log")); err != nil || string(b) != "x\nAuthorization: [credentials]\ny\n" {
		t.Errorf("%q %v", b, err)
	}
}

// Whatever the pieces are, a key or a token that two of them share is not left.
func TestCopyRedacted(t *testing.T) {
	text := "first\n-----BEGIN PRIVATE KEY-----\nAAAAAAAA\nBBBBBBBB\n-----END PRIVATE KEY-----\nAuthorization: Bearer abcdefgh\nlast"
	const want = "first\n[private key]\nAuthorization: [credentials]\nlast"
	for limit := 40; limit < 200; limit++ {
		var out bytes.Buffer
		if err := copyRedacted(&out, strings.NewReader(text), limit); err != nil || out.String() != want {
			t.Fatalf("pieces of %d: %q %v", limit, out.String(), err)
		}
	}
}
