package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/kubernetes/scheme"
)

func artefactsWith(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestConfigMap(t *testing.T) {
	long := strings.Repeat("the same line\n", 100_000)
	dir := artefactsWith(t, map[string]string{"summary.md": "# short", "report.yaml": long, "node-logs/x": "not delivered"})
	kube := fake.NewClientset(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "old"}, Data: map[string]string{"summary.md": "old"}})
	for _, name := range []string{"new", "old"} {
		d := delivery{configMap: "ns/" + name}
		if err := d.check(); err != nil {
			t.Fatal(err)
		}
		if err := d.deliver(t.Context(), dir, kube); err != nil {
			t.Fatal(err)
		}
		m, err := kube.CoreV1().ConfigMaps("ns").Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if m.Data["summary.md"] != "# short" || len(m.Data) != 1 || len(m.BinaryData) != 1 {
			t.Fatalf("%s: %v and %d binary", name, m.Data, len(m.BinaryData))
		}
		z, err := gzip.NewReader(bytes.NewReader(m.BinaryData["report.yaml.gz"]))
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(z); err != nil || string(b) != long {
			t.Errorf("%v: %d bytes", err, len(b))
		}
	}
}

func TestConfigMapRefuses(t *testing.T) {
	random := make([]byte, 1<<20)
	_, _ = rand.Read(random)
	dir := artefactsWith(t, map[string]string{"report.yaml": hex.EncodeToString(random)})
	if err := (delivery{configMap: "ns/x"}).deliver(t.Context(), dir, fake.NewClientset()); err == nil || !strings.Contains(err.Error(), "report.yaml does not fit into a ConfigMap") {
		t.Error(err)
	}
	if err := (delivery{configMap: "ns/x"}).deliver(t.Context(), dir, nil); err == nil {
		t.Error("without a cluster it is delivered")
	}
	for _, bad := range []string{"x", "/x", "ns/", "a/b/c"} {
		if err := (delivery{configMap: bad}).check(); err == nil || !strings.Contains(err.Error(), "want NAMESPACE/NAME") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

// unpacked are the files of an archive.
func unpacked(t *testing.T, archive string) map[string]string {
	t.Helper()
	f, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		got[h.Name] = string(b)
	}
	return got
}

// The contract of Sonobuoy's plugins: a file done with the path of the results.
func TestSonobuoy(t *testing.T) {
	dir := artefactsWith(t, map[string]string{"junit.xml": "<testsuites/>", "failed/a/console.log": "x"})
	results := t.TempDir()
	if err := (delivery{sonobuoy: results}).deliver(t.Context(), dir, nil); err != nil {
		t.Fatal(err)
	}
	path, err := os.ReadFile(filepath.Join(results, "done"))
	if err != nil || strings.TrimSpace(string(path)) != filepath.Join(results, "coco-e2e.tar.gz") || string(path) != strings.TrimSpace(string(path)) {
		t.Fatalf("%v: %q", err, path)
	}
	got := unpacked(t, string(path))
	if len(got) != 2 || got["junit.xml"] != "<testsuites/>" || got["failed/a/console.log"] != "x" {
		t.Errorf("%v", got)
	}
	if err := (delivery{sonobuoy: filepath.Join(results, "none")}).deliver(t.Context(), dir, nil); err == nil {
		t.Error("a directory that is not there is taken")
	}
}

func TestPrebuilt(t *testing.T) {
	dir := artefactsWith(t, map[string]string{"suites/pod.test": "", "suites/host.test": "", "ginkgo": ""})
	cache := t.TempDir()
	for range 2 { // a link that is there is made again
		got, err := prebuiltBinaries(dir, cache, nil)
		if err != nil || len(got) != 2 {
			t.Fatalf("%v: %v", err, got)
		}
		if to, err := os.Readlink(got[0]); err != nil || to != filepath.Join(dir, "suites/host.test") {
			t.Errorf("%v: %s", err, to)
		}
	}
	if _, err := prebuiltBinaries(dir, cache, []string{"agent"}); err == nil || !strings.Contains(err.Error(), "takes any of host, pod") {
		t.Error(err)
	}
	if prebuilt() != "" {
		t.Error("the test itself is taken for the image's program")
	}
}

// Sonobuoy's worker waits for done, also when a run cannot begin.
func TestSonobuoyOfARunThatNeverBegan(t *testing.T) {
	for _, c := range []struct {
		name string
		env  map[string]string
		want string
	}{
		{"what to use of the cluster is not said", map[string]string{"CLUSTER": "existing", "RUNTIME_CLASS": ""}, "CLUSTER=existing needs RUNTIME_CLASS"},
		{"a provider that there is not", map[string]string{"CLUSTER": "cloud"}, "CLUSTER=cloud: unknown provider"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir, results := t.TempDir(), t.TempDir()
			c.env["ARTIFACTS_DIR"], c.env["COCO_E2E_CACHE"] = filepath.Join(dir, "artifacts"), filepath.Join(dir, "cache")
			for name, value := range c.env {
				t.Setenv(name, value)
			}
			cmd := runCommand()
			cmd.SetArgs([]string{"--sonobuoy", results})
			if err := cmd.Execute(); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
			path, err := os.ReadFile(filepath.Join(results, "done"))
			if err != nil {
				t.Fatal(err)
			}
			got := unpacked(t, string(path))
			if junit := got["junit.xml"]; !strings.Contains(junit, "<failure") && !strings.Contains(junit, "<error") || !strings.Contains(junit, c.want) {
				t.Errorf("junit.xml does not fail with %q:\n%s", c.want, junit)
			}
		})
	}
}

// A run on a cluster that was there puts its report there, also when no spec ran.
func TestConfigMapOfARunWithoutSpecs(t *testing.T) {
	var created corev1.ConfigMap
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost || r.URL.Path != "/api/v1/namespaces/ns/configmaps" {
			http.NotFound(w, r)
			return
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		object, _, err := scheme.Codecs.UniversalDeserializer().Decode(body, nil, &created)
		if err != nil {
			t.Errorf("%T: %v", object, err)
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusCreated)
		_ = json.NewEncoder(w).Encode(&corev1.ConfigMap{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}})
	}))
	defer server.Close()
	dir := t.TempDir()
	config := filepath.Join(dir, "kubeconfig")
	text := "apiVersion: v1\nkind: Config\nclusters: [{name: x, cluster: {server: \"" + server.URL + "\"}}]\ncontexts: [{name: x, context: {cluster: x, user: x}}]\n" +
		"users: [{name: x, user: {}}]\ncurrent-context: x\n"
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{
		"CLUSTER": "existing", "RUNTIME_CLASS": "kata-qemu-tdx", "KUBECONFIG": config,
		"ARTIFACTS_DIR": filepath.Join(dir, "artifacts"), "COCO_E2E_CACHE": filepath.Join(dir, "cache"),
	} {
		t.Setenv(name, value)
	}
	cmd := runCommand()
	cmd.SetArgs([]string{"--suites", "nosuch", "--config-map", "ns/report"})
	if err := cmd.Execute(); err == nil || !strings.Contains(err.Error(), `no suite on a cluster is called "nosuch"`) {
		t.Error(err)
	}
	if created.Name != "report" || !strings.Contains(created.Data["report.yaml"], "nosuch") || created.Data["junit.xml"] == "" {
		t.Errorf("%s: %v", created.Name, created.Data)
	}
}
