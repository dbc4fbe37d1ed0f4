package pod_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"

	"github.com/coco-e2e/coco-e2e/framework/conformance/proof"
	"github.com/coco-e2e/coco-e2e/framework/suite"
)

// logs reads a log as options choose it.
func logs(ctx context.Context, ns, name string, options corev1.PodLogOptions) string {
	GinkgoHelper()
	r, err := bed.Pods.LogStream(ctx, ns, name, options)
	Expect(err).NotTo(HaveOccurred())
	defer r.Close()
	b, err := io.ReadAll(r)
	Expect(err).NotTo(HaveOccurred())
	return string(b)
}

// ended waits until the pod has ended for good.
func ended(ctx context.Context, ns, name string, phase corev1.PodPhase) *corev1.Pod {
	GinkgoHelper()
	return bed.WaitPod(ctx, ns, name, string(phase), func(p *corev1.Pod) (bool, error) {
		if p.Status.Phase == phase {
			return true, nil
		}
		if p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
			return false, fmt.Errorf("it is %s", p.Status.Phase)
		}
		return false, nil
	})
}

func once(p *corev1.Pod) { p.Spec.RestartPolicy = corev1.RestartPolicyNever }

var _ = Describe("logs", Label("pod"), func() {
	It("keep each stream's order", proof.Of("POD-LOG-001"), SpecTimeout(limit), func(ctx SpecContext) {
		ns := bed.Namespace(ctx, "logs")
		bed.Create(ctx, bed.Pod(ns, "logs", once, script(`for i in 1 2 3 4 5; do echo out $i; echo err $i >&2; done`)))
		ended(ctx, ns, "logs", corev1.PodSucceeded)
		all := logs(ctx, ns, "logs", corev1.PodLogOptions{})
		Expect(lines(all, "out ")).To(Equal([]string{"out 1", "out 2", "out 3", "out 4", "out 5"}))
		Expect(lines(all, "err ")).To(Equal([]string{"err 1", "err 2", "err 3", "err 4", "err 5"}))
		Expect(strings.Count(all, "\n")).To(Equal(10))
		if bed.NodeLogs != "" {
			By("and its name, in the node's file")
			Expect(streamsOnNode(ns, "logs")).To(Equal(map[string]string{
				"stdout": "out 1|out 2|out 3|out 4|out 5|", "stderr": "err 1|err 2|err 3|err 4|err 5|",
			}))
		}
	})

	It("can be read in part, and with times", proof.Of("POD-LOG-002"), SpecTimeout(limit), func(ctx SpecContext) {
		ns := bed.Namespace(ctx, "logs")
		bed.Create(ctx, bed.Pod(ns, "logs", once, script(`seq 1 9; printf 10`)))
		p := ended(ctx, ns, "logs", corev1.PodSucceeded)
		tail, limit := int64(3), int64(5)
		Expect(logs(ctx, ns, "logs", corev1.PodLogOptions{TailLines: &tail})).To(Equal("8\n9\n10"))
		Expect(logs(ctx, ns, "logs", corev1.PodLogOptions{LimitBytes: &limit})).To(Equal("1\n2\n3"))
		status := p.Status.ContainerStatuses[0].State.Terminated
		last := status.StartedAt.Time
		for line := range strings.Lines(logs(ctx, ns, "logs", corev1.PodLogOptions{Timestamps: true})) {
			stamp, _, _ := strings.Cut(line, " ")
			at, err := time.Parse(time.RFC3339Nano, stamp)
			Expect(err).NotTo(HaveOccurred())
			Expect(at).NotTo(BeTemporally("<", last))
			last = at
		}
		Expect(last).To(BeTemporally("<", status.FinishedAt.Add(time.Second)), "statuses have whole seconds")
	})

	It("can be followed to the container's end", proof.Of("POD-LOG-003"), SpecTimeout(limit), func(ctx SpecContext) {
		ns := running(ctx, "logs", once, script(`trap 'echo stop; exit 0' USR1; echo ready; while :; do sleep 0.1; done`))
		stream, err := bed.Pods.LogStream(ctx, ns, "logs", corev1.PodLogOptions{Follow: true})
		Expect(err).NotTo(HaveOccurred())
		defer stream.Close()
		log := bufio.NewReader(stream)
		next := func() string {
			GinkgoHelper()
			line, err := log.ReadString('\n')
			Expect(err).NotTo(HaveOccurred())
			return line
		}
		Expect(next()).To(Equal("ready\n"))
		for _, line := range []string{"first", "second"} {
			shell(ctx, ns, "logs", "echo "+line+" >/proc/1/fd/1")
			Expect(next()).To(Equal(line + "\n"))
		}
		// The container may end before the exec's own end is known.
		_, _ = bed.Pods.Exec(ctx, ns, "logs", suite.Container, "sh", "-c", "kill -USR1 1")
		Expect(next()).To(Equal("stop\n"))
		_, err = log.ReadByte()
		Expect(err).To(MatchError(io.EOF), "the log ends with the container")
	})

	It("keep those of the container before the restart", proof.Of("POD-LOG-004"), SpecTimeout(limit), func(ctx SpecContext) {
		ns := bed.Namespace(ctx, "logs")
		bed.Create(ctx, bed.Pod(ns, "logs", emptyDir("/kept"), script(`
			echo >>/kept/lives; n=$(wc -l </kept/lives); echo life $n
			if [ $n -eq 1 ]; then exit 9; fi
			trap 'exit 9' USR1; while :; do sleep 0.1; done`)))
		previous := ""
		restarts := int32(0)
		for {
			restarts++
			p := bed.WaitPod(ctx, ns, "logs", "restarted", func(p *corev1.Pod) (bool, error) {
				return len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].RestartCount == restarts && p.Status.ContainerStatuses[0].State.Running != nil, nil
			})
			Expect(p.Status.ContainerStatuses[0].LastTerminationState.Terminated).To(HaveField("ExitCode", int32(9)))
			// Once a minute the kubelet removes all but one of a container's
			// instances that do not run, and the next one, created and not yet
			// started, is such an instance (pkg/kubelet/kuberuntime,
			// evictableContainers): the log went with the container, and only
			// another life can show it.
			previous = logs(ctx, ns, "logs", corev1.PodLogOptions{Previous: true})
			if !strings.HasPrefix(previous, "unable to retrieve container logs for ") {
				break
			}
			By("the kubelet's garbage collection removed the container: once more")
			_, _ = bed.Pods.Exec(ctx, ns, "logs", suite.Container, "sh", "-c", "kill -USR1 1") // see above
		}
		Expect(previous).To(Equal(fmt.Sprintf("life %d\n", restarts)))
		Eventually(ctx, func() string { return logs(ctx, ns, "logs", corev1.PodLogOptions{}) }).
			WithPolling(100 * time.Millisecond).Should(Equal(fmt.Sprintf("life %d\n", restarts+1)))
	})

	It("have megabytes intact, in lines longer than an entry of the node's log", proof.Of("POD-LOG-005"), SpecTimeout(limit), func(ctx SpecContext) {
		ns := bed.Namespace(ctx, "logs")
		bed.Create(ctx, bed.Pod(ns, "logs", once, script(`head -c 2000000 /dev/urandom | base64 -w 100000 | tee /tmp/written; echo; sha256sum </tmp/written`)))
		ended(ctx, ns, "logs", corev1.PodSucceeded)
		text := strings.TrimSuffix(logs(ctx, ns, "logs", corev1.PodLogOptions{}), "\n")
		end := strings.LastIndex(text, "\n") + 1
		Expect(end).To(BeNumerically(">", 2_600_000))
		written := strings.TrimSuffix(text[:end], "\n")
		Expect(text[end:]).To(HavePrefix(sum([]byte(written))), "%d bytes", len(written))
	})
})

