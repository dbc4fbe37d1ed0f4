package release_test

import (
	"bufio"
	"context"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/coco-e2e/coco-e2e/framework/conformance/proof"
	"github.com/coco-e2e/coco-e2e/framework/evidence"
	"github.com/coco-e2e/coco-e2e/framework/suite"
	"github.com/coco-e2e/coco-e2e/framework/testbed"
)

// ownTPM is a TPM that an attacker has on a desk: genuine, and nobody's guest.
type ownTPM struct {
	socket string
	// quoted are the PCRs that its quotes are of, and listed those that its
	// evidence lists; nil is all.
	quoted, listed []uint
}

// akHandle is where the program persists its attestation key.
const akHandle = tpm2.TPMHandle(0x81010002)

func newOwnTPM() *ownTPM {
	GinkgoHelper()
	if bed.Programs == "" {
		Skip("there is no TPM program to play an attacker with on this platform")
	}
	dir, err := os.MkdirTemp("", "tpm")
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(os.RemoveAll, dir)
	t := &ownTPM{socket: filepath.Join(dir, "s")}
	cmd := exec.Command(filepath.Join(bed.Programs, "bin", "tee"), "--socket", t.socket, "--log", filepath.Join(dir, "log"), "--die-with-parent")
	out, err := cmd.StdoutPipe()
	Expect(err).NotTo(HaveOccurred())
	Expect(cmd.Start()).To(Succeed())
	DeferCleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	Expect(err).NotTo(HaveOccurred())
	Expect(line).To(Equal("READY\n"))
	return t
}

func (t *ownTPM) do(f func(transport.TPM) error) error {
	c, err := net.Dial("unix", t.socket)
	if err != nil {
		return err
	}
	defer c.Close()
	return f(transport.FromReadWriter(c))
}

// extend extends a PCR of the SHA-256 bank.
func (t *ownTPM) extend(pcr uint, digest []byte) {
	GinkgoHelper()
	Expect(t.do(func(tpm transport.TPM) error {
		_, err := tpm2.PCRExtend{
			PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(pcr), Auth: tpm2.PasswordAuth(nil)},
			Digests:   tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{{HashAlg: tpm2.TPMAlgSHA256, Digest: digest}}},
		}.Execute(tpm)
		return err
	})).To(Succeed())
}

// TEE implements [kbs.Attester].
func (*ownTPM) TEE() string { return evidence.KindTPM }

func selection(pcrs []uint) tpm2.TPMLPCRSelection {
	return tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: tpm2.TPMAlgSHA256, PCRSelect: tpm2.PCClientCompatible.PCRs(pcrs...)}}}
}

// Evidence implements [kbs.Attester].
func (t *ownTPM) Evidence(_ context.Context, reportData []byte) (json.RawMessage, error) {
	all := make([]uint, evidence.PCRCount)
	for i := range all {
		all[i] = uint(i)
	}
	quoted, listed := t.quoted, t.listed
	if quoted == nil {
		quoted = all
	}
	if listed == nil {
		listed = all
	}
	nonce := make([]byte, evidence.NonceSize)
	copy(nonce, reportData)
	var raw []byte
	err := t.do(func(tpm transport.TPM) error {
		public, err := tpm2.ReadPublic{ObjectHandle: akHandle}.Execute(tpm)
		if err != nil {
			return err
		}
		quote, err := tpm2.Quote{
			SignHandle:     tpm2.AuthHandle{Handle: akHandle, Name: public.Name, Auth: tpm2.PasswordAuth(nil)},
			QualifyingData: tpm2.TPM2BData{Buffer: nonce}, PCRSelect: selection(quoted),
			InScheme: tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgRSASSA, Details: tpm2.NewTPMUSigScheme(tpm2.TPMAlgRSASSA, &tpm2.TPMSSchemeHash{HashAlg: tpm2.TPMAlgSHA256})},
		}.Execute(tpm)
		if err != nil {
			return err
		}
		var pcrs []string
		for _, pcr := range listed {
			value, err := tpm2.PCRRead{PCRSelectionIn: selection([]uint{pcr})}.Execute(tpm)
			if err != nil {
				return err
			}
			pcrs = append(pcrs, hex.EncodeToString(value.PCRValues.Digests[0].Buffer))
		}
		key, err := rsaPublic(public)
		if err != nil {
			return err
		}
		raw, err = json.Marshal(map[string]any{
			"ak_public": key, "tpm_quote": map[string]any{
				"signature": base64.StdEncoding.EncodeToString(tpm2.Marshal(quote.Signature)),
				"message":   base64.StdEncoding.EncodeToString(quote.Quoted.Bytes()), "pcrs": pcrs,
			},
		})
		return err
	})
	return raw, err
}

