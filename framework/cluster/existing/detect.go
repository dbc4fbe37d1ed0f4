package existing

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/coco-e2e/coco-e2e/framework/evidence"
)

// Platform is what a cluster offers to confidential pods.
type Platform struct {
	Kubernetes string `json:"kubernetes"`
	Nodes      []Node `json:"nodes"`
	// Classes are the RuntimeClasses that the run was asked to use.
	Classes []Class `json:"classes"`
	// Others are those that are there beside them.
	Others []Class `json:"others,omitempty"`
}

// Node is a node as Kubernetes and Node Feature Discovery describe it.
type Node struct {
	Name    string `json:"name"`
	Runtime string `json:"runtime"` // such as containerd://2.1.4
	Kernel  string `json:"kernel"`
	OS      string `json:"os"`
	// TEEs are the kinds of TEE hardware that labels and resources speak of: tdx,
	// snp, se. More than one contradict each other.
	TEEs []string `json:"tees,omitempty"`
	// Kata says that the node is labelled as one with Kata.
	Kata bool `json:"kata"`
	// Labels are those about TEEs, whatever their value.
	Labels map[string]string `json:"labels,omitempty"`
	// Resources are how many confidential VMs the hardware has keys for, by the
	// resource that stands for them.
	Resources map[string]string `json:"resources,omitempty"`
}

// Class is a RuntimeClass.
type Class struct {
	Name    string `json:"name"`
	Handler string `json:"handler"`
	// TEE is the kind of evidence that its pods give, in Trustee's words; ""
	// when neither the cluster nor the user says.
	TEE string `json:"tee"`
	// Simulated says that the TEE is this project's simulator.
	Simulated bool `json:"simulated"`
	// EventLog says that its guests measure what is asked of their agent.
	EventLog bool `json:"eventLog"`
	// Nodes is how many nodes its pods can be scheduled to.
	Nodes int `json:"nodes"`
	// Kata is the version that the RuntimeClass is marked with, if any.
	Kata string `json:"kata,omitempty"`
}

// teeLabels are labels by which Node Feature Discovery (its built-in CPU source
// and the rules that Kata's Helm chart and Intel's and AMD's operators bring)
// tells TEE hardware.
var teeLabels = map[string]string{
	"feature.node.kubernetes.io/cpu-security.tdx.enabled":     "tdx",
	"intel.feature.node.kubernetes.io/tdx":                    "tdx",
	"feature.node.kubernetes.io/cpu-security.sev.snp.enabled": "snp",
	"amd.feature.node.kubernetes.io/snp":                      "snp",
	"feature.node.kubernetes.io/cpu-security.se.enabled":      "se",
	"ibm.feature.node.kubernetes.io/se":                       "se",
}

// teeResources are extended resources that the same rules count confidential VMs with.
var teeResources = map[corev1.ResourceName]string{"tdx.intel.com/keys": "tdx", "sev-snp.amd.com/esids": "snp"}

// kataLabel is set by kata-deploy on nodes that it has installed Kata on.
const kataLabel = "katacontainers.io/kata-runtime"

// kataVersion is an annotation of the RuntimeClasses of kata-deploy's Helm
// chart; appVersion is a label that others' charts have.
const (
	kataVersion = "katacontainers.io/kata-version"
	appVersion  = "app.kubernetes.io/version"
)

// handlerTEEs are the TEEs that Kata's own handlers stand for. A peer-pods
// handler (kata-remote) does not say.
var handlerTEEs = map[string]string{
	"kata-qemu-tdx": evidence.KindTDX, "kata-qemu-snp": evidence.KindSNP, "kata-qemu-coco-dev": evidence.KindSample, "kata-clh-tdx": evidence.KindTDX,
	"kata-qemu-nvidia-gpu-tdx": evidence.KindTDX, "kata-qemu-nvidia-gpu-snp": evidence.KindSNP,
	"kata-tdx": evidence.KindTDX, "kata-snp": evidence.KindSNP, // of OpenShift sandboxed containers
}

// teeOfHandler knows Kata's handlers with what may follow their names: -runtime-rs,
// the suffix of one of several installations, -debug and -devkit.
func teeOfHandler(handler string) string {
	for name, tee := range handlerTEEs {
		if handler == name || strings.HasPrefix(handler, name+"-") {
			return tee
		}
	}
	return ""
}

