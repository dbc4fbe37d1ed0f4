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
				{Name: "kata-qemu-coco-dev", Handler: "kata-qemu-coco-dev", TEE: "sample", Nodes: 2, Kata: "3.20.0"},
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

// What real nodes offer, as far as their operators recorded it.
func TestDetectRecorded(t *testing.T) {
	for file, tc := range map[string]struct {
		wanted    string
		class     Class
		tees      string
		labels    map[string]string
		resources map[string]string
		others    []string // name, TEE
	}{
		"recorded-snp.yaml": {
			"kata-qemu-nvidia-gpu-snp",
			Class{Name: "kata-qemu-nvidia-gpu-snp", Handler: "kata-qemu-nvidia-gpu-snp", TEE: "snp", Nodes: 1},
			"snp",
			map[string]string{"katacontainers.io/kata-runtime": "true", "nvidia.com/cc.mode.state": "on", "nvidia.com/cc.ready.state": "true"},
			map[string]string{"sev-snp.amd.com/esids": "99"},
			[]string{"kata-qemu-nvidia-gpu ", "kata-qemu-nvidia-gpu-tdx tdx", "kata-qemu-snp snp"},
		},
		"recorded-tdx.yaml": {
			"kata-cc",
			Class{Name: "kata-cc", Handler: "kata-tdx", TEE: "tdx", Nodes: 1},
			"tdx",
			map[string]string{"intel.feature.node.kubernetes.io/tdx": "true"},
			map[string]string{"tdx.intel.com/keys": "31"},
			nil,
		},
		"recorded-false-labels.yaml": {
			"kata-cc", Class{Name: "kata-cc", Handler: "kata-snp", TEE: "snp", Nodes: 1}, "se,snp,tdx", // shown as they are: they contradict each other
			map[string]string{
				"amd.feature.node.kubernetes.io/snp": "true", "intel.feature.node.kubernetes.io/tdx": "true",
				"ibm.feature.node.kubernetes.io/se": "true", "intel.feature.node.kubernetes.io/sgx": "true",
			}, nil, nil,
		},
	} {
		wanted, err := ParseWanted(tc.wanted)
		if err != nil {
			t.Fatal(err)
		}
		p, err := Detect(t.Context(), objects(t, file), wanted)
		if err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		var others []string
		for _, c := range p.Others {
			others = append(others, c.Name+" "+c.TEE)
		}
		n := p.Nodes[0]
		if !reflect.DeepEqual(p.Classes, []Class{tc.class}) || !reflect.DeepEqual(others, tc.others) {
			t.Errorf("%s: classes %+v, others %q", file, p.Classes, others)
		}
		if strings.Join(n.TEEs, ",") != tc.tees || !reflect.DeepEqual(n.Labels, tc.labels) || !reflect.DeepEqual(n.Resources, tc.resources) {
			t.Errorf("%s: %+v", file, n)
		}
	}
}

func TestTEEOfHandler(t *testing.T) {
	for handler, want := range map[string]string{
		"kata-qemu-tdx": "tdx", "kata-qemu-snp": "snp", "kata-qemu-tdx-runtime-rs": "tdx", "kata-qemu-snp-runtime-rs": "snp", "kata-qemu-snp-debug": "snp",
		"kata-qemu-tdx-second-devkit": "tdx", "kata-clh-tdx": "tdx", "kata-qemu-coco-dev": "sample", "kata-qemu-coco-dev-runtime-rs": "sample",
		"kata-qemu-nvidia-gpu-snp": "snp", "kata-qemu-nvidia-gpu-tdx-runtime-rs": "tdx", "kata-snp": "snp", "kata-tdx": "tdx",
		// Of these nobody knows: they are no TEE's, or say nothing.
		"kata-remote": "", "kata-qemu": "", "kata-qemu-nvidia-gpu": "", "kata-qemu-snpx": "", "kata-qemu-se": "", "runc": "", "": "",
	} {
		if got := teeOfHandler(handler); got != want {
			t.Errorf("%q: %q, want %q", handler, got, want)
		}
	}
}

func TestTakes(t *testing.T) {
	ready := corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}}
	taint := []corev1.Taint{{Key: "role", Value: "gpu", Effect: corev1.TaintEffectNoSchedule}}
	tolerating := func(ts ...corev1.Toleration) *nodev1.RuntimeClass {
		return &nodev1.RuntimeClass{Scheduling: &nodev1.Scheduling{Tolerations: ts}}
	}
	for name, tc := range map[string]struct {
		node corev1.Node
		rc   *nodev1.RuntimeClass
		want bool
	}{
		"ready":                  {corev1.Node{Status: ready}, tolerating(), true},
		"cordoned":               {corev1.Node{Status: ready, Spec: corev1.NodeSpec{Unschedulable: true}}, tolerating(), false},
		"not ready":              {corev1.Node{Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionUnknown}}}}, tolerating(), false},
		"tainted":                {corev1.Node{Status: ready, Spec: corev1.NodeSpec{Taints: taint}}, tolerating(), false},
		"tolerated":              {corev1.Node{Status: ready, Spec: corev1.NodeSpec{Taints: taint}}, tolerating(corev1.Toleration{Key: "role", Value: "gpu"}), true},
		"tolerated by its key":   {corev1.Node{Status: ready, Spec: corev1.NodeSpec{Taints: taint}}, tolerating(corev1.Toleration{Key: "role", Operator: corev1.TolerationOpExists}), true},
		"all tolerated":          {corev1.Node{Status: ready, Spec: corev1.NodeSpec{Taints: taint}}, tolerating(corev1.Toleration{Operator: corev1.TolerationOpExists}), true},
		"another value":          {corev1.Node{Status: ready, Spec: corev1.NodeSpec{Taints: taint}}, tolerating(corev1.Toleration{Key: "role", Value: "cpu"}), false},
		"another effect":         {corev1.Node{Status: ready, Spec: corev1.NodeSpec{Taints: taint}}, tolerating(corev1.Toleration{Key: "role", Value: "gpu", Effect: corev1.TaintEffectNoExecute}), false},
		"a taint that prefers":   {corev1.Node{Status: ready, Spec: corev1.NodeSpec{Taints: []corev1.Taint{{Key: "a", Effect: corev1.TaintEffectPreferNoSchedule}}}}, tolerating(), true},
		"not of the node labels": {corev1.Node{Status: ready}, &nodev1.RuntimeClass{Scheduling: &nodev1.Scheduling{NodeSelector: map[string]string{"a": "b"}}}, false},
		"a class that asks none": {corev1.Node{Status: ready}, &nodev1.RuntimeClass{}, true},
	} {
		if got := Takes(&tc.node, tc.rc); got != tc.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

func TestParseWanted(t *testing.T) {
	for _, bad := range []string{"", "a,,b", "a=", "=tdx", "a=TDX", "a=sgx"} {
		if got, err := ParseWanted(bad); err == nil {
			t.Errorf("%q: %v", bad, got)
		}
	}
}
