package testbed

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"time"

	"sigs.k8s.io/e2e-framework/klient/decoder"
	"sigs.k8s.io/e2e-framework/klient/k8s/resources"

	"github.com/coco-e2e/coco-e2e/framework/cluster/simulation"
	"github.com/coco-e2e/coco-e2e/framework/kbs"
	"github.com/coco-e2e/coco-e2e/framework/pod"
	"github.com/coco-e2e/coco-e2e/manifests"
)

// KBSNamespace, KBSService and KBSPort are where the run's own KBS is in the
// cluster.
const (
	KBSNamespace = "coco-tenant"
	KBSService   = "kbs"
	KBSPort      = 8080
)

// kbsReady bounds a KBS's start.
const kbsReady = time.Minute

// ExternalKBS is a Trustee that is there already.
type ExternalKBS struct {
	// URL as guests reach it.
	URL string `json:"url"`
	// AdminURL is its URL for this machine.
	AdminURL string `json:"adminURL"`
	// AdminToken is an administrator's token.
	AdminToken string `json:"adminToken"`
	// CA is the authority of its certificate, PEM; "" for the system's.
	CA string `json:"ca"`
	// ResourcePolicy is the Rego that it has, which it does not tell; it goes on
	// deciding about all resources but the run's. "": specs that need a policy of
	// their own are skipped.
	ResourcePolicy string `json:"resourcePolicy,omitempty"`
	// Chart is Trustee's Helm chart, a directory or an archive, that the run
	// installs in place of all that; ChartValues is a file of further values.
	Chart       string `json:"chart,omitempty"`
	ChartValues string `json:"chartValues,omitempty"`
}

// chartFromEnvironment reads KBS_CHART and KBS_VALUES.
func chartFromEnvironment(k *ExternalKBS) error {
	for name, path := range map[string]*string{"KBS_CHART": &k.Chart, "KBS_VALUES": &k.ChartValues} {
		if *path = os.Getenv(name); *path == "" {
			continue
		}
		if _, err := os.Stat(*path); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		var err error
		if *path, err = filepath.Abs(*path); err != nil {
			return err
		}
	}
	switch {
	case k.Chart == "" && k.ChartValues != "":
		return errors.New("KBS_VALUES means something with KBS_CHART only: set that too, or unset it")
	case k.Chart != "" && (k.URL != "" || os.Getenv("KBS") == "sim"):
		return errors.New("KBS_CHART contradicts KBS_URL and KBS=sim: unset all but one")
	case k.Chart != "" && os.Getenv("KEEP") != "":
		return errors.New("KBS_CHART cannot be kept: its KBS is reached for as long as the run lasts; install the chart yourself, and use KBS_URL")
	}
	return nil
}

// kbsFromEnvironment reads KBS, KBS_URL, KBS_ADMIN_URL, KBS_ADMIN_TOKEN,
// KBS_CERT, KBS_RESOURCE_POLICY, KBS_CHART and KBS_VALUES.
func kbsFromEnvironment() (ExternalKBS, error) {
	k := ExternalKBS{URL: os.Getenv("KBS_URL"), AdminURL: os.Getenv("KBS_ADMIN_URL"), AdminToken: os.Getenv("KBS_ADMIN_TOKEN")}
	if err := chartFromEnvironment(&k); err != nil {
		return k, err
	}
	switch which := os.Getenv("KBS"); {
	case which != "" && which != "sim":
		return k, fmt.Errorf("KBS=%s: use KBS=sim for the simulator, or KBS_URL for a KBS that is there", which)
	case which == "sim" && k.URL != "":
		return k, errors.New("KBS=sim and KBS_URL contradict each other: unset one")
	case k.URL == "" && (k.AdminURL != "" || k.AdminToken != "" || os.Getenv("KBS_CERT") != "" || os.Getenv("KBS_RESOURCE_POLICY") != ""):
		return k, errors.New("KBS_ADMIN_URL, KBS_ADMIN_TOKEN, KBS_CERT and KBS_RESOURCE_POLICY mean something with KBS_URL only: set that too, or unset them")
	case k.URL == "":
		return k, nil
	}
	if k.AdminURL == "" {
		k.AdminURL = k.URL
	}
	for _, given := range [][2]string{{"KBS_URL", k.URL}, {"KBS_ADMIN_URL", k.AdminURL}} {
		u, err := url.Parse(given[1])
		if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
			return k, fmt.Errorf("%s=%s: want http://host:port or https://host:port", given[0], given[1])
		}
	}
	for name, into := range map[string]*string{"KBS_CERT": &k.CA, "KBS_RESOURCE_POLICY": &k.ResourcePolicy} {
		path := os.Getenv(name)
		if path == "" {
			continue
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return k, fmt.Errorf("%s: %w", name, err)
		}
		*into = string(text)
	}
	if k.ResourcePolicy != "" {
		if _, err := kbs.ScopePolicy(GivenRepository, "package policy\n", k.ResourcePolicy); err != nil {
			return k, fmt.Errorf("KBS_RESOURCE_POLICY=%s: %w", os.Getenv("KBS_RESOURCE_POLICY"), err)
		}
	}
	return k, nil
}

