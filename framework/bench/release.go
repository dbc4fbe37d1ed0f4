package bench

import (
	"context"
	"fmt"
	"io"
	"math"
	"net/http"
	"slices"
	"sync"
	"text/tabwriter"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/coco-e2e/coco-e2e/framework/evidence"
	"github.com/coco-e2e/coco-e2e/framework/kbs"
	"github.com/coco-e2e/coco-e2e/framework/pod"
	"github.com/coco-e2e/coco-e2e/framework/testbed"
	"github.com/coco-e2e/coco-e2e/manifests"
)

const (
	// restPort is api-server-rest's, in the pod's network namespace.
	restPort = 8006
	// handshakeTime is how long handshakes are counted for each figure.
	handshakeTime = 4 * time.Second
	// verifications of each kind of evidence.
	verifications = 100
)

// crowds are how many clients at once perform handshakes.
var crowds = []int{1, 8, 64}

// measuredKinds are those whose handshakes are measured.
var measuredKinds = []string{evidence.KindTPM, evidence.KindSNP, evidence.KindTDX}

// handshakes are what clients of one guest and one KBS did: challenge, evidence,
// attestation, resource.
type handshakes struct {
	kind    string
	clients int
	took    []time.Duration
	elapsed time.Duration
}

// release is how fast secrets are released.
type release struct {
	handshakes []handshakes
	// verify is the time that a verification takes, by kind.
	verify map[string]time.Duration
}

// benchResource is fetched in every handshake.
const benchResource = "bench/key/one"

// measureRelease measures handshakes with a KBS of their own, and the
// verification of each kind of evidence.
func measureRelease(ctx context.Context, t *testbed.Testbed, ns string) (*release, error) {
	client, stop, err := benchKBS(ctx, t, ns)
	if err != nil {
		return nil, err
	}
	defer stop()
	r := &release{verify: map[string]time.Duration{}}
	for _, tee := range evidence.Kinds {
		if err := r.measureKind(ctx, t, ns, tee, client); err != nil {
			return nil, fmt.Errorf("release to %s: %w", tee, err)
		}
	}
	return r, nil
}

// wide is a client that keeps as many connections as a crowd needs.
func wide() *http.Client {
	return &http.Client{Timeout: time.Minute, Transport: &http.Transport{MaxIdleConnsPerHost: slices.Max(crowds)}}
}

func benchKBS(ctx context.Context, t *testbed.Testbed, ns string) (*kbs.Client, func(), error) {
	k, err := t.DeployKBS(ctx, testbed.KBSOptions{Namespace: ns})
	if err != nil {
		return nil, nil, err
	}
	p, err := t.Pods.WaitReady(ctx, ns, pod.Labelled("app", "kbs"))
	if err != nil {
		return nil, nil, err
	}
	address, stop, err := t.Pods.Forward(ctx, ns, p.Name, testbed.KBSPort)
	if err != nil {
		return nil, nil, err
	}
	client, err := preparedKBS(ctx, "http://"+address, k.AdminKey)
	if err != nil {
		stop()
		return nil, nil, err
	}
	return client, stop, nil
}

// preparedKBS is a client of a KBS that releases benchResource to everybody.
func preparedKBS(ctx context.Context, url, adminKey string) (*kbs.Client, error) {
	token, err := kbs.MintAdminToken([]byte(adminKey), time.Hour)
	if err != nil {
		return nil, err
	}
	client, err := kbs.New(kbs.Options{URL: url, AdminToken: token, HTTPClient: wide()})
	if err != nil {
		return nil, err
	}
	if err := client.SetResourcePolicy(ctx, string(manifests.Read("kbs/policies/allow-all.rego"))); err != nil {
		return nil, err
	}
	return client, client.SetResource(ctx, benchResource, []byte("not secret"))
}

