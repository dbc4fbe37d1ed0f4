// Package suite joins a Ginkgo suite to a testbed: the processes of a parallel
// run share one, specs get namespaces that go away with them, and a spec that
// fails leaves what Kubernetes and the guests know of its pods.
//
// It must not know what specs assert. It is for suites: its functions fail the
// running spec, where those of package pod return errors.
package suite

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	"github.com/onsi/ginkgo/v2/types"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"

	"github.com/coco-e2e/coco-e2e/framework/interrupt"
	"github.com/coco-e2e/coco-e2e/framework/pod"
	"github.com/coco-e2e/coco-e2e/framework/progress"
	"github.com/coco-e2e/coco-e2e/framework/progress/live"
	"github.com/coco-e2e/coco-e2e/framework/testbed"
)

// How long things may take at most. A wait ends when what it waits for holds.
const (
	// BringUpTimeout covers a first build of everything.
	BringUpTimeout = 40 * time.Minute
	// TearDownTimeout covers taking a testbed away.
	TearDownTimeout = 2 * time.Minute
	// ReadyTimeout is from create to Ready, or to the event that says why not.
	ReadyTimeout = 90 * time.Second
	// DefaultSpecTimeout bounds a spec as a whole.
	DefaultSpecTimeout = 3 * time.Minute
)

// Container is the name of the container in the pods that Pod makes.
const Container = "main"

// Bed is the testbed of a suite. It is filled when specs begin to run, and is
// empty while the tree of specs is being built.
type Bed struct {
	*testbed.Testbed

	// open are the namespaces of the running spec.
	open         []openNamespace
	kbs          *KBS
	kbsNamespace string
	stopKBS      func()
	shared       *KBS
	stopShared   func()
}

// openNamespace is one that has not been deleted. begun are the sizes of the
// nodes' logs when it was made.
type openNamespace struct {
	name  string
	begun map[string]int64
	*chronicle
}

// Run runs the suite called name; a suite's Test function calls it.
func Run(t *testing.T, name string) {
	RegisterFailHandler(Fail)
	// client-go logs through klog, to standard error: it belongs to the spec.
	klog.SetLogger(GinkgoLogr)
	Watched()
	RunSpecs(t, name)
}

// Watched has the suite end with its run, and tell how its specs go on to whoever
// watches the run. Run does so; a suite without a testbed calls it before RunSpecs.
func Watched() {
	interrupt.Follow()
	if os.Getenv(live.Variable) == "" {
		return
	}
	ReportBeforeEach(func(r SpecReport) { live.Tell(live.Started, r.FullText()) })
	ReportAfterEach(func(r SpecReport) {
		switch {
		case r.State.Is(types.SpecStateFailureStates):
			live.Tell(live.Failed, r.FullText())
		case r.State.Is(types.SpecStatePassed):
			live.Tell(live.Passed, r.FullText())
		default:
			live.Tell(live.Skipped, r.FullText())
		}
	})
}

// Testbed registers, at the top level of a suite, the set-up that every
// process needs before its first spec. The first process finds the testbed
// that `coco-e2e run` brought up, or brings one up itself when the suite is run
// by hand, and takes that one away at the end unless KEEP is set.
func Testbed() *Bed {
	bed := &Bed{}
	SynchronizedBeforeSuite(func(ctx SpecContext) []byte {
		b, err := json.Marshal(findOrBringUp(ctx).Handle)
		Expect(err).NotTo(HaveOccurred())
		return b
	}, func(_ SpecContext, handle []byte) {
		var h testbed.Handle
		Expect(json.Unmarshal(handle, &h)).To(Succeed())
		var err error
		bed.Testbed, err = testbed.Open(h)
		Expect(err).NotTo(HaveOccurred())
	}, NodeTimeout(BringUpTimeout))
	// Before clean-up, and for each spec of an ordered container, whose namespace
	// goes with the last.
	JustAfterEach(func(ctx SpecContext) {
		if !keeps() {
			return
		}
		for _, o := range bed.open {
			bed.tellTimelines(o)
			bed.keepEvidence(ctx, o)
		}
	}, NodeTimeout(time.Minute))
	AfterSuite(func(ctx SpecContext) { Expect(bed.closeKBS(ctx)).To(Succeed()) }, NodeTimeout(time.Minute))
	return bed
}

func findOrBringUp(ctx context.Context) *testbed.Testbed {
	t, err := testbed.OfRun()
	Expect(err).NotTo(HaveOccurred())
	if t != nil {
		return t
	}
	o, err := testbed.FromEnvironment()
	Expect(err).NotTo(HaveOccurred())
	o.Progress = progress.New(GinkgoWriter)
	t, err = testbed.Kept(ctx, o)
	Expect(err).NotTo(HaveOccurred())
	if t != nil {
		return t
	}
	DeferCleanup(func(ctx SpecContext) error {
		if os.Getenv("KEEP") != "" {
			return nil
		}
		return testbed.Down(ctx, o)
	}, NodeTimeout(TearDownTimeout))
	t, err = testbed.Up(ctx, o)
	Expect(err).NotTo(HaveOccurred())
	return t
}

