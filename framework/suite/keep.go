package suite

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coco-e2e/coco-e2e/framework/cluster/simulation"
	"github.com/coco-e2e/coco-e2e/framework/pod"
	"github.com/coco-e2e/coco-e2e/framework/redact"
)

// maxNodeLog is how much of a node's log is kept of the time of a spec, in bytes.
const maxNodeLog = 1 << 20

// keeps says whether what is known of the spec's pods is to be kept.
func keeps() bool { return CurrentSpecReport().Failed() || os.Getenv("ARTIFACTS") == "all" }

// nodeLogSizes are the sizes of the nodes' own logs, by path: what comes after is
// of the time of the spec that asks.
func (b *Bed) nodeLogSizes() map[string]int64 {
	if b.NodeLogs == "" {
		return nil
	}
	files, _ := filepath.Glob(filepath.Join(b.NodeLogs, "*", "*.log"))
	sizes := map[string]int64{}
	for _, f := range files {
		if info, err := os.Stat(f); err == nil {
			sizes[f] = info.Size()
		}
	}
	return sizes
}

// keepEvidence writes what Kubernetes, the nodes, the guests and the KBS know of
// a namespace's pods below the artefacts, without credentials. begun are the sizes
// of the nodes' logs when the namespace was made.
func (b *Bed) keepEvidence(ctx context.Context, ns string, begun map[string]int64) {
	root := os.Getenv("ARTIFACTS_DIR")
	if root == "" {
		return
	}
	dir := filepath.Join(root, "failed", slug(CurrentSpecReport().FullText()))
	if !CurrentSpecReport().Failed() {
		dir = filepath.Join(root, "passed", slug(CurrentSpecReport().FullText()))
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		GinkgoWriter.Println("artefacts:", err)
		return
	}
	b.keepRefusals(ctx, dir, ns)
	b.keepNodeLogs(dir, begun)
	pods, err := b.Pods.Kube.CoreV1().Pods(ns).List(ctx, metav1.ListOptions{})
	if err != nil {
		GinkgoWriter.Println("artefacts: list pods:", err)
		return
	}
	for _, p := range pods.Items {
		events, err := b.Pods.Events(ctx, ns, p.Name)
		text := fmt.Sprintf("%s\n\nevents (%v):\n%s\n\n%s", pod.Describe(&p), err, strings.Join(events, "\n"), b.whereabouts(&p))
		keep(filepath.Join(dir, p.Name+".txt"), []byte(text))
		guests, _ := filepath.Glob(simulation.GuestLogs(b.NodeLogs, ns, p.Name))
		for _, g := range guests {
			keepTree(filepath.Join(dir, filepath.Base(g)), g)
		}
		b.keepDenials(dir, &p)
	}
	if CurrentSpecReport().Failed() {
		AddReportEntry("artefacts", dir)
		AddReportEntry("run this spec alone", "make e2e KEEP=1 FOCUS='"+focused(CurrentSpecReport().FullText())+"'")
	}
}

// focused is a regular expression for a spec's text.
func focused(text string) string {
	var out strings.Builder
	for _, r := range text {
		if strings.ContainsRune("`\\.+*?()|[]{}^$'\"", r) {
			out.WriteByte('.') // any character: nothing to quote for make and the shell
			continue
		}
		out.WriteRune(r)
	}
	return out.String()
}

// whereabouts is the way from a pod to its guest: node, containers, guests' logs.
func (b *Bed) whereabouts(p *corev1.Pod) string {
	var out strings.Builder
	fmt.Fprintf(&out, "pod %s/%s, uid %s, on node %s, RuntimeClass %s\n", p.Namespace, p.Name, p.UID, p.Spec.NodeName, *orEmpty(p.Spec.RuntimeClassName))
	for _, s := range p.Status.ContainerStatuses {
		fmt.Fprintf(&out, "container %s: %s\n", s.Name, s.ContainerID)
	}
	if b.NodeLogs == "" {
		return out.String()
	}
	guests, _ := filepath.Glob(simulation.GuestLogs(b.NodeLogs, p.Namespace, p.Name))
	for _, g := range guests {
		fmt.Fprintf(&out, "guest (namespace_pod_sandbox): %s\n", filepath.Base(g))
	}
	return out.String()
}

func orEmpty(s *string) *string {
	if s == nil {
		return new(string)
	}
	return s
}

// keepNodeLogs writes what the nodes logged since begun.
func (b *Bed) keepNodeLogs(dir string, begun map[string]int64) {
	for file := range b.nodeLogSizes() {
		text, err := tail(file, begun[file], maxNodeLog)
		if err != nil || len(text) == 0 {
			continue
		}
		node := filepath.Base(filepath.Dir(file))
		keep(filepath.Join(dir, "node-"+node+"-"+filepath.Base(file)), text)
	}
}

// tail is what a file has from an offset on, the last of it when that is more
// than limit bytes.
func tail(file string, from, limit int64) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size() < from { // it was begun anew
		from = 0
	}
	if _, err := f.Seek(max(from, info.Size()-limit), io.SeekStart); err != nil {
		return nil, err
	}
	return io.ReadAll(io.LimitReader(f, limit))
}

// keep writes a text without credentials.
func keep(file string, text []byte) {
	if err := os.WriteFile(file, redact.Bytes(text), 0o644); err != nil {
		GinkgoWriter.Println("artefacts:", err)
	}
}

// keepTree keeps the regular files of a directory.
func keepTree(to, from string) {
	_ = filepath.WalkDir(from, func(name string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return nil
		}
		relative, err := filepath.Rel(from, name)
		if err != nil {
			return nil
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return nil // it went with its guest
		}
		at := filepath.Join(to, relative)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			return err
		}
		keep(at, text)
		return nil
	})
}
