package existing

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/version"
	discovery "k8s.io/client-go/discovery/fake"
	"k8s.io/client-go/kubernetes/fake"
	"sigs.k8s.io/yaml"
)

// objects reads a file of nodes and RuntimeClasses.
func objects(t *testing.T, name string) *fake.Clientset {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	var all []runtime.Object
	for _, document := range strings.Split(string(text), "\n---\n") {
		var kind struct{ Kind string }
		if err := yaml.Unmarshal([]byte(document), &kind); err != nil {
			t.Fatal(err)
		}
		var object runtime.Object = &corev1.Node{}
		if kind.Kind == "RuntimeClass" {
			object = &nodev1.RuntimeClass{}
		}
		if err := yaml.UnmarshalStrict([]byte(document), object); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		all = append(all, object)
	}
	set := fake.NewClientset(all...)
	set.Discovery().(*discovery.FakeDiscovery).FakedServerVersion = &version.Info{GitVersion: "v1.33.2"}
	return set
}

func TestDetect(t *testing.T) {
	for name, tc := range map[string]struct {
		file, wanted string
		classes      []Class
		tees         map[string]string
		err          string
	}{
		"TDX nodes": {
			"tdx.yaml", "kata-qemu-tdx",
			[]Class{{Name: "kata-qemu-tdx", Handler: "kata-qemu-tdx", TEE: "tdx", Nodes: 1, Kata: "3.21.0"}},
			map[string]string{"tdx-0": "tdx", "cpu-0": ""},
			"",
		},
		"SNP nodes": {
			"snp.yaml", "kata-qemu-snp,kata-qemu-coco-dev", []Class{
				{Name: "kata-qemu-snp", Handler: "kata-qemu-snp", TEE: "snp", Nodes: 1},
				{Name: "kata-qemu-coco-dev", Handler: "kata-qemu-coco-dev", TEE: "sample", Nodes: 2},
			}, map[string]string{"snp-0": "snp", "snp-1": "snp"}, "",
		},
		"peer pods, told":         {"peerpods.yaml", "kata-remote=az-snp-vtpm", []Class{{Name: "kata-remote", Handler: "kata-remote", TEE: "az-snp-vtpm", Nodes: 1}}, map[string]string{"aks-0": ""}, ""},
		"peer pods, not told":     {"peerpods.yaml", "kata-remote", []Class{{Name: "kata-remote", Handler: "kata-remote", Nodes: 1}}, map[string]string{"aks-0": ""}, ""},
		"no such class":           {"peerpods.yaml", "kata-qemu-tdx", nil, nil, `no RuntimeClass "kata-qemu-tdx"; it has ["kata-remote"]`},
		"nowhere to be scheduled": {"nowhere.yaml", "kata-qemu-tdx", nil, nil, `no node takes pods of RuntimeClass "kata-qemu-tdx"`},
	} {
		t.Run(name, func(t *testing.T) {
			wanted, err := ParseWanted(tc.wanted)
			if err != nil {
				t.Fatal(err)
			}
			p, err := Detect(t.Context(), objects(t, tc.file), wanted)
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Errorf("error %v, want %q", err, tc.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			tees := map[string]string{}
			for _, n := range p.Nodes {
				tees[n.Name] = strings.Join(n.TEEs, ",")
			}
			if p.Kubernetes != "v1.33.2" || !reflect.DeepEqual(p.Classes, tc.classes) || !reflect.DeepEqual(tees, tc.tees) {
				t.Errorf("%+v, hardware %v, want %+v, %v", p, tees, tc.classes, tc.tees)
			}
			if text := strings.Join(p.Summary(), "\n"); !strings.Contains(text, "Kubernetes v1.33.2") || !strings.Contains(text, tc.classes[0].Name) {
				t.Errorf("summary %s", text)
			}
		})
	}
}

func TestParseWanted(t *testing.T) {
	for _, bad := range []string{"", "a,,b", "a=", "=tdx"} {
		if got, err := ParseWanted(bad); err == nil {
			t.Errorf("%q: %v", bad, got)
		}
	}
}
