// Package testbed brings up what a suite runs against: a cluster, on it a
// confidential RuntimeClass, a KBS, and the images that pods need. It hands
// one description of all that (Handle) to every process of a parallel run.
//
// It must not know what specs assert.
package testbed

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"

	"github.com/coco-e2e/coco-e2e/framework/cluster"
	"github.com/coco-e2e/coco-e2e/framework/cluster/existing"
	"github.com/coco-e2e/coco-e2e/framework/cluster/local"
	"github.com/coco-e2e/coco-e2e/framework/cluster/node"
	"github.com/coco-e2e/coco-e2e/framework/cluster/simulation"
	"github.com/coco-e2e/coco-e2e/framework/cluster/simulation/config"
	"github.com/coco-e2e/coco-e2e/framework/pod"
	"github.com/coco-e2e/coco-e2e/framework/progress"
)

// Options say what to bring up. FromEnvironment fills them.
type Options struct {
	// Provider of the cluster: Local, Kind, Existing, or "" for what ChooseProvider finds.
	Provider string
	// Existing is what to use of a cluster that is there, with that provider.
	Existing ExistingOptions
	// Name of the cluster.
	Name string
	// Nodes is how many nodes the cluster has.
	Nodes int
	// Root is the root directory of a checkout of this project.
	Root string
	// Cache keeps what was built and the state of clusters.
	Cache string
	// Shim joins containerd to the simulated TEE.
	Shim simulation.Shim
	// KBS is one that is there already, to be used instead of the simulator.
	KBS ExternalKBS
	// Workload is the image that pods run, pinned by digest; empty for the
	// nginx that the run builds. It needs whoami, ls, curl and true.
	Workload string
	// Progress is told what goes on; nil is silent.
	Progress *progress.Log
}

// pinned is an image reference with a digest.
var pinned = regexp.MustCompile(`^[^@\s]+/[^@\s]+@sha256:[0-9a-f]{64}$`)

// shimFromEnvironment reads SHIM, KATA_SHIM and KATA_CONFIG.
func shimFromEnvironment() (simulation.Shim, error) {
	s := simulation.Shim{Kata: os.Getenv("KATA_SHIM"), KataConfig: os.Getenv("KATA_CONFIG")}
	switch which := os.Getenv("SHIM"); {
	case which == "kata" && s.Kata == "":
		return s, errors.New("SHIM=kata: set KATA_SHIM to the path of a containerd-shim-kata-v2")
	case which == "kata":
		return s, nil
	case which != "" && which != "coco-sim":
		return s, fmt.Errorf("SHIM=%s: unknown shim; use SHIM=kata with KATA_SHIM=path, or SHIM=coco-sim", which)
	case s != simulation.Shim{}:
		return s, errors.New("KATA_SHIM and KATA_CONFIG mean something with SHIM=kata only: set that too, or unset them")
	}
	return simulation.Shim{}, nil
}