// Namespace makes a namespace that goes with the spec (or with the ordered
// container, when called from its BeforeAll). When a spec fails, what
// Kubernetes, the nodes, the guests and the KBS know of its pods is kept first.
func (b *Bed) Namespace(ctx context.Context, prefix string) string {
	GinkgoHelper()
	return b.namespace(ctx, prefix, nil)
}

// PrivilegedNamespace is Namespace for pods of Pod Security Admission's level
// Privileged: those that ask for something of the node.
func (b *Bed) PrivilegedNamespace(ctx context.Context, prefix string) string {
	GinkgoHelper()
	return b.namespace(ctx, prefix, map[string]string{pod.Enforce: pod.Privileged})
}

func (b *Bed) namespace(ctx context.Context, prefix string, labels map[string]string) string {
	GinkgoHelper()
	ns, err := b.Pods.NamespaceLabelled(ctx, prefix, labels)
	Expect(err).NotTo(HaveOccurred())
	o := openNamespace{ns, b.nodeLogSizes(), chronicleOf(ctx, b.Pods.Kube, ns)}
	b.open = append(b.open, o)
	DeferCleanup(func(ctx SpecContext) error {
		b.open = slices.DeleteFunc(b.open, func(o openNamespace) bool { return o.name == ns })
		if !CurrentSpecReport().Failed() { // else it has been told
			b.tellTimelines(o)
		}
		o.end()
		return b.Pods.DeleteNamespace(ctx, ns)
	}, NodeTimeout(time.Minute))
	return ns
}

var notSlug = regexp.MustCompile(`[^a-z0-9]+`)

func slug(s string) string {
	s = notSlug.ReplaceAllString(strings.ToLower(s), "-")
	return strings.Trim(s[:min(len(s), 100)], "-")
}

// Pod is a pod of the testbed's RuntimeClass with one container, called
// Container, that runs the workload image and does nothing. It is not created.
func (b *Bed) Pod(ns, name string, edits ...func(*corev1.Pod)) *corev1.Pod {
	runtimeClass, grace := b.RuntimeClass, int64(1)
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name},
		Spec: corev1.PodSpec{
			RuntimeClassName: &runtimeClass, TerminationGracePeriodSeconds: &grace,
			Containers: []corev1.Container{{Name: Container, Image: b.Nginx, Command: []string{"sleep", "infinity"}}},
		},
	}
	for _, edit := range edits {
		edit(p)
	}
	return p
}

// Create creates p.
func (b *Bed) Create(ctx context.Context, p *corev1.Pod) {
	GinkgoHelper()
	_, err := b.Pods.Kube.CoreV1().Pods(p.Namespace).Create(ctx, p, metav1.CreateOptions{})
	Expect(err).NotTo(HaveOccurred())
}

// Ready waits until the pod called name is Ready, and returns it.
func (b *Bed) Ready(ctx context.Context, ns, name string) *corev1.Pod {
	GinkgoHelper()
	ctx, cancel := context.WithTimeout(ctx, ReadyTimeout)
	defer cancel()
	p, err := b.Pods.WaitReady(ctx, ns, pod.Named(name))
	b.noError(ctx, ns, name, err)
	return p
}

// WaitPod waits until cond holds for the pod called name, and returns it. An
// error of cond says that it cannot hold any more. what says in words what is
// waited for.
func (b *Bed) WaitPod(ctx context.Context, ns, name, what string, cond func(*corev1.Pod) (bool, error)) *corev1.Pod {
	GinkgoHelper()
	p, err := b.Pods.WaitUntil(ctx, ns, pod.Named(name), what, cond)
	b.noError(ctx, ns, name, err)
	return p
}

// noError fails the spec with err and the pod's events.
func (b *Bed) noError(ctx context.Context, ns, name string, err error) {
	GinkgoHelper()
	if err == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	events, _ := b.Pods.Events(ctx, ns, name)
	Fail(fmt.Sprintf("%v\nevents:\n  %s", err, strings.Join(events, "\n  ")))
}

// NeverRan asserts that no container of the pod has started.
func (b *Bed) NeverRan(ctx context.Context, ns, name string) {
	GinkgoHelper()
	p, err := b.Pods.Kube.CoreV1().Pods(ns).Get(ctx, name, metav1.GetOptions{})
	Expect(err).NotTo(HaveOccurred())
	Expect(p).NotTo(Satisfy(pod.EverStarted), "a container ran: %s", pod.Describe(p))
}
