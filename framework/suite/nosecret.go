package suite

import (
	"context"
	"path/filepath"
	"slices"

	. "github.com/onsi/ginkgo/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coco-e2e/coco-e2e/framework/kbs"
	"github.com/coco-e2e/coco-e2e/framework/pod"
	"github.com/coco-e2e/coco-e2e/framework/redact"
)

// keepRefusals writes what the KBS simulators refused while the spec ran, and
// why, to secret-<namespace>.txt below dir, and the KBS's logs of that time. A
// namespace is one that a KBS may be in; found says whether one could be asked.
func (b *Bed) keepRefusals(ctx context.Context, dir, ns string) (found bool) {
	since := metav1.NewTime(CurrentSpecReport().StartTime)
	for _, namespace := range slices.Compact([]string{ns, b.kbsNamespace, b.KBSNamespace}) {
		if namespace == "" {
			continue
		}
		pods, err := b.Pods.Kube.CoreV1().Pods(namespace).List(ctx, pod.Labelled("app", "kbs"))
		if err != nil {
			continue // a KBS that was given is elsewhere
		}
		for _, p := range pods.Items {
			log, err := b.containerLog(ctx, &p, corev1.PodLogOptions{SinceTime: &since})
			found = found || err == nil
			if len(log) > 0 { // it may have had nothing to do
				keep(filepath.Join(dir, "kbs-"+namespace+".log"), log)
			}
			text, err := b.refusals(ctx, &p, since)
			if err != nil {
				GinkgoWriter.Printf("why no secret: KBS of %s: %v\n", namespace, err)
				continue
			}
			file := filepath.Join(dir, "secret-"+namespace+".txt")
			text = "what this KBS refused while the spec ran, to whoever asked it\n\n" + redact.Text(text)
			keep(file, []byte(text))
			AddReportEntry("why no secret", text, ReportEntryVisibilityFailureOrVerbose)
		}
	}
	return found
}

func (b *Bed) refusals(ctx context.Context, p *corev1.Pod, since metav1.Time) (string, error) {
	log, err := b.Pods.LogStream(ctx, p.Namespace, p.Name, corev1.PodLogOptions{SinceTime: &since})
	if err != nil {
		return "", err
	}
	defer log.Close()
	requests, err := kbs.ReadJournal(log)
	if err != nil {
		return "", err
	}
	return kbs.Explain(requests)
}
