package suite

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/coco-e2e/coco-e2e/framework/kbs"
	"github.com/coco-e2e/coco-e2e/framework/pod"
	"github.com/coco-e2e/coco-e2e/framework/testbed"
)

// KBS is a KBS that a spec has to itself while it runs.
type KBS struct {
	// Client has the rights of an administrator.
	*kbs.Client
	testbed.KBS
	// Address is its URL for this process: URL is what guests use.
	Address string

	http *http.Client
	// given is nil but for a KBS that is somebody's.
	given *testbed.Handle
}

// ResourcePath is where a spec keeps a resource for the pods of a namespace. On a KBS that is shared nobody else has it.
func ResourcePath(namespace, name string) string {
	return testbed.GivenRepository + "/" + namespace + "/" + name
}

// SetResource is the client's; from a KBS that was given, the resource goes at the end of the run.
func (k *KBS) SetResource(ctx context.Context, path string, content []byte) error {
	if k.given != nil {
		if !strings.HasPrefix(path, testbed.GivenRepository+"/") {
			return fmt.Errorf("resource %s: a KBS that was given has specs' resources in the repository %s only: use ResourcePath", path, testbed.GivenRepository)
		}
		if err := k.given.WillChangeKBS(path); err != nil {
			return err
		}
	}
	return k.Client.SetResource(ctx, path, content)
}

// NoResourcePolicy is why a spec is skipped that cannot set one.
const NoResourcePolicy = "the spec needs a resource policy, and the KBS's is somebody's: KBS_RESOURCE_POLICY, a file with what it is, lets it be kept for other resources"

// CanSetResourcePolicy says that specs may set policies.
func (k *KBS) CanSetResourcePolicy() bool {
	return k.given == nil || k.given.ExternalKBS.ResourcePolicy != ""
}

// SetResourcePolicy is the client's. On a KBS that was given the policy is for specs' resources only; others go on to be
// decided by the one that it had, which it gets back at the end of the run. Where that is not known, the spec is skipped.
func (k *KBS) SetResourcePolicy(ctx context.Context, rego string) error {
	if k.given == nil {
		return k.Client.SetResourcePolicy(ctx, rego)
	}
	if !k.CanSetResourcePolicy() {
		Skip(NoResourcePolicy)
	}
	if err := k.given.WillChangeKBS(""); err != nil {
		return err
	}
	scoped, err := kbs.ScopePolicy(testbed.GivenRepository, rego, k.given.ExternalKBS.ResourcePolicy)
	if err != nil {
		scoped = rego // which is not Rego: the KBS is asked to take it all the same, and has to refuse
	}
	return k.Client.SetResourcePolicy(ctx, scoped)
}

// SetAttestationPolicy is the client's, and skips the spec on a KBS that was given: it appraises everybody's evidence.
func (k *KBS) SetAttestationPolicy(ctx context.Context, id, rego string) error {
	k.ownOnly("an attestation policy")
	return k.Client.SetAttestationPolicy(ctx, id, rego)
}

// SetReferenceValue is the client's, and skips the spec on a KBS that was given: everybody's evidence is compared with it.
func (k *KBS) SetReferenceValue(ctx context.Context, name string, value any) error {
	k.ownOnly("a reference value")
	return k.Client.SetReferenceValue(ctx, name, value)
}

func (k *KBS) ownOnly(what string) {
	if k.given != nil {
		Skip("the spec sets " + what + ", and the KBS is somebody's")
	}
}

// adminTokenLifetime is longer than any suite runs.
const adminTokenLifetime = 12 * time.Hour

// KBS is this process's: specs that use it set the policies and the reference
// values that they rely on, and may count its requests. It is made when first
// asked for.
func (b *Bed) KBS(ctx context.Context) *KBS {
	GinkgoHelper()
	if b.ExternalKBS.URL != "" {
		return b.SharedKBS(ctx)
	}
	b.needsKBS()
	if b.kbs == nil {
		ns, err := b.Pods.Namespace(ctx, "kbs")
		Expect(err).NotTo(HaveOccurred())
		b.kbsNamespace = ns
		var stop func()
		b.kbs, stop = b.deploy(ctx, testbed.KBSOptions{Namespace: ns})
		b.stopKBS = stop
	}
	return b.kbs
}

// OneKBS decorates what uses [Bed.KBS]: where there is one KBS for all processes,
// because one was given, its specs run alone.
var OneKBS = oneKBS()

func oneKBS() any {
	if os.Getenv("KBS_URL") != "" || os.Getenv("KBS_CHART") != "" {
		return Serial
	}
	return Label()
}

// SharedKBS is the run's KBS, or the one that was given. Specs of several
// processes may use it at once.
func (b *Bed) SharedKBS(ctx context.Context) *KBS {
	GinkgoHelper()
	if b.shared != nil {
		return b.shared
	}
	if e := b.ExternalKBS; e.URL != "" {
		k := newKBS(e.AdminURL, e.CA, e.AdminToken)
		k.KBS = testbed.KBS{URL: e.URL, CA: e.CA}
		if e.Given() {
			k.given = &b.Handle
		}
		b.shared = k
		return k
	}
	b.needsKBS()
	k, stop := b.reach(ctx, testbed.KBS{Namespace: b.KBSNamespace, URL: b.KBSURL, AdminKey: b.KBSAdminKey})
	b.shared, b.stopShared = k, stop
	return k
}

// needsKBS skips where a run has no KBS at all.
func (b *Bed) needsKBS() {
	GinkgoHelper()
	if b.KBSURL == "" {
		Skip("there is no KBS: KBS_URL and KBS_ADMIN_TOKEN give one")
	}
}

