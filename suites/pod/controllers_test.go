package pod_test

import (
	"context"
	"net"
	"slices"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coco-e2e/coco-e2e/framework/conformance/proof"
	"github.com/coco-e2e/coco-e2e/framework/pod"
)

// template is a pod as controllers make it, with a label.
func template(label string, edits ...func(*corev1.Pod)) corev1.PodTemplateSpec {
	p := bed.Pod("", "", edits...)
	return corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": label}}, Spec: p.Spec}
}

// job runs a pod's container to its end and waits for the job's.
func job(ctx context.Context, ns string, spec batchv1.JobSpec) *batchv1.Job {
	GinkgoHelper()
	jobs := bed.Pods.Kube.BatchV1().Jobs(ns)
	_, err := jobs.Create(ctx, &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "job"}, Spec: spec}, metav1.CreateOptions{})
	Expect(err).NotTo(HaveOccurred())
	var j *batchv1.Job
	Eventually(ctx, func(g Gomega) {
		var err error
		j, err = jobs.Get(ctx, "job", metav1.GetOptions{})
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(j.Status.Conditions).To(ContainElement(And(
			HaveField("Type", BeElementOf(batchv1.JobComplete, batchv1.JobFailed)), HaveField("Status", corev1.ConditionTrue))))
	}).WithPolling(200 * time.Millisecond).Should(Succeed())
	return j
}

// deployed waits until a deployment is what its specification says, and
// returns its pods that are to stay, oldest first.
func deployed(ctx context.Context, ns string) []corev1.Pod {
	GinkgoHelper()
	Eventually(ctx, func(g Gomega) {
		d, err := bed.Pods.Kube.AppsV1().Deployments(ns).Get(ctx, "web", metav1.GetOptions{})
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(d.Status.ObservedGeneration).To(Equal(d.Generation))
		want := *d.Spec.Replicas
		g.Expect(d.Status).To(And(HaveField("Replicas", want), HaveField("UpdatedReplicas", want), HaveField("AvailableReplicas", want)))
	}).WithPolling(200 * time.Millisecond).Should(Succeed())
	list, err := bed.Pods.Kube.CoreV1().Pods(ns).List(ctx, pod.Labelled("app", "web"))
	Expect(err).NotTo(HaveOccurred())
	return slices.DeleteFunc(list.Items, func(p corev1.Pod) bool { return p.DeletionTimestamp != nil })
}