// aboutTEE says whether a node's label is about TEEs: those of Node Feature
// Discovery's CPU source, of vendors' rules for it and of NVIDIA's operator.
func aboutTEE(label string) bool {
	domain, feature, _ := strings.Cut(label, "/")
	switch {
	case label == kataLabel:
		return true
	case domain == "feature.node.kubernetes.io":
		return strings.HasPrefix(feature, "cpu-security.")
	case strings.HasSuffix(domain, ".feature.node.kubernetes.io"):
		return slices.ContainsFunc([]string{"tdx", "snp", "sev", "se", "sgx", "cc."}, func(word string) bool { return strings.HasPrefix(feature, word) })
	case domain == "nvidia.com":
		return strings.HasPrefix(feature, "cc.")
	}
	return false
}

// Labels by which RuntimeClasses of this project's simulator say what they are
// (manifests/simulator/runtimeclass.yaml).
const (
	simulatedLabel = "coco-e2e.io/simulated"
	teeLabel       = "coco-e2e.io/tee"
	eventLogLabel  = "coco-e2e.io/event-log"
)

// Wanted is a RuntimeClass as RUNTIME_CLASS names it: NAME or NAME=KIND, where
// the cluster does not say which kind of evidence its pods give.
type Wanted struct{ Name, TEE string }

// ParseWanted reads RUNTIME_CLASS.
func ParseWanted(text string) ([]Wanted, error) {
	var out []Wanted
	for _, item := range strings.Split(text, ",") {
		name, tee, given := strings.Cut(strings.TrimSpace(item), "=")
		if name == "" || given && tee == "" {
			return nil, fmt.Errorf("RUNTIME_CLASS=%s: want RuntimeClasses with commas between, each NAME or NAME=KIND such as kata-remote=az-snp-vtpm", text)
		}
		if given && !slices.Contains(evidence.Kinds, tee) {
			return nil, fmt.Errorf("RUNTIME_CLASS=%s: no kind of evidence is called %q; want one of %q", text, tee, evidence.Kinds)
		}
		out = append(out, Wanted{name, tee})
	}
	return out, nil
}

// Detect asks Kubernetes what the cluster is, and describes the wanted
// RuntimeClasses. One that is not there is an error that names those that are.
func Detect(ctx context.Context, kube kubernetes.Interface, wanted []Wanted) (*Platform, error) {
	version, err := kube.Discovery().ServerVersion()
	if err != nil {
		return nil, fmt.Errorf("the cluster does not answer: %w", err)
	}
	nodes, err := kube.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list nodes: %w", err)
	}
	classes, err := kube.NodeV1().RuntimeClasses().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list RuntimeClasses: %w", err)
	}
	p := &Platform{Kubernetes: version.GitVersion}
	for i := range nodes.Items {
		p.Nodes = append(p.Nodes, describe(&nodes.Items[i]))
	}
	for _, w := range wanted {
		c, err := class(classes.Items, nodes.Items, w)
		if err != nil {
			return nil, err
		}
		p.Classes = append(p.Classes, *c)
	}
	for i := range classes.Items {
		rc := &classes.Items[i]
		if !slices.ContainsFunc(wanted, func(w Wanted) bool { return w.Name == rc.Name }) {
			p.Others = append(p.Others, *offered(rc, nodes.Items, ""))
		}
	}
	return p, nil
}

func describe(n *corev1.Node) Node {
	out := Node{
		Name: n.Name, Runtime: n.Status.NodeInfo.ContainerRuntimeVersion, Kernel: n.Status.NodeInfo.KernelVersion, OS: n.Status.NodeInfo.OSImage,
		Kata: n.Labels[kataLabel] == "true",
	}
	for label, tee := range teeLabels {
		if n.Labels[label] == "true" && !slices.Contains(out.TEEs, tee) {
			out.TEEs = append(out.TEEs, tee)
		}
	}
	for name, tee := range teeResources {
		count, there := n.Status.Allocatable[name]
		if !there {
			continue
		}
		if out.Resources == nil {
			out.Resources = map[string]string{}
		}
		out.Resources[string(name)] = count.String()
		if !count.IsZero() && !slices.Contains(out.TEEs, tee) {
			out.TEEs = append(out.TEEs, tee)
		}
	}
	slices.Sort(out.TEEs)
	for label, value := range n.Labels {
		if aboutTEE(label) {
			if out.Labels == nil {
				out.Labels = map[string]string{}
			}
			out.Labels[label] = value
		}
	}
	return out
}