// FromEnvironment reads CLUSTER, CLUSTER_NAME, NODES, COCO_E2E_CACHE,
// WORKLOAD_IMAGE, SHIM, KATA_SHIM and KATA_CONFIG, KBS, KBS_URL, KBS_ADMIN_URL, KBS_ADMIN_TOKEN and KBS_CERT, and finds the
// checkout from the working directory upwards.
func FromEnvironment() (Options, error) {
	o := Options{
		Provider: os.Getenv("CLUSTER"), Name: os.Getenv("CLUSTER_NAME"), Cache: os.Getenv("COCO_E2E_CACHE"), Workload: os.Getenv("WORKLOAD_IMAGE"),
	}
	if o.Workload != "" && !pinned.MatchString(o.Workload) {
		return o, fmt.Errorf("WORKLOAD_IMAGE=%s: name it with its registry and digest, such as docker.io/library/nginx@sha256:…", o.Workload)
	}
	var err error
	if o.KBS, err = kbsFromEnvironment(); err != nil {
		return o, err
	}
	if o.Shim, err = shimFromEnvironment(); err != nil {
		return o, err
	}
	if v := os.Getenv("NODES"); v != "" {
		if o.Nodes, err = strconv.Atoi(v); err != nil || o.Nodes < 1 {
			return o, fmt.Errorf("NODES=%s: use a number of nodes, such as 1 or 3", v)
		}
	}
	switch o.Provider {
	case "", Local, Kind:
	case Existing:
		if o.Existing, err = existingFromEnvironment(); err != nil {
			return o, err
		}
		if o.Name == "" {
			o.Name = "existing"
		}
	default:
		return o, fmt.Errorf("CLUSTER=%s: unknown provider; use CLUSTER=kind, CLUSTER=local or CLUSTER=existing", o.Provider)
	}
	if o.Name == "" {
		o.Name = local.DefaultName
	}
	if o.Cache == "" {
		dir, err := os.UserCacheDir()
		if err != nil {
			return o, fmt.Errorf("no cache directory: %w; set COCO_E2E_CACHE", err)
		}
		o.Cache = filepath.Join(dir, "coco-e2e")
	}
	if o.Cache, err = filepath.Abs(o.Cache); err != nil {
		return o, err
	}
	// A compiled suite runs where its binary is, and is told.
	if o.Root = os.Getenv("COCO_E2E_ROOT"); o.Root == "" {
		o.Root, err = checkout()
	}
	return o, err
}

// ErrNoCheckout says that the working directory is not inside a checkout.
var ErrNoCheckout = errors.New("not inside a checkout of coco-e2e")

// checkout walks up from the working directory to this module's go.mod.
func checkout() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for d := dir; ; d = filepath.Dir(d) {
		b, err := os.ReadFile(filepath.Join(d, "go.mod"))
		if err == nil && bytes.HasPrefix(b, []byte("module github.com/coco-e2e/coco-e2e\n")) {
			return d, nil
		}
		if d == filepath.Dir(d) {
			return "", fmt.Errorf("%s is %w: the simulators are built from its sources", dir, ErrNoCheckout)
		}
	}
}

// ClustersDir is where the state of local clusters is kept.
func (o Options) ClustersDir() string { return filepath.Join(o.Cache, "clusters") }

// Handle describes a testbed to other processes, as JSON.
type Handle struct {
	Provider   string `json:"provider"`
	Name       string `json:"name"`
	StateRoot  string `json:"stateRoot"`
	Kubeconfig string `json:"kubeconfig"`
	// Run names the run on a cluster that was there: what it makes is labelled with
	// it. "" for others, whose clusters go as a whole.
	Run string `json:"run,omitempty"`
	// ClusterID tells a cluster that was there from others.
	ClusterID string `json:"clusterID,omitempty"`
	// Complete says that the testbed came up.
	Complete bool `json:"complete"`
	// Asked are digests of what the testbed was asked to be, by variable.
	Asked map[string]string `json:"asked,omitempty"`
	// RuntimeClass of confidential pods where a spec asks for no other.
	RuntimeClass string `json:"runtimeClass"`
	// Classes are all RuntimeClasses of confidential pods, RuntimeClass first.
	Classes []Class `json:"classes"`
	// Roots is the directory of the test roots that certify simulated hardware
	// (evidence.LoadRoots reads it), or "".
	Roots string `json:"roots"`
	// Programs is the directory of the simulators' programs on this machine, or "".
	Programs string `json:"programs"`
	// Simulated says that the TEE is, of any of Classes.
	Simulated bool `json:"simulated"`
	// TEE is the kind of evidence that pods of RuntimeClass give, in Trustee's words: "tpm".
	TEE string `json:"tee"`
	// Shim is what joins containerd to the TEE: "coco-sim", or "kata" for
	// Kata's own Go shim.
	Shim string `json:"shim"`
	// LegacyInitData says that init-data in the annotation of 2024, base64
	// without compression, is honoured.
	LegacyInitData bool `json:"legacyInitData"`
	// Nginx is the workload's image, pinned by digest.
	Nginx string `json:"nginx"`
	// UnlistedImage is another image that pods can run.
	UnlistedImage string `json:"unlistedImage"`
	// ProbeImage is the image of the host probe (package hostprobe), or "" where
	// nobody may attack from the nodes.
	ProbeImage string `json:"probeImage"`
	// Platform is what was detected of a cluster that was there; nil for others.
	Platform *existing.Platform `json:"platform,omitempty"`
	// KBSURL is the KBS as a guest reaches it; "" when there is none.
	KBSURL string `json:"kbsURL"`
	// TrusteeNamespace is that of Trustee's chart, when the run installed it.
	TrusteeNamespace string `json:"trusteeNamespace,omitempty"`
	// Trustee is what the chart has installed.
	Trustee ChartedKBS `json:"trustee,omitzero"`
	// KBSNamespace is the namespace of the run's own KBS, or "".
	KBSNamespace string `json:"kbsNamespace"`
	// KBSAdminKey is the Ed25519 key, PKCS8 in PEM, that signs administrators'
	// tokens; "" with a KBS that was given.
	KBSAdminKey string `json:"kbsAdminKey"`
	// ExternalKBS is the KBS that was given; its URL is "" with the run's own.
	ExternalKBS ExternalKBS `json:"externalKBS"`
	// Nodes is how many nodes run pods.
	Nodes int `json:"nodes"`
	// NodeLogs is a directory of this machine that shows each node's /var/log
	// under the node's name, or "".
	NodeLogs string `json:"nodeLogs"`
}

