package sandbox

import (
	"encoding/base64"
	"maps"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/coco-e2e/coco-e2e/framework/initdata"
	"github.com/coco-e2e/coco-e2e/simulators/shim/config"
)

func testConfig() config.Config {
	return config.Config{
		EnableAnnotations: []*regexp.Regexp{
			regexp.MustCompile("default_memory"), regexp.MustCompile("default_vcpus"), regexp.MustCompile("gpu_model"),
		},
		ForceGuestPull: true, CreateContainerTimeout: time.Minute,
	}
}

// TestVMSize has the recorded sizes: 0 and 0 without limits; 3200 and 3 for annotations 3072 and 2, limits 128Mi and
// 500m.
func TestVMSize(t *testing.T) {
	for name, test := range map[string]struct {
		annotations   map[string]string
		vcpus, memory string
	}{
		"best effort": {map[string]string{annotationCRISandboxPeriod: "100000", annotationCRISandboxCPU: "0", annotationCRISandboxMemory: "0"}, "0", "0"},
		"recorded": {map[string]string{
			annotationMemory: "3072", annotationVCPUs: "2",
			annotationCRISandboxPeriod: "100000", annotationCRISandboxCPU: "50000", annotationCRISandboxMemory: "134217728",
		}, "3", "3200"},
		"no quota": {map[string]string{annotationCRISandboxPeriod: "100000", annotationCRISandboxCPU: "-1"}, "0", "0"},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := podSettings(testConfig(), test.annotations)
			if err != nil {
				t.Fatal(err)
			}
			if s.vm[annotationVCPUs] != test.vcpus || s.vm[annotationMemory] != test.memory || len(s.vm) != 9 {
				t.Errorf("got %v", s.vm)
			}
		})
	}
}

func TestSettingsRefuse(t *testing.T) {
	for annotation, test := range map[string]struct{ value, want string }{
		annotationMemory:     {"much", `annotation io.katacontainers.config.hypervisor.default_memory is "much": use a whole number`},
		annotationVCPUs:      {"-1", `default_vcpus is "-1": use a number that is not negative`},
		annotationImage:      {"x", "annotation io.katacontainers.config.hypervisor.image is not enabled"},
		annotationGuestPull:  {"perhaps", `is "perhaps": use true or false`},
		annotationCreateTime: {"0", "is 0: set it to a number of seconds above 0"},
		annotationPolicy:     {"!", "must be base64 of a policy"},
	} {
		_, err := podSettings(testConfig(), map[string]string{annotation: test.value})
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %s", annotation, err, test.want)
		}
	}
}

// TestInitDataNeedsToBeEnabled has Kata's words for a node whose list of annotations lacks init-data, even when its
// value says nothing; and what becomes of a pod whose annotations containerd does not pass on: it has no init-data.
func TestInitDataNeedsToBeEnabled(t *testing.T) {
	const want = "annotation io.katacontainers.config.hypervisor.cc_init_data is not enabled"
	for _, value := range []string{"", sampleAnnotation} {
		_, err := podSettings(testConfig(), map[string]string{initdata.AnnotationKey: value})
		if err == nil || err.Error() != want {
			t.Errorf("%q: %v, want %s", value, err, want)
		}
	}
	for name, pattern := range map[string]string{"the name": "cc_init_data", "a part of it, as Kata matches": "init"} {
		c := testConfig()
		c.EnableAnnotations = append(c.EnableAnnotations, regexp.MustCompile(pattern))
		s, err := podSettings(c, map[string]string{initdata.AnnotationKey: sampleAnnotation})
		if err != nil || s.vm[initdata.AnnotationKey] != sampleDocument {
			t.Errorf("%s: %v", name, err)
		}
	}
	s, err := podSettings(testConfig(), nil)
	if got, ok := s.vm[initdata.AnnotationKey]; err != nil || got != "" || !ok {
		t.Errorf("without annotations: %q, %v", got, err)
	}
}

