package testbed

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/coco-e2e/coco-e2e/framework/cluster/existing"
)

// environment sets what FromEnvironment reads to nothing, but for the cache.
func environment(t *testing.T) {
	for _, name := range []string{"CLUSTER", "CLUSTER_NAME", "NODES", "SHIM", "KATA_SHIM", "KATA_CONFIG", "WORKLOAD_IMAGE", "COCO_E2E_ROOT", "RUNTIME_CLASS", "KUBECONFIG"} {
		t.Setenv(name, "")
	}
	t.Setenv("COCO_E2E_CACHE", t.TempDir())
}

func TestFromEnvironment(t *testing.T) {
	environment(t)
	for cluster, wantErr := range map[string]string{"": "", "local": "", "kind": "", "existing": "needs RUNTIME_CLASS", "moon": "unknown provider"} {
		t.Setenv("CLUSTER", cluster)
		o, err := FromEnvironment()
		if wantErr == "" {
			if err != nil || o.Provider != cluster || o.Name != "coco-e2e" || o.Root == "" {
				t.Errorf("CLUSTER=%q: %+v, %v", cluster, o, err)
			}
		} else if err == nil || !strings.Contains(err.Error(), wantErr) {
			t.Errorf("CLUSTER=%q: error %v, want %q", cluster, err, wantErr)
		}
	}
}

func TestNodesAndShimFromEnvironment(t *testing.T) {
	for name, tc := range map[string]struct {
		env  map[string]string
		want string
	}{
		"three nodes":             {map[string]string{"NODES": "3"}, ""},
		"no node":                 {map[string]string{"NODES": "0"}, "NODES=0"},
		"no number":               {map[string]string{"NODES": "many"}, "NODES=many"},
		"Kata's shim":             {map[string]string{"SHIM": "kata", "KATA_SHIM": "/shim"}, ""},
		"Kata's shim, unnamed":    {map[string]string{"SHIM": "kata"}, "set KATA_SHIM"},
		"a shim without the word": {map[string]string{"KATA_SHIM": "/shim"}, "SHIM=kata"},
		"another shim":            {map[string]string{"SHIM": "runc"}, "unknown shim"},
	} {
		t.Run(name, func(t *testing.T) {
			environment(t)
			for k, v := range tc.env {
				t.Setenv(k, v)
			}
			if _, err := FromEnvironment(); (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want %q", err, tc.want)
			}
		})
	}
}

func TestKeptWithoutACluster(t *testing.T) {
	b, err := Kept(t.Context(), Options{Cache: t.TempDir(), Name: "x"})
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

func TestKBSFromEnvironment(t *testing.T) {
	environment(t)
	files := t.TempDir()
	for name, text := range map[string]string{"policy.rego": "package policy\ndefault allow := false\n", "broken.rego": "allow if {"} {
		if err := os.WriteFile(filepath.Join(files, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"KBS", "KBS_URL", "KBS_ADMIN_URL", "KBS_ADMIN_TOKEN", "KBS_CERT", "KBS_RESOURCE_POLICY"} {
		t.Setenv(name, "")
	}
	for name, tc := range map[string]struct {
		env  map[string]string
		want ExternalKBS
		err  string
	}{
		"the simulator": {map[string]string{"KBS": "sim"}, ExternalKBS{}, ""},
		"given":         {map[string]string{"KBS_URL": "http://kbs:8080", "KBS_ADMIN_TOKEN": "t"}, ExternalKBS{URL: "http://kbs:8080", AdminURL: "http://kbs:8080", AdminToken: "t"}, ""},
		"another way":   {map[string]string{"KBS_URL": "http://kbs:8080", "KBS_ADMIN_URL": "https://here"}, ExternalKBS{URL: "http://kbs:8080", AdminURL: "https://here"}, ""},
		"unknown":       {map[string]string{"KBS": "real"}, ExternalKBS{}, "KBS=real"},
		"both":          {map[string]string{"KBS": "sim", "KBS_URL": "http://kbs"}, ExternalKBS{}, "contradict"},
		"no URL":        {map[string]string{"KBS_ADMIN_TOKEN": "t"}, ExternalKBS{}, "KBS_URL only"},
		"bad URL":       {map[string]string{"KBS_URL": "kbs:8080"}, ExternalKBS{}, "KBS_URL=kbs:8080"},
		"its policy": {
			map[string]string{"KBS_URL": "http://kbs:8080", "KBS_RESOURCE_POLICY": files + "/policy.rego"},
			ExternalKBS{URL: "http://kbs:8080", AdminURL: "http://kbs:8080", ResourcePolicy: "package policy\ndefault allow := false\n"},
			"",
		},
		"a policy alone":  {map[string]string{"KBS_RESOURCE_POLICY": files + "/policy.rego"}, ExternalKBS{}, "KBS_URL only"},
		"a broken policy": {map[string]string{"KBS_URL": "http://kbs:8080", "KBS_RESOURCE_POLICY": files + "/broken.rego"}, ExternalKBS{}, "KBS_RESOURCE_POLICY=" + files + "/broken.rego: the policy for other resources: "},
		"no policy file":  {map[string]string{"KBS_URL": "http://kbs:8080", "KBS_RESOURCE_POLICY": "/nonexistent"}, ExternalKBS{}, "KBS_RESOURCE_POLICY: "},
		"no certificate":  {map[string]string{"KBS_URL": "https://kbs", "KBS_CERT": "/nonexistent"}, ExternalKBS{}, "KBS_CERT"},
	} {
		t.Run(name, func(t *testing.T) {
			for k, v := range tc.env {
				t.Setenv(k, v)
			}
			o, err := FromEnvironment()
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Errorf("error %v, want %q", err, tc.err)
				}
				return
			}
			if err != nil || o.KBS != tc.want {
				t.Errorf("%+v, %v, want %+v", o.KBS, err, tc.want)
			}
		})
	}
}

// One simulated RuntimeClass makes the whole run a simulation's, whichever it is.
func TestAnySimulatedClassIsSimulated(t *testing.T) {
	for name, c := range map[string]struct {
		classes []existing.Class
		want    bool
	}{
		"none":   {[]existing.Class{{Name: "kata-qemu-tdx", TEE: "tdx"}}, false},
		"first":  {[]existing.Class{{Name: "kata-cc", TEE: "tpm", Simulated: true}, {Name: "kata-qemu-tdx", TEE: "tdx"}}, true},
		"second": {[]existing.Class{{Name: "kata-qemu-tdx", TEE: "tdx"}, {Name: "kata-cc", TEE: "tpm", Simulated: true}}, true},
	} {
		h := existingHandle(Options{}, &existing.Platform{Classes: c.classes})
		if h.Simulated != c.want {
			t.Errorf("%s: simulated %v, want %v", name, h.Simulated, c.want)
		}
		for i, class := range c.classes {
			if h.Classes[i].Simulated != class.Simulated {
				t.Errorf("%s: %+v", name, h.Classes[i])
			}
		}
	}
}
