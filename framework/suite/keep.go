package suite

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

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
// a namespace's pods below the artefacts, without credentials.
func (b *Bed) keepEvidence(ctx context.Context, o openNamespace) {
	root := os.Getenv("ARTIFACTS_DIR")
	if root == "" {
		return
	}
	dir := specDir(root)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		GinkgoWriter.Println("artefacts:", err)
		return
	}
	var missing []string
	if !b.keepRefusals(ctx, dir, o.name) {
		missing = append(missing, "the KBS's log: no pod with the label app=kbs could be asked for it")
	}
	given.write(CurrentSpecReport().FullText(), dir)
	for _, why := range b.keepNamespace(ctx, dir, o, CurrentSpecReport().StartTime, missing) {
		AddReportEntry("why denied", why, ReportEntryVisibilityFailureOrVerbose)
	}
	if CurrentSpecReport().Failed() {
		AddReportEntry("artefacts", dir)
		AddReportEntry("run this spec alone", "make e2e KEEP=1 FOCUS='"+focused(CurrentSpecReport().FullText())+"'")
	}
}

// keepNamespace writes what is known of the pods of a namespace since a time, and
// what is not, beside what is missing already. It gives what was denied there, for
// people.
func (b *Bed) keepNamespace(ctx context.Context, dir string, o openNamespace, since time.Time, missing []string) (denials []string) {
	if err := o.chronicle.refresh(ctx, b.Pods.Kube, o.name); err != nil {
		missing = append(missing, "the last events and states: "+err.Error())
	}
	if b.NodeLogs == "" {
		missing = append(missing, "the logs of nodes, guests and agents, with which requests a policy refused: nothing on the nodes of this cluster can be read from here")
	}
	b.keepNodeLogs(dir, o.begun)
	pods, others, lost := o.chronicle.all()
	if lost > 0 {
		missing = append(missing, fmt.Sprintf("%d events and states beyond the first", lost))
	}
	for _, p := range pods {
		state := pod.Describe(p.Pod)
		if !p.gone.IsZero() {
			state += "\n(deleted at " + p.gone.UTC().Format(time.TimeOnly) + ")"
			missing = append(missing, "the containers' logs of pod "+p.Name+" by way of Kubernetes: it is deleted")
		} else {
			missing = append(missing, b.keepContainerLogs(ctx, dir, p.Pod, since)...)
		}
		text := fmt.Sprintf("%s\n\nevents:\n%s\n\n%s", state, strings.Join(p.events, "\n"), b.whereabouts(p.Pod))
		keep(filepath.Join(dir, p.Name+".txt"), []byte(text))
		if b.NodeLogs == "" {
			continue
		}
		guests, _ := filepath.Glob(simulation.GuestLogs(b.NodeLogs, p.Namespace, p.Name))
		for _, g := range guests {
			keepTree(filepath.Join(dir, filepath.Base(g)), g)
		}
		denials = append(denials, b.keepDenials(dir, p.Pod)...)
	}
	if len(others) > 0 {
		var text strings.Builder
		for _, name := range slices.Sorted(maps.Keys(others)) {
			fmt.Fprintf(&text, "%s\n  %s\n", name, strings.Join(others[name], "\n  "))
		}
		keep(filepath.Join(dir, "events-of-others.txt"), []byte(text.String()))
	}
	if len(missing) > 0 {
		keep(filepath.Join(dir, "missing.txt"), []byte("what is not here, and why\n\n"+strings.Join(missing, "\n")+"\n"))
	}
	return denials
}

// maxContainerLog is how much of a container's log is kept, in bytes.
const maxContainerLog = 256 << 10

// keepContainerLogs writes what the containers of a pod have said since a time, and
// before they were started again; it gives what could not be had.
func (b *Bed) keepContainerLogs(ctx context.Context, dir string, p *corev1.Pod, since time.Time) (missing []string) {
	ctx, cancel := context.WithTimeout(ctx, containerLogTimeout)
	defer cancel()
	from := metav1.NewTime(since)
	for _, s := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses, p.Status.EphemeralContainerStatuses) {
		for _, previous := range []bool{false, true} {
			if s.ContainerID == "" || previous && s.RestartCount == 0 {
				continue // it never ran
			}
			name := p.Name + "-" + s.Name + ".log"
			if previous {
				name = p.Name + "-" + s.Name + "-previous.log"
			}
			text, err := b.containerLog(ctx, p, corev1.PodLogOptions{Container: s.Name, Previous: previous, SinceTime: &from})
			if err != nil {
				missing = append(missing, name+": "+err.Error())
			}
			if len(text) > 0 {
				keep(filepath.Join(dir, name), text)
			}
		}
	}
	return missing
}

// containerLogTimeout bounds what Kubernetes takes to give a pod's logs.
const containerLogTimeout = 10 * time.Second

// containerLog is the last of a log.
func (b *Bed) containerLog(ctx context.Context, p *corev1.Pod, options corev1.PodLogOptions) ([]byte, error) {
	log, err := b.Pods.LogStream(ctx, p.Namespace, p.Name, options)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	return lastOf(log, maxContainerLog)
}

// lastOf reads all and keeps the last limit bytes.
func lastOf(r io.Reader, limit int) ([]byte, error) {
	var text []byte
	piece := make([]byte, 32<<10)
	for {
		n, err := r.Read(piece)
		if text = append(text, piece[:n]...); len(text) > 2*limit {
			text = append([]byte(nil), text[len(text)-limit:]...)
		}
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return text[max(0, len(text)-limit):], err
		}
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