// emptyDir mounts a volume that outlives containers at a path of the pod's
// containers.
func emptyDir(path string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: "kept", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}})
		mount := corev1.VolumeMount{Name: "kept", MountPath: path}
		for i := range p.Spec.InitContainers {
			p.Spec.InitContainers[i].VolumeMounts = append(p.Spec.InitContainers[i].VolumeMounts, mount)
		}
		for i := range p.Spec.Containers {
			p.Spec.Containers[i].VolumeMounts = append(p.Spec.Containers[i].VolumeMounts, mount)
		}
	}
}

// lines are those of text that begin with prefix.
func lines(text, prefix string) []string {
	var out []string
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, prefix) {
			out = append(out, strings.TrimSuffix(line, "\n"))
		}
	}
	return out
}

// streamsOnNode reads the short lines of a container's log as containerd wrote
// it: "time stream F text".
func streamsOnNode(ns, name string) map[string]string {
	GinkgoHelper()
	files, err := filepath.Glob(filepath.Join(bed.NodeLogs, "*", "pods", ns+"_"+name+"_*", suite.Container, "0.log"))
	Expect(err).NotTo(HaveOccurred())
	Expect(files).To(HaveLen(1))
	out := map[string]string{}
	for line := range strings.Lines(readFile(files[0])) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 4)
		Expect(f).To(HaveLen(4), line)
		if strings.HasPrefix(f[3], "out ") || strings.HasPrefix(f[3], "err ") {
			out[f[1]] += f[3] + "|"
		}
	}
	return out
}