func (r *release) measureKind(ctx context.Context, t *testbed.Testbed, ns, tee string, client *kbs.Client) error {
	class, ok := t.Class(tee, false)
	if !ok {
		return nil
	}
	name := "release-" + tee
	if err := start(ctx, t, ns, name, &class.Name); err != nil {
		return err
	}
	if _, err := t.Pods.WaitReady(ctx, ns, pod.Named(name)); err != nil {
		return err
	}
	address, stop, err := t.Pods.Forward(ctx, ns, name, restPort)
	if err != nil {
		return err
	}
	defer stop()
	guest, err := kbs.NewGuest(ctx, "http://"+address, tee, wide())
	if err != nil {
		return err
	}
	if r.verify[tee], err = verification(ctx, t, guest); err != nil {
		return err
	}
	if slices.Contains(measuredKinds, tee) {
		for _, clients := range crowds {
			h, err := crowd(ctx, client, guest, clients)
			if err != nil {
				return fmt.Errorf("%d clients: %w", clients, err)
			}
			r.handshakes = append(r.handshakes, *h)
		}
	}
	return remove(ctx, t, ns, name)
}

// verification is the time that one verification of a guest's evidence takes.
func verification(ctx context.Context, t *testbed.Testbed, guest *kbs.Guest) (time.Duration, error) {
	nonce := []byte("a nonce of thirty-two bytes, yes")
	raw, err := guest.Evidence(ctx, nonce)
	if err != nil {
		return 0, err
	}
	options := evidence.Options{}
	if t.Roots != "" {
		if options.Roots, err = evidence.LoadRoots(t.Roots); err != nil {
			return 0, err
		}
	}
	begin := time.Now()
	for range verifications {
		if _, err := evidence.Verify(guest.TEE(), raw, nonce, options); err != nil {
			return 0, err
		}
	}
	return time.Since(begin) / verifications, nil
}

// crowd has clients perform handshakes, one after the other each, for a while.
func crowd(ctx context.Context, client *kbs.Client, guest *kbs.Guest, clients int) (*handshakes, error) {
	h := &handshakes{kind: guest.TEE(), clients: clients}
	var mu sync.Mutex
	begin := time.Now()
	group, ctx := errgroup.WithContext(ctx)
	for range clients {
		group.Go(func() error {
			for time.Since(begin) < handshakeTime {
				took, err := handshake(ctx, client, guest)
				if err != nil {
					return err
				}
				mu.Lock()
				h.took = append(h.took, took)
				mu.Unlock()
			}
			return nil
		})
	}
	err := group.Wait()
	h.elapsed = time.Since(begin)
	return h, err
}

func handshake(ctx context.Context, client *kbs.Client, guest *kbs.Guest) (time.Duration, error) {
	key, err := kbs.GenerateTEEKey(kbs.ECP256)
	if err != nil {
		return 0, err
	}
	begin := time.Now()
	session := client.NewSession(key)
	if _, err := session.Attest(ctx, guest, nil); err != nil {
		return 0, err
	}
	if _, err := session.GetResource(ctx, benchResource); err != nil {
		return 0, err
	}
	return time.Since(begin), nil
}

// quantile is the least of d that a share q of them does not exceed (nearest rank).
func quantile(d []time.Duration, q float64) time.Duration {
	s := slices.Sorted(slices.Values(d))
	if len(s) == 0 {
		return 0
	}
	return s[max(0, int(math.Ceil(q*float64(len(s))))-1)]
}

// write prints the tables.
func (r *release) write(out io.Writer) error {
	fmt.Fprintln(out, "\nhandshakes of one guest with one KBS (auth, evidence, attest, resource); the ratio is to one client of the same kind; p99 of fewer than 100 is the slowest; requests to guest and KBS go through port-forwards of the API server, and their time is in it")
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "TEE\tclients\thandshakes\tper second\tratio\tp50 ms\tp99 ms\t")
	single := map[string]float64{}
	for _, h := range r.handshakes {
		rate := float64(len(h.took)) / h.elapsed.Seconds()
		if h.clients == 1 {
			single[h.kind] = rate
		}
		fmt.Fprintf(w, "%s\t%d\t%d\t%.1f\t%.2f\t%.0f\t%.0f\t\n", h.kind, h.clients, len(h.took), rate, rate/single[h.kind], ms(quantile(h.took, 0.5)), ms(quantile(h.took, 0.99)))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(out, "\nverification of evidence; the ratio is to tpm")
	w = tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "kind\tms\tratio\t")
	for _, kind := range evidence.Kinds {
		if took, ok := r.verify[kind]; ok {
			fmt.Fprintf(w, "%s\t%.3f\t%.1f\t\n", kind, ms(took), ms(took)/ms(r.verify[evidence.KindTPM]))
		}
	}
	return w.Flush()
}
