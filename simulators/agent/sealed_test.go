package agent

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

type stubHub struct{}

func (stubHub) unseal(_ context.Context, sealed string) ([]byte, error) {
	if sealed == "sealed.bad" {
		return nil, errors.New("refused")
	}
	return []byte("open " + strings.TrimPrefix(sealed, "sealed.")), nil
}

// Environment and files, laid out as the kubelet does.
func TestUnseal(t *testing.T) {
	dir, plain := t.TempDir(), t.TempDir()
	for _, d := range []string{dir, plain} {
		version := filepath.Join(d, "..2024_09_30")
		if err := os.Mkdir(version, 0o755); err != nil {
			t.Fatal(err)
		}
		for name, content := range map[string]string{"secret": "sealed.file", "plain": "text", "short": "se"} {
			if err := os.WriteFile(filepath.Join(version, name), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(filepath.Join("..data", name), filepath.Join(d, name)); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Symlink("..2024_09_30", filepath.Join(d, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	s := &specs.Spec{
		Process: &specs.Process{Env: []string{"A=sealed.env", "B=plain", "C=sealed.bad", "D", "E=x=sealed.no"}},
		Mounts:  []specs.Mount{{Destination: "/sealed/volume", Source: dir}, {Destination: "/sealed-not", Source: plain}},
	}
	unsealWith(t.Context(), stubHub{}, s)
	if got := strings.Join(s.Process.Env, "|"); got != "A=open env|B=plain|C=sealed.bad|D|E=x=sealed.no" {
		t.Errorf("environment %s", got)
	}
	for path, want := range map[string]string{
		filepath.Join(dir, "secret"): "open file", filepath.Join(dir, "plain"): "text", filepath.Join(dir, "short"): "se", filepath.Join(plain, "secret"): "sealed.file",
	} {
		if got, err := os.ReadFile(path); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v, want %q", path, got, err, want)
		}
	}
}
