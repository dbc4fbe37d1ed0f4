package suite

import (
	"context"
	"io"
	"net"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"

	"github.com/coco-e2e/coco-e2e/framework/agentapi"
	"github.com/coco-e2e/coco-e2e/framework/pod"
)

// Probe is a privileged pod on a victim's node: what an attacker has who is
// root there.
type Probe struct {
	bed        *Bed
	ns, name   string
	victim     *corev1.Pod
	containers []string
}

// Probe starts one beside the victim, which must be running; it goes with the
// spec. It skips where nobody may attack from the nodes.
func (b *Bed) Probe(ctx context.Context, victim *corev1.Pod) *Probe {
	GinkgoHelper()
	if b.ProbeImage == "" {
		Skip("attacks from a node are not asked for: PROBE_IMAGE names the probe's image")
	}
	p := &Probe{bed: b, name: "probe", victim: victim}
	for _, s := range victim.Status.ContainerStatuses {
		_, id, _ := strings.Cut(s.ContainerID, "://")
		p.containers = append(p.containers, id)
	}
	Expect(p.containers).NotTo(BeEmpty(), "%s: no container of %s has an id", pod.InconclusiveMark, victim.Name)
	p.ns = b.PrivilegedNamespace(ctx, "probe")
	privileged, no, propagation, grace := true, false, corev1.MountPropagationHostToContainer, int64(0)
	one := b.Pod(p.ns, p.name, func(q *corev1.Pod) {
		q.Spec = corev1.PodSpec{
			NodeName: victim.Spec.NodeName, HostPID: true, HostNetwork: true, AutomountServiceAccountToken: &no, TerminationGracePeriodSeconds: &grace,
			Tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
			Containers: []corev1.Container{{
				Name: Container, Image: b.ProbeImage, Args: []string{"wait"}, SecurityContext: &corev1.SecurityContext{Privileged: &privileged},
				VolumeMounts: []corev1.VolumeMount{{Name: "run", MountPath: "/run", MountPropagation: &propagation}},
			}},
			Volumes: []corev1.Volume{{Name: "run", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/run"}}}},
		}
	})
	b.Create(ctx, one)
	b.Ready(ctx, p.ns, p.name)
	return p
}

// ContainerID is containerd's id of the victim's first container: the agent
// knows the container by it.
func (p *Probe) ContainerID() string { return p.containers[0] }

// Agent connects to the agent of the victim's guest from the node; the
// connection goes with the spec.
func (p *Probe) Agent() *agentapi.Client {
	GinkgoHelper()
	c := agentapi.NewClient(p.Conn())
	DeferCleanup(func() { _ = c.Close() })
	return c
}

// Conn is a connection to the agent for whoever wants to say what no client would.
func (p *Probe) Conn() net.Conn {
	ctx, cancel := context.WithCancel(context.Background())
	here, there := net.Pipe()
	complaint := &complaint{}
	go func() {
		defer GinkgoRecover()
		_, _ = p.bed.Pods.ExecIO(ctx, pod.IO{Stdin: there, Stdout: there, Stderr: complaint}, p.ns, p.name, Container, "/hostprobe", "connect", p.ContainerID())
		_ = there.Close()
	}()
	DeferCleanup(func() {
		cancel()
		_ = here.Close()
	})
	return here
}

// complaint is what the probe says on its standard error.
type complaint struct{}

var _ io.Writer = (*complaint)(nil)

// Write puts it into the spec's output.
func (*complaint) Write(b []byte) (int, error) {
	GinkgoWriter.Printf("probe: %s", b)
	return len(b), nil
}

// URL is where the probe finds the agent.
func (p *Probe) URL(ctx context.Context) string {
	GinkgoHelper()
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	r, err := p.bed.Pods.Exec(ctx, p.ns, p.name, Container, "/hostprobe", "url", p.ContainerID())
	Expect(err).NotTo(HaveOccurred())
	Expect(r.ExitCode).To(BeZero(), "%s: the probe finds no agent: %s", pod.InconclusiveMark, r.Stderr)
	return strings.TrimSpace(r.Stdout)
}
