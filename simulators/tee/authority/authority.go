// Package authority stands in for AMD and Intel where hardware is simulated: it makes test roots, and certifies simulated
// processors below them.
//
// What it certifies no vendor does: certificates say in their names that they are for tests. It must not know what
// hardware reports say.
package authority

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
)

// Files of a directory of test roots. The certificates of its top level are what verifiers need
// (framework/evidence.LoadRoots); the keys of the vendors' roots themselves are not kept.
const (
	arkFile    = "amd-ark.pem"
	askFile    = "amd-ask.pem"
	intelFile  = "intel-root.pem"
	askKeyFile = "private/amd-ask.key"
	pckCAFile  = "private/intel-pck-ca.pem"
	pckKeyFile = "private/intel-pck-ca.key"
)

const (
	organization = "coco-e2e TEST ROOT, simulated hardware, not AMD or Intel"
	rsaBits      = 4096 // AMD's
	// lifetime of all certificates: caches with test roots are kept for long.
	lifetime = 20 * 365 * 24 * time.Hour
)

// Authority certifies simulated processors.
type Authority struct {
	ark, ask, intel, pckCA *x509.Certificate
	askKey                 *rsa.PrivateKey
	pckKey                 *ecdsa.PrivateKey
}

// Make makes test roots in dir, which must not exist.
func Make(dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return fmt.Errorf("test roots: %w", err)
	}
	if err := os.Mkdir(filepath.Join(dir, "private"), 0o700); err != nil {
		return fmt.Errorf("test roots: %w", err)
	}
	var group errgroup.Group
	group.Go(func() error { return makeAMD(dir) })
	group.Go(func() error { return makeIntel(dir) })
	return group.Wait()
}

func makeAMD(dir string) error {
	ark, err := rsa.GenerateKey(rand.Reader, rsaBits)
	if err != nil {
		return err
	}
	ask, err := rsa.GenerateKey(rand.Reader, rsaBits)
	if err != nil {
		return err
	}
	root, err := issue(template("ARK", true), nil, ark.Public(), ark)
	if err != nil {
		return err
	}
	signing, err := issue(template("ASK", true), root, ask.Public(), ark)
	if err != nil {
		return err
	}
	return errors.Join(writeCertificate(dir, arkFile, root), writeCertificate(dir, askFile, signing), writeKey(dir, askKeyFile, ask))
}

func makeIntel(dir string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	root, err := issue(template("SGX Root CA", true), nil, key.Public(), key)
	if err != nil {
		return err
	}
	ca, err := issue(template("SGX PCK Platform CA", true), root, caKey.Public(), key)
	if err != nil {
		return err
	}
	return errors.Join(writeCertificate(dir, intelFile, root), writeCertificate(dir, pckCAFile, ca), writeKey(dir, pckKeyFile, caKey))
}

func template(name string, ca bool) *x509.Certificate {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		panic(err) // never
	}
	t := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "TEST " + name, Organization: []string{organization}},
		NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: time.Now().Add(lifetime), IsCA: ca, BasicConstraintsValid: true,
	}
	if ca {
		t.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	}
	return t
}

// issue signs a certificate; one without an issuer signs itself.
func issue(t, issuer *x509.Certificate, public crypto.PublicKey, signer crypto.Signer) (*x509.Certificate, error) {
	if issuer == nil {
		issuer = t
	}
	if _, ok := signer.(*rsa.PrivateKey); ok {
		t.SignatureAlgorithm = x509.SHA384WithRSAPSS
	}
	der, err := x509.CreateCertificate(rand.Reader, t, issuer, public, signer)
	if err != nil {
		return nil, fmt.Errorf("certificate %q: %w", t.Subject.CommonName, err)
	}
	return x509.ParseCertificate(der)
}

func writeCertificate(dir, name string, certificate *x509.Certificate) error {
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Raw})
	return os.WriteFile(filepath.Join(dir, name), text, 0o644)
}

func writeKey(dir, name string, key crypto.Signer) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
}

// Load reads what Make made.
func Load(dir string) (*Authority, error) {
	a := &Authority{}
	for name, into := range map[string]**x509.Certificate{arkFile: &a.ark, askFile: &a.ask, intelFile: &a.intel, pckCAFile: &a.pckCA} {
		block, err := readPEM(dir, name)
		if err != nil {
			return nil, err
		}
		if *into, err = x509.ParseCertificate(block); err != nil {
			return nil, fmt.Errorf("test roots: %s: %w", filepath.Join(dir, name), err)
		}
	}
	var err error
	if a.askKey, err = readKey[*rsa.PrivateKey](dir, askKeyFile); err != nil {
		return nil, err
	}
	a.pckKey, err = readKey[*ecdsa.PrivateKey](dir, pckKeyFile)
	return a, err
}

func readPEM(dir, name string) ([]byte, error) {
	path := filepath.Join(dir, name)
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("test roots: %w; make them with `tee make-roots --out DIR`", err)
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("test roots: %s: not PEM", path)
	}
	return block.Bytes, nil
}

func readKey[K any](dir, name string) (key K, err error) {
	der, err := readPEM(dir, name)
	if err != nil {
		return key, err
	}
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return key, fmt.Errorf("test roots: %s: %w", filepath.Join(dir, name), err)
	}
	key, ok := parsed.(K)
	if !ok {
		return key, fmt.Errorf("test roots: %s: a %T, want a %T", filepath.Join(dir, name), parsed, key)
	}
	return key, nil
}

// TCB are the security patch levels that a VCEK is for, as processors before Turin have them.
type TCB struct{ Bootloader, TEE, SNP, Microcode uint8 }

// VCEK certifies a processor's endorsement key for its chip and firmware (AMD document 57230).
func (a *Authority) VCEK(key *ecdsa.PublicKey, chipID [64]byte, tcb TCB) (*x509.Certificate, error) {
	amd := asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1}
	t := template("SEV-VCEK", false)
	t.ExtraExtensions = []pkix.Extension{{Id: append(append(asn1.ObjectIdentifier{}, amd...), 4), Value: chipID[:]}}
	for _, level := range []struct {
		arc   int
		value uint8
	}{{1, tcb.Bootloader}, {2, tcb.TEE}, {3, tcb.SNP}, {8, tcb.Microcode}} {
		der, err := asn1.Marshal(int(level.value))
		if err != nil {
			return nil, err
		}
		t.ExtraExtensions = append(t.ExtraExtensions, pkix.Extension{Id: append(append(asn1.ObjectIdentifier{}, amd...), 3, level.arc), Value: der})
	}
	return issue(t, a.ask, key, a.askKey)
}

// AMDChain is the part of a VCEK's chain that AMD's key distribution service hands out: ASK, then ARK.
func (a *Authority) AMDChain() []*x509.Certificate { return []*x509.Certificate{a.ask, a.ark} }

// PCK certifies a platform's provisioning certification key. The chain that it gives goes from the key to the root.
func (a *Authority) PCK(key *ecdsa.PublicKey) ([]*x509.Certificate, error) {
	leaf, err := issue(template("SGX PCK Certificate", false), a.pckCA, key, a.pckKey)
	if err != nil {
		return nil, err
	}
	return []*x509.Certificate{leaf, a.pckCA, a.intel}, nil
}