// rsaPublic is a key as evidence has it.
func rsaPublic(response *tpm2.ReadPublicResponse) (string, error) {
	public, err := response.OutPublic.Contents()
	if err != nil {
		return "", err
	}
	parameters, err := public.Parameters.RSADetail()
	if err != nil {
		return "", err
	}
	modulus, err := public.Unique.RSA()
	if err != nil {
		return "", err
	}
	var key *rsa.PublicKey
	if key, err = tpm2.RSAPub(parameters, modulus); err != nil {
		return "", err
	}
	der, err := x509.MarshalPKIXPublicKey(key)
	return base64.StdEncoding.EncodeToString(der), err
}

var _ = Describe("a TPM that is nobody's guest", suite.OneKBS, Label("tee:tpm"), func() {
	It("attests whatever its owner wants, and is found out by its key alone", proof.Of("ATTEST-KEY-001"), SpecTimeout(limit), func(ctx SpecContext) {
		s := newSubject(ctx, bed.NewKBS(ctx, testbed.KBSOptions{}))
		attacker := newOwnTPM()
		sum := sha256.Sum256(s.raw)
		attacker.extend(measuredPCR, sum[:])
		By("where the KBS knows no keys, the right PCR 8 is enough: a plain TPM's key vouches for itself")
		releases(ctx, s.k, attacker, text(s.raw), s.path, s.secret)

		By("where it knows the pod's, the attacker's is not affirmed")
		token, _ := attested(ctx, s.k, s, text(s.raw))
		claims := appraisal(token).TEE(evidence.KindTPM)
		Expect(s.k.SetReferenceValue(ctx, "trusted_aks", []any{claims["ak_public"]})).To(Succeed())
		Expect(s.k.SetReferenceValue(ctx, "tpm_pcr11", []any{claims["pcr11"]})).To(Succeed())
		Expect(s.k.SetResourcePolicy(ctx, affirming)).To(Succeed())
		deniesResource(ctx, s.k, attacker, text(s.raw), s.path)
		s.control(ctx)
	})

	It("cannot pass off another register as PCR 8", proof.Of("ATTEST-PCR-001"), SpecTimeout(limit), func(ctx SpecContext) {
		s := newSubject(ctx, bed.KBS(ctx))
		sum := sha256.Sum256(s.raw)
		// PCR 23 is anybody's to reset; in a quote of PCR 0 to 7 and 23 its value stands where PCR 8's belongs.
		attacker := newOwnTPM()
		attacker.extend(23, sum[:])
		first := []uint{0, 1, 2, 3, 4, 5, 6, 7, 23}
		attacker.quoted, attacker.listed = first, first
		refusesEvidence(ctx, s.k, broken{attacker, []error{evidence.ErrPCRSelection}}, text(s.raw))
		By("with the list filled up to the 24 that are expected")
		attacker.listed = append(first, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22)
		refusesEvidence(ctx, s.k, broken{attacker, []error{evidence.ErrPCRSelection}}, text(s.raw))
		By("with a quote of all PCRs and the list in another order")
		attacker.quoted = nil
		refusesEvidence(ctx, s.k, broken{attacker, []error{evidence.ErrPCRDigest}}, text(s.raw))
		By("control: with the right selection, list and register the KBS takes the quote")
		attacker.quoted, attacker.listed = nil, nil
		attacker.extend(measuredPCR, sum[:])
		attested(ctx, s.k, broken{attacker, nil}, text(s.raw))
	})
})

// measuredPCR is the register that init-data is measured into.
const measuredPCR = 8