// Class is a RuntimeClass of confidential pods.
type Class struct {
	Name string `json:"name"`
	// TEE is the kind of evidence that its pods give, in Trustee's words.
	TEE string `json:"tee"`
	// EventLog says that its guests measure what is asked of their agent.
	EventLog bool `json:"eventLog"`
	// Simulated says that the TEE of its pods is.
	Simulated bool `json:"simulated"`
}

// simulatedClasses fills in the simulated TEE's RuntimeClasses.
func (h *Handle) simulatedClasses() error {
	classes, err := config.Classes()
	if err != nil {
		return err
	}
	h.RuntimeClass, h.TEE = classes[0].Name, classes[0].TEE
	for _, c := range classes {
		h.Classes = append(h.Classes, Class{c.Name, c.TEE, c.EventLog, true})
	}
	return nil
}

// Class finds the RuntimeClass whose pods give evidence of a kind, with or
// without a measured event log.
func (h *Handle) Class(tee string, eventLog bool) (c Class, ok bool) {
	for _, c := range h.Classes {
		if c.TEE == tee && c.EventLog == eventLog {
			return c, true
		}
	}
	return Class{}, false
}

// Testbed is a running one.
type Testbed struct {
	Handle
	// Pods drives the cluster's pods.
	Pods    *pod.Client
	cluster cluster.Provider
}

// Prepare builds all that needs building, and touches no cluster.
func Prepare(ctx context.Context, o Options) (*node.Image, *simulation.Parts, error) {
	img, err := nodeImage(ctx, o)
	if err != nil {
		return nil, nil, err
	}
	parts, err := simulated(ctx, o, img)
	return img, parts, err
}

// nodeImage builds the image of nodes. The first time it compiles Kubernetes.
func nodeImage(ctx context.Context, o Options) (*node.Image, error) {
	nodes := &node.Builder{
		Source: filepath.Join(o.Root, "framework/cluster/node/programs"), Cache: filepath.Join(o.Cache, "node"), Progress: o.Progress,
	}
	return nodes.Build(ctx)
}

// simulated builds the simulators; img is nil where nodes run another image.
func simulated(ctx context.Context, o Options, img *node.Image) (*simulation.Parts, error) {
	return (&simulation.Builder{Root: o.Root, Cache: filepath.Join(o.Cache, "simulation"), Progress: o.Progress}).Build(ctx, img)
}