var _ = Describe("controllers", Label("pod"), func() {
	It("a job completes with its pods", proof.Of("POD-CONTROLLER-001"), SpecTimeout(limit), func(ctx SpecContext) {
		ns := bed.Namespace(ctx, "job")
		completions := int32(2)
		j := job(ctx, ns, batchv1.JobSpec{Completions: &completions, Parallelism: &completions, Template: template("job", once, script("echo worked"))})
		Expect(j.Status).To(And(HaveField("Succeeded", int32(2)), HaveField("Failed", BeZero())))
		pods, err := bed.Pods.Kube.CoreV1().Pods(ns).List(ctx, pod.Labelled("app", "job"))
		Expect(err).NotTo(HaveOccurred())
		Expect(pods.Items).To(HaveLen(2))
		for _, p := range pods.Items {
			Expect(logs(ctx, ns, p.Name, corev1.PodLogOptions{})).To(Equal("worked\n"))
		}
	})

	It("a job gives up after its back-off limit", proof.Of("POD-CONTROLLER-002"), SpecTimeout(limit), func(ctx SpecContext) {
		ns := bed.Namespace(ctx, "job")
		retries := int32(0)
		j := job(ctx, ns, batchv1.JobSpec{BackoffLimit: &retries, Template: template("job", once, script("exit 8"))})
		Expect(j.Status).To(And(HaveField("Succeeded", BeZero()), HaveField("Failed", int32(1))))
		Expect(j.Status.Conditions).To(ContainElement(And(HaveField("Type", batchv1.JobFailed), HaveField("Reason", batchv1.JobReasonBackoffLimitExceeded))))
	})

	It("a deployment rolls out, scales and is updated", proof.Of("POD-CONTROLLER-003"), SpecTimeout(2*limit), func(ctx SpecContext) {
		ns := bed.Namespace(ctx, "deployment")
		deployments := bed.Pods.Kube.AppsV1().Deployments(ns)
		replicas := int32(2)
		_, err := deployments.Create(ctx, &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: appsv1.DeploymentSpec{
			Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
			Template: template("web", server, func(p *corev1.Pod) {
				p.Spec.Containers[0].ReadinessProbe = probe(httpGet("/"))
				p.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "VERSION", Value: "1"}}
			}),
		}}, metav1.CreateOptions{})
		Expect(err).NotTo(HaveOccurred())
		first := deployed(ctx, ns)
		Expect(first).To(HaveLen(2))
		By("scaling down to one")
		scale, err := deployments.GetScale(ctx, "web", metav1.GetOptions{})
		Expect(err).NotTo(HaveOccurred())
		scale.Spec.Replicas = 1
		_, err = deployments.UpdateScale(ctx, "web", scale, metav1.UpdateOptions{})
		Expect(err).NotTo(HaveOccurred())
		left := deployed(ctx, ns)
		Expect(left).To(HaveLen(1))
		By("updating")
		d, err := deployments.Get(ctx, "web", metav1.GetOptions{})
		Expect(err).NotTo(HaveOccurred())
		d.Spec.Template.Spec.Containers[0].Env[0].Value = "2"
		_, err = deployments.Update(ctx, d, metav1.UpdateOptions{})
		Expect(err).NotTo(HaveOccurred())
		updated := deployed(ctx, ns)
		Expect(updated).To(HaveLen(1))
		Expect(updated[0].UID).NotTo(Equal(left[0].UID))
		Expect(shell(ctx, ns, updated[0].Name, "echo $VERSION; curl -s http://127.0.0.1/")).To(And(HavePrefix("2\n"), ContainSubstring("Welcome to nginx")))
		gone(ctx, ns, left[0].Name)
	})

	It("replicas are spread over two nodes and reach each other; those that ask for the same node share it", proof.Of("POD-CONTROLLER-004"), Label("nodes"), SpecTimeout(2*limit), func(ctx SpecContext) {
		bed.NodesOfClass(ctx, 2, 2)
		replicas := int32(2)
		// Two replicas, placed by edit, that say the name of their node.
		place := func(edit func(*corev1.PodSpec)) []corev1.Pod {
			GinkgoHelper()
			ns := bed.Namespace(ctx, "spread")
			_, err := bed.Pods.Kube.AppsV1().Deployments(ns).Create(ctx, &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: appsv1.DeploymentSpec{
				Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
				Template: template("web", server, func(p *corev1.Pod) {
					p.Spec.Containers[0].ReadinessProbe = probe(httpGet("/"))
					edit(&p.Spec)
				}),
			}}, metav1.CreateOptions{})
			Expect(err).NotTo(HaveOccurred())
			pods := deployed(ctx, ns)
			Expect(pods).To(HaveLen(2))
			return pods
		}
		labels := &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}
		honor := corev1.NodeInclusionPolicyHonor

		spread := place(func(p *corev1.PodSpec) {
			// Nodes that the pods cannot go to do not count for the skew.
			p.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{
				MaxSkew: 1, TopologyKey: corev1.LabelHostname, WhenUnsatisfiable: corev1.DoNotSchedule,
				LabelSelector: labels, NodeAffinityPolicy: &honor, NodeTaintsPolicy: &honor,
			}}
		})
		Expect(spread[0].Spec.NodeName).NotTo(Equal(spread[1].Spec.NodeName))
		for i, p := range spread {
			other := spread[1-i].Status.PodIP
			Expect(shell(ctx, p.Namespace, p.Name, "curl -s http://"+net.JoinHostPort(other, "80"))).To(ContainSubstring("Welcome to nginx"))
		}

		By("control: pods that are to be together are")
		together := place(func(p *corev1.PodSpec) {
			p.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{
				RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{LabelSelector: labels, TopologyKey: corev1.LabelHostname}},
			}}
		})
		Expect(together[0].Spec.NodeName).To(Equal(together[1].Spec.NodeName))
	})
})
