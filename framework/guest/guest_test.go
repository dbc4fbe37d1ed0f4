package guest

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/coco-e2e/coco-e2e/framework/agentapi"
	"github.com/coco-e2e/coco-e2e/framework/agentapi/agentpb"
	"github.com/coco-e2e/coco-e2e/framework/initdata"
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
	h, err := StartHost(ctx, parts, "tpm")
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

// TestLaunchDigest boots guests whose hardware the host told another digest than that of the init-data that it hands
// over: they die before their agent serves anybody.
func TestLaunchDigest(t *testing.T) {
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
	document := func(note string) string {
		return "algorithm = \"sha256\"\nversion = \"0.1.0\"\n[data]\n\"note\" = \"" + note + "\"\n"
	}
	measured := document("measured")
	for tee, text := range map[string]string{"snp": "HOSTDATA does not match.", "tdx": "Init data does not match!"} {
		t.Run(tee, func(t *testing.T) {
			h, err := StartHost(ctx, parts, tee)
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := h.Close(); err != nil {
					t.Error(err)
				}
			}()
			for name, c := range map[string]struct {
				handed string
				starts bool
			}{
				"the measured init-data": {measured, true}, "one byte changed": {document("measureD"), false},
				"a comment more": {measured + "#", false},
			} {
				g := &Guest{id: uuid.NewString(), host: h}
				h.guests[g.id] = g
				if err := g.create(ctx, measured); err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				var image bytes.Buffer
				if err := initdata.WriteImage(&image, []byte(c.handed)); err != nil {
					t.Fatal(err)
				}
				// What the host hands over is in its hands until the guest has read it.
				if err := os.WriteFile(filepath.Join(h.dir, "vm", g.id, "initdata.img"), image.Bytes(), 0o600); err != nil {
					t.Fatal(err)
				}
				err := g.boot(ctx)
				if (err == nil) != c.starts {
					t.Errorf("%s: boot: %v, want it to start: %t", name, err, c.starts)
				}
				console, readErr := os.ReadFile(filepath.Join(g.Logs, "console.log"))
				if readErr != nil || strings.Contains(string(console), text) == c.starts {
					t.Errorf("%s: console: %v\n%s", name, readErr, console)
				}
				client, err := agentapi.Dial(ctx, g.Address)
				if (err == nil) != c.starts {
					t.Errorf("%s: the agent's socket: %v", name, err)
				}
				if err == nil {
					if err := client.Close(); err != nil {
						t.Error(err)
					}
				}
				if err := g.Stop(); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
		})
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