// Up brings up a testbed. On error, what was started stays for a look at its
// logs; Down removes it.
func Up(ctx context.Context, o Options) (*Testbed, error) {
	if o.Provider == Existing {
		return upExisting(ctx, o)
	}
	ChooseProvider(ctx, &o)
	c, parts, err := bringUp(ctx, o)
	if err != nil {
		return nil, err
	}
	h := Handle{
		Provider: o.Provider, Name: o.Name, StateRoot: o.ClustersDir(), Kubeconfig: c.GetKubeconfig(),
		Simulated: true, Roots: parts.Roots, Programs: parts.NodePrograms,
		Shim: o.Shim.Name(), LegacyInitData: o.Shim.Kata == "", // Kata 4.1 ignores that annotation.

		Nginx: parts.Images["nginx"].Pinned(), UnlistedImage: simulation.KBSImage, ProbeImage: simulation.ProbeImage,
		NodeLogs: c.Logs(), Nodes: len(c.Nodes()), Asked: o.asked(),
	}
	if o.Workload != "" {
		h.Nginx = o.Workload
	}
	if err := h.simulatedClasses(); err != nil {
		return nil, err
	}
	t, err := Open(h)
	if err != nil {
		return nil, err
	}
	if err := simulation.CreateRuntimeClasses(ctx, t.Pods.Kube); err != nil {
		return nil, err
	}
	if err := t.cluster.LoadImageArchive(ctx, parts.ProbeArchive); err != nil {
		return nil, err
	}
	if o.KBS.Chart != "" {
		if err := o.Progress.Do("KBS: install Trustee's chart", func() error { return t.deployTrustee(ctx, o) }); err != nil {
			return nil, err
		}
		return t, t.complete()
	}
	if o.KBS.URL != "" {
		t.KBSURL, t.ExternalKBS = o.KBS.URL, o.KBS
		o.Progress.Printf("KBS: %s, which was given", o.KBS.URL)
		return t, t.complete()
	}
	if err := o.Progress.Do("KBS: deploy", func() error {
		if err := t.cluster.LoadImageArchive(ctx, parts.KBSArchive); err != nil {
			return err
		}
		t.KBSNamespace = KBSNamespace
		kbs, err := t.DeployKBS(ctx, KBSOptions{Namespace: KBSNamespace, NewNamespace: true})
		t.KBSURL, t.KBSAdminKey = kbs.URL, kbs.AdminKey
		return err
	}); err != nil {
		return nil, err
	}
	return t, t.complete()
}

// Open returns the testbed that h describes.
func Open(h Handle) (*Testbed, error) {
	cfg, err := existing.RESTConfig(h.Kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("kubeconfig %s: %w", h.Kubeconfig, err)
	}
	pods, err := pod.NewClient(cfg)
	if err != nil {
		return nil, err
	}
	if h.Run != "" {
		pods.Labels = map[string]string{RunLabel: h.Run}
	}
	t := &Testbed{Handle: h, Pods: pods}
	t.cluster, err = open(h)
	return t, err
}

// HandlePath is where the handle of o's testbed is kept.
func (o Options) HandlePath() string { return filepath.Join(o.ClustersDir(), o.Name, "testbed.json") }

func (t *Testbed) save() error {
	b, err := json.Marshal(t.Handle)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(t.StateRoot, t.Name, "testbed.json"), b, 0o600)
}

// complete saves the handle of a testbed that is up.
func (t *Testbed) complete() error {
	t.Complete = true
	return t.save()
}

// LoadImage loads an image's archive onto the nodes.
func (t *Testbed) LoadImage(ctx context.Context, archive string) error {
	return t.cluster.LoadImageArchive(ctx, archive)
}

// ExportLogs copies what the node and its guests logged into dir.
func (t *Testbed) ExportLogs(ctx context.Context, dir string) error {
	return t.cluster.ExportLogs(ctx, dir)
}
