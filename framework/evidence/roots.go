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
	block, rest := pem.Decode(raw)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("not a PEM certificate")
	}
	if more, _ := pem.Decode(rest); more != nil {
		return nil, errors.New("more than one PEM block")
	}
	return x509.ParseCertificate(block.Bytes)
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

// amdCandidates are all chains for keys of the kind: through the ASVK for a VLEK, else through the ASK.
func amdCandidates(vlek bool, roots Roots) []amdCandidate {
	var candidates []amdCandidate
	for _, line := range []string{"Milan", "Genoa", "Turin"} {
		vendor, ok := trust.DefaultRootCerts[line]
		if !ok {
			continue
		}
		intermediate := vendor.ProductCerts.Ask
		if vlek {
			intermediate = vendor.ProductCerts.Asvk
		}
		if intermediate != nil && vendor.ProductCerts.Ark != nil {
			candidates = append(candidates, amdCandidate{line, intermediate, vendor.ProductCerts.Ark})
		}
	}
	for _, test := range roots.AMD {
		candidates = append(candidates, amdCandidate{"", test.ASK, test.ARK})
	}
	return candidates
}
