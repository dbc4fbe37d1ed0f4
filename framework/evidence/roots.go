package evidence

import (
	"crypto/x509"
	_ "embed" // Intel's root
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/google/go-sev-guest/verify/trust"
)

// intelRootPEM is Intel's SGX Root CA (certificates.trustedservices.intel.com/IntelSGXRootCA.der), which also certifies TDX.
//
//go:embed roots/intel-sgx-root.pem
var intelRootPEM []byte

// Roots are certificates to trust beside the vendors' own, for hardware that is simulated.
type Roots struct {
	AMD   []AMDRoot
	Intel []*x509.Certificate
}

// AMDRoot is a root key (ARK) and the signing key (ASK) that it certifies.
type AMDRoot struct{ ARK, ASK *x509.Certificate }

// LoadRoots reads test roots from dir: amd-ark.pem with amd-ask.pem, and intel-root.pem. A missing file means none of that
// kind, but a directory without any is an error, as is one AMD certificate without the other.
func LoadRoots(dir string) (Roots, error) {
	var roots Roots
	ark, err := loadCertificate(filepath.Join(dir, "amd-ark.pem"))
	if err != nil {
		return Roots{}, err
	}
	ask, err := loadCertificate(filepath.Join(dir, "amd-ask.pem"))
	if err != nil {
		return Roots{}, err
	}
	if (ark == nil) != (ask == nil) {
		return Roots{}, fmt.Errorf("%s: amd-ark.pem and amd-ask.pem belong together, and one is missing", dir)
	}
	if ark != nil {
		roots.AMD = []AMDRoot{{ARK: ark, ASK: ask}}
	}
	intel, err := loadCertificate(filepath.Join(dir, "intel-root.pem"))
	if err != nil {
		return Roots{}, err
	}
	if intel != nil {
		roots.Intel = []*x509.Certificate{intel}
	}
	if len(roots.AMD)+len(roots.Intel) == 0 {
		return Roots{}, fmt.Errorf("%s has neither amd-ark.pem with amd-ask.pem nor intel-root.pem", dir)
	}
	return roots, nil
}

// loadCertificate gives nil if the file does not exist.
func loadCertificate(path string) (*x509.Certificate, error) {
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	certificate, err := parsePEM(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return certificate, nil
}

// parsePEM takes exactly one certificate.
func parsePEM(raw []byte) (*x509.Certificate, error) {
	certificate, rest, err := cutPEM(raw)
	if err != nil {
		return nil, err
	}
	if more, _ := pem.Decode(rest); more != nil {
		return nil, errors.New("more than one PEM block")
	}
	return certificate, nil
}

// cutPEM gives the first certificate of a text, and what is behind it.
func cutPEM(raw []byte) (certificate *x509.Certificate, rest []byte, err error) {
	block, rest := pem.Decode(raw)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, nil, errors.New("not a PEM certificate")
	}
	certificate, err = x509.ParseCertificate(block.Bytes)
	return certificate, rest, err
}

// verifyChain checks that leaf leads through intermediate to root at a time. Vendors' leaf keys sign reports, which no
// extended key usage stands for.
func verifyChain(leaf, intermediate, root *x509.Certificate, at time.Time) error {
	options := x509.VerifyOptions{
		Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), CurrentTime: at,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	}
	options.Roots.AddCert(root)
	options.Intermediates.AddCert(intermediate)
	_, err := leaf.Verify(options)
	return err
}

// amdCandidate is a chain that an endorsement key may have.
type amdCandidate struct {
	line         string // product line, such as Milan; empty for a test root
	intermediate *x509.Certificate
	root         *x509.Certificate
}

// amdBundle is a file of AMD's key distribution service: the ASK or, for VLEKs, the ASVK, then the ARK.
type amdBundle struct {
	line string
	vlek bool
	pem  []byte
}

// amdBundles are those that go-sev-guest embeds.
var amdBundles = []amdBundle{
	{"Milan", false, trust.AskArkMilanVcekBytes},
	{"Milan", true, trust.AskArkMilanVlekBytes},
	{"Genoa", false, trust.AskArkGenoaVcekBytes},
	{"Genoa", true, trust.AskArkGenoaVlekBytes},
	{"Turin", false, trust.AskArkTurinVcekBytes},
	{"Turin", true, trust.AskArkTurinVlekBytes},
}

// amdCandidates are all chains for keys of the kind: a test root's ASK stands for an ASVK as well.
func amdCandidates(vlek bool, roots Roots) ([]amdCandidate, error) {
	var candidates []amdCandidate
	for _, bundle := range amdBundles {
		if bundle.vlek != vlek {
			continue
		}
		intermediate, rest := pem.Decode(bundle.pem)
		root, _ := pem.Decode(rest)
		if intermediate == nil || root == nil {
			return nil, fmt.Errorf("built-in chain for %s is not PEM", bundle.line)
		}
		candidate := amdCandidate{line: bundle.line}
		var err error
		if candidate.intermediate, err = x509.ParseCertificate(intermediate.Bytes); err != nil {
			return nil, fmt.Errorf("built-in chain for %s: %w", bundle.line, err)
		}
		if candidate.root, err = x509.ParseCertificate(root.Bytes); err != nil {
			return nil, fmt.Errorf("built-in chain for %s: %w", bundle.line, err)
		}
		candidates = append(candidates, candidate)
	}
	for _, test := range roots.AMD {
		candidates = append(candidates, amdCandidate{"", test.ASK, test.ARK})
	}
	return candidates, nil
}