func class(all []nodev1.RuntimeClass, nodes []corev1.Node, w Wanted) (*Class, error) {
	i := slices.IndexFunc(all, func(c nodev1.RuntimeClass) bool { return c.Name == w.Name })
	if i < 0 {
		var names []string
		for _, c := range all {
			names = append(names, c.Name)
		}
		return nil, fmt.Errorf("RUNTIME_CLASS: the cluster has no RuntimeClass %q; it has %q", w.Name, names)
	}
	rc := &all[i]
	c := offered(rc, nodes, w.TEE)
	if c.Nodes == 0 {
		var selector map[string]string
		if rc.Scheduling != nil {
			selector = rc.Scheduling.NodeSelector
		}
		return nil, fmt.Errorf("RUNTIME_CLASS: no node takes pods of RuntimeClass %q: it has to be ready, schedulable, without taints that the class does not tolerate, and labelled %v", rc.Name, selector)
	}
	return c, nil
}

// offered describes a RuntimeClass. tee is the kind of evidence that the user
// says, or "".
func offered(rc *nodev1.RuntimeClass, nodes []corev1.Node, tee string) *Class {
	c := &Class{
		Name: rc.Name, Handler: rc.Handler, Simulated: rc.Labels[simulatedLabel] == "true", EventLog: rc.Labels[eventLogLabel] == "true",
		Kata: cmp.Or(rc.Annotations[kataVersion], rc.Labels[appVersion]), TEE: tee,
	}
	if label := rc.Labels[teeLabel]; c.TEE == "" && slices.Contains(evidence.Kinds, label) {
		c.TEE = label
	}
	c.TEE = cmp.Or(c.TEE, teeOfHandler(rc.Handler))
	for i := range nodes {
		if Takes(&nodes[i], rc) {
			c.Nodes++
		}
	}
	return c
}

// Takes says whether the class's pods can be scheduled to the node, as far as
// its readiness, taints and labels say.
func Takes(n *corev1.Node, rc *nodev1.RuntimeClass) bool {
	if n.Spec.Unschedulable {
		return false
	}
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady && c.Status != corev1.ConditionTrue {
			return false
		}
	}
	var scheduling nodev1.Scheduling
	if rc.Scheduling != nil {
		scheduling = *rc.Scheduling
	}
	for _, taint := range n.Spec.Taints {
		if taint.Effect != corev1.TaintEffectPreferNoSchedule && !slices.ContainsFunc(scheduling.Tolerations, func(t corev1.Toleration) bool { return tolerates(t, taint) }) {
			return false
		}
	}
	for name, value := range scheduling.NodeSelector {
		if n.Labels[name] != value {
			return false
		}
	}
	return true
}

// tolerates is Kubernetes' rule (core/v1, Toleration).
func tolerates(t corev1.Toleration, taint corev1.Taint) bool {
	if t.Effect != "" && t.Effect != taint.Effect || t.Key != "" && t.Key != taint.Key {
		return false
	}
	return t.Operator == corev1.TolerationOpExists || t.Key != "" && t.Value == taint.Value
}

// Summary is the platform in lines for people.
func (p *Platform) Summary() []string {
	out := []string{fmt.Sprintf("Kubernetes %s, %d nodes", p.Kubernetes, len(p.Nodes))}
	for _, n := range p.Nodes {
		hardware := "no TEE labelled"
		if len(n.TEEs) > 0 {
			hardware = strings.Join(n.TEEs, ", ")
		}
		line := fmt.Sprintf("node %s: %s, %s, %s, kernel %s, Kata labelled: %t", n.Name, hardware, n.OS, n.Runtime, n.Kernel, n.Kata)
		for _, label := range slices.Sorted(maps.Keys(n.Labels)) {
			line += ", " + label + "=" + n.Labels[label]
		}
		for _, name := range slices.Sorted(maps.Keys(n.Resources)) {
			line += ", " + n.Resources[name] + " " + name
		}
		out = append(out, line)
	}
	for _, c := range p.Classes {
		tee := "kind of TEE unknown (RUNTIME_CLASS=" + c.Name + "=KIND says it)"
		if c.TEE != "" {
			tee = "TEE " + c.TEE
		}
		out = append(out, c.line(tee))
	}
	for _, c := range p.Others {
		tee := "not asked for"
		if c.TEE != "" {
			tee += ", TEE " + c.TEE
		}
		out = append(out, c.line(tee))
	}
	return out
}

func (c *Class) line(tee string) string {
	if c.Simulated {
		tee += ", simulated"
	}
	if c.EventLog {
		tee += ", with a measured event log"
	}
	if c.Kata != "" {
		tee += ", Kata " + c.Kata
	}
	return fmt.Sprintf("RuntimeClass %s (handler %s): %s, on %d nodes", c.Name, c.Handler, tee, c.Nodes)
}