// KBSOptions say what a KBS simulator is like where it differs from the run's own.
type KBSOptions struct {
	// Namespace that it runs in, one KBS in each.
	Namespace string
	// NewNamespace says that the namespace is to be made.
	NewNamespace bool
	// TLS has it serve https with a certificate of a new authority.
	TLS bool
	// TrustedTokens has it sign tokens with a key that its configuration
	// certifies, and take no others.
	TrustedTokens bool
	// TokenMinutes is how long a token is valid; 0 is Trustee's default of 5,
	// negative a token that has expired when it is issued.
	TokenMinutes int
}

// KBS is a KBS simulator in the cluster.
type KBS struct {
	Namespace string
	// URL as guests reach it.
	URL string
	// CA is the authority of its certificate, PEM; empty without TLS.
	CA string
	// AdminKey is the Ed25519 key, PKCS8 in PEM, that signs administrators' tokens.
	AdminKey string
}

// DeployKBS runs a KBS simulator, and returns when it serves. It goes with its
// namespace.
func (t *Testbed) DeployKBS(ctx context.Context, o KBSOptions) (KBS, error) {
	text, k, err := kbsManifest(o, t.Roots)
	if err != nil {
		return k, err
	}
	res, err := resources.New(t.cluster.KubernetesRestConfig())
	if err != nil {
		return k, err
	}
	if err := decoder.DecodeEach(ctx, bytes.NewReader(text), decoder.CreateHandler(res)); err != nil {
		return k, fmt.Errorf("apply manifests/kbs/kbs.yaml: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, kbsReady)
	defer cancel()
	if _, err := t.Pods.WaitReady(ctx, o.Namespace, pod.Labelled("app", "kbs")); err != nil {
		return k, fmt.Errorf("KBS: %w", err)
	}
	return k, nil
}

// kbsManifest makes a KBS's keys and certificates and fills in its manifest.
func kbsManifest(o KBSOptions, roots string) ([]byte, KBS, error) {
	k := KBS{Namespace: o.Namespace}
	host := fmt.Sprintf("%s.%s.svc.cluster.local", KBSService, o.Namespace)
	k.URL = fmt.Sprintf("http://%s:%d", host, KBSPort)
	files := map[string]string{}
	admin, public, err := adminKey()
	if err != nil {
		return nil, k, err
	}
	k.AdminKey, files["admin.pub"] = admin, public
	if o.TLS {
		k.URL = fmt.Sprintf("https://%s:%d", host, KBSPort)
		if files["tls.key"], files["tls.crt"], err = certificate(host, "localhost"); err != nil {
			return nil, k, err
		}
		k.CA = files["tls.crt"]
	}
	if o.TrustedTokens {
		if files["token.key"], files["token.crt"], err = certificate("coco-e2e KBS simulator's tokens"); err != nil {
			return nil, k, err
		}
	}
	minutes := o.TokenMinutes
	if minutes == 0 {
		minutes = 5
	}
	if err := rootFiles(roots, files); err != nil {
		return nil, k, err
	}
	text, err := manifests.Fill("kbs/kbs.yaml", map[string]any{
		"Namespace": o.Namespace, "NewNamespace": o.NewNamespace, "Image": simulation.KBSImage,
		"Names": slices.Sorted(maps.Keys(files)), "Files": indented(files),
		"TLS": o.TLS, "TrustedTokens": o.TrustedTokens, "TokenMinutes": minutes, "Roots": roots != "",
	})
	return text, k, err
}

// rootFiles adds the certificates of the test roots.
func rootFiles(dir string, files map[string]string) error {
	if dir == "" {
		return nil
	}
	paths, err := filepath.Glob(filepath.Join(dir, "*.pem"))
	if err != nil {
		return err
	}
	for _, p := range paths {
		text, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		files["root-"+filepath.Base(p)] = string(text)
	}
	return nil
}

// indented are texts as block scalars of the manifest have them.
func indented(files map[string]string) map[string]string {
	out := map[string]string{}
	for name, text := range files {
		for line := range bytes.Lines(bytes.TrimSpace([]byte(text))) {
			out[name] += "    " + string(line)
		}
	}
	return out
}

// adminKey makes the key pair of a KBS's administrator.
func adminKey() (private, public string, err error) {
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return "", "", err
	}
	p8, err := x509.MarshalPKCS8PrivateKey(priv)
	if err != nil {
		return "", "", err
	}
	spki, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return "", "", err
	}
	return encode("PRIVATE KEY", p8), encode("PUBLIC KEY", spki), nil
}

// certificate makes a P-256 key, and a certificate by itself for these names.
func certificate(names ...string) (key, cert string, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", "", err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: names[0]}, DNSNames: names, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		return "", "", err
	}
	p8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return "", "", err
	}
	return encode("PRIVATE KEY", p8), encode("CERTIFICATE", der), nil
}

func encode(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}
