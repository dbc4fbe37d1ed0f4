package testbed

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"k8s.io/client-go/kubernetes"

	"github.com/coco-e2e/coco-e2e/framework/cluster/existing"
)

// Images of pods on clusters that pull for themselves, where the user names none.
const (
	defaultWorkload = "docker.io/library/nginx@sha256:e56797eab4a5300158cc015296229e13a390f82bfc88803f45b08912fd5e3348"
	defaultUnlisted = "registry.k8s.io/pause:3.10"
)

// ExistingOptions say what to use of a cluster that is there.
type ExistingOptions struct {
	// Kubeconfig is the path of its kubeconfig; "" is the cluster that this
	// process runs in.
	Kubeconfig string
	// Classes are the RuntimeClasses to use, the default first.
	Classes []existing.Wanted
	// TestRoots is a directory of test roots, where the TEE is simulated.
	TestRoots string
}

// existingFromEnvironment reads KUBECONFIG, RUNTIME_CLASS and TEST_ROOTS.
func existingFromEnvironment() (ExistingOptions, error) {
	e := ExistingOptions{Kubeconfig: os.Getenv("KUBECONFIG"), TestRoots: os.Getenv("TEST_ROOTS")}
	classes := os.Getenv("RUNTIME_CLASS")
	switch {
	case classes == "":
		return e, errors.New("CLUSTER=existing needs RUNTIME_CLASS: the RuntimeClass of confidential pods, such as kata-qemu-tdx (several with commas between)")
	case e.Kubeconfig == "" && os.Getenv("KUBERNETES_SERVICE_HOST") == "":
		return e, errors.New("CLUSTER=existing needs KUBECONFIG: the path of the cluster's kubeconfig (inside a pod it may be absent)")
	}
	for name, path := range map[string]*string{"KUBECONFIG": &e.Kubeconfig, "TEST_ROOTS": &e.TestRoots} {
		if *path == "" {
			continue
		}
		if _, err := os.Stat(*path); err != nil {
			return e, fmt.Errorf("%s: %w", name, err)
		}
		var err error
		if *path, err = filepath.Abs(*path); err != nil {
			return e, err
		}
	}
	var err error
	e.Classes, err = existing.ParseWanted(classes)
	return e, err
}

// upExisting describes a cluster that is there. Nothing is provisioned but a KBS
// simulator, and that only for a simulated TEE and where no KBS was given.
func upExisting(ctx context.Context, o Options) (*Testbed, error) {
	c, err := existing.Open(o.Existing.Kubeconfig)
	if err != nil {
		return nil, err
	}
	kube, err := kubernetes.NewForConfig(c.KubernetesRestConfig())
	if err != nil {
		return nil, err
	}
	platform, err := existing.Detect(ctx, kube, o.Existing.Classes)
	if err != nil {
		return nil, err
	}
	for _, line := range platform.Summary() {
		o.Progress.Printf("cluster: %s", line)
	}
	h := existingHandle(o, platform)
	h.Run, h.Asked = newRun(), o.asked()
	if h.ClusterID, err = clusterID(ctx, kube); err != nil {
		return nil, err
	}
	t, err := Open(h)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Join(t.StateRoot, t.Name), 0o700); err != nil {
		return nil, err
	}
	// Before anything is made, so that Down knows of it whatever happens.
	if err := t.save(); err != nil {
		return nil, err
	}
	o.Progress.Printf("cluster: what this run makes is labelled %s=%s", RunLabel, h.Run)
	switch {
	case o.KBS.Chart != "":
		err = o.Progress.Do("KBS: install Trustee's chart", func() error { return t.deployTrustee(ctx, o) })
	case o.KBS.URL != "":
		t.KBSURL, t.ExternalKBS = o.KBS.URL, o.KBS
	case platform.Classes[0].Simulated:
		err = o.Progress.Do("KBS: deploy", func() error { return t.deployOwnKBS(ctx) })
	default:
		o.Progress.Printf("KBS: none; specs that need one are skipped (KBS_URL and KBS_ADMIN_TOKEN give one)")
	}
	if err != nil {
		return nil, err
	}
	return t, t.complete()
}

func existingHandle(o Options, p *existing.Platform) Handle {
	first := p.Classes[0]
	h := Handle{
		Provider: Existing, Name: o.Name, StateRoot: o.ClustersDir(), Kubeconfig: o.Existing.Kubeconfig, Platform: p,
		RuntimeClass: first.Name, TEE: first.TEE, LegacyInitData: first.Simulated, Shim: "kata",
		Nginx: o.Workload, UnlistedImage: os.Getenv("UNLISTED_IMAGE"), ProbeImage: os.Getenv("PROBE_IMAGE"), Roots: o.Existing.TestRoots,
	}
	if first.Simulated {
		h.Shim = "coco-sim"
	}
	if h.Nginx == "" {
		h.Nginx = defaultWorkload
	}
	if h.UnlistedImage == "" {
		h.UnlistedImage = defaultUnlisted
	}
	for _, c := range p.Classes {
		h.Classes = append(h.Classes, Class{c.Name, c.TEE, c.EventLog, c.Simulated})
		h.Simulated = h.Simulated || c.Simulated
		h.Nodes = max(h.Nodes, c.Nodes)
	}
	return h
}

// deployOwnKBS runs the KBS simulator in a namespace of the run's own.
func (t *Testbed) deployOwnKBS(ctx context.Context) error {
	ns, err := t.Pods.Namespace(ctx, "coco-kbs")
	if err != nil {
		return err
	}
	t.KBSNamespace = ns
	if err := t.save(); err != nil { // so that Down knows the namespace
		return err
	}
	kbs, err := t.DeployKBS(ctx, KBSOptions{Namespace: ns})
	t.KBSURL, t.KBSAdminKey = kbs.URL, kbs.AdminKey
	return err
}
