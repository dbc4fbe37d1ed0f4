package kind

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/coco-e2e/coco-e2e/framework/cluster"
)

// Names as kind gives them to its nodes.
func TestIndex(t *testing.T) {
	for name, want := range map[string]int{
		"coco-e2e-control-plane": 0, "coco-e2e-worker": 1, "coco-e2e-worker2": 2, "coco-e2e-worker10": 10, "worker-control-plane": 0, "a-worker-worker3": 3,
	} {
		if got := index(name); got != want {
			t.Errorf("index(%q) = %d, want %d", name, got, want)
		}
	}
}

func TestConfig(t *testing.T) {
	for name, own := range map[string]bool{"published image": false, "own image": true} {
		t.Run(name, func(t *testing.T) {
			c, err := New(Options{Name: "x", Nodes: 3, StateRoot: t.TempDir(), Engine: "docker", Mounts: []cluster.Mount{{Source: "/a", Target: "/b"}}})
			if err != nil {
				t.Fatal(err)
			}
			text, err := c.config(own)
			if err != nil {
				t.Fatal(err)
			}
			var got struct {
				Networking struct {
					DisableDefaultCNI bool
				}
				Nodes []struct {
					Role        string
					ExtraMounts []struct {
						HostPath, ContainerPath string
						ReadOnly                bool
					}
				}
			}
			if err := yaml.Unmarshal(text, &got); err != nil {
				t.Fatalf("%v in\n%s", err, text)
			}
			if got.Networking.DisableDefaultCNI != own {
				t.Errorf("kind's own CNI is off: %t, want %t", got.Networking.DisableDefaultCNI, own)
			}
			for i, want := range []struct{ role, name string }{{"control-plane", "x-control-plane"}, {"worker", "x-worker"}, {"worker", "x-worker2"}} {
				n := got.Nodes[i]
				if n.Role != want.role || n.ExtraMounts[0].HostPath != filepath.Join(c.Logs(), want.name) || n.ExtraMounts[0].ContainerPath != "/var/log" {
					t.Errorf("node %d: %+v, want %s %s with its logs", i, n, want.role, want.name)
				}
				if m := n.ExtraMounts[1]; m.HostPath != "/a" || m.ContainerPath != "/b" || !m.ReadOnly {
					t.Errorf("node %d: mount %+v", i, m)
				}
			}
		})
	}
}

func TestEngines(t *testing.T) {
	for _, e := range []Engine{"docker", "podman", "nerdctl"} {
		if _, err := New(Options{Name: "x", StateRoot: t.TempDir(), Engine: e}); err != nil {
			t.Errorf("%s: %v", e, err)
		}
	}
	if _, err := New(Options{Name: "x", StateRoot: t.TempDir(), Engine: "lxc"}); err == nil || !strings.Contains(err.Error(), "KIND_EXPERIMENTAL_PROVIDER") {
		t.Errorf("an engine that kind does not know: error %v, want one that names the remedy", err)
	}
}

func TestOpenOfHalfAState(t *testing.T) {
	root := t.TempDir()
	if Is(root, "x") {
		t.Error("a cluster that is not there is kind's")
	}
	if _, err := Open(root, "x"); err == nil {
		t.Error("a cluster that is not there opens")
	}
	if err := os.MkdirAll(filepath.Join(root, "x"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "x", stateFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(root, "x"); err == nil || !strings.Contains(err.Error(), "make down") {
		t.Errorf("half a state: error %v, want one that names the remedy", err)
	}
}