// sampleAnnotation is base64 of python3's gzip.compress(sampleDocument).
const (
	sampleDocument   = "version = \"0.1.0\"\nalgorithm = \"sha256\"\n\n[data]\n"
	sampleAnnotation = "H4sIAAAAAAACAytLLSrOzM9TsFVQMtAz1DNQ4krMSc8vyizJyAWJFWckGpmaKXFxRackliTGcgEAwFeFLC8AAAA="
)

// TestLegacyInitData: older Kata's annotation needs no place in the list, as it is not the hypervisor's.
func TestLegacyInitData(t *testing.T) {
	c := testConfig()
	c.LegacyInitData = true
	c.EnableAnnotations = append(c.EnableAnnotations, regexp.MustCompile("cc_init_data"))
	legacy := map[string]string{initdata.LegacyAnnotationKey: base64.StdEncoding.EncodeToString([]byte(sampleDocument))}
	s, err := podSettings(c, legacy)
	if err != nil || s.vm[initdata.AnnotationKey] != sampleDocument {
		t.Errorf("alone: %v", err)
	}
	legacy[initdata.AnnotationKey] = ""
	if s, err = podSettings(c, legacy); err != nil || s.vm[initdata.AnnotationKey] != sampleDocument {
		t.Errorf("beside an empty one: %v", err)
	}
	legacy[initdata.AnnotationKey] = sampleAnnotation
	if _, err = podSettings(c, legacy); err == nil || !strings.HasPrefix(err.Error(), "init-data is given twice: drop annotation ") {
		t.Errorf("both: %v", err)
	}
	c.LegacyInitData = false
	if s, err = podSettings(c, legacy); err != nil || s.vm[initdata.AnnotationKey] != sampleDocument {
		t.Errorf("both, the old one switched off: %v", err)
	}
}

// TestGuestAnnotations: only what carries init-data or policy is taken out.
func TestGuestAnnotations(t *testing.T) {
	in := map[string]string{
		"io.katacontainers.config.hypervisor.cc_init_data":   "x",
		"io.katacontainers.config.runtime.cc_init_data":      "x",
		"io.katacontainers.config.agent.policy":              "x",
		"io.katacontainers.config.hypervisor.default_memory": "3072",
	}
	want := map[string]string{
		"io.katacontainers.config.runtime.cc_init_data":      "x",
		"io.katacontainers.config.hypervisor.default_memory": "3072",
		"io.katacontainers.pkg.oci.bundle_path":              "/b",
		"io.katacontainers.pkg.oci.container_type":           "pod_container",
	}
	if got := guestAnnotations(testConfig(), in, "/b", "pod_container"); !maps.Equal(got, want) {
		t.Errorf("got %v", got)
	}
	legacy := testConfig()
	legacy.LegacyInitData = true
	delete(want, "io.katacontainers.config.runtime.cc_init_data")
	if got := guestAnnotations(legacy, in, "/b", "pod_container"); !maps.Equal(got, want) {
		t.Errorf("with the legacy key: %v", got)
	}
	if len(in) != 4 {
		t.Error("the node's annotations were changed")
	}
}

// FuzzPodSettings: whatever a pod's author writes into the annotations, the answer is settings or an error.
func FuzzPodSettings(f *testing.F) {
	f.Add("H4sIAAAAAAAA/wEAAP//AAAAAAAAAAA=", "3072", "0.5", "cGFja2FnZQ==", "100000")
	f.Add("!", "-1", "NaN", "!", "x")
	f.Fuzz(func(t *testing.T, initData, memory, vcpus, policy, quota string) {
		c := testConfig()
		c.EnableAnnotations = append(c.EnableAnnotations, regexp.MustCompile("cc_init_data"))
		s, err := podSettings(c, map[string]string{
			"io.katacontainers.config.hypervisor.cc_init_data": initData, annotationMemory: memory, annotationVCPUs: vcpus,
			annotationPolicy: policy, annotationCRISandboxCPU: quota, annotationCRISandboxPeriod: "100000",
		})
		if err == nil && len(s.vm) != 9 {
			t.Errorf("CreateVM gets %d annotations", len(s.vm))
		}
	})
}
