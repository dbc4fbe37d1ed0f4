package testbed

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/coco-e2e/coco-e2e/framework/cluster/existing"
	"github.com/coco-e2e/coco-e2e/framework/cluster/simulation"
	"github.com/coco-e2e/coco-e2e/framework/pod"
)

func TestDiffers(t *testing.T) {
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	write := func(text string) {
		if err := os.WriteFile(kubeconfig, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	there := func() Options {
		return Options{
			Provider: Existing, Workload: "w", KBS: ExternalKBS{URL: "http://kbs", AdminURL: "http://kbs", AdminToken: "secret"},
			Existing: ExistingOptions{Kubeconfig: kubeconfig, Classes: []existing.Wanted{{Name: "kata-qemu-tdx"}}},
		}
	}
	local := func() Options { return Options{Provider: Local} }
	for name, tc := range map[string]struct {
		asked  func() Options
		change func(*Options)
		want   string
	}{
		"the same":          {there, func(*Options) {}, ""},
		"a class":           {there, func(o *Options) { o.Existing.Classes[0].Name = "kata-qemu-snp" }, "was made with another RUNTIME_CLASS"},
		"a kind of TEE":     {there, func(o *Options) { o.Existing.Classes[0].TEE = "snp" }, "was made with another RUNTIME_CLASS"},
		"a kubeconfig":      {there, func(o *Options) { o.Existing.Kubeconfig = "/other" }, "was made with another KUBECONFIG"},
		"its content":       {there, func(*Options) { write("another") }, "was made with another KUBECONFIG"},
		"a token":           {there, func(o *Options) { o.KBS.AdminToken = "new" }, "was made with another KBS_ADMIN_TOKEN"},
		"an authority":      {there, func(o *Options) { o.KBS.CA = "new" }, "was made with another KBS_CERT"},
		"images":            {there, func(o *Options) { o.Workload = "x"; t.Setenv("PROBE_IMAGE", "p") }, "was made with another PROBE_IMAGE and another WORKLOAD_IMAGE"},
		"local, the same":   {local, func(o *Options) { o.Nodes = 1 }, ""},
		"local, nodes":      {local, func(o *Options) { o.Nodes = 3 }, "was made with another NODES"},
		"local, no nodes":   {func() Options { return Options{Provider: Local, Nodes: 3} }, func(o *Options) { o.Nodes = 0 }, ""},
		"local, a shim":     {local, func(o *Options) { o.Shim = simulation.Shim{Kata: "/shim"} }, "was made with another KATA_SHIM and another SHIM"},
		"local, a KBS":      {local, func(o *Options) { o.KBS.URL = "http://kbs" }, "was made with another KBS_URL"},
		"local, a workload": {local, func(o *Options) { o.Workload = "x" }, "was made with another WORKLOAD_IMAGE"},
	} {
		t.Setenv("PROBE_IMAGE", "")
		t.Setenv("UNLISTED_IMAGE", "")
		write("one")
		o := tc.asked()
		h := &Handle{Provider: o.Provider, Complete: true, Asked: o.asked()}
		for name, digest := range h.Asked {
			if strings.Contains(digest, "secret") {
				t.Errorf("%s is kept: %s", name, digest)
			}
		}
		tc.change(&o)
		if got := h.differs(o); got != tc.want {
			t.Errorf("%s: it %q, want %q", name, got, tc.want)
		}
	}
	if got := (&Handle{}).differs(local()); got != "did not come up" {
		t.Error(got)
	}
	if got := (&Handle{Complete: true, Asked: local().asked(), ExternalKBS: ExternalKBS{Chart: "/chart"}}).differs(local()); !strings.HasPrefix(got, "has a chart's KBS") {
		t.Error(got)
	}
}

func TestKeptRefusesAnother(t *testing.T) {
	o := Options{Cache: t.TempDir(), Name: "x", Provider: Local}
	bed := &Testbed{Handle: Handle{Provider: Local, Name: "x", StateRoot: o.ClustersDir(), Asked: o.asked()}}
	if err := os.MkdirAll(filepath.Dir(o.HandlePath()), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := bed.complete(); err != nil {
		t.Fatal(err)
	}
	o.Workload = "registry/other"
	if _, err := Kept(t.Context(), o); err == nil || err.Error() != "the cluster x that an earlier run kept was made with another WORKLOAD_IMAGE: remove it with `make down`" {
		t.Error(err)
	}
	o.Provider = Kind
	if _, err := Kept(t.Context(), o); err == nil || !strings.Contains(err.Error(), "is a local one, and CLUSTER asks for kind") {
		t.Error(err)
	}
}

// Two runs of one name, as of two processes.
func TestAlone(t *testing.T) {
	o := Options{Cache: t.TempDir(), Name: "existing"}
	for range 2 {
		if err := o.alone(); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(o.Cache, "locks", "existing")
	other := busy[path]
	delete(busy, path)
	if err := o.alone(); err == nil || !strings.Contains(err.Error(), "another run called existing is going on") {
		t.Error(err)
	}
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	if err := o.alone(); err != nil {
		t.Error(err)
	}
}

func TestRemoveRun(t *testing.T) {
	labelled := func(name, run string) metav1.ObjectMeta {
		m := metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.NewTime(time.Unix(1000, 0))}
		if run != "" {
			m.Labels = map[string]string{RunLabel: run}
		}
		return m
	}
	kube := fake.NewClientset(
		&corev1.Namespace{ObjectMeta: labelled("kube-system", "")}, &corev1.Namespace{ObjectMeta: labelled("pod-1", "aa")},
		&corev1.Namespace{ObjectMeta: labelled("kbs-1", "aa")}, &corev1.Namespace{ObjectMeta: labelled("pod-2", "bb")},
		&corev1.PersistentVolume{ObjectMeta: labelled("pod-1-data", "aa")}, &corev1.PersistentVolume{ObjectMeta: labelled("theirs", "")},
	)
	n, err := removeRun(t.Context(), &pod.Client{Kube: kube}, "", "aa")
	if err != nil || n != 3 {
		t.Errorf("removed %d, %v", n, err)
	}
	if got := names(t, kube); got != "kube-system pod-2 theirs" {
		t.Errorf("left %s", got)
	}
	if n, err := removeRun(t.Context(), &pod.Client{Kube: kube}, "", "aa"); err != nil || n != 0 {
		t.Errorf("removed %d, %v", n, err)
	}
}

func names(t *testing.T, kube *fake.Clientset) string {
	t.Helper()
	namespaces, err := kube.CoreV1().Namespaces().List(context.Background(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	volumes, err := kube.CoreV1().PersistentVolumes().List(context.Background(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, n := range namespaces.Items {
		out = append(out, n.Name)
	}
	for _, v := range volumes.Items {
		out = append(out, v.Name)
	}
	return strings.Join(out, " ")
}
