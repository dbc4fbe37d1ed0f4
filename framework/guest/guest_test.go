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
