package testbed

import (
	"strings"
	"testing"
)

// environment sets what FromEnvironment reads to nothing, but for the cache.
func environment(t *testing.T) {
	for _, name := range []string{"CLUSTER", "CLUSTER_NAME", "WORKLOAD_IMAGE", "COCO_E2E_ROOT"} {
		t.Setenv(name, "")
	}
	t.Setenv("COCO_E2E_CACHE", t.TempDir())
}

func TestFromEnvironment(t *testing.T) {
	environment(t)
	for cluster, wantErr := range map[string]string{"": "", "local": "", "kind": "not built yet", "existing": "not built yet", "moon": "unknown provider"} {
		t.Setenv("CLUSTER", cluster)
		o, err := FromEnvironment()
		if wantErr == "" {
			if err != nil || o.Provider != "local" || o.Name != "coco-e2e" || o.Root == "" {
				t.Errorf("CLUSTER=%q: %+v, %v", cluster, o, err)
			}
		} else if err == nil || !strings.Contains(err.Error(), wantErr) {
			t.Errorf("CLUSTER=%q: error %v, want %q", cluster, err, wantErr)
		}
	}
}

func TestExistingWithoutACluster(t *testing.T) {
	b, err := Existing(Options{Cache: t.TempDir(), Name: "x"})
	if b != nil || err != nil {
		t.Errorf("got %v, %v, want neither", b, err)
	}
}

func TestWorkloadImageHasToBePinned(t *testing.T) {
	environment(t)
	const digest = "@sha256:e56797eab4a5300158cc015296229e13a390f82bfc88803f45b08912fd5e3348"
	for image, ok := range map[string]bool{
		"": true, "docker.io/library/nginx" + digest: true, "docker.io/library/nginx:1": false, "nginx" + digest: false,
	} {
		t.Setenv("WORKLOAD_IMAGE", image)
		if _, err := FromEnvironment(); (err == nil) != ok {
			t.Errorf("WORKLOAD_IMAGE=%q: error %v, want ok=%t", image, err, ok)
		}
	}
}
