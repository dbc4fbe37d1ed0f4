package manifests

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"helm.sh/helm/v3/pkg/lint"
	"helm.sh/helm/v3/pkg/lint/support"
	batchv1 "k8s.io/api/batch/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/yaml"
)

// rendered is a file of the chart's, with values.
func rendered(t *testing.T, values map[string]any) (map[string]string, error) {
	t.Helper()
	c, err := loader.Load("chart")
	if err != nil {
		t.Fatal(err)
	}
	all, err := chartutil.ToRenderValues(c, values, chartutil.ReleaseOptions{Name: "night", Namespace: "tests", IsInstall: true}, nil)
	if err != nil {
		t.Fatal(err)
	}
	files, err := engine.Render(c, all)
	out := map[string]string{}
	for name, text := range files {
		out[filepath.Base(name)] = text
	}
	return out, err
}

func TestChartLint(t *testing.T) {
	linter := lint.AllWithKubeVersion("chart", map[string]any{"runtimeClass": "kata-cc"}, "tests", nil)
	for _, m := range linter.Messages {
		if m.Severity >= support.WarningSev {
			t.Error(m)
		}
	}
}

func TestChartJob(t *testing.T) {
	files, err := rendered(t, map[string]any{
		"runtimeClass": "kata-qemu-tdx", "suites": "walkthrough", "kbs": map[string]any{"url": "https://kbs:8080", "adminTokenSecret": "kbs-token"},
		"tolerations": []any{map[string]any{"operator": "Exists"}}, "extraEnv": []any{map[string]any{"name": "TEST_ROOTS", "value": "/roots"}},
		"artifactsClaim": "keep",
	})
	if err != nil {
		t.Fatal(err)
	}
	var job batchv1.Job
	if err := yaml.UnmarshalStrict([]byte(files["job.yaml"]), &job); err != nil {
		t.Fatalf("%v\n%s", err, files["job.yaml"])
	}
	pod := job.Spec.Template.Spec
	env := map[string]string{}
	for _, e := range pod.Containers[0].Env {
		env[e.Name] = e.Value
		if e.Name == "KBS_ADMIN_TOKEN" && (e.ValueFrom == nil || e.ValueFrom.SecretKeyRef.Name != "kbs-token") {
			t.Error("the administrator's token is not from its Secret")
		}
	}
	for name, want := range map[string]string{
		"CLUSTER": "existing", "RUNTIME_CLASS": "kata-qemu-tdx", "SUITES": "walkthrough", "KBS_URL": "https://kbs:8080", "TEST_ROOTS": "/roots",
	} {
		if env[name] != want {
			t.Errorf("%s=%s, want %s", name, env[name], want)
		}
	}
	if _, there := env["FOCUS"]; there {
		t.Error("what is not given is set")
	}
	if got := strings.Join(pod.Containers[0].Args, " "); got != "run --config-map tests/coco-e2e-report" {
		t.Errorf("args: %s", got)
	}
	if *job.Spec.BackoffLimit != 0 || *pod.TerminationGracePeriodSeconds != 240 || pod.ServiceAccountName != "night" || len(pod.Tolerations) != 1 || pod.Volumes[1].PersistentVolumeClaim.ClaimName != "keep" {
		t.Errorf("%+v", job.Spec)
	}
	if _, err := rendered(t, nil); err == nil || !strings.Contains(err.Error(), "runtimeClass is required") {
		t.Errorf("without a RuntimeClass: %v", err)
	}
}

// The chart's rights are the documented ones.
func TestChartRights(t *testing.T) {
	files, err := rendered(t, map[string]any{"runtimeClass": "x"})
	if err != nil {
		t.Fatal(err)
	}
	documented, err := os.ReadFile("existing/rbac.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := rules(t, files["rbac.yaml"]), rules(t, string(documented)); !reflect.DeepEqual(got, want) {
		t.Errorf("the chart grants %+v, and existing/rbac.yaml documents %+v", got, want)
	}
	statistics, err := os.ReadFile("existing/statistics.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if files, err = rendered(t, map[string]any{"runtimeClass": "x", "statistics": true}); err != nil {
		t.Fatal(err)
	}
	if got, want := rules(t, files["rbac.yaml"]), append(rules(t, string(documented)), rules(t, string(statistics))...); !reflect.DeepEqual(got, want) {
		t.Errorf("with statistics the chart grants %+v, and existing/ documents %+v", got, want)
	}
}

func rules(t *testing.T, text string) []rbacv1.PolicyRule {
	t.Helper()
	for document := range strings.SplitSeq(text, "\n---\n") {
		var role rbacv1.ClusterRole
		if yaml.Unmarshal([]byte(document), &role) == nil && role.Kind == "ClusterRole" {
			return role.Rules
		}
	}
	t.Fatal("there is no ClusterRole")
	return nil
}

// Sonobuoy reads this (its pkg/plugin/manifest): what is not of its schema is refused.
func TestSonobuoyPlugin(t *testing.T) {
	var plugin struct {
		Config struct {
			Driver       string   `json:"driver"`
			Name         string   `json:"plugin-name"`
			ResultFormat string   `json:"result-format"`
			ResultFiles  []string `json:"result-files"`
		} `json:"sonobuoy-config"`
		Spec struct {
			Name            string              `json:"name"`
			Image           string              `json:"image"`
			ImagePullPolicy string              `json:"imagePullPolicy"`
			Args            []string            `json:"args"`
			Env             []map[string]string `json:"env"`
			VolumeMounts    []map[string]string `json:"volumeMounts"`
		} `json:"spec"`
	}
	text, err := os.ReadFile("sonobuoy/plugin.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.UnmarshalStrict(text, &plugin); err != nil {
		t.Fatal(err)
	}
	if plugin.Config.Driver != "Job" || plugin.Config.ResultFormat != "junit" || len(plugin.Config.ResultFiles) != 1 {
		t.Errorf("%+v", plugin.Config)
	}
	if plugin.Spec.VolumeMounts[0]["mountPath"] != "/tmp/sonobuoy/results" || plugin.Spec.VolumeMounts[0]["name"] != "results" {
		t.Errorf("Sonobuoy's worker takes results from /tmp/sonobuoy/results: %+v", plugin.Spec.VolumeMounts)
	}
}
