// Package walkthrough_test is the article "Policing a Sandbox" as specs: what
// it shows a reader by hand is shown here by a machine, step by step.
package walkthrough_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coco-e2e/coco-e2e/framework/cluster/simulation"
	"github.com/coco-e2e/coco-e2e/framework/pod"
	"github.com/coco-e2e/coco-e2e/framework/progress"
	"github.com/coco-e2e/coco-e2e/framework/testbed"
)

// How long things may take at most. A wait ends when what it waits for holds.
const (
	// bringUpTimeout covers a first build of everything.
	bringUpTimeout = 40 * time.Minute
	// readyTimeout is from create to Ready, or to the event that says why not.
	readyTimeout = 90 * time.Second
	// specTimeout bounds a spec as a whole.
	specTimeout = 3 * time.Minute
)

// bed is what this process's specs run against.
var bed *testbed.Testbed

func TestWalkthrough(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "walkthrough")
}

// The first process finds the testbed that `coco-e2e run` brought up, or brings
// one up itself when the suite is run by hand.
var _ = SynchronizedBeforeSuite(func(ctx SpecContext) []byte {
	o, err := testbed.FromEnvironment()
	Expect(err).NotTo(HaveOccurred())
	o.Progress = progress.New(GinkgoWriter)
	t, err := testbed.Existing(o)
	Expect(err).NotTo(HaveOccurred())
	if t == nil {
		DeferCleanup(func(ctx SpecContext) error {
			if os.Getenv("KEEP") != "" {
				return nil
			}
			return testbed.Down(ctx, o)
		}, NodeTimeout(2*time.Minute))
		t, err = testbed.Up(ctx, o)
		Expect(err).NotTo(HaveOccurred())
	}
	b, err := json.Marshal(t.Handle)
	Expect(err).NotTo(HaveOccurred())
	return b
}, func(_ SpecContext, handle []byte) {
	var h testbed.Handle
	Expect(json.Unmarshal(handle, &h)).To(Succeed())
	var err error
	bed, err = testbed.Open(h)
	Expect(err).NotTo(HaveOccurred())
}, NodeTimeout(bringUpTimeout))

// namespace makes a namespace that goes with the spec (or with the ordered
// container, when called from its BeforeAll). When a spec fails, what
// Kubernetes and the guests know of its pods is kept first.
func namespace(ctx context.Context, prefix string) string {
	GinkgoHelper()
	ns, err := bed.Pods.Namespace(ctx, prefix)
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(func(ctx SpecContext) error {
		if CurrentSpecReport().Failed() {
			keepEvidence(ctx, ns)
		}
		return bed.Pods.DeleteNamespace(ctx, ns)
	}, NodeTimeout(time.Minute))
	return ns
}

// keepEvidence writes states, events and guests' logs of a namespace's pods
// below the artefacts.
func keepEvidence(ctx context.Context, ns string) {
	dir := os.Getenv("ARTIFACTS_DIR")
	if dir == "" {
		return
	}
	dir = filepath.Join(dir, "failed", slug(CurrentSpecReport().FullText()))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		GinkgoWriter.Println("artefacts:", err)
		return
	}
	pods, err := bed.Pods.Kube.CoreV1().Pods(ns).List(ctx, metav1.ListOptions{})
	if err != nil {
		GinkgoWriter.Println("artefacts: list pods:", err)
		return
	}
	for _, p := range pods.Items {
		events, err := bed.Pods.Events(ctx, ns, p.Name)
		text := fmt.Sprintf("%s\n\nevents (%v):\n%s\n", pod.Describe(&p), err, strings.Join(events, "\n"))
		_ = os.WriteFile(filepath.Join(dir, p.Name+".txt"), []byte(text), 0o644)
		guests, _ := filepath.Glob(filepath.Join(bed.NodeLogs, simulation.LogDir, ns+"_"+p.Name+"_*"))
		for _, g := range guests {
			_ = os.CopyFS(filepath.Join(dir, filepath.Base(g)), os.DirFS(g))
		}
	}
	AddReportEntry("artefacts", dir)
}

var notSlug = regexp.MustCompile(`[^a-z0-9]+`)

func slug(s string) string {
	s = notSlug.ReplaceAllString(strings.ToLower(s), "-")
	return strings.Trim(s[:min(len(s), 100)], "-")
}

// confidentialPod is a pod of the testbed's RuntimeClass with one container
// called nginx.
func confidentialPod(ns, name, image string, annotations map[string]string) *corev1.Pod {
	runtimeClass := bed.RuntimeClass
	grace := int64(1)
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name, Annotations: annotations},
		Spec: corev1.PodSpec{
			RuntimeClassName: &runtimeClass, TerminationGracePeriodSeconds: &grace,
			Containers: []corev1.Container{{Name: "nginx", Image: image}},
		},
	}
}

func create(ctx context.Context, p *corev1.Pod) {
	GinkgoHelper()
	_, err := bed.Pods.Kube.CoreV1().Pods(p.Namespace).Create(ctx, p, metav1.CreateOptions{})
	Expect(err).NotTo(HaveOccurred())
}

// becomesReady waits for the pod called name.
func becomesReady(ctx context.Context, ns, name string) *corev1.Pod {
	GinkgoHelper()
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	p, err := bed.Pods.WaitReady(ctx, ns, pod.Named(name))
	if err != nil {
		events, _ := bed.Pods.Events(context.WithoutCancel(ctx), ns, name)
		Fail(fmt.Sprintf("%v\nevents:\n  %s", err, strings.Join(events, "\n  ")))
	}
	return p
}

// neverRan asserts that no container of the pod has started.
func neverRan(ctx context.Context, ns, name string) {
	GinkgoHelper()
	p, err := bed.Pods.Kube.CoreV1().Pods(ns).Get(ctx, name, metav1.GetOptions{})
	Expect(err).NotTo(HaveOccurred())
	Expect(p).NotTo(Satisfy(pod.EverStarted), "a container ran: %s", pod.Describe(p))
}