// NewKBS is one of the spec's own making, which goes with the spec.
func (b *Bed) NewKBS(ctx context.Context, o testbed.KBSOptions) *KBS {
	GinkgoHelper()
	if b.ExternalKBS.URL != "" {
		Skip("the spec needs a KBS of its own making, and KBS_URL gives one")
	}
	b.needsKBS()
	o.Namespace = b.Namespace(ctx, "kbs")
	k, stop := b.deploy(ctx, o)
	DeferCleanup(stop)
	return k
}

func (b *Bed) deploy(ctx context.Context, o testbed.KBSOptions) (*KBS, func()) {
	GinkgoHelper()
	deployed, err := b.DeployKBS(ctx, o)
	Expect(err).NotTo(HaveOccurred())
	return b.reach(ctx, deployed)
}

// reach forwards a port of this machine to a KBS of the cluster.
func (b *Bed) reach(ctx context.Context, deployed testbed.KBS) (*KBS, func()) {
	GinkgoHelper()
	p, err := b.Pods.WaitReady(ctx, deployed.Namespace, pod.Labelled("app", "kbs"))
	Expect(err).NotTo(HaveOccurred())
	// The forwarding outlives the spec that first asks.
	address, stop, err := b.Pods.Forward(context.WithoutCancel(ctx), deployed.Namespace, p.Name, testbed.KBSPort)
	Expect(err).NotTo(HaveOccurred())
	address = "http://" + address
	if deployed.CA != "" {
		address = strings.Replace(address, "http://", "https://", 1)
	}
	token, err := kbs.MintAdminToken([]byte(deployed.AdminKey), adminTokenLifetime)
	Expect(err).NotTo(HaveOccurred())
	k := newKBS(address, deployed.CA, token)
	k.KBS = deployed
	return k, stop
}

// newKBS makes the clients of the KBS at an address of this machine.
func newKBS(address, ca, adminToken string) *KBS {
	GinkgoHelper()
	k := &KBS{Address: strings.TrimRight(address, "/"), http: http.DefaultClient}
	if ca != "" {
		roots := x509.NewCertPool()
		Expect(roots.AppendCertsFromPEM([]byte(ca))).To(BeTrue(), "the KBS's authority is no certificate in PEM form")
		k.http = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
	}
	var err error
	k.Client, err = kbs.New(kbs.Options{URL: k.Address, CA: []byte(ca), AdminToken: adminToken})
	Expect(err).NotTo(HaveOccurred())
	return k
}

// closeKBS takes this process's KBS away.
func (b *Bed) closeKBS(ctx context.Context) error {
	for _, stop := range []func(){b.stopShared, b.stopKBS} {
		if stop != nil {
			stop()
		}
	}
	if b.kbsNamespace == "" {
		return nil
	}
	return b.Pods.DeleteNamespace(ctx, b.kbsNamespace)
}

// Counters of a KBS that say how requests ended (Trustee kbs/docs/metrics.md). Releases of 2025 have those of
// attestation without the prefix kbs_ (kbs/src/prometheus): either name is read.
const (
	AttestationSuccesses = "kbs_attestation_successes_total"
	AttestationFailures  = "kbs_attestation_failures_total" // evidence was refused
	AttestationErrors    = "kbs_attestation_errors_total"   // it did not come to evidence
	PolicyApprovals      = "kbs_policy_approvals_total"
	PolicyViolations     = "kbs_policy_violations_total"
	PolicyErrors         = "kbs_policy_errors_total"
)

// Counts are what a KBS had counted at some time.
type Counts struct {
	kbs    *KBS
	counts map[string]int
}

// Count reads the KBS's counters.
func (k *KBS) Count(ctx context.Context) *Counts {
	GinkgoHelper()
	return &Counts{k, k.counters(ctx)}
}

func (k *KBS) counters(ctx context.Context) map[string]int {
	GinkgoHelper()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, k.Address+"/metrics", nil)
	Expect(err).NotTo(HaveOccurred())
	response, err := k.http.Do(request)
	Expect(err).NotTo(HaveOccurred(), "%s: the KBS's counters cannot be read", pod.InconclusiveMark)
	defer response.Body.Close()
	counts, err := readCounters(response.Body)
	Expect(err).NotTo(HaveOccurred(), "%s: the KBS's counters cannot be read", pod.InconclusiveMark)
	return counts
}

// readCounters reads the counters above from Prometheus' text. Those without labels are there before they count
// anything, so that a KBS that lacks one would pass for one in which nothing happened: that is an error.
func readCounters(text io.Reader) (map[string]int, error) {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(text)
	if err != nil {
		return nil, err
	}
	out := map[string]int{}
	for name, labelled := range map[string]bool{
		AttestationSuccesses: true, AttestationFailures: true, AttestationErrors: false,
		PolicyApprovals: false, PolicyViolations: false, PolicyErrors: false,
	} {
		family, known := families[name]
		if !known {
			family, known = families[strings.TrimPrefix(name, "kbs_")]
		}
		if !known && !labelled {
			return nil, fmt.Errorf("the KBS has no counter %s: is its /metrics Trustee's?", name)
		}
		for _, m := range family.GetMetric() {
			out[name] += int(m.GetCounter().GetValue())
		}
	}
	return out, nil
}

// Grew asserts by how much which counters grew since then; those that are not
// named did not.
func (c *Counts) Grew(ctx context.Context, want map[string]int) {
	GinkgoHelper()
	grown := map[string]int{}
	for name, now := range c.kbs.counters(ctx) {
		if d := now - c.counts[name]; d != 0 {
			grown[name] = d
		}
	}
	Expect(grown).To(Equal(want), "what the KBS counted")
}

// Since is by how much a counter grew from another count to this one.
func (c *Counts) Since(before *Counts, counter string) int {
	return c.counts[counter] - before.counts[counter]
}
