package guest

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coco-e2e/coco-e2e/framework/agentapi"
	"github.com/coco-e2e/coco-e2e/framework/agentapi/agentpb"
)

// TestLoneGuest starts two guests, talks to them, and looks for what they leave.
func TestLoneGuest(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("a guest needs namespaces, mounts and cgroups: run as root")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	cache, err := DefaultCache()
	if err != nil {
		t.Fatal(err)
	}
	parts, err := Build(ctx, "../..", cache, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	h, err := StartHost(ctx, parts)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	begin := time.Now()
	for range 2 {
		g, err := h.Start(ctx, "")
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("guest runs after %v", time.Since(begin))
		c, err := agentapi.Dial(ctx, g.Address)
		if err != nil {
			t.Fatal(err)
		}
		if r, err := c.Health.Check(ctx, &agentpb.CheckRequest{}); err != nil || r.Status != agentpb.HealthCheckResponse_SERVING {
			t.Errorf("health: %v, %v", r, err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := h.Start(ctx, "no init-data"); err == nil || !strings.Contains(err.Error(), "initdata") {
		t.Errorf("a guest starts with broken init-data: %v", err)
	}
	if err := h.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(h.dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is left: %v", h.dir, err)
	}
	left, err := filepath.Glob("/sys/fs/cgroup/*" + "/" + filepath.Base(h.dir))
	if err != nil || len(left) > 0 {
		t.Errorf("cgroups are left: %v, %v", left, err)
	}
	if h.daemon.err != nil {
		t.Errorf("the daemon ended with %v", h.daemon.err)
	}
}

func TestScratch(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	mine, err := NewScratch()
	if err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-2 * settleTime)
	lockOf := func(dir string) string { return filepath.Join(dir, scratchLock) }
	dead, young, foreign := mine.Path+"-dead", mine.Path+"-young", filepath.Join(os.TempDir(), "other")
	for _, dir := range []string{dead, young, foreign} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(lockOf(dir), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{mine.Path, dead, foreign} {
		if err := os.Chtimes(lockOf(dir), old, old); err != nil {
			t.Fatal(err)
		}
	}
	other, err := NewScratch()
	if err != nil {
		t.Fatal(err)
	}
	for dir, want := range map[string]bool{mine.Path: true, other.Path: true, young: true, foreign: true, dead: false} {
		if _, err := os.Stat(dir); (err == nil) != want {
			t.Errorf("%s: %v, want it there: %t", dir, err, want)
		}
	}
	for _, s := range []*Scratch{mine, other} {
		if err := s.Remove(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(s.Path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is left: %v", s.Path, err)
		}
	}
}
